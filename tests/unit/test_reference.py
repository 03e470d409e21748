"""The pages of docs/reference/: current, complete, and with examples that work."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import typer
import yaml
from pydantic import Field

from stitch_sweep.config.root import Config
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.registry import DATASETS, FAMILIES, LOSSES, STITCHES
from tests.support.documents import BASE, code_blocks
from tests.support.paths import ROOT

FOLDER = ROOT / "docs/reference"


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    """The script that writes the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/_tools"))
        yield importlib.import_module("reference")


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.make_pages()


def test_no_page_is_stale(reference, pages):
    assert list(reference.find_stale(pages)) == []


def test_a_new_key_makes_the_page_of_the_configuration_stale(reference, pages, tmp_path):
    class PlantedTraining(TrainingConfig):
        planted: int = Field(default=3, description="A planted key.")

    class Planted(Config):
        training: PlantedTraining = Field(default=PlantedTraining(), description="Training.")

    reference.write(pages, tmp_path)
    changed = {**pages, "configuration.md": reference.configuration.make_page(Planted)}
    assert list(reference.find_stale(changed, tmp_path)) == ["configuration.md"]
    assert "| `planted` | whole number | `3` | A planted key. |" in changed["configuration.md"]


def test_a_new_command_makes_the_page_of_the_command_line_stale(reference, pages, monkeypatch):
    def planted(folder: Annotated[Path, typer.Argument(help="A planted folder.")]) -> None:
        """Do nothing."""

    planted.__annotations__["folder"] = Annotated[Path, typer.Argument(help="A planted folder.")]
    app = reference.command_line.main.app
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command()(planted)
    text = reference.command_line.make_page()
    assert text != pages["command_line.md"]
    assert "| `FOLDER` | path | required | A planted folder. |" in text


def test_a_page_that_is_no_longer_made_is_stale_and_removed(reference, pages, tmp_path):
    reference.write({**pages, "stitches/former.md": "# Former\n"}, tmp_path)
    assert list(reference.find_stale(pages, tmp_path)) == ["stitches/former.md"]
    reference.write(pages, tmp_path)
    assert list(reference.find_stale(pages, tmp_path)) == []


def test_a_key_without_a_type_is_an_error(reference):
    with pytest.raises(ValueError, match="json_schema_input_type"):
        reference.configuration.describe_type({"default": 1})


@pytest.mark.parametrize("registry", [STITCHES, LOSSES, FAMILIES, DATASETS], ids=lambda r: r.kind)
def test_has_every_registered_name_and_option(registry, pages):
    text = "\n".join(pages.values())
    names = {name for name in registry.names() if registry.get(name).is_built_in}
    names |= {key for name in names for key in registry.options(name).model_fields}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("kind", ["stitches", "losses", "measures", "controls"])
def test_the_page_of_each_object_has_its_facts(kind, pages):
    needed = {
        "stitches": ["Use", "Assumes", "Invariant to", "Joins", "Parameters", "Multiply-adds"],
        "losses": ["Use", "Assumes", "Range", "Cost", "Invariant to", "Learning rate"],
        "measures": ["Range", "Better", "Invariant to", "Assumes", "Cost"],
        "controls": ["Adds", "Shows", "Limits", "Cost"],
    }[kind]
    made = {name: text for name, text in pages.items() if name.startswith(f"{kind}/")}
    assert made
    missing = [
        (n, fact) for n, text in made.items() for fact in needed if f"| **{fact}** | " not in text
    ]
    assert missing == []


def test_every_generated_page_says_so_in_its_first_paragraph(pages):
    for name, text in pages.items():
        assert "This page is generated from " in text.split("\n\n")[1], name


def test_the_yaml_examples_are_valid(pages):
    count = 0
    for text in pages.values():
        for heading, block in yaml_blocks(text):
            count += 1
            config = nested(heading, yaml.safe_load(block))
            Config.model_validate(completed(config))
    assert count > 50


def test_the_examples_of_the_measures_run(pages):
    for name, text in pages.items():
        if name.startswith("measures/"):
            ((_, code),) = code_blocks(text, "python")
            value = evaluate(code)
            assert 0 <= value <= 2, name


def yaml_blocks(text: str) -> list[tuple[str, str]]:
    """Return the last heading before each block of YAML, without its marks, and the block."""
    found, heading = [], ""
    for match in re.finditer(r"^#+ ([^\n]*)$|^```yaml\n(.*?)^```$", text, re.M | re.S):
        if match[2] is None:
            heading = match[1].strip("`")
        else:
            found.append((heading, match[2]))
    return found


def nested(heading: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Put the example of a key below the top level in its place."""
    if set(tree) <= set(Config.model_fields):
        return tree
    *parents, last = heading.split(".")
    assert list(tree) == [last], (heading, tree)
    if parents == ["networks"]:
        network = {"name": "external", "source": "timm", "model": "resnet18", "weights": "w.pt"}
        return {"networks": [{**network, **tree}]}
    for key in reversed(parents):
        tree = {key: tree}
    return tree


def completed(tree: dict[str, Any]) -> dict[str, Any]:
    result = {**copy.deepcopy(BASE), **tree}
    names = {network["name"] for network in result["networks"]}
    result["networks"] += [n for n in BASE["networks"] if n["name"] not in names]
    if "search" in tree and "space" not in tree["search"] and "cross" not in tree["search"]:
        space = {"training.optimizer.lr": {"type": "float", "low": 0.01, "high": 0.1}}
        result["search"] = {"space": space, **tree["search"]}
    return result


def evaluate(code: str) -> float:
    """Run a script and return the value of its last line."""
    *lines, last = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return float(eval(last, names))
