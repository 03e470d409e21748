"""The command line. Thin: it reads arguments, calls the library, and prints."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from stitch_sweep.core import interrupts
from stitch_sweep.core.console import Terminal
from stitch_sweep.core.errors import DivergedError, InputError, StoppedError
from stitch_sweep.core.untrusted import printable

if TYPE_CHECKING:
    from stitch_sweep.config.models import Config
    from stitch_sweep.sweep.run import Outcome

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Model stitching at scale: how alike are the representations of two networks?",
)
zoo_app = typer.Typer(no_args_is_help=True, help="Train and list the frozen networks.")
app.add_typer(zoo_app, name="zoo")
determinism_app = typer.Typer(
    no_args_is_help=True,
    help="Record what a run computes at its start, and compare two recordings.",
)
app.add_typer(determinism_app, name="determinism")

ConfigFile = Annotated[Path, typer.Argument(help="A YAML file; see docs/config.md.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override one key; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

_out = Terminal()
_err = Terminal(stderr=True)


@app.command()
def sweep(
    config: ConfigFile,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in the folder, or show it again.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say how many trials, how long, how much disk; run none."),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster: auto or HOST:PORT. Default: a local Ray."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="At most so many trials at the same time.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Experiment folder. Default: where the configuration lies.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Keep a copy there, such as s3://bucket/prefix."),
    ] = None,
    retrain_stitches: Annotated[
        bool,
        typer.Option(
            "--retrain-stitches",
            help="With --resume: run trials again whose kept stitches are missing or damaged.",
        ),
    ] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Run every trial of a configuration and draw the stitching matrices."""
    if retrain_stitches and not resume:
        raise InputError("--retrain-stitches: only with --resume; a new sweep has no stitches yet")
    read = _read(config, set_)
    where = folder or config.parent
    if dry_run:
        from stitch_sweep.plan.estimate import estimate
        from stitch_sweep.sweep.progress import Reporter

        _print_estimate(estimate(read, address, Reporter().say).to_dict(), as_json)
        return
    from stitch_sweep.sweep.resources import check_job
    from stitch_sweep.sweep.run import run_sweep

    check_job(where, Path(read.zoo), address=address, tracked_here=_tracked_here(read))
    outcome = run_sweep(
        read,
        where,
        resume=resume,
        retrain_stitches=retrain_stitches,
        address=address,
        workers=workers,
        mirror=mirror,
    )
    if as_json:
        print(json.dumps(_summary(outcome, where)))
    else:
        _show_outcome(outcome, read, config, where)
    raise typer.Exit(outcome.exit_status)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="An experiment folder.")], as_json: Json = False
) -> None:
    """Say how far a sweep got, also while it runs."""
    from stitch_sweep.storage.status import read_status

    found = read_status(folder)
    if as_json:
        print(json.dumps(found))
        return
    notes = found.pop("notes")
    _err.print(Text(str(folder), style="bold"))
    for key, value in found.items():
        _out.print(f"  {key.replace('_', ' '):<14}{value}")
    for note in notes:
        _out.print(f"note: {note}", soft_wrap=True)


