"""Limits: values that would take hours or all memory are refused at once, in one sentence."""

import json
import os
import re
import time
import tracemalloc
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.config import reading
from stitch_sweep.config import yaml_text as yaml_text_module
from stitch_sweep.config.reading import parse_value, read_config, read_yaml, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import LONGEST_MESSAGE, InputError, nearest
from stitch_sweep.core.patterns import find
from stitch_sweep.core.problems import dotted, show
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.families.parts import limited_size
from stitch_sweep.plan.sizes import check_sweep_size, count_samples
from stitch_sweep.plan.space import combinations
from stitch_sweep.report.writing import analyze_matrix
from stitch_sweep.storage.study import Study
from tests.support.paths import ROOT

BATCH, EPOCHS, LOG = "training.batch_size", "training.epochs", "training.log_every"
BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "networks": [{"name": "a", "family": "resnet1111", "width": 8}],
    "pairs": [{"sender": "a", "receiver": "a"}],
}


def refused(folder: Path, tree: Any, **overrides: Any) -> str:
    """Problems of a refused configuration, given as a tree or as text."""
    file = folder / "config.yml"
    file.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    with pytest.raises(InputError) as caught:
        read_config(file, overrides)
    return str(caught.value).replace(f"{file}: ", "")


class TestNumbersOfYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            *(("10", 10), ("+3", 3), ("-0", 0), ("0o10", 8), ("0x1F", 31), ("0", 0)),
            *((".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("1e-3", 0.001), ("1E3", 1000.0)),
            *(("1.5e3", 1500.0), ("01.5", 1.5), ("+.inf", float("inf")), ("-.INF", float("-inf"))),
            *(("true", True), ("False", False), ("~", None), ("null", None), ("", None)),
            *(("2020-01-02", "2020-01-02"), ("y", "y"), ("=", "="), ("1:b", "1:b"), ("0b", "0b")),
            *(("'010'", "010"), ("!!str 010", "010"), ("!!int 0o10", 8), ("!!float 1", 1.0)),
        ],
    )
    def test_are_those_of_version_1_2(self, text, value):
        found = parse_value(text)
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("010", "write 10, 0o10 for octal, or quotes for text"),
            ("-007", "write -7, -0o7 for octal"),
            ("08", "write 8, or quotes for text"),
            ("1:30", "'1:30' is 90 in YAML 1.1 and text in YAML 1.2; write 90, or quotes"),
            ("0b11", "is 3 in YAML 1.1"),
            ("1_000", "write 1000"),
            ("-0x1F", "write -31"),
            ("1:30.5", "write 90.5"),
            *((word, "in YAML 1.1 and text in YAML 1.2") for word in ("yes", "No", "on", "OFF")),
            ("[1, {a: 010}]", "(line 1, column 9)"),
            ("1_" + "0" * 10_000, "write a number"),
        ],
    )
    def test_that_version_1_1_reads_otherwise_are_refused(self, text, message, tmp_path):
        with pytest.raises(InputError) as caught:
            parse_value(text)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 300
        file = tmp_path / "space.yml"
        file.write_text(f"a: {text}")
        with pytest.raises(InputError, match=r"space\.yml: "):
            read_yaml(file)

    @pytest.mark.parametrize("text", ["!!int 010", "!!int 1:30", "!!bool yes", "!!float 1:30"])
    def test_are_the_same_after_a_tag(self, text, tmp_path):
        (tmp_path / "x.yml").write_text(f"a: {text}")
        with pytest.raises(InputError, match="is not valid YAML"):
            read_yaml(tmp_path / "x.yml")

    @pytest.mark.parametrize(
        "name", ["010", "08", "1e3", "1:30", "0o7", "on", "-.5", "1_000", "2020-01-02", "true"]
    )
    def test_text_that_looks_like_one_reads_back(self, name, tmp_path):
        tree = {**BASE, "tracking": {"experiment": name}}
        written = to_yaml(Config.model_validate(tree))
        (tmp_path / "config.yml").write_text(written)
        assert read_config(tmp_path / "config.yml").tracking.experiment == name
        assert yaml.safe_load(written)["tracking"]["experiment"] == name

    def test_shipped_files_read_as_before(self):
        files = [*ROOT.glob("experiments/**/*.yml"), *ROOT.glob("search_spaces/*.yml")]
        assert len(files) > 15
        for file in files:
            old = json.dumps(yaml.safe_load(file.read_text()))
            # YAML 1.1 reads these numbers as text.
            old = re.sub(r'"(\d+e-?\d+)"', lambda found: str(float(found[1])), old)
            assert json.dumps(read_yaml(file)) == old, file


