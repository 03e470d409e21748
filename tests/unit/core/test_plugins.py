"""Plugins register their objects once, and their content is known."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stitch_sweep.core import plugins
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.measures import COLUMNS, MEASURES, SIMILARITIES
from stitch_sweep.core.registry import DATASETS, STITCHES
from tests.support.extensions import forgetting_plugins

STITCH = '''
from stitch_sweep.core.registry import STITCHES

@STITCHES.register("{name}")
def make(sender, receiver, *, factor: float = {default}):
    """A stitch."""
    raise RuntimeError("no stitch today")
'''


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    with forgetting_plugins():
        yield


def write(path: Path, name: str = "mine", default: float = 1.0) -> Path:
    path.write_text(STITCH.format(name=name, default=default))
    return path


def problem(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        plugins.load(str(path))
    return str(caught.value)


def test_a_file_registers_its_objects_and_is_hashed_byte_for_byte(tmp_path):
    file = write(tmp_path / "mine.py")
    plugin = plugins.load(str(file))
    assert STITCHES.options("mine")(factor=2.0).model_dump() == {"factor": 2.0}
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert plugin.sha256 == plugins.read_content(str(file)) == sha256
    assert plugins.contents({"mine"}) == {"mine.py": sha256}
    assert plugins.contents({"paper"}) == {}
    assert plugins.contents(set(), [str(file)]) == {"mine.py": sha256}


def test_a_name_of_stitch_sweep_is_refused_with_both_places(tmp_path):
    message = problem(write(tmp_path / "mine.py", "paper"))
    assert str(tmp_path / "mine.py") + ", line 4" in message
    assert "stitches/paper.py, line" in message
    assert STITCHES.get("paper").is_built_in


def test_a_name_of_another_plugin_is_refused_with_both_places(tmp_path):
    plugins.load(str(write(tmp_path / "first.py")))
    message = problem(write(tmp_path / "second.py", default=2.0))
    assert str(tmp_path / "first.py") in message
    assert str(tmp_path / "second.py") in message
    assert STITCHES.options("mine")().model_dump() == {"factor": 1.0}


def test_an_edited_file_takes_the_place_of_its_earlier_version(tmp_path):
    file = tmp_path / "mine.py"
    for name, default in (("mine", 1.0), ("mine", 2.0), ("other", 3.0), ("mine", 1.0)):
        plugins.load(str(write(file, name, default)))
        names = [entry.name for entry in STITCHES.extensions() if str(file) in entry.place]
        assert names == [name]
        assert STITCHES.options(name)().model_dump() == {"factor": default}


def test_a_file_that_fails_registers_nothing(tmp_path):
    file = write(tmp_path / "mine.py")
    file.write_text(file.read_text() + "\n1 / 0\n")
    message = problem(file)
    assert f"plugin {file} can't be imported: ZeroDivisionError" in message
    assert f"{file}:9" in message
    assert not STITCHES.has_extension("mine")
    plugins.load(str(write(file)))
    assert STITCHES.has_extension("mine")


def test_files_and_modules_that_are_missing_are_named(tmp_path):
    assert "no such file" in problem(tmp_path / "mine.py")
    assert "plugin no_such_module: Python finds no module" in problem("no_such_module")


def test_a_cell_that_runs_again_replaces_its_object(tmp_path):
    for default in (1.0, 2.0):
        namespace = {"__name__": "a_notebook"}
        exec(STITCH.format(name="mine", default=default), namespace)
        assert STITCHES.options("mine")().model_dump() == {"factor": default}
    (first,) = plugins.contents({"mine"}).items()
    assert first[0] == "stitch mine"
    exec(STITCH.format(name="mine", default=2.0).replace("today", "now"), namespace)
    assert plugins.contents({"mine"})["stitch mine"] != first[1]


def test_a_package_is_hashed_with_all_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_stitches"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helpers.py").write_text("VALUE = 1.0\n")
    write(package / "stitches.py")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = plugins.load("a_package_of_stitches.stitches")
    assert sorted(plugin.sources) == [
        "a_package_of_stitches",
        "a_package_of_stitches.helpers",
        "a_package_of_stitches.stitches",
    ]
    assert plugins.contents({"mine"}) == {"a_package_of_stitches.stitches": plugin.sha256}
    (package / "helpers.py").write_text("VALUE = 2.0\n")
    assert plugins.read_content("a_package_of_stitches.stitches") != plugin.sha256


def test_an_installed_package_needs_no_key(tmp_path, monkeypatch):
    write(tmp_path / "an_installed_module.py")
    about = tmp_path / "stitches_of_somebody-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stitches-of-somebody\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(
        "[stitch_sweep.plugins]\nsomebody = an_installed_module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_has_loaded_installed", False)
    assert STITCHES.get("mine").module == "an_installed_module"
    assert list(plugins.contents({"mine"})) == ["an_installed_module"]
    del sys.modules["an_installed_module"]


def test_an_error_of_a_factory_names_it_and_its_place(tmp_path):
    file = write(tmp_path / "mine.py")
    plugins.load(str(file))
    with pytest.raises(InputError, match="no stitch today") as caught:
        STITCHES.build("mine", (1,), (1,))
    assert f"stitch 'mine' (registered at {file}, line 4): RuntimeError" in str(caught.value)


MEASURE = """
from stitch_sweep.core.measures import SIMILARITY_MEASURES

@SIMILARITY_MEASURES.register("{name}")
class Largest:
    title, direction, range, formula = "largest error", "{direction}", (0.0, 1.0), "max"
    def add(self, stitched, expected): ...
    def {method}(self): return 0.0
"""


def test_a_measure_joins_the_tables_and_leaves_them(tmp_path):
    before = dict(MEASURES), dict(SIMILARITIES), dict(COLUMNS)
    file = tmp_path / "mine.py"
    file.write_text(MEASURE.format(name="largest", direction="lower", method="result"))
    with forgetting_plugins():
        plugins.load(str(file))
        assert MEASURES["largest"].short == "largest error"
        assert SIMILARITIES["val_largest"] is COLUMNS["val_largest"] is MEASURES["largest"]
        assert list(plugins.contents(set())) == ["mine.py"], "every sweep computes it"
    assert before == (MEASURES, SIMILARITIES, COLUMNS)


@pytest.mark.parametrize(
    ("name", "direction", "method", "expected"),
    [
        ("mse", "lower", "result", "choose another name"),
        ("accuracy", "lower", "result", "choose another name"),
        ("a b", "lower", "result", "letters, digits and _"),
        ("largest", "down", "result", "'higher' or 'lower'"),
        ("largest", "lower", "value", "lacks result"),
    ],
)
def test_a_measure_that_can_not_be_used_is_refused(tmp_path, name, direction, method, expected):
    file = tmp_path / "mine.py"
    file.write_text(MEASURE.format(name=name, direction=direction, method=method))
    assert expected in problem(file)


def test_kinds_have_names_of_their_own(tmp_path):
    """A stitch and a data set may have one name."""
    file = write(tmp_path / "mine.py")
    file.write_text(
        "from stitch_sweep.core.registry import DATASETS\n"
        + file.read_text()
        + '\n\n@DATASETS.register("mine")\ndef images(image_size): ...\n'
    )
    plugins.load(str(file))
    assert STITCHES.has_extension("mine")
    assert DATASETS.has_extension("mine")
