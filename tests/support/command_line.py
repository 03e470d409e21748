"""Commands run in this process, and what they print and leave behind."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The problems that the command printed."""
        return [line.removeprefix("error: ") for line in self.err.splitlines()]


def everything(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder; None for a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