def bomb(kind: str) -> str:
    """A YAML text of 10**9 values in 10 lines."""
    lines = ["a0: &a0 {x: [1]}"]
    for k in range(1, 10):
        many = ", ".join([f"*a{k - 1}"] * 10)
        lines.append(f"a{k}: &a{k} " + ("{<<: [%s]}" if kind == "merge" else "{x: [%s]}") % many)
    return "\n".join(lines)


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (bomb("alias"), "contains more than 200000 values, with each alias"),
            (bomb("merge"), "contains more than 200000 values, with each alias"),
            ("a: [" + "1," * 300 + "]\n" + "# " + "x" * 5_000_000, "is larger than 4 MiB"),
            ("a: &a {b: *a}", "Circular"),
            ("a: " + "[" * 60 + "]" * 60, "is nested more than 50 levels deep"),
            (
                "\n".join(["a0: &a0 [1]", *(f"a{k}: &a{k} [*a{k - 1}]" for k in range(1, 70))]),
                "is nested more than 50 levels deep",
            ),
            ("seed: " + "9" * 5000, "is not a number of at most 100 characters"),
            ("seed: 0x" + "f" * 50_000, "is not a number of at most 100 characters"),
            ('zoo: "\\ud800"', "half of a character"),
        ],
        ids=["alias", "merge", "file", "circle", "deep", "deep aliases", "digits", "hex", "half"],
    )
    def test_bombs_are_refused_at_once(self, text, message, tmp_path):
        tracemalloc.start()
        try:
            assert message in refused(tmp_path, text)
            assert tracemalloc.get_traced_memory()[1] < 50e6
        finally:
            tracemalloc.stop()

    def test_more_values_than_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(yaml_text_module, "MOST_VALUES", 100)
        assert "contains more than 100 values" in refused(tmp_path, "a: [" + "1," * 200 + "]")
        with pytest.raises(InputError, match="contains more than 100 values"):
            parse_value("[" + "1," * 200 + "]")

    def test_an_alias_is_a_copy(self, tmp_path):
        tree = {"pretraining": {"epochs": 3}, **BASE}
        text = "x: &p {epochs: 3}\ny: *p\n"
        (tmp_path / "x.yml").write_text(text)
        found = read_yaml(tmp_path / "x.yml")
        assert found["x"] == found["y"] == tree["pretraining"]
        assert found["x"] is not found["y"], "--set of one would change the other"

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "config.yml")
        with pytest.raises(InputError, match="is not a regular file"):
            read_config(tmp_path / "config.yml")


