"""The pages of the stitches, from their docstrings and from built stitches."""

from __future__ import annotations

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import facts, page, picture, table
from reference_pages.options import built_in_names, describe_options
from stitch_sweep import stitches as package
from stitch_sweep.config.stitch import STARTS
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches import capacity as capacity_module
from stitch_sweep.stitches import resizing, shapes, starts
from stitch_sweep.stitches.base import AffineStitch, Stitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.least_squares import has_optimum
from stitch_sweep.stitches.shapes import Shape

EQUAL: tuple[Shape, Shape] = ((64, 8, 8), (64, 8, 8))
UNEQUAL: tuple[Shape, Shape] = ((64, 8, 8), (32, 4, 4))
EQUAL_SHAPES = ("affine", "identity")
"""Stitches that can't join most layers of two ResNets, because they need equal shapes or channels."""
TOPICS = {
    "Sequences of tokens": shapes,
    "Sizes": resizing,
    "Starts": starts,
    "Capacity": capacity_module,
}


def make_pages() -> dict[str, str]:
    """Make the index, and a page per stitch."""
    pages = {"stitches.md": _make_index()}
    for name in built_in_names(STITCHES):
        pages[f"stitches/{name}.md"] = _make_page(name)
    return pages


def _make_index() -> str:
    documented = read_docstring(package)
    rows = []
    for name in built_in_names(STITCHES):
        stitch = _build(name, *EQUAL)
        unequal = _build(name, *UNEQUAL)
        text = read_docstring(STITCHES.get(name).factory)
        rows.append(
            (
                f"[`{name}`](stitches/{name}.md)",
                text.facts["Invariant to"].partition(". ")[0].rstrip("."),
                "yes" if isinstance(stitch, AffineStitch) and has_optimum(stitch) else "no",
                _parameters(stitch),
                _parameters(unequal),
                text.facts["Use"],
            )
        )
    heads = [
        "stitch",
        "invariant to",
        "closed form",
        "parameters, equal",
        "parameters, unequal",
        "use it",
    ]
    blocks = [
        documented.summary,
        *documented.text,
        table(heads, rows),
        "Invariant to: changes of the sender's representation that the stitch can undo. Closed form: a "
        "formula gives the stitch with the smallest squared error. This error shows whether a trial "
        "with the loss `mse` has converged. Parameters: number of trained parameters with default "
        f"options, for equal shapes ({_arrow(EQUAL)}) and unequal shapes ({_arrow(UNEQUAL)}).",
    ]
    for title, module in TOPICS.items():
        text = read_docstring(module)
        blocks += [f"## {title}", text.summary, *text.text]
        if module is starts:
            blocks.append(_starts_table())
    return page("Stitches", *blocks, source="the docstrings of `stitch_sweep/stitches/`")


def _make_page(name: str) -> str:
    entry = STITCHES.get(name)
    documented = read_docstring(entry.factory)
    rows = dict(documented.facts)
    source = rows.pop("Source", "")
    for title, shapes_ in (("Starts, equal shapes", EQUAL), ("Starts, unequal shapes", UNEQUAL)):
        stitch = _build(name, *shapes_)
        rows[title] = "refused" if stitch is None else _starts(stitch)
    rows["Source"] = source
    options = describe_options(entry, documented)
    section = "{name: " + name + "}"
    return page(
        f"Stitch `{name}`",
        documented.summary,
        *documented.text,
        facts(rows),
        *(["## Options", options] if options else []),
        picture(
            "stitches",
            name,
            f"Stitching matrix of stitch {name} on digits",
            "The cells contain test accuracies (loss `task`, `recipe: fast`).",
            **({"of": "A small ViT, stitched to itself,"} if name in EQUAL_SHAPES else {}),
        ),
        "## In a configuration",
        f"```yaml\nstitch: {section}\n```",
        "[Stitches](../stitches.md) explains starts, sizes, tokens, and equal and unequal shapes.",
        source=f"the docstring in `{entry.module.replace('.', '/')}.py`",
    )


def _build(name: str, sender: Shape, receiver: Shape) -> Stitch | None:
    try:
        return build_stitch(name, sender, receiver)
    except InputError:
        return None


def _parameters(stitch: Stitch | None) -> str:
    return "refused" if stitch is None else f"{capacity(stitch).parameters:,}"


def _starts(stitch: Stitch) -> str:
    allowed = [s for s in STARTS if s == "auto" or stitch.explain_start_refusal(s) is None]
    return ", ".join(f"`{start}`" for start in allowed)


def _starts_table() -> str:
    own = [start for start in STARTS if start != "auto"]
    rows = []
    for name in built_in_names(STITCHES):
        stitch, unequal = _build(name, *EQUAL), _build(name, *UNEQUAL)
        cells = [_start_cell(stitch, unequal, start) for start in own]
        rows.append((f"[`{name}`](stitches/{name}.md)", *cells))
    return table(["stitch", *(f"`{start}`" for start in own)], rows)


def _start_cell(stitch: Stitch | None, unequal: Stitch | None, start: str) -> str:
    allowed = [s is not None and s.explain_start_refusal(start) is None for s in (stitch, unequal)]
    if all(allowed):
        return "yes"
    return "equal shapes" if allowed[0] else "unequal shapes" if allowed[1] else "no"


def _arrow(pair: tuple[Shape, Shape]) -> str:
    sender, receiver = (" x ".join(map(str, shape)) for shape in pair)
    return f"{sender} to {receiver}"
