"""Check shell commands of documents and scripts without running them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import typer

from stitch_sweep.cli.main import app


def parse(words: list[str]) -> str | None:
    """Return the parser's error about a command of Stitch Sweep or Ray."""
    from ray.scripts.scripts import cli as ray

    programs = {"stitch-sweep": typer.main.get_command(app), "ray": ray}
    program, *arguments = words
    command: Any = programs[program]
    try:
        while hasattr(command, "commands"):
            name = arguments.pop(0) if arguments else ""
            if name not in command.commands:
                return f"{program}: no command {name!r}"
            command = command.commands[name]
        with command.make_context(command.name, list(arguments)) as context:
            # The commands that `ray job submit` and `ray exec` run on the cluster.
            entrypoint = context.params.get("entrypoint") or []
            entrypoint = entrypoint or shlex.split(context.params.get("cmd") or "")
    except Exception as error:
        # Typer contains a copy of click, so the two have no common class.
        if not hasattr(error, "format_message"):
            raise
        return f"{program}: {error.format_message()}"
    return parse(list(entrypoint)) if entrypoint else None


def shell_faults(commands: list[str]) -> list[str]:
    """Return a line for each command that bash or the called program would refuse."""
    faults = []
    for command in commands:
        ran = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        if ran.returncode:
            faults.append(f"bash: {command}: {ran.stderr.strip()}")
            continue
        for part in re.split(r";|&&|\|\|", command):
            words = shlex.split(part.strip(" ()"))
            while words and re.match(r"\w+=", words[0]):
                del words[0]  # a variable before the command
            if words and Path(words[0]).name in ("ray", "stitch-sweep"):
                fault = parse([Path(words[0]).name, *words[1:]])
                faults += [fault] if fault else []
    return faults