@app.command()
def stitch(
    config: ConfigFile,
    pair: Annotated[str, typer.Option(help="SENDER:LAYER,RECEIVER:LAYER, such as a:2,b:3.")],
    save: Annotated[
        Path | None, typer.Option(help="Write the trained stitch to this file.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train one stitch, here and now, without Ray."""
    from stitch_sweep.sweep.single import run_pair

    result = run_pair(_read(config, set_), pair, save)
    if as_json:
        print(json.dumps(result))
    else:
        _show_figures(result)
    raise typer.Exit(0 if result["status"] == "finished" else 1)


@app.command()
def assemble(
    config: ConfigFile,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write. Default: the configuration's folder.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Put a network together from parts of others and stitches, and train those, without Ray."""
    from stitch_sweep.sweep.assemble import run_assembly

    where = folder or config.parent
    result = run_assembly(_read(config, set_), where)
    if as_json:
        print(json.dumps(result))
    else:
        _show_figures(result)
        _out.print(f"Trajectory and trained parts: {where}", soft_wrap=True)
    raise typer.Exit(0 if result["status"] == "finished" else 1)


@app.command()
def analyze(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Experiment folders: parts of one study are merged, others compared."),
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="A bare matrix of accuracies (CSV), instead of folders.")
    ] = None,
    chance: Annotated[
        float | None,
        typer.Option(
            help="What guessing reaches. Default: one in as many classes; 0.1 for a matrix."
        ),
    ] = None,
    sender_accuracy: Annotated[
        float | None, typer.Option(help="With --matrix: the sender's own test accuracy.")
    ] = None,
    receiver_accuracy: Annotated[
        float | None, typer.Option(help="With --matrix: the receiver's own test accuracy.")
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="With --matrix: how many test images the accuracies are of."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write. Default: the first folder; nowhere for a matrix."),
    ] = None,
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Leave out what needs networks, images and stitches."),
    ] = False,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code", help="Measure networks of `source: python` too: runs their code."
        ),
    ] = False,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Measure networks and images that lie below this folder too; repeatable.",
        ),
    ] = None,
    download: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIBRARY",
            help="Measure networks with published weights too, loaded from torchvision or timm; "
            "repeatable.",
        ),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow's server or store: link trials to their runs, and send it the report. "
            "Default: no server is contacted.",
        ),
    ] = None,
    # Accepted because scripts have it: contacting no server has become the default.
    no_track: Annotated[bool, typer.Option("--no-track", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Say what the matrices show, and write report.html, its figures and its tables."""
    bare = {
        "--sender-accuracy": sender_accuracy,
        "--receiver-accuracy": receiver_accuracy,
        "--test-images": test_images,
    }
    if bool(folders) == (matrix is not None):
        raise InputError("analyze wants experiment folders, or --matrix FILE.csv, and not both")
    if no_track and track is not None:
        raise InputError("--no-track and --track contradict each other")
    if matrix is None and (given := [name for name, value in bare.items() if value is not None]):
        raise InputError(f"{', '.join(given)}: only with --matrix; a folder's own results say it")
    from stitch_sweep.report import terminal, writing
    from stitch_sweep.sweep.progress import Reporter

    if matrix is not None:
        report = writing.analyze_matrix(
            matrix,
            output=output,
            chance=0.1 if chance is None else chance,
            sender_accuracy=math.nan if sender_accuracy is None else sender_accuracy,
            receiver_accuracy=math.nan if receiver_accuracy is None else receiver_accuracy,
            test_images=test_images,
        )
    else:
        with Reporter() as reporter:
            report = writing.analyze(
                folders or [],
                output=output,
                measured=not no_measure,
                run_code=run_code,
                allow=allow or (),
                download=download or (),
                track=track,
                chance=chance,
                on_progress=reporter.step,
            )
    if as_json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    else:
        terminal.show(report, _out)


@app.command()
def sanity(
    config: ConfigFile,
    pair: Annotated[
        str | None,
        typer.Option(help="SENDER:LAYER,RECEIVER:LAYER. Default: the first pair's middle layers."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(help="So many training and test images, where a check doesn't need all."),
    ] = 1000,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Run this check only, such as order; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write. Default: sanity.json beside the file.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Rule out bugs: check copies, storing, evaluation, order, frozen networks, precision, loaders."""
    from stitch_sweep.checks.sanity.suite import LITTLE, run_sanity, table

    read = _read(config, set_)
    where = output or config.parent / "sanity.json"
    if where.resolve() == config.resolve():
        raise InputError(f"--output {where}: is the configuration itself")
    found = run_sanity(read, pair=pair, images=images, only=only or (), output=where)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _out.print(table(found))
        for finding in found.findings:
            if finding.detail and (
                finding.verdict != "pass" or not finding.name.startswith(LITTLE)
            ):
                _out.print(f"{finding.name}: {finding.detail}")
        _out.print(f"Written to {where}", soft_wrap=True)
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def describe(
    model: Annotated[
        str,
        typer.Argument(
            help="Such as resnet34, vit_tiny, torchvision:resnet18, timm:resnet18, ./mine.py:make."
        ),
    ],
    width: Annotated[
        int | None,
        typer.Option(min=1, max=2**16, help="Of our own families. Default: the family's own."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, max=1024, help="Pixels on a side.")] = 32,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Channels of the image.")] = 3,
    classes: Annotated[int, typer.Option(min=2, max=100_000, help="Classes.")] = 10,
    argument: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="One of the model's own arguments; repeatable."),
    ] = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this place, or what crosses there; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a network's layer table, every place where it can be cut, and its layers of stitching."""
    from stitch_sweep.core.errors import check_all
    from stitch_sweep.networks.describe import cut_table, describe_cut
    from stitch_sweep.networks.describe import describe as describe_model
    from stitch_sweep.networks.external.naming import by_name

    network = by_name(
        model, channels, classes, _pairs(argument, "--argument"), width=width, image_size=image_size
    )
    shape = (channels, image_size, image_size)
    if not cut:
        found = describe_model(network, shape)
        _print_lines(json.dumps(found.to_dict()) if as_json else found.table())
        return
    rows = []
    check_all(*(lambda name=name: rows.append(describe_cut(network, name, shape)) for name in cut))
    _print_lines(
        json.dumps([row.to_dict() for row in rows]) if as_json else "\n".join(cut_table(rows))
    )


@app.command()
def ui(
    config: Annotated[
        Path | None,
        typer.Argument(help="Whose tracking.uri. Default: MLFLOW_TRACKING_URI, or ./mlflow.db."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    set_: Set = None,
) -> None:
    """Open the MLflow UI of the store that a sweep's runs are in, on this machine only."""
    from stitch_sweep.config.models import TrackingConfig
    from stitch_sweep.core.credentials import public_uri
    from stitch_sweep.tracking.store import check_tracking, local_database, resolve

    tracking = TrackingConfig() if config is None else _read(config, set_).tracking
    check_tracking(tracking)
    store = resolve(tracking.uri)
    if store.lower().startswith(("http", "databricks")):
        raise InputError(f"the runs are on a server: open {public_uri(store)} in a browser")
    database = local_database(store)
    if database is not None and not database.is_file():
        raise InputError(
            f"{database}: there are no runs yet; give the sweep's configuration, or run this where "
            "the sweep was started"
        )
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # In the environment and not among the arguments: an address may contain a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)


@zoo_app.command("train")
def zoo_train(config: ConfigFile, set_: Set = None, as_json: Json = False) -> None:
    """Train the networks of a configuration, in this process; those that exist are left alone."""
    from stitch_sweep.networks.zoo import Zoo
    from stitch_sweep.plan.prepare import prepare, train_here
    from stitch_sweep.sweep.progress import Reporter
    from stitch_sweep.sweep.resources import check_local

    read = _read(config, set_)
    check_local(read.resources)
    prepared = prepare(read, cells=False)
    zoo, train = Zoo(read.zoo), train_here(read, prepared.data)
    found = []
    with Reporter() as reporter:
        for recipe in prepared.recipes():
            found.append((recipe.name, zoo.ensure(recipe, train, reporter.network)))
    if as_json:
        print(json.dumps([{"name": n, "folder": str(e.folder), **e.accuracy} for n, e in found]))
        return
    for name, entry in found:
        _out.print(f"{name}: test accuracy {entry.accuracy['test']:.4f}  {entry.folder}")


@zoo_app.command("list")
def zoo_list(
    folder: Annotated[Path, typer.Argument(help="A zoo.")] = Path("zoo"), as_json: Json = False
) -> None:
    """List the networks of a zoo with their accuracies."""
    from rich.table import Table

    from stitch_sweep.networks.zoo import Zoo

    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such zoo; `stitch-sweep zoo train` makes one")
    entries = Zoo(folder).entries()
    if as_json:
        print(
            json.dumps(
                [
                    {"folder": str(e.folder), "recipe": e.recipe, "accuracy": e.accuracy}
                    for e in entries
                ]
            )
        )
        return
    table = Table("folder", "options", "weights", "train", "validation", "test", "seconds")
    for entry in entries:
        options = " ".join(f"{k}={v}" for k, v in entry.options.items())
        scores = [f"{entry.accuracy[split]:.4f}" for split in ("train", "validation", "test")]
        table.add_row(
            entry.folder.name, options, entry.recipe["weights"], *scores, f"{entry.seconds:.0f}"
        )
    _out.print(table)


@determinism_app.command("record")
def determinism_record(
    config: ConfigFile,
    output_dir: Annotated[Path, typer.Option(help="A new or empty folder to write to.")],
    pair: Annotated[
        str | None,
        typer.Option(help="SENDER:LAYER,RECEIVER:LAYER. Default: the first pair's middle layers."),
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Write down batches, weights, outputs, gradients and generators of a training's first steps."""
    from rich.table import Table

    from stitch_sweep.checks.determinism.recording import record
    from stitch_sweep.sweep.progress import Reporter

    with Reporter() as reporter:
        found = record(_read(config, set_), output_dir, pair, on_progress=reporter.network)
    limits = found.environment["not_deterministic"]
    if as_json:
        about = {"folder": str(output_dir), "pair": found.about["pair"], "sha256": found.sha256}
        print(json.dumps({**about, "not_deterministic": limits}))
        return
    _out.print(f"Recorded {found.about['pair']} in {output_dir}", soft_wrap=True)
    _out.print(f"SHA-256 of everything: {found.sha256}", soft_wrap=True)
    _out.print("What seeding can't promise:")
    grid = Table.grid(padding=(0, 1))
    for limit in limits:
        grid.add_row("-", Text(limit))
    _out.print(grid)


@determinism_app.command("compare")
def determinism_compare(
    first: Annotated[Path, typer.Argument(help="A recording; differences are counted from it.")],
    second: Annotated[Path, typer.Argument(help="Another recording.")],
    as_json: Json = False,
) -> None:
    """Say what differs first between two recordings, by how much, and what usually causes it."""
    from stitch_sweep.checks.determinism.comparison import compare, report

    found = compare(first, second)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _out.print(report(found))
    raise typer.Exit(0 if found.agree else 1)


def _read(path: Path, overrides: list[str] | None) -> Config:
    from stitch_sweep.config.reading import read_config

    return read_config(path, _pairs(overrides, "--set"))


def _pairs(texts: list[str] | None, option: str) -> dict[str, Any]:
    from stitch_sweep.config.reading import parse_value
    from stitch_sweep.core.credentials import public

    found: dict[str, Any] = {}
    problems = []
    for text in texts or []:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            problems.append(f"{option} {public(text)}: write it as a.b=value")
            continue
        try:
            found[key] = parse_value(value)
        except InputError as error:
            problems += [f"{option} {key}: {problem}" for problem in error.problems]
    if problems:
        raise InputError(*problems)
    return found


def _print_lines(text: str) -> None:
    """Print lines at their own width; names in them are of somebody's code."""
    print("\n".join(printable(line) for line in text.split("\n")))


def _show_figures(result: Mapping[str, Any]) -> None:
    for key, value in result.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        _out.print(f"{key:<24}{shown}")


def _show_outcome(outcome: Outcome, config: Config, file: Path, folder: Path) -> None:
    from stitch_sweep.analysis.matrix.knock_out import gap_matrices, is_knock_out
    from stitch_sweep.analysis.results import best_trials
    from stitch_sweep.report.terminal_tables import best_table, matrix_table

    if len(outcome.results):
        best = best_trials(outcome.results, metric=config.search.metric, mode=config.search.mode)
        _out.print(best_table(best))
        asked = {part.network for part in config.knock_out}
        for matrix in outcome.matrices:
            gaps = list(gap_matrices([matrix], asked))
            for shown in gaps if is_knock_out(matrix) else [matrix, *gaps]:
                _out.print(matrix_table(shown))
                _out.print()
    _out.print(
        f"{outcome.ended} of {outcome.total} trials ended, {outcome.failed} failed. "
        f"Tables, matrices and figures: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    if outcome.copied:
        _out.print(
            f"{outcome.copied} of {outcome.ended} trials were equal to earlier ones and copied.",
            highlight=False,
        )
    if outcome.lost:
        _err.print(
            f"{outcome.lost} trials were tried too often. "
            "Try them again with the same command and --resume",
            soft_wrap=True,
        )
    if _local_store(config) is not None and not outcome.tracking_problem:
        program = Path(sys.executable).parent / "stitch-sweep"
        if program.is_relative_to(Path.cwd()):
            program = program.relative_to(Path.cwd())
        words = [str(program), "ui", *([str(file)] if config.tracking.uri else [])]
        _out.print(
            Text.assemble("Compare the runs in the browser: ", (shlex.join(words), "bold")),
            soft_wrap=True,
        )


def _local_store(config: Config) -> Path | None:
    """The file that MLflow keeps the sweep's runs in; None without tracking, or with a server."""
    from stitch_sweep.tracking.store import local_database, resolve

    return local_database(resolve(config.tracking.uri)) if config.tracking.enabled else None


def _tracked_here(config: Config) -> bool:
    """Whether MLflow's database is a file in the current folder, or in one below it."""
    file = _local_store(config)
    return file is not None and file.resolve().is_relative_to(Path.cwd().resolve())


def _summary(outcome: Outcome, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "total": outcome.total,
        "ended": outcome.ended,
        "failed": outcome.failed,
        "copied": outcome.copied,
        "lost": outcome.lost,
        "interrupted": outcome.interrupted,
        "tracked": outcome.tracked,
        "tracking_problem": outcome.tracking_problem or None,
        "matrices": [matrix.file_name for matrix in outcome.matrices],
    }


def _print_estimate(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    notes = found.pop("notes")
    for key, value in found.items():
        _out.print(f"{key.replace('_', ' '):<28}{value}")
    for note in notes:
        _out.print(f"note: {note}", soft_wrap=True)


def main() -> None:
    """Run the command line and exit.

    Input errors exit with status 2; Ctrl-C, SIGTERM and SIGHUP with 130; both without a traceback.
    """
    with interrupts.raised():
        try:
            # Outside its standalone mode, Typer returns the status of an Exit, and 130 after Ctrl-C.
            status = app(standalone_mode=False) or 0
        except (KeyboardInterrupt, Exception) as error:
            # An interrupted import or a terminal that is gone can raise anything.
            interrupted = interrupts.received() or isinstance(error, KeyboardInterrupt)
            status = interrupts.STATUS if interrupted else _explain(error)
    if status == interrupts.STATUS:
        interrupts.say()
    sys.exit(status)


def _explain(error: BaseException) -> int:
    """Print what an error means to the user, and return the exit status; raise any other again."""
    if isinstance(error, InputError):
        for problem in error.problems:
            _err.print(f"error: {problem}", style="red", soft_wrap=True)
        return 2
    if isinstance(error, DivergedError | StoppedError):
        _err.print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    # The machine's own words are enough: a full disk, a folder that may not be written.
    if isinstance(error, OSError) and error.filename is not None:
        _err.print(f"error: {error.filename}: {error.strerror}", style="red")
        return 1
    # Typer's own complaints about arguments know how to show themselves.
    show = getattr(error, "show", None)
    if show is None:
        raise error
    if isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)  # type: ignore[attr-defined]
    show()
    return int(getattr(error, "exit_code", 2))
