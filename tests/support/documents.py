"""The code in Markdown documents, and how to run a page as one script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stitch_sweep.config.reading import read_config
from tests.support.faults import kill_tree
from tests.support.paths import ROOT

BASE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 16},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4, "seed": 0},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
    "training": {"epochs": 1},
}
"""The configuration that a page's fragments are added to."""


@dataclass(frozen=True)
class Block:
    """A fenced code block; `file` is the file that the text before it says to write."""

    language: str
    code: str
    line: int
    file: str = ""
    append: bool = False


def unwrap(text: str) -> str:
    """Return a text with single spaces, because a sentence can break anywhere."""
    return " ".join(text.split())


def code_blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return language and code of each fenced block in one of the languages, in order."""
    return re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```$", text, re.M | re.S)


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order.

    A block is a file if the last paragraph before it says "Write `NAME`" or "add ... to `NAME`".
    """
    blocks = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        paragraph = text[: match.start()].rstrip("\n").rpartition("\n\n")[2]
        if paragraph.endswith("```"):  # directly after another block
            paragraph = ""
        named = re.findall(r"\b(write|add[^.`]* to) `([\w./-]+\.\w+)`", paragraph, re.I)
        word, file = named[-1] if named and match[1] not in ("sh", "") else ("", "")
        line = text.count("\n", 0, match.start()) + 1
        append = word.lower().startswith("add")
        blocks.append(Block(match[1], match[2], line, file, append))
    return blocks


def split_commands(code: str) -> list[str]:
    """Return the commands of a shell block: one a line, with continued lines in one."""
    return [
        command
        for command in re.split(r"(?<!\\)\n", code.rstrip("\n"))
        if command and not command.lstrip().startswith("#")
    ]


def write_script(
    text: str, *, skip: Sequence[str] = (), replace: Mapping[str, str] | None = None
) -> str:
    """Return a shell script that writes a page's files and types its commands, in order.

    Python blocks that are no file run at their place; consecutive ones are one script. YAML blocks
    that are no file are left out: see `check_fragments`. Blocks without a language, or in another
    one, are output.

    Args:
        text: The page.
        skip: Commands that start so are not run. `check_shell` still checks them.
        replace: Texts of the page and their replacements, such as smaller numbers.

    Raises:
        AssertionError: Where the page has no such command or text.
    """
    for old, new in (replace or {}).items():
        assert old in text, f"the page has no {old!r}"
        text = text.replace(old, new)
    lines, skipped, script = ["set -eu"], set(), ""
    blocks = [block for block in read_blocks(text) if block.language in ("sh", "python", "yaml")]
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.file:
            folder = Path(block.file).parent
            lines += [f"mkdir -p {folder}", heredoc(block.code, block.file, block.append)]
        elif block.language == "python":
            script += block.code + "\n\n"
            if following is None or following.language != "python" or following.file:
                name = f'"$BLOCKS/line_{block.line}.py"'
                lines += [heredoc(script, name), f"python {name}"]
                script = ""
        elif block.language == "sh":
            for command in split_commands(block.code):
                starts = [start for start in skip if command.startswith(start)]
                skipped.update(starts)
                if not starts:
                    lines += [f"printf '%s\\n' {quote(f'$ {command}')}", command]
    assert skipped == set(skip), f"the page has no command {set(skip) - skipped}"
    return "\n".join(lines) + "\n"


def quote(text: str) -> str:
    """Quote a text for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def heredoc(code: str, file: str, append: bool = False) -> str:
    """Return the shell commands that write a text to a file."""
    return f"cat {'>>' if append else '>'} {file} <<'END_OF_BLOCK'\n{code}END_OF_BLOCK"


def check_shell(text: str) -> None:
    """Check the syntax of a page's shell blocks with `bash -n`.

    Raises:
        AssertionError: With what bash says.
    """
    for block in read_blocks(text):
        if block.language == "sh":
            ended = subprocess.run(
                ["bash", "-n"], input=block.code, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 0, f"line {block.line}: {ended.stderr}"


def check_fragments(text: str, folder: Path, base: Mapping[str, Any] = BASE) -> int:
    """Read a page's YAML blocks that are no file as parts of a configuration; return how many.

    Args:
        text: The page.
        folder: Where to write them; files that they name must be there.
        base: What a fragment is added to. Its keys replace those of the base.

    Raises:
        InputError: Where our parser refuses one.
    """
    fragments = [b for b in read_blocks(text) if b.language == "yaml" and not b.file]
    for block in fragments:
        path = folder / f"line_{block.line}.yml"
        path.write_text(yaml.safe_dump(dict(base) | yaml.safe_load(block.code)))
        read_config(path)
    return len(fragments)


def run_page(
    page: Path,
    folder: Path,
    *,
    skip: Sequence[str] = (),
    replace: Mapping[str, str] | None = None,
    before: str = "",
    after: str = "",
    environment: Mapping[str, str] | None = None,
    base: Mapping[str, Any] = BASE,
    timeout: float = 500,
) -> str:
    """Run a page's blocks in order in an empty folder, with this checkout's code; return the output.

    Args:
        page: The Markdown file.
        folder: The working directory, which is also the home.
        skip: Commands that start so are not run; see `write_script`.
        replace: Texts of the page and their replacements.
        before: Shell commands that run first, such as those that prepare files.
        after: Shell commands that run last, such as checks.
        environment: Further environment variables.
        base: The configuration that fragments are added to; see `check_fragments`.
        timeout: In seconds.

    Raises:
        AssertionError: Where a command fails, with the output.
    """
    text = page.read_text()
    check_shell(text)
    script = write_script(text, skip=skip, replace=replace)
    work, blocks = folder / "work", folder / "blocks"
    work.mkdir(parents=True)
    blocks.mkdir()
    check_fragments(text, blocks, base)
    dropped = ("MLFLOW_TRACKING_URI", "VIRTUAL_ENV", "RAY_ADDRESS")
    variables = {key: value for key, value in os.environ.items() if key not in dropped} | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(work),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache/matplotlib")),
        "BLOCKS": str(blocks),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        **(environment or {}),
    }
    bash = shutil.which("bash")
    assert bash is not None
    # A file takes the output, because processes that outlive a failed command would keep a pipe open.
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [bash, "-c", f"{before}\n{script}\n{after}\n"],
            cwd=work,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(timeout)
        finally:
            kill_tree(process)
    printed = output.read_text()
    assert status == 0, printed
    return printed
