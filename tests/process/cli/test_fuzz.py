"""Every command that reads a damaged file prints a short message, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tests.support.forking as forking
from tests.support.reports import make_folder
from tests.support.sweeps import run, write_config

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

Draw = Callable[[st.SearchStrategy[Any]], Any]


def examples(count: int) -> settings:
    """Return settings for `count` examples, without shrinking: each example takes one or two seconds."""
    return settings(
        max_examples=count,
        deadline=None,
        phases=[Phase.generate],
        # Each example uses its own copy.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


MOST_LINES, LONGEST_LINE = 12, 2000

ODD_VALUES: list[Any] = [
    *("", "x", "=1+1", "\x1b[2J\x1b]0;title\x07", "[red]x[/red][/nope]", "a/../../b", "\u202egnp"),
    *(-1, 0, 2**70, 10**30, 1e300, -0.5, True, None),
    *([], {}, [[]], {"a": 1}, ["x"] * 3, [1, "x", None]),
    *("9" * 5000, "é" * 10000),
]


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested plain data, the root first."""
    yield path
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from nodes(value, (*path, key))


def changed(tree: Any, path: tuple[Any, ...], value: Any, remove: bool) -> Any:
    """Return nested plain data with one value replaced or removed."""
    if not path:
        return value
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return tree


def damage_bytes(draw: Draw, data: bytes) -> bytes:
    """Return bytes with a flipped bit, without their end, repeated, or with others inserted."""
    kinds = ["flip", "cut", "repeat"] if data else []
    kind = draw(st.sampled_from([*kinds, "insert", "empty", "zeros", "deep"]))
    place = int(draw(st.floats(0, 1, exclude_max=True)) * len(data))
    if kind == "flip":
        flipped = data[place] ^ (1 << draw(st.integers(0, 7)))
        return data[:place] + bytes([flipped]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=20)) + data[place:]
    if kind == "repeat":
        return data + data[place:]
    if kind == "deep":
        return b'{"a":' * 100_000
    return b"" if kind == "empty" else b"\0" * len(data)


def damage_tree(draw: Draw, tree: Any) -> Any:
    """Return nested plain data with one odd value, or without a value."""
    path = draw(st.sampled_from(list(nodes(tree))))
    return changed(tree, path, draw(st.sampled_from(ODD_VALUES)), draw(st.booleans()))


def damage_table(draw: Draw, path: Path) -> None:
    """Write a parquet table with wrong metadata or a wrong column."""
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata or {})
    kind = draw(st.sampled_from(["metadata", "column", "drop", "twice", "rows"]))
    name = draw(st.sampled_from(table.column_names))
    k = table.column_names.index(name)
    if kind == "metadata" and b"pandas" in metadata:
        tree = damage_tree(draw, json.loads(metadata[b"pandas"]))
        metadata[b"pandas"] = json.dumps(tree).encode()
        table = table.replace_schema_metadata(metadata)
    elif kind == "column":
        value = draw(
            st.sampled_from(
                [None, "x", -1, 2.5, float("nan"), True, b"\xff", [1], {"a": 1}, "\x1b[2J"]
            )
        )
        table = table.set_column(k, name, pa.array([value] * len(table)))
    elif kind == "drop":
        table = table.drop_columns([name])
    elif kind == "twice":
        table = table.append_column(name, table.column(k))
    else:
        table = table.slice(0, 0)
    pq.write_table(table, path)


def damage(draw: Draw, path: Path) -> None:
    """Damage a file, or replace it by a pipe, a folder or a link."""
    kind = draw(st.sampled_from(["content", "content", "bytes", "bytes", "pipe", "folder", "link"]))
    if kind == "content" and path.suffix == ".json":
        path.write_text(json.dumps(damage_tree(draw, json.loads(path.read_text()))))
    elif kind == "content" and path.suffix in (".yml", ".yaml"):
        tree = damage_tree(draw, yaml.safe_load(path.read_text()))
        path.write_text(yaml.safe_dump(tree))
    elif kind == "content" and path.suffix == ".parquet":
        damage_table(draw, path)
    elif kind in ("content", "bytes"):
        path.write_bytes(damage_bytes(draw, path.read_bytes()))
    else:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path.name)  # to itself


