"""One sweep from start to end: prepare, train networks, run trials, write views."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.config.controls import CLASS_ONLY
from stitch_sweep.config.models import FROM_FACTORY, GIVEN, Config
from stitch_sweep.config.reading import to_yaml
from stitch_sweep.core.credentials import public_uri
from stitch_sweep.core.errors import InputError, StoppedError, check_all
from stitch_sweep.core.seeding import processor
from stitch_sweep.core.versions import MAIN, versions
from stitch_sweep.networks import construction
from stitch_sweep.networks.external import python
from stitch_sweep.networks.zoo import Entry, Progress, Recipe, Zoo, train_network
from stitch_sweep.plan.prepare import Prepared, prepare
from stitch_sweep.plan.search import (
    RETRIES,
    SweepSearcher,
    check_objectives,
    check_sampler,
    samples_per_study,
    startup_note,
)
from stitch_sweep.storage import scratch
from stitch_sweep.storage.checkpoints import fingerprint
from stitch_sweep.storage.files import check_writable, is_storage_error, write_atomically
from stitch_sweep.storage.ledger import Ledger, LedgerWriter
from stitch_sweep.storage.status import stitch_notes
from stitch_sweep.sweep import resources
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.views import check_views, ended_records, write_views
from stitch_sweep.sweep.watch import Watch
from stitch_sweep.tracking.mirror import Mirror, Mirroring
from stitch_sweep.tracking.store import check_tracking
from stitch_sweep.tracking.tracker import TrackingProcess


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        results: a row per ended trial.
        matrices: what they add up to.
        total: trials that the configuration asks for.
        ended: trials that finished or failed, earlier runs included.
        failed: trials that ended without a result.
        copied: trials that were equal to earlier ones and got their results without a training.
        lost: trials whose workers died too often; `--resume` tries them again.
        interrupted: whether Ctrl-C or SIGTERM stopped the sweep before its end.
        tracked: whether MLflow has everything; None when tracking is off.
        mirrored: whether the copy of the folder is complete; None without one.
        tracking_problem: why MLflow refuses the runs, and what to do; "" where it doesn't, and after
            an outage, which a later `--resume` makes up for.
    """

    results: pd.DataFrame
    matrices: list[Matrix]
    total: int
    ended: int
    failed: int
    copied: int
    lost: int
    interrupted: bool
    tracked: bool | None
    mirrored: bool | None
    tracking_problem: str = ""

    @property
    def exit_status(self) -> int:
        """0: all well, or MLflow was out of reach; 1: something failed; 130: interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.lost or self.tracking_problem else 0


def run_sweep(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    retrain_stitches: bool = False,
    address: str | None = None,
    workers: int | None = None,
    mirror: str | None = None,
    reporter: Reporter | None = None,
    report_seconds: float = 5.0,
    checkpoint_seconds: float = 60.0,
) -> Outcome:
    """Run a sweep, or what is missing of it.

    Args:
        config: what to run.
        folder: the experiment folder, where everything is written.
        resume: go on with the sweep that is in the folder; without it such a folder is refused.
        retrain_stitches: with `resume`, run trials again whose kept stitches are missing or damaged.
        address: a running Ray cluster (`auto` or `host:port`); None starts a local Ray.
        workers: at most so many trials at the same time; as many as fit if not given.
        mirror: a URI where a copy of the folder is kept; with `resume`, the trials that the folder
            lacks come from there first.
        reporter: where progress is shown.
        report_seconds: how often a long trial is heard of.
        checkpoint_seconds: how often a long trial is stored.

    Raises:
        InputError: something about the configuration, the folder or the machine is wrong; nothing
            was started.
        StoppedError: the experiment folder can no longer be written, or the local Ray was killed; all
            that had ended is recorded.
    """
    ledger = Ledger(folder)
    pace = _Pace(address, workers, report_seconds, checkpoint_seconds)
    here: list[Callable[[], None]] = [lambda: resources.check_local(config.resources)]
    check_all(
        lambda: check_objectives(config),
        lambda: check_sampler(config),
        lambda: _check_folder(ledger, resume),
        lambda: _check_stitches_are_kept(config, retrain_stitches),
        lambda: check_tracking(config.tracking),
        *(here if address is None else []),
    )
    copy = None if mirror is None else Mirror(folder, mirror)
    if copy is not None:
        copy.check(resume=resume)
    reporter = reporter or Reporter()
    # At once, because it takes seconds to start; it waits for the sweep to begin.
    tracking = (
        TrackingProcess(folder, config.tracking.experiment, config.tracking.uri, reporter.say)
        if config.tracking.enabled
        else None
    )
    try:
        # Only that process needs credentials: files, workers and messages get none.
        prepared = prepare(_public(config))
        try:
            check_views(folder, prepared.studies, config, is_new=not ledger.exists)
            repair = partial(_repair, ledger, reporter, retrain_stitches)
            return _run_tracked(prepared, ledger, resume, pace, reporter, tracking, copy, repair)
        except OSError as error:  # not one of `prepare`, which only reads what the user has
            if is_storage_error(error):
                raise _stopped(str(error)) from error
            raise
    except BaseException:
        if tracking is not None:
            tracking.abandon()
        raise


def _stopped(why: str) -> StoppedError:
    return StoppedError(
        f"the sweep stopped: {why}. Every trial that had ended is recorded; once that can be written "
        "again (a full disk: free some space), the same command with --resume goes on"
    )


def _run_tracked(
    prepared: Prepared,
    ledger: Ledger,
    resume: bool,
    pace: _Pace,
    reporter: Reporter,
    tracking: TrackingProcess | None,
    copy: Mirror | None,
    repair: Callable[[], None],
) -> Outcome:
    _check_unchanged(ledger, prepared)
    notes = [startup_note(prepared.config), *prepared.notes]
    for note in filter(None, notes):
        reporter.say(f"note: {note}")
    with ledger.lock(), reporter:
        # Again: another process may have been at work here until we got the lock.
        _check_folder(ledger, resume)
        try:
            for error in ledger.set_aside_damaged():
                reporter.say(f"note: {error}")
            if copy is not None and copy.check(resume=resume):
                reporter.say("comparing the folder with its copy")
                if count := copy.fetch():
                    reporter.say(f"{count} trials brought from the copy")
                for note in copy.notes:
                    reporter.say(f"note: {note}")
            _check_unchanged(ledger, prepared)
            repair()
            with nullcontext() if copy is None else Mirroring(copy) as mirroring:
                return _run(prepared, ledger, pace, reporter, tracking, mirroring)
        except InputError:
            if not ledger.exists and not ledger.trial_ids():
                ledger.discard()  # nothing was started, so nothing is left behind
            raise


def _repair(ledger: Ledger, reporter: Reporter, retrain: bool) -> None:
    """Name kept stitches that can't be used, and have their trials run again where asked to."""
    unusable: dict[str, list[dict[str, Any]]] = {"missing": [], "damaged": []}
    for record in ledger.records():
        if problem := ledger.check_stitch(record):
            unusable[problem].append(record)
    if retrain:
        for record in itertools.chain(*unusable.values()):
            ledger.begin_again(record)
        reporter.say(f"{sum(map(len, unusable.values()))} trials run again for their stitches")
        return
    for note in stitch_notes({k: [r["trial"] for r in v] for k, v in unusable.items()}):
        reporter.say(f"note: {note}")


