"""Commands in an empty folder, in this process."""

import sys
from collections.abc import Callable

import pytest

from stitch_sweep.cli import main as cli
from tests.support.command_line import Ended, everything


@pytest.fixture
def run(monkeypatch, tmp_path, capsys) -> Callable[..., Ended]:
    """Run a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["stitch-sweep", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run


@pytest.fixture
def refused(run, tmp_path) -> Callable[..., list[str]]:
    """Run a command that must refuse its input, write nothing, and print one line per problem."""

    def refused(*arguments: object) -> list[str]:
        before = everything(tmp_path)
        ended = run(*arguments)
        assert ended.status == 2
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert everything(tmp_path) == before
        assert all(line.startswith("error: ") for line in ended.err.splitlines())
        return ended.errors

    return refused