def check(ended: forking.Ended) -> None:
    """Check that a command printed a short message and used little time and memory."""
    assert ended.status in (0, 1, 2), ended
    assert "Traceback" not in ended.output, ended.output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ended.output), ended.output
    assert ended.seconds < forking.SECONDS, ended
    assert ended.peak_bytes < forking.PEAK_BYTES, ended
    if ended.status:
        errors = [line for line in ended.output.splitlines() if line.startswith("error: ")]
        assert 1 <= len(errors) <= MOST_LINES, ended.output
        assert max(map(len, errors)) < LONGEST_LINE, ended.output


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forking.Server]:
    with forking.server(tmp_path_factory.mktemp("scratch")) as started:
        yield started


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder like that of a finished sweep."""
    return make_folder(
        tmp_path_factory.mktemp("original") / "experiment",
        layers=2,
        losses=("task",),
        measured=True,
        sanity=True,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, its zoo with trained networks, and a recording."""
    folder = tmp_path_factory.mktemp("project")
    config = write_config(
        folder,
        folder / "zoo",
        tracking={"enabled": False},
        pretraining__epochs=1,
        search__samples=1,
        search__space=None,
    )
    status, output = run("zoo", "train", config)
    assert status == 0, output
    status, output = run("determinism", "record", config, "--output-dir", folder / "recording")
    assert status == 0, output
    return folder


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a folder to the place of the previous example's copy."""

    def copy(original: Path) -> Path:
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original, target)
        return target

    return copy


def files_of(folder: Path, pattern: str = "*") -> list[str]:
    files = (path for path in folder.rglob(pattern) if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(folder)) for path in files)


@examples(150)
@given(data=st.data())
def test_an_experiment_folder(data, commands, experiment, copied, tmp_path):
    folder = copied(experiment)
    damage(data.draw, folder / data.draw(st.sampled_from(files_of(folder))))
    check(commands.run("status", folder, cwd=tmp_path))
    check(commands.run("analyze", folder, "--output", tmp_path / "report", cwd=tmp_path))


@examples(60)
@given(data=st.data())
def test_a_copy_elsewhere(data, commands, experiment, copied, tmp_path):
    mirror = copied(experiment)
    name = data.draw(st.sampled_from(files_of(mirror / "ledger", "*.json")))
    damage(data.draw, mirror / "ledger" / name)
    target = tmp_path / "new"
    shutil.rmtree(target, ignore_errors=True)
    check(commands.run("fetch-mirror", target, mirror.as_uri(), cwd=tmp_path))


@examples(80)
@given(data=st.data())
def test_a_configuration(data, commands, project, copied, tmp_path):
    folder = copied(project)
    damage(data.draw, folder / "config.yml")
    check(commands.run("sweep", folder / "config.yml", "--dry-run", cwd=tmp_path))


@examples(80)
@given(data=st.data())
def test_a_zoo(data, commands, project, copied, tmp_path):
    folder = copied(project)
    damage(data.draw, folder / "zoo" / data.draw(st.sampled_from(files_of(folder / "zoo"))))
    check(commands.run("zoo", "list", folder / "zoo", cwd=tmp_path))
    zoo = f"zoo={folder / 'zoo'}"
    check(
        commands.run("sweep", folder / "config.yml", "--dry-run", "--set", zoo, cwd=tmp_path),
    )


@examples(60)
@given(data=st.data())
def test_a_recording(data, commands, project, copied, tmp_path):
    folder = copied(project / "recording")
    damage(data.draw, folder / data.draw(st.sampled_from(files_of(folder))))
    check(commands.run("determinism", "compare", project / "recording", folder, cwd=tmp_path))
    check(commands.run("determinism", "compare", folder, project / "recording", cwd=tmp_path))


@examples(100)
@given(data=st.data())
def test_a_matrix(data, commands, tmp_path):
    path = tmp_path / "matrix.csv"
    if data.draw(st.booleans()):
        path.unlink(missing_ok=True)
        path.write_text("0.9,0.4,0.3\n0.9,0.8,0.4\n0.8,0.8,0.9\n")
        path.write_bytes(damage_bytes(data.draw, path.read_bytes()))
    else:
        cells = st.sampled_from(
            ["0.5", "1", "0", "nan", "", "x", "1e300", "-1", "=1+1", "0,5", "é"]
        )
        rows = data.draw(st.lists(st.lists(cells, max_size=5), max_size=5))
        path.write_text("\n".join(",".join(row) for row in rows))
    options = ("--sender-accuracy", "0.9")
    check(commands.run("analyze", "--matrix", path, *options, cwd=tmp_path))