def _check_stitches_are_kept(config: Config, retrain: bool) -> None:
    if retrain and config.keep_stitches == "none":
        raise InputError("--retrain-stitches: keep_stitches is none, so none would be kept")


@dataclass(frozen=True)
class _Pace:
    """Where and how fast a sweep runs; nothing of it touches a figure."""

    address: str | None
    workers: int | None
    report_seconds: float
    checkpoint_seconds: float


def _run(
    prepared: Prepared,
    ledger: Ledger,
    pace: _Pace,
    reporter: Reporter,
    tracking: TrackingProcess | None,
    mirroring: Mirroring | None,
) -> Outcome:
    config, folder = prepared.config, ledger.folder
    total = prepared.trials
    before = sum(1 for _ in ended_records(ledger, prepared.studies, config))
    interrupted, lost = False, 0
    if before < total:
        reporter.expect(total, before)
        interrupted, lost = _run_missing(prepared, ledger, pace, reporter)
    for difference in ledger.compare_retrained():
        reporter.say(f"note: {difference}")
    results, matrices = write_views(folder, prepared.studies, config)
    failed = int((results["status"] == "failed").sum()) if len(results) else 0
    copied = int(results["copied_from"].notna().sum()) if len(results) else 0
    tracked, tracking_problem = None, ""
    if tracking is not None:
        tracked = tracking.finish()
        tracking_problem = "" if tracked else tracking.refusal
        if tracking_problem:
            reporter.say(
                f"MLflow did not take everything: {tracking_problem}. "
                "After that, the same command with --resume sends the rest"
            )
        elif not tracked:
            reporter.say(
                f"MLflow did not take everything ({tracking.error or 'no answer'}); "
                "nothing is lost: the same command with --resume sends the rest"
            )
    mirrored = None
    if mirroring is not None:
        mirrored = mirroring.finish()
        if not mirrored:
            reporter.say(
                f"the copy is not complete ({mirroring.error or 'no answer'}); "
                "nothing is lost: the same command with --resume sends the rest"
            )
    return Outcome(
        results,
        matrices,
        total,
        len(results),
        failed,
        copied,
        lost,
        interrupted,
        tracked,
        mirrored,
        tracking_problem,
    )


