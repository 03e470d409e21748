"""The key `plugins`: which plugins a configuration loads, and what follows from their content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stitch_sweep.checks.determinism.environment import flatten_settings
from stitch_sweep.config.plugins import plugin_contents
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import CONTROLS
from stitch_sweep.plan.prepare import prepare
from tests.support.extensions import forgetting_plugins, write_tutorial


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    with forgetting_plugins():
        yield


def problems(path: Path, **changes: object) -> list[str]:
    tree = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**tree, **changes}))
    with pytest.raises(InputError) as caught:
        read_config(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_a_file_is_found_beside_the_configuration(tmp_path, monkeypatch):
    path = write_tutorial(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    config = read_config(path)
    assert config.plugins == [str(tmp_path / "project/mine.py")]
    assert list(plugin_contents(config)) == ["mine.py"]
    assert config.stitch.options == {"initial": 0.5, "down": "average"}


def test_what_is_written_can_be_read_again(tmp_path):
    config = read_config(write_tutorial(tmp_path))
    again = tmp_path / "again.yml"
    again.write_text(to_yaml(config))
    assert read_config(again) == config


def test_a_moved_plugin_has_the_same_content(tmp_path):
    here = plugin_contents(read_config(write_tutorial(tmp_path / "here")))
    there = plugin_contents(read_config(write_tutorial(tmp_path / "there")))
    assert here == there


def test_options_of_a_plugin_are_validated(tmp_path):
    path = write_tutorial(tmp_path)
    found = problems(path, stitch={"name": "gate", "initial": "big", "down": "frist"})
    assert "stitch.initial: expected a number, got 'big'" in found
    assert any(problem.startswith("stitch.down: expected") for problem in found)
    assert (
        "no stitch is named 'gatee': did you mean 'gate'?"
        in problems(path, stitch={"name": "gatee"})[0]
    )


def test_a_file_that_can_not_be_used_is_reported_alone(tmp_path):
    """Its names would be unknown, too, which would only hide the cause."""
    path = write_tutorial(tmp_path)
    assert problems(path, plugins=["./none.py"]) == [
        f"plugins[0]: plugin {tmp_path}/none.py: there is no such file"
    ]


def test_values_that_are_no_names_are_refused(tmp_path):
    path = write_tutorial(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.py").write_text("")
    values = ["./mine.py", 3, "./mine.txt", "not a module", "./other/mine.py"]
    assert problems(path, plugins=values)[:4] == [
        "plugins[1]: expected a Python file (./mine.py) or a module, got 3",
        f"plugins[2]: expected a Python file (./mine.py) or a module, got {'./mine.txt'!r}",
        "plugins[3]: expected a Python file (./mine.py) or a module, got 'not a module'",
        "plugins[4]: 'mine.py' is the name of plugins[0]; rename one",
    ]
    assert problems(path, plugins="./mine.py")[0].startswith("plugins: expected a list")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "return self.resize(x)",
            "return x",
            "'gate' returns the shape [4, 16, 16], and the receiver",
        ),
        ("sender[1] < receiver[1]", "sender[1] > 1 / 0", "ZeroDivisionError: division by zero"),
        (
            "needs_expected = True\n    default_lr",
            "rates",
            "lacks default_lr; see stitch_sweep.losses",
        ),
        ("return Tower(", "return (", "returned a tuple, not a torch.nn.Module"),
        ("return Source(", "return (", "returned a tuple, not a Source"),
        (".to(torch.uint8)", "", "images must be uint8"),
        ("= 1\n    return table", "= 2\n    return table", "rows sum to 1"),
    ],
)
def test_faults_of_a_plugin_are_found_before_anything_trains(tmp_path, before, after, expected):
    path = write_tutorial(tmp_path)
    file = tmp_path / "mine.py"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(InputError) as caught:
        prepare(read_config(path))
    assert expected in str(caught.value)


def test_networks_of_a_changed_plugin_are_other_networks(tmp_path):
    path = write_tutorial(tmp_path)
    (before, *_) = prepare(read_config(path)).recipes()
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n# a comment\n")
    (after, *_) = prepare(read_config(path)).recipes()
    assert before.hash != after.hash
    assert after.architecture().layer_names == ["stem", "blocks.0", "blocks.1"]
    with pytest.raises(InputError, match="its plugin has changed"):
        before.architecture()


def test_a_recording_has_the_content_of_the_plugin(tmp_path):
    config = read_config(write_tutorial(tmp_path))
    recorded = flatten_settings(config)
    assert recorded["plugins.mine.py"] == plugin_contents(config)["mine.py"]


def test_expanding_an_expanded_control_changes_nothing(tmp_path):
    config = read_config(write_tutorial(tmp_path))
    assert [pair.sender for pair in config.pairs] == ["a", "a-other-start"]
    assert type(config).model_validate(config.model_dump()).pairs == config.pairs


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("sender", "no tuple of two networks"),
        ("(sender, receiver)", "replaced no network"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_control_that_can_not_be_used_is_refused(tmp_path, returned, expected):
    path = write_tutorial(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(
        file.read_text().replace(
            "return sender.model_copy(update=changes), receiver", f"return {returned}"
        )
    )
    (problem,) = problems(path)
    assert expected in problem
    assert CONTROLS.has_extension("other_start")