@pytest.mark.parametrize(
    ("path", "value", "limit"),
    [
        ("seed", 10**30, "at most 9223372036854775807, got 1"),
        ("repeats", 10**7, "at most 1000000"),
        ("data.split_seed", 2**64, "at most 9223372036854775807"),
        ("data.image_size", 10**6, "at most 1024"),
        ("data.train_images", 10**12, "at most 1000000000"),
        ("networks.0.seed", 2**63, "at most 9223372036854775807"),
        ("networks.0.width", 10**6, "at most 65536"),
        ("networks.0.layers", ["x"] * 10_001, "at most 10000 in the list, got a list of 10001"),
        ("pretraining.epochs", 10**12, "at most 100000"),
        ("pairs.0.sender_layers", [0] * 10_001, "at most 10000 in the list, got a list of 10001"),
        ("stitch", {"name": "mlp", "hidden": 10**9}, "at most 65536"),
        ("stitch", {"name": "lowrank", "rank": 10**9}, "at most 65536"),
        ("stitch.l1", 1e300, "at most 1000000"),
        ("loss.task", 1e300, "at most 1000000"),
        ("loss", {"soft_task": {"temperature": 1e300}}, "at most 1000000"),
        ("training.epochs", 10**12, "at most 100000"),
        ("training.batch_size", 2**70, "'auto' or a whole number from 1 to 1000000"),
        ("training.batch_size", "all", "'auto' or a whole number from 1 to 1000000"),
        ("training.batch_size", 0, "'auto' or a whole number from 1 to 1000000"),
        ("training.log_every", 10**9, "at most 1000000"),
        ("training.optimizer.lr", 1e300, "at most 1e+38, got 1e+300"),
        ("training.optimizer.weight_decay", 1e300, "numbers from -1000000 to 1000000"),
        ("training.optimizer.betas", [1e300, 0.9], "numbers from -1000000 to 1000000"),
        ("search.samples", 10**9, "at most 1000000"),
        ("search.cross", {BATCH: list(range(1, 2000))}, "at most 1000 in the list"),
        (
            "search.cross",
            {BATCH: list(range(1, 901)), LOG: list(range(1, 1001))},
            "900 (training.batch_size) x 1000 (training.log_every) = 900000 combinations, 2000 at most",
        ),
        (
            "search.space",
            {BATCH: {"type": "categorical", "choices": list(range(1, 2000))}},
            "at most 1000 in the list",
        ),
        (
            "search.space",
            {"stitch.l1": {"type": "float", "low": 0, "high": 1, "step": 1e-300}},
            "makes 1e+300 steps from low to high, 1000000 at most",
        ),
        ("resources.cpu", 10**9, "at most 1024"),
        ("resources.gpu", 1e300, "at most 1024"),
        ("resources.cache_gb", 1e300, "at most 1000000"),
        ("zoo", "x" * 5000, "is too long for a file name"),
        ("networks.0.weights", "a\0b.pt", "contains a character that is not allowed in file names"),
        ("data", {"name": "image_folder", "path": "~nobody-is-called-so/x"}, "there is no such user"),
    ],
)  # fmt: skip
def test_a_value_out_of_range(path, value, limit, tmp_path):
    tree = json.loads(json.dumps(BASE))
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    message = refused(tmp_path, tree)
    assert limit in message
    assert path.replace(".0.", "[0].").split(".")[-1] in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("resnet", {"blocks": [3000, 1, 1, 1]}, "blocks"),
        ("mlp", {"depth": 10**9}, "depth"),
        ("vit", {"depth": 1, "heads": 10**9}, "heads"),
        ("resnet", {"blocks": [1, 1, 1, 1], "width": 2**16}, "network family resnet"),
        ("mlp", {"depth": 200, "width": 2**14}, "has more than 500000000 parameters"),
        ("vit", {"depth": 1, "patch": 1}, "65536 patches; allowed: at most 4096"),
    ],
)
def test_a_network_that_is_too_large(family, options, message):
    with pytest.raises(InputError, match=message):
        build(family, 3, 10, options, image_size=256)


def test_counting_parameters_ends_with_the_network():
    with pytest.raises(InputError, match="more than 10 parameters"), limited_size("x", 10):
        build("mlp", 1, 10, {"depth": 1, "width": 2}, image_size=4)
    assert build("mlp", 1, 10, {"depth": 1, "width": 2}, image_size=4)


class TestSize:
    def config(self, **search: Any) -> Config:
        return Config.model_validate(
            {**BASE, "repeats": search.pop("repeats", 1), "search": search}
        )

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            (
                {"repeats": 10**6},
                "25 cells x 1000000 repeats = 25000000 studies; a sweep has 200000",
            ),
            (
                {"repeats": 1000, "cross": {BATCH: list(range(1, 101))}},
                "x 100 combinations of crossed values .search.cross. = 2500000 studies",
            ),
            (
                {"samples": 10**6, "space": {BATCH: {"type": "int", "low": 1, "high": 9}}},
                "x 1000000 samples = 25000000 trials; a sweep has 1000000 at most",
            ),
            (
                {
                    "sampler": "grid",
                    "space": {
                        k: {"type": "int", "low": 1, "high": 1000} for k in (BATCH, EPOCHS, LOG)
                    },
                },
                "points of the grid .search.space. = 25000000000 trials",
            ),
        ],
    )
    def test_is_counted_before_anything_is_made(self, search, message):
        began = time.process_time()
        with pytest.raises(InputError, match=message):
            check_sweep_size(self.config(**search), 25)
        assert time.process_time() - began < 3

    def test_of_a_grid_with_conditions_is_what_is_enumerated(self):
        optimizer = "training.optimizer"
        space = {
            optimizer: {"type": "categorical", "choices": [{"name": "sgd"}, {"name": "adam"}]},
            f"{optimizer}.momentum": {
                "type": "float", "low": 0, "high": 0.9, "step": 0.3, "when": {f"{optimizer}.name": "sgd"},
            },
            f"{optimizer}.nesterov": {
                "type": "categorical", "choices": [False], "when": {f"{optimizer}.momentum": [0.3]},
            },
            BATCH: {"type": "int", "low": 1, "high": 7, "step": 2},
        }  # fmt: skip
        space.pop(f"{optimizer}.nesterov")
        config = self.config(sampler="grid", space=space)
        study = Study("a", 0, "a", 0)
        points = list(combinations(config, study))
        assert count_samples(config, study) == len(points) == (4 + 1) * 4


