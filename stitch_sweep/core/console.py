"""Terminal output. All output for people goes through `Terminal`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from stitch_sweep.core.untrusted import printable


class Terminal(Console):
    """A console that prints text literally, without markup, highlighting or control characters.

    Names and messages may come from a foreign folder, table or configuration. Text, tables and progress
    bars are all rendered as segments, so this class escapes the segments.

    Args:
        stderr: whether to print to standard error.
        file: file to print to instead of standard output or standard error.
        width: number of columns; None: the terminal's width.
        force_terminal: whether to treat the file as a terminal; None: detect it.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        file: IO[str] | None = None,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            stderr=stderr,
            file=file,
            width=width,
            force_terminal=force_terminal,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object as segments whose only control characters are line breaks."""
        for segment in super().render(renderable, options):
            # rich marks its own control sequences, such as a progress bar's cursor movements.
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = (printable(line) for line in segment.text.split("\n"))
                yield segment._replace(text="\n".join(lines))
