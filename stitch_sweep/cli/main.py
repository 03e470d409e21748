"""The program `stitch-sweep` runs sweeps and reads their results.

Results go to standard output; progress and logs go to standard error. With `--json`, a command prints one
line of JSON on standard output.

| exit status | meaning |
|---|---|
| 0 | success |
| 1 | the command ran, but something failed |
| 2 | the input was wrong |
| 130 | interrupted; to continue, run the same command again (a sweep with `--resume`) |

| environment variable | meaning |
|---|---|
| MLFLOW_TRACKING_URI | address of MLflow's server or store, if the configuration contains none |
| MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN | credentials of MLflow |
| WANDB_API_KEY | key of Weights & Biases |
| RAY_AUTH_MODE, RAY_AUTH_TOKEN | Ray's token authentication |
| RAY_TMPDIR | folder of Ray's temporary files and sockets; its path must be short |
| STITCH_SWEEP_GRACE_SECONDS | seconds that logging may last after a sweep's process ends; default 30 |
| CUBLAS_WORKSPACE_CONFIG | workspace of cuBLAS; Stitch Sweep sets a deterministic value |
| CXX, CC | compiler for `training.frozen: compiled` |
| NAME in `${env:NAME}` | part of a path in a configuration |
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stitch_sweep.cli import determinism, zoo
from stitch_sweep.cli.analyze import analyze
from stitch_sweep.cli.assemble import assemble
from stitch_sweep.cli.describe import describe
from stitch_sweep.cli.init import init
from stitch_sweep.cli.longer import longer
from stitch_sweep.cli.output import stderr
from stitch_sweep.cli.sanity import sanity
from stitch_sweep.cli.status import status
from stitch_sweep.cli.stitch import stitch
from stitch_sweep.cli.sweep import sweep
from stitch_sweep.cli.ui import ui
from stitch_sweep.core import interrupts
from stitch_sweep.core.errors import DivergedError, InputError, StoppedError
from stitch_sweep.core.untrusted import printable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Model stitching at scale: how similar are the representations of two networks?",
)
for command in (init, sweep, status, stitch, assemble, analyze, longer, sanity, describe, ui):
    app.command()(command)
app.add_typer(zoo.app, name="zoo")
app.add_typer(determinism.app, name="determinism")


def _print_version(value: bool) -> None:
    if value:
        from stitch_sweep import __version__

        print(f"stitch-sweep {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Handle the options of the program itself."""


def main() -> None:
    """Run the command line and exit.

    Input errors exit with status 2; Ctrl-C, SIGTERM and SIGHUP exit with status 130. Neither prints a
    traceback.
    """
    with interrupts.raise_on_signal():
        try:
            # With standalone_mode=False, Typer returns the status of an Exit, and 130 after Ctrl-C.
            exit_status = app(standalone_mode=False) or 0
        except (KeyboardInterrupt, Exception) as error:
            # An interrupted import or a closed terminal can raise any exception.
            interrupted = interrupts.received() or isinstance(error, KeyboardInterrupt)
            exit_status = interrupts.STATUS if interrupted else _explain_error(error)
    if exit_status == interrupts.STATUS:
        interrupts.print_sentence()
    sys.exit(exit_status)


def _explain_error(error: BaseException) -> int:
    """Print the message of an expected error and return the exit status; re-raise any other."""
    if isinstance(error, InputError):
        for problem in error.problems:
            stderr.print(f"error: {problem}", style="red", soft_wrap=True)
        return 2
    if isinstance(error, DivergedError | StoppedError):
        stderr.print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    # The operating system's message is enough: a full disk, a folder without write permission.
    if isinstance(error, OSError) and error.filename is not None:
        stderr.print(f"error: {error.filename}: {error.strerror}", style="red")
        return 1
    # Typer's errors about arguments print themselves.
    show = getattr(error, "show", None)
    if show is None:
        raise error
    if isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)  # type: ignore[attr-defined]
    show()
    return int(getattr(error, "exit_code", 2))
