"""The numbers in docs/explanation are those of the code, and the ladder's tables those of its counts."""

from __future__ import annotations

import re
from pathlib import Path
from runpy import run_path

import pytest

from stitch_sweep.analysis.ladder import fit, simulation, transition
from stitch_sweep.analysis.matrix.indices import LEAST_DROP
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS
from stitch_sweep.analysis.matrix.order_parameters import LEAST_RANGE
from stitch_sweep.analysis.matrix.quality import MOST_MISSING, MOST_UNCONVERGED
from stitch_sweep.config.recipe import TRAINING_RECIPES
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.losses.neighborhoods import MAX_IMAGES
from stitch_sweep.training import convergence
from tests.support.documents import unwrap
from tests.support.paths import ROOT

EXPLANATION = ROOT / "docs/explanation"


def read(name: str) -> str:
    """Return a page without its line breaks."""
    return unwrap((EXPLANATION / name).read_text())


def test_the_labels_have_the_thresholds_of_the_code():
    t = THRESHOLDS
    text = read("analysis.md")
    for row in [
        f"| `none` | L, D and U at most {t.nothing} |",
        f"| `full` | L, D and U at least {t.high}, no two more than {t.slack} apart |",
        f"| `gradient` | L - U ≥ {t.contrast} and order above {t.steepest},",
        f"| `triangle` | D ≥ {t.high}, L - U ≥ {t.contrast}, D - L ≤ {t.slack}, ",
        f"order at most {t.steepest} |",
        f"| `diagonal` | D - max(L, U) ≥ {t.contrast} |",
        f"undefined if D - U < {LEAST_DROP} |",
        f"If the better network is less than {LEAST_RANGE} above chance",
    ]:
        assert row in text
    assert MOST_MISSING == 0.25
    assert MOST_UNCONVERGED == 0.5
    assert "More than a quarter of the cells have no value" in text
    assert "More than half of the values are of stitches that did not converge" in text


def test_the_limits_of_convergence_are_those_of_the_code():
    c = convergence
    text = read("recipes.md")
    for row in [
        rf"r - o \le {c.EXCESS_ALLOWED} \max(o, {c.EXCESS_FLOOR})",
        f"for a loss with `task` | {c.SMALL_GAIN} | {c.LARGE_GAIN} |",
        f"for other losses | {c.SMALL_FALL:.0%} | {c.LARGE_FALL:.0%} |",
        f"since the first eighth | {c.SMALL_SHARE:.0%} | {c.LARGE_SHARE:.0%} |",
        f"if there are {c.LEAST_IMAGES:,} or more",
    ]:
        assert row in text
    assert c.CERTAIN == 5
    assert "five standard errors" in text


@pytest.mark.parametrize("name", TRAINING_RECIPES)
def test_the_recipes_are_those_of_the_code(name):
    training, stitch = (TRAINING_RECIPES[name][key] for key in ("training", "stitch"))
    (row,) = re.findall(
        rf"^\| `{name}` \| (\d.*) \|$", (EXPLANATION / "recipes.md").read_text(), re.M
    )
    epochs, optimizer, start, coordinates, kept, _ = row.replace("`", "").split(" | ")
    assert int(epochs) == training["epochs"]
    assert optimizer.lower() == training["optimizer"]["name"]
    assert (start, coordinates) == (stitch["start"], training["coordinates"])
    assert kept == {"best": "best validation", "last": "last step"}[training["keep"]]


def test_the_sizes_of_chunks_and_samples_are_those_of_the_code():
    assert f"in chunks of {CHUNK}," in read("determinism.md")
    assert f"at most {MAX_IMAGES} images" in read("method.md")


def test_the_rules_of_the_ladder_are_those_of_the_code():
    text = read("transition.md")
    assert fit.LEAST_POINTS == 12
    assert fit.LEAST_SIZES == 4
    assert "Twelve independent points at four sizes or more" in text
    assert f"claimed at p ≤ {simulation.SIGNIFICANCE}" in text
    assert f"the smaller p-value must exceed {transition.LACK}" in text


def test_the_error_rates_of_the_ladder_are_those_of_the_counts(capsys):
    run_path(str(ROOT / "experiments/calibration/transition.py"))["print_tables"]()
    page = (ROOT / "docs/evidence/transition.md").read_text()
    printed = rows(capsys.readouterr().out)
    assert len(printed) > 60
    assert printed - rows(page) == set()


def rows(text: str) -> set[str]:
    """Return the rows of tables, without heads."""
    return set(re.findall(r"^\| \d+ (?:sizes|points).*\|$", text, re.M))


def test_every_page_is_in_the_index():
    pages = {path.name for path in EXPLANATION.glob("*.md")} - {"index.md"}
    assert pages == {Path(name).name for name in re.findall(r"\]\((\w+\.md)", read("index.md"))}
