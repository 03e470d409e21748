"""The terminal: everything that is printed for people goes through here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from stitch_sweep.core.untrusted import printable


class Terminal(Console):
    """A console that shows text as it stands: no markup, no highlighting, no control characters.

    Names and messages may come from a folder, a table or a configuration that somebody else wrote.
    Whatever is printed (text, tables, progress) ends as segments, and these are escaped here.

    Args:
        stderr: whether to print to standard error.
        file: where to print instead.
        width: columns; None: those of the terminal.
        force_terminal: whether to take the file for a terminal; None: find out.
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
        """Turn something into segments without control characters, but for line breaks."""
        for segment in super().render(renderable, options):
            # Rich's own sequences, which move the cursor of a progress bar, are marked as such.
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = (printable(line) for line in segment.text.split("\n"))
                yield segment._replace(text="\n".join(lines))
