"""Commands of `stitch-sweep` in forked processes, with limits of time and memory.

Importing torch and pandas takes seconds. A server process imports them once and forks for each command,
so that hundreds of commands take minutes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 20
# A busy machine needs more wall-clock time for the same computation.
_HANG_SECONDS = 5 * SECONDS
PEAK_BYTES = 2 * 2**30
# Far above the allowed peak: a command that needs more fails before the machine does.
_DATA_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Ended:
    """The end of a command.

    Attributes:
        status: exit status; the negative signal number if a signal ended the command.
        output: standard output and standard error.
        seconds: CPU time; a command that hangs is killed.
        peak_bytes: peak resident memory, that of the imports included.
    """

    status: int
    output: str
    seconds: float
    peak_bytes: int


class Server:
    """Runs commands one after another.

    Args:
        process: this module as a program.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *arguments: object, cwd: Path) -> Ended:
        """Run one command in the folder `cwd`; kill it if it hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": [str(a) for a in arguments], "cwd": str(cwd)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def server(scratch: Path) -> Iterator[Server]:
    """Start a server whose temporary files are below `scratch`."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch), "COLUMNS": "500"},
    ) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _serve() -> None:
    # The imports of the commands. Nothing is computed, because threads would not survive the fork.
    import stitch_sweep.checks.determinism.comparison
    import stitch_sweep.networks.zoo
    import stitch_sweep.plan.estimate
    import stitch_sweep.report.terminal
    import stitch_sweep.report.writing
    import stitch_sweep.sweep.run
    import stitch_sweep.tracking.mirror  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


def _fork(request: dict[str, object]) -> dict[str, object]:
    output = Path(os.environ["TMPDIR"]) / "output"
    output.unlink(missing_ok=True)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(output, request)
    timed_out = False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if not timed_out and time.monotonic() - begun > _HANG_SECONDS:
            timed_out = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)  # between two polls of the child
    return {
        "status": os.waitstatus_to_exitcode(status),
        "output": output.read_text(errors="replace"),
        "seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _become(output: Path, request: dict[str, object]) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA_BYTES, _DATA_BYTES))
    os.chdir(str(request["cwd"]))
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    status = 1
    try:
        if arguments[0] == "fetch-mirror":
            arguments = _fetch_mirror(*arguments[1:])
        sys.argv = ["stitch-sweep", *arguments]
        from stitch_sweep.cli.main import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _fetch_mirror(folder: str, uri: str) -> list[str]:
    """Fetch the files of a mirror, as `sweep --resume --mirror` does before Ray starts; then `status`."""
    from stitch_sweep.core.errors import InputError
    from stitch_sweep.tracking.mirror import Mirror

    try:
        mirror = Mirror(Path(folder), uri)
        if mirror.check(resume=True):
            mirror.fetch()
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    return ["status", folder]


if __name__ == "__main__":
    _serve()
