"""Plugins arrive in processes that have none of their files."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stitch_sweep.core import plugins
from stitch_sweep.core.registry import STITCHES
from tests.support.extensions import forgetting_plugins

STITCH = """
from stitch_sweep.core.registry import STITCHES
{imports}

@STITCHES.register("sent")
class Sent:
    def __init__(self, sender, receiver, *, factor: float = 1.0):
        self.value = factor * {value}
"""
RECEIVE = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    plugin, sent = pickle.load(file)
from stitch_sweep.core import plugins
from stitch_sweep.core.registry import STITCHES
made = STITCHES.build("sent", (1,), (1,), options={"factor": 2.0})
assert type(made) is type(sent)
assert plugins.contents({"sent"}) == {plugin.name: plugin.sha256}
print(made.value, sent.value, sys.modules[type(made).__module__].__file__)
"""


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    with forgetting_plugins():
        yield


def send(plugin: plugins.Plugin, folder: Path, search: Path | None = None) -> list[str]:
    """Send a plugin and an object of it to another process; return what it prints."""
    path = folder / "sent.pickle"
    path.write_bytes(pickle.dumps((plugin, STITCHES.build("sent", (1,), (1,)))))
    places = [] if search is None else [str(search)]
    program = f"import sys; sys.path[:0] = {places}\n{RECEIVE}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_file_arrives_where_it_does_not_exist(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(STITCH.format(imports="", value=3))
    plugin = plugins.load(str(file))
    file.unlink()
    assert send(plugin, tmp_path) == ["6.0", "3.0", str(file)]


def test_a_package_arrives_with_its_modules_and_its_version(tmp_path, monkeypatch):
    """A process with the same package uses it; with another version, it uses the one that was sent."""
    here, there = tmp_path / "here", tmp_path / "there"
    for place, value in ((here, 5), (there, 5)):
        package = place / "sent_stitches"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "helpers.py").write_text(f"VALUE = {value}\n")
        (package / "stitches.py").write_text(
            STITCH.format(imports="from sent_stitches.helpers import VALUE", value="VALUE")
        )
    monkeypatch.syspath_prepend(here)
    plugin = plugins.load("sent_stitches.stitches")
    own = str(there / "sent_stitches/stitches.py")
    sent = str(here / "sent_stitches/stitches.py")
    assert send(plugin, tmp_path, there) == ["10.0", "5.0", own]
    (there / "sent_stitches/helpers.py").write_text("VALUE = 7\n")
    assert send(plugin, tmp_path, there) == ["10.0", "5.0", sent]
    for file in (here / "sent_stitches").glob("*.py"):
        file.unlink()
    assert send(plugin, tmp_path) == ["10.0", "5.0", sent]


def test_an_object_without_source_is_hashed_by_its_bytecode():
    """Its place in a file, and the order of a set in memory, play no part."""
    program = (
        "import sys\n"
        "from stitch_sweep.core.object_hash import hash_object\n"
        "exec(sys.argv[1])\n"
        "print(hash_object(f))\n"
    )

    def printed(source: str, seed: str) -> str:
        return subprocess.check_output(
            [sys.executable, "-c", program, source],
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )

    source = "def f(x): return x in {'a', 'b', 'c'} or (lambda: 1)()"
    first = printed(source, "1")
    assert printed("\n\n" + source, "2") == first
    assert printed(source.replace("1", "2"), "1") != first