def _run_missing(
    prepared: Prepared, ledger: Ledger, pace: _Pace, reporter: Reporter
) -> tuple[bool, int]:
    """Run the trials that the ledger lacks; returns (interrupted, trials lost)."""
    resources.set_environment()
    import ray

    with scratch.folder(sockets=pace.address is None) as temporary:
        try:
            return _run_on_ray(prepared, ledger, pace, reporter, temporary)
        finally:
            ray.shutdown()
            # The ledger's writer may have been killed while it wrote, and started again.
            ledger.remove_leftovers()


def _run_on_ray(
    prepared: Prepared, ledger: Ledger, pace: _Pace, reporter: Reporter, temporary: Path
) -> tuple[bool, int]:
    """See `_run_missing`; `temporary` is where Tune and a local Ray keep their files."""
    import ray

    config, folder = prepared.config, ledger.folder
    # What a user's file defines can't be imported on a worker: it travels with what is made of it.
    for module in python.loaded_files():
        ray.cloudpickle.register_pickle_by_value(module)
    reporter.say(
        "starting Ray" if pace.address is None else f"joining Ray at {public_uri(pace.address)}"
    )
    count = resources.connect(pace.address, config.resources, temporary)
    watch = Watch(reporter.say)
    try:
        with watch:
            if not resources.slots_now(config.resources.cpu, config.resources.gpu_at_most):
                reporter.say("waiting for nodes: the cluster has none yet that a trial fits on")
            networks = _networks(prepared, reporter, min(count, pace.workers or count))
            gpu, context = _gpu(prepared, reporter)
            slots = resources.Slots(config.resources.cpu, gpu, pace.workers)
            prints = {name: fingerprint(module) for name, module in networks.items()}
            _check_networks(ledger, prints)
            ledger.start({**_description(prepared), "networks": prints})
            write_atomically(folder / "config.resolved.yml", to_yaml(config).encode())
            reporter.say(f"{slots()} trials at a time")
            searcher = SweepSearcher(
                prepared.studies, config, ledger, reporter.trial, slots, gpu, prepared.shape
            )
            _tune(prepared, ledger, networks, searcher, slots(), context, pace, temporary)
    except (KeyboardInterrupt, Exception) as error:
        if watch.failure:
            raise StoppedError(watch.failure) from error
        if isinstance(error, KeyboardInterrupt):
            return True, 0
        raise
    finally:
        ray.shutdown()
        watch.close()
    if watch.failure and not searcher.exhausted:
        raise StoppedError(watch.failure)
    if searcher.stopped:
        raise _stopped(searcher.stopped)
    # Tune returns normally after Ctrl-C.
    return not searcher.exhausted, len(searcher.lost)


def _tune(
    prepared: Prepared,
    ledger: Ledger,
    networks: Mapping[str, Any],
    searcher: SweepSearcher,
    slots: int,
    context: int,
    pace: _Pace,
    temporary: Path,
) -> None:
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from stitch_sweep.sweep.trainable import Shared, StitchTrainable, WaitForWorkers, data_to_arrays

    config = prepared.config
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    writer = (
        ray.remote(LedgerWriter)
        # Without it no worker can record anything: killed, it is started again, calls included.
        .options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote(str(ledger.folder.resolve()), config.keep_stitches, config.search.mode)
    )
    shared = Shared(
        config=config,
        data=ray.put(data_to_arrays(prepared.data)),
        networks=ray.put(dict(networks)),
        writer=writer,
        context=context,
        report_seconds=pace.report_seconds,
        checkpoint_seconds=pace.checkpoint_seconds,
    )
    # Tune's default for a searcher of our own is one: workers would be started one after the other.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    # Pages of traceback for what is tried again; the reporter says it in a line.
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    trainable = tune.with_resources(
        tune.with_parameters(StitchTrainable, shared=shared),
        lambda trial: tune.PlacementGroupFactory(
            [{"CPU": config.resources.cpu, "GPU": trial["gpu"]}]
        ),
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=WaitForWorkers(),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(temporary / "tune"),
            verbose=0,
            # Tune's retries miss a worker that dies between two trials; the searcher's don't.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_at_end=False, checkpoint_frequency=0
            ),
        ),
    )
    tuner.fit()


