"""The page of the experiment folder, from the descriptions of its files and columns."""

from __future__ import annotations

from collections.abc import Mapping

from reference_pages.markdown import page, table
from stitch_sweep.storage import columns, layout


def make_page() -> str:
    """Make the page."""
    blocks = [
        "A sweep writes its results into one folder: the configuration's folder, or the folder that "
        "`--folder` names. [Resume after a crash](../guides/resume.md) explains the ledger.",
        "## Files",
        _rows("file", layout.CONTENT),
        "## `ledger/`",
        _rows("file", layout.LEDGER_CONTENT),
    ]
    for heading, head, names in (
        (layout.RESULTS, "column", columns.RESULTS),
        (
            f"{layout.TRAJECTORIES} and {layout.PICKLED_TRAJECTORIES}",
            "column",
            columns.TRAJECTORIES,
        ),
        (layout.PREDICTIONS, "column", columns.PREDICTIONS),
        (layout.SUMMARY, "key", columns.SUMMARY),
    ):
        blocks += [f"## {heading}", _rows(head, names)]
    blocks += [
        f"## {layout.VERDICTS}",
        "The key `matrices` contains a list. Each entry describes one matrix with these keys. "
        "[Analysis of a matrix](../explanation/analysis.md) explains these quantities.",
        _rows("key", columns.VERDICTS),
        f"## {layout.TABLES}/",
        "A table is written only if the experiment has data for the table. If a report compares several "
        "experiments, the names begin with a number and the experiment's name.",
    ]
    for name, described in columns.TABLES.items():
        first = next(name for name, others in columns.TABLES.items() if others == described)
        text = f"The columns are those of `{layout.TABLES}/{first}.csv`."
        rows = _rows("column", described) if first == name else text
        blocks += [f"### {layout.TABLES}/{name}.csv", rows]
    blocks += [
        f"## {layout.MEASURED}/",
        "`analyze` and `ss.measure` compute these tables, and compute a table again only if its inputs "
        "have changed. `images.safetensors` contains the images that stitches into layer -1 produce. In "
        "the formulas, e is the expected representation; t is the representation of the task-trained "
        "stitch, and s that of the stitch with `similarity_loss`.",
    ]
    for name, described in columns.MEASURED.items():
        blocks.append(f"### {layout.MEASURED}/{name}.parquet")
        common = columns.TABLES.get(name, {})
        if common and common.items() <= described.items():
            described = {key: text for key, text in described.items() if key not in common}
            end = ", and these:" if described else "."
            blocks.append(f"The columns are those of `{layout.TABLES}/{name}.csv`{end}")
        if described:
            blocks.append(_rows("column", described))
    blocks += [
        "## An assembly",
        "`stitch-sweep assemble` writes these files. [Assemble networks from parts]"
        "(../guides/assembly.md) explains the command.",
        _rows("file", layout.ASSEMBLY_CONTENT),
    ]
    return page(
        "Experiment folder",
        *blocks,
        source="`stitch_sweep/storage/layout.py` and `stitch_sweep/storage/columns.py`",
    )


def _rows(head: str, described: Mapping[str, str]) -> str:
    return table([head, "content"], [(f"`{name}`", text) for name, text in described.items()])