class TestPatterns:
    def test_find_what_glob_finds(self, tmp_path):
        for name in ("a/train-0.parquet", "a/b/train-1.parquet", "a/.hidden/x.parquet", "c/d.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        for pattern in (
            "*",
            "*/*.parquet",
            "**/*.parquet",
            "**",
            "a/**/train-[01].*",
            "**/b/**",
            "x*",
        ):
            wanted = {p.rstrip("/") for p in glob(str(tmp_path / pattern), recursive=True)}  # noqa: PTH207
            found = [str(path) for path in find(tmp_path / pattern)]
            assert set(found) == wanted
            assert len(set(found)) == len(found)

    def test_a_link_that_leads_back_is_not_followed(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        assert len(list(find(tmp_path / "**"))) == 2

    def test_of_the_whole_disk_are_refused(self, tmp_path, monkeypatch):
        for k in range(20):
            (tmp_path / str(k)).mkdir()
        with pytest.raises(InputError, match="more than 10 files and folders"):
            list(find(tmp_path / "**/*/**", most=10))
        monkeypatch.setattr(reading, "find", lambda pattern: find(pattern, most=100))
        tree = {**BASE, "data": {"name": "parquet", "path": "/**/no-such-*.parquet"}}
        assert "data.path: " in refused(tmp_path, tree)


class TestMatrix:
    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("0,1\n0.9,0.8\n0.7,0.6\n", "the first row is 0, 1, which may be layer indices"),
            ("-1,0,1\n0.9,0.8,1\n", "the first row is -1, 0, 1"),
            ("1,2\n0.9,0.8\n", "the first row is 1, 2"),
            ("0\n0.9\n0.8\n", "the first row is 0, which"),
            ("0,0.9,0.8\n1,0.7,0.6\n", "the first column is 0, 1, which may be layer indices"),
            ("0,92;0,81\n0,7;0,6\n", "commas separate cells, and decimals have a point"),
            ("0.9\t0.8\n", "commas separate cells, and decimals have a point"),
            ("0_9,0.8\n", "'0_9' is not a finite number"),
            ("٠.٥,0.8\n", "is not a finite number"),
            ("x" * 100_000 + "\n", "(100000 characters) is not a finite number"),
            ("0.9,0.8\n0.7\n", "line 2: 1 cells"),
        ],
    )
    def test_that_can_be_read_in_two_ways_or_none(self, text, what, tmp_path):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(InputError) as caught:
            read_matrix(tmp_path / "m.csv")
        assert what in str(caught.value)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("text", "first"),
        [
            ("0.0,1.0\n0.9,0.8\n", [0.0, 1.0]),
            ("1,0.9\n0.8,0.7\n", [1.0, 0.9]),
            ("0,1\n1,0\n", [0.0, 1.0]),
            ("\ufeff0.9,NaN\n,0.6\n", [0.9, np.nan]),
        ],
    )
    def test_of_values_alone(self, text, first, tmp_path):
        (tmp_path / "m.csv").write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(read_matrix(tmp_path / "m.csv").to_numpy()[0], first)

    def test_that_is_too_large(self, tmp_path):
        file = tmp_path / "m.csv"
        file.write_text("0.5," * 1_500_000)
        with pytest.raises(InputError, match="is larger than 4 MiB"):
            read_matrix(file)
        file.write_text(("0.5," * 199 + "0.5\n") * 100)
        with pytest.raises(InputError, match="has 20000 cells; at most 10000 are allowed"):
            analyze_matrix(file, sender_accuracy=0.9)


class TestMessages:
    def test_are_cut(self):
        long = "k" * 10**7
        assert len(show(long)) < 100
        assert len(dotted((long, 3, long))) < 200
        assert len(nearest(long, ["seed"])) < 100
        assert len(str(InputError(long))) <= LONGEST_MESSAGE
        assert show(2**200_000) == "a whole number of 200001 bits"

    def test_of_one_file_are_counted(self, tmp_path):
        message = refused(tmp_path, {**BASE, **{f"key{k}": 1 for k in range(500)}, "k" * 1000: 1})
        assert message.count("\n") == 100
        assert message.endswith("more problems")
        assert max(map(len, message.splitlines())) < 300, "a long name is shortened"

    def test_of_deep_and_far_overrides(self, tmp_path):
        assert "levels; at most 50 are allowed" in refused(tmp_path, BASE, **{"a." * 9999 + "a": 1})
        assert "networks is a list of 1" in refused(
            tmp_path, BASE, **{f"networks.{'9' * 5000}.x": 1}
        )
