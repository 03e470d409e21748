"""A comparison of recordings for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stitch_sweep.checks.determinism.comparison import Comparison, Stage, sentence

_MOST_CHANGES = 8
"""Maximum number of printed changes of configuration and environment."""


def comparison_table(comparison: Comparison) -> RenderableType:
    """Return a table of the stages, followed by the first difference and its usual cause."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("compared", overflow="fold")
    for name in ("differ", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    first = comparison.first
    for stage in comparison.stages:
        verdict = Text("equal", style="green")
        if stage.differing:
            verdict = Text("differs", style="yellow")
        if stage is first:
            verdict = Text("differs first", style="bold red")
        count = str(stage.differing or "")
        table.add_row(stage.name, stage.compared, count, _format(stage.largest), verdict)
    if first is None:
        return Group(table, Text("The two recordings agree entirely.", style="bold"))
    lines = [Text(sentence(first.place, first.difference), style="bold")]
    if first.values is not None:
        lines.append(Text(_describe_size(first)))
    if first.cause:
        lines.append(Text(f"Usual cause: {first.cause}"))
    if comparison.changes:
        lines += [Text(), Text("Differences of configuration and environment:")]
        lines += [Text(f"  {change}") for change in comparison.changes[:_MOST_CHANGES]]
        if (more := len(comparison.changes) - _MOST_CHANGES) > 0:
            lines.append(Text(f"  and {more} more; --json has all", style="dim"))
    return Group(table, *lines)


def _describe_size(stage: Stage) -> str:
    """Describe the largest difference, and the values that it covers."""
    assert stage.values is not None
    assert stage.total is not None
    kept_text = f"the first {stage.values:,} of {stage.total:,} values, the only stored values"
    if stage.largest == 0:
        return f"Equal in {kept_text}; a later value differs"
    values = f"all {stage.total:,} values" if stage.values == stage.total else kept_text
    return f"Largest difference {_format(stage.largest)}, over {values}"


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
