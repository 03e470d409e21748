"""The pages of the losses, from their docstrings and declarations."""

from __future__ import annotations

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import facts, page, picture, table
from reference_pages.options import built_in_names, describe_options
from stitch_sweep import losses as package
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses import calibration, flat_losses
from stitch_sweep.losses.base import INVARIANCES

TOPICS = {"Losses that can't teach": flat_losses, "Calibration": calibration}


def make_pages() -> dict[str, str]:
    """Make the index, and a page per loss."""
    pages = {"losses.md": _make_index()}
    for name in built_in_names(LOSSES):
        pages[f"losses/{name}.md"] = _make_page(name)
    return pages


def _make_index() -> str:
    documented = read_docstring(package)
    rows = []
    for name in built_in_names(LOSSES):
        factory = LOSSES.get(name).factory
        text = read_docstring(factory)
        rows.append(
            (
                f"[`{name}`](losses/{name}.md)",
                text.facts["Range"].partition(". ")[0].rstrip("."),
                INVARIANCES[factory.invariance],
                INVARIANCES[factory.calibration],
                _rate(factory, "sgd"),
                _rate(factory, ""),
                text.facts["Use"],
            )
        )
    heads = ["loss", "range", "invariant to", "calibrated by", "SGD rate", "other rates", "use it"]
    blocks = [documented.summary, *documented.text, table(heads, rows)]
    for title, module in TOPICS.items():
        text = read_docstring(module)
        blocks += [f"## {title}", text.summary, *text.text]
    return page("Losses", *blocks, source="the docstrings of `stitch_sweep/losses/`")


def _make_page(name: str) -> str:
    entry = LOSSES.get(name)
    factory = entry.factory
    documented = read_docstring(factory)
    rows = dict(documented.facts)
    source = rows.pop("Source", "")
    rows = {
        **rows,
        "Invariant to": INVARIANCES[factory.invariance],
        "Calibrated by": INVARIANCES[factory.calibration],
        "Reads": _inputs(factory),
        "Learning rate": f"{_rate(factory, 'sgd')} for SGD, {_rate(factory, '')} for other optimizers",
        "Source": source,
    }
    options = describe_options(entry, documented)
    given = next(iter(entry.options.model_fields), None)
    body = "1.0"
    if given is not None:
        value = entry.options.model_fields[given].default
        body = f"{{weight: 1.0, {given}: {value}}}"
    return page(
        f"Loss `{name}`",
        documented.summary,
        *documented.text,
        facts(rows),
        *(["## Options", options] if options else []),
        picture(
            "losses",
            name,
            f"Stitching matrix of two ResNets on digits, trained for {name}",
            "The cells contain test accuracies (stitch `conv1x1`, `recipe: fast`).",
        ),
        "## In a configuration",
        f"```yaml\nloss: {{{name}: {body}}}\n```",
        "[Losses](../losses.md) compares all losses, and explains the symbols and the calibration.",
        source=f"the docstring in `{entry.module.replace('.', '/')}.py`",
    )


def _rate(factory: type, optimizer: str) -> str:
    return f"{factory.default_lr[optimizer]:g}"  # type: ignore[attr-defined]


def _inputs(factory: type) -> str:
    inputs = {
        "the stitched network's logits": factory.needs_logits,  # type: ignore[attr-defined]
        "the expected representation": factory.needs_expected,  # type: ignore[attr-defined]
        "a teacher's logits": factory.needs_teacher,  # type: ignore[attr-defined]
        "the receiver's later layers": factory.needs_hints,  # type: ignore[attr-defined]
    }
    return ", ".join(name for name, is_needed in inputs.items() if is_needed)