def _task(function: Callable[..., Any], **options: Any) -> Any:
    """A function as a task for Ray, whose worker ends with it.

    It would keep its CUDA context, its memory and its GPU for the next task.
    """
    import ray

    decorate: Any = ray.remote(max_calls=1, **options)
    return decorate(function)


def _gpu(prepared: Prepared, reporter: Reporter) -> tuple[float, int]:
    """What a trial gets of a GPU, and the bytes of it that a process takes before it computes.

    Raises:
        InputError: the share holds less than that.
    """
    import ray

    from stitch_sweep.sweep import gpu, packing

    config = prepared.config
    share, cpu = config.resources.gpu, config.resources.cpu
    if share == "auto":
        reporter.say("measuring what a trial takes of a GPU")
        task = _task(packing.measure_trial, num_cpus=cpu, num_gpus=1)
        trial = packing.largest(prepared)
        found = ray.get(task.remote(config, prepared.data, prepared.untrained(), trial))
        share = packing.packed(found, resources.cpus_per_gpu() // cpu)
        reporter.say(packing.chosen(share, found))
    elif 0 < share < 1:
        task = _task(gpu.measure_context, num_cpus=cpu, num_gpus=share)
        found = ray.get(task.remote())
        gpu.allocatable(share, found.total, found.context)
    else:
        return share, 0
    return share, found.context


def _networks(prepared: Prepared, reporter: Reporter, slots: int) -> dict[str, Any]:
    """All networks of the sweep; those that the zoo lacks are trained as Ray tasks."""
    import ray

    from stitch_sweep.sweep.gpu import is_broken_device, is_out_of_memory

    config = prepared.config
    zoo = Zoo(config.zoo)
    recipes = {recipe.name: recipe for recipe in prepared.recipes()}
    data = None
    if any(zoo.find(recipe) is None for recipe in recipes.values()):
        data = ray.put(prepared.data)
    # A whole GPU: a trial's share was never measured for the training of a network.
    options = {
        "num_cpus": config.resources.cpu,
        "num_gpus": int(config.resources.gpu_at_most > 0),
    }

    def train(recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        # Ray would begin again where it began; the zoo knows how far the training has come.
        task = _task(_train_remotely, num_returns="streaming", max_retries=0, **options)
        threads, device = config.resources.cpu, config.resources.device
        tries, epoch = 0, 0
        while True:
            try:
                for reference in task.remote(recipe, data, threads, device, resume):
                    progress: Progress = ray.get(reference)
                    tries, epoch = (0, progress.epoch) if progress.epoch > epoch else (tries, epoch)
                    yield progress
                return
            except ray.exceptions.RayError as error:
                # As it was raised there: what Ray makes of it lacks our attributes.
                cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
                why = str(cause).partition("\n")[0]
                if is_out_of_memory(cause):
                    raise StoppedError(
                        f"network {recipe.name!r}: a whole GPU has too little memory to train it; "
                        f"lower its pretraining.batch_size ({why})"
                    ) from None
                if cause is not error and not is_broken_device(cause):
                    raise cause from None
                tries += 1
                if tries > RETRIES:
                    raise StoppedError(
                        f"network {recipe.name!r}: its process died {tries} times after epoch "
                        f"{epoch} ({why})"
                    ) from None
                reporter.say(f"network {recipe.name}: its process died, it is trained on ({why})")
                resume = zoo.checkpoint(recipe)

    def ensure(recipe: Recipe) -> Entry:
        return zoo.ensure(recipe, train, reporter.network, stop.is_set)

    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=slots) as pool:
        try:
            entries = dict(zip(recipes, pool.map(ensure, recipes.values()), strict=True))
        except BaseException:
            # The threads wait for Ray, or for another process; without them the pool can be left.
            stop.set()
            ray.shutdown()
            raise
    return prepared.networks(entries)


def _train_remotely(
    recipe: Recipe, data: Any, threads: int, device: str, resume: bytes | None
) -> Iterator[Progress]:
    yield from train_network(recipe, data, threads=threads, device=device, resume=resume)


def _public(config: Config) -> Config:
    """The configuration without credentials: it is kept, and sent to the tracking server."""
    uri = config.tracking.uri
    if uri is None or public_uri(uri) == uri:
        return config
    tracking = config.tracking.model_copy(update={"uri": None})
    return config.model_copy(update={"tracking": tracking})


def _description(prepared: Prepared) -> dict[str, Any]:
    """What decides a sweep's figures; a resume may not change any of it."""
    config = prepared.config
    search = config.search.model_dump(mode="json")
    decides = ["space", "sampler", "metric", "mode", "parallel_per_study"]
    if config.search.objectives:
        decides.append("objectives")  # not always: sweeps from before there were any go on
    return {
        "decides": {
            "seed": config.seed,
            "data": prepared.data.fingerprint,
            "augment": config.data.augment,
            "networks": _networks_of(prepared),
            **config.model_dump(mode="json", include={"stitch", "loss", "training"}),
            "search": {key: search[key] for key in decides},
            "resources": {"cpu": config.resources.cpu, "device": config.resources.device,
                          "cache_gb": config.resources.cache_gb},
        },
        "config": config.model_dump(mode="json", exclude={"tracking"}),
        "trials": prepared.trials,
        "versions": versions(MAIN),
        "processor": processor(),
    }  # fmt: skip


def _check_folder(ledger: Ledger, resume: bool) -> None:
    if ledger.folder.exists() and not ledger.folder.is_dir():
        raise InputError(f"{ledger.folder}: is a file, an experiment folder is wanted")
    if ledger.exists and not resume:
        raise InputError(
            f"{ledger.folder}: holds a sweep already; add --resume to go on with it or to see it "
            "again, or put the configuration into a folder of its own"
        )
    ledger.check_place()
    check_writable(ledger.root, "the ledger")


def _networks_of(prepared: Prepared) -> dict[str, Any]:
    """What decides each network's weights, and where its layers are."""
    recipes = {recipe.name: recipe.content for recipe in prepared.recipes()}
    found = {}
    for network in prepared.config.networks:
        if (file := network.weights_file) is not None:
            weights: Any = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            if network.source != "family":
                weights["network"] = construction.blueprint(network, prepared.data)
        elif network.kind in GIVEN:
            weights = {
                "network": construction.blueprint(network, prepared.data),
                "named": network.weights,
            }
            if network.kind == FROM_FACTORY:
                weights["seed"] = network.seed
        elif network.kind == CLASS_ONLY:
            shapes = [list(shape) for shape in prepared.outlines[network.name].layers]
            weights = {CLASS_ONLY: {"seed": network.seed, "noise": network.noise, "shapes": shapes}}
        else:
            weights = recipes[network.name]
        found[network.name] = {"weights": weights, "layers": network.layers}
    return found


def _check_unchanged(ledger: Ledger, prepared: Prepared) -> None:
    """See that a resume adds to finished work and changes none of it.

    Raises:
        InputError: what differs, a line each.
    """
    before = ledger.description()
    if before is None:
        if ledger.trial_ids():
            raise InputError(
                f"{ledger.root}: has trials, but sweep.json, which says what they are, is missing"
            )
        return
    was, now = before.get("decides", {}), _description(prepared)["decides"]
    # Networks may be added; those that were there stay what they were.
    now["networks"] = {k: v for k, v in now["networks"].items() if k in was.get("networks", {})}
    problems = [f"{path}: was {old!r}, is {new!r}" for path, old, new in _differences(was, now)]
    asked = {
        study.trial(number)
        for study in prepared.studies
        for number in range(samples_per_study(prepared.config, study))
    }
    gone = sorted(ledger.trial_ids() - asked)
    if gone:
        problems.append(
            f"{len(gone)} trials that were run are no longer asked for, {gone[0]} for one"
        )
    if problems:
        raise InputError(
            f"{ledger.folder}: the configuration no longer fits the sweep in this folder; more pairs, "
            "repeats, samples or crossed values may be added, nothing else changed:",
            *problems,
        )


def _check_networks(ledger: Ledger, prints: Mapping[str, str]) -> None:
    before = (ledger.description() or {}).get("networks", {})
    changed = [name for name, value in prints.items() if before.get(name, value) != value]
    if changed:
        raise InputError(
            f"{ledger.folder}: the weights of {', '.join(changed)} are not those that the sweep in "
            "this folder began with"
        )


def _differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in sorted({*was, *now}):
            yield from _differences(was.get(key), now.get(key), f"{path}.{key}".removeprefix("."))
    elif was != now:
        yield path, was, now
