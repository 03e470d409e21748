"""The trials of a sweep on Ray Tune: connect, train networks, run the searcher to its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from stitch_sweep.config.plugins import used_extensions
from stitch_sweep.config.reading import to_yaml
from stitch_sweep.core import interrupts
from stitch_sweep.core.credentials import redact_uri
from stitch_sweep.core.errors import StoppedError
from stitch_sweep.core.plugins import defining_modules
from stitch_sweep.data.transfer import data_to_arrays
from stitch_sweep.networks.external import python
from stitch_sweep.plan.packing import PackWidths
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.storage import layout, scratch
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.sweep import ray_internals
from stitch_sweep.sweep.description import check_networks, describe_sweep
from stitch_sweep.sweep.gpu_memory import allocatable, measure_context
from stitch_sweep.sweep.gpu_sharing import (
    choose_share,
    describe_share,
    find_largest_pack,
    measure_pack_remotely,
)
from stitch_sweep.sweep.local_start import LocalStart
from stitch_sweep.sweep.network_training import make_task, train_networks
from stitch_sweep.sweep.openings import stitches_to_keep
from stitch_sweep.sweep.optuna_journal import LiveJournal
from stitch_sweep.sweep.pace import Pace
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.ray_setup import ray, tune
from stitch_sweep.sweep.scheduler import WaitForWorkers
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.sweep.slots import (
    Slots,
    count_cpus_per_gpu,
    count_current_slots,
    describe_slots,
)
from stitch_sweep.sweep.trainable import Shared, StitchTrainable
from stitch_sweep.sweep.views import ended_records
from stitch_sweep.sweep.watch import Watch


@dataclass(frozen=True)
class RunEnd:
    """The end of a run on Ray.

    Attributes:
        interrupted: whether a signal ended it early.
        lost: number of trials whose workers died too often.
        stopped: why the sweep can't go on, and the remedy; or empty.
        is_out_of_time: whether `search.time_budget` ended it early.
    """

    interrupted: bool
    lost: int
    stopped: str = ""
    is_out_of_time: bool = False


def run_missing_trials(
    prepared: Prepared, ledger: Ledger, pace: Pace, reporter: Reporter, start: LocalStart
) -> RunEnd:
    """Run the trials that the ledger lacks.

    Args:
        prepared: the configuration.
        ledger: of the sweep.
        pace: the place and speed of the run.
        reporter: shows the progress.
        start: starts the local Ray, if none has been asked for.

    Raises:
        InputError: the cluster, a GPU's share or the networks don't fit the sweep.
        StoppedError: the local Ray died, or a network can't be trained.
    """
    reporter.say(
        "starting Ray" if pace.address is None else f"joining Ray at {redact_uri(pace.address)}"
    )
    with _ray_folder(pace, reporter, start) as temporary:
        try:
            return _run_on_ray(prepared, ledger, pace, reporter, temporary)
        finally:
            ray.shutdown()
            # The ledger's writer may have been killed while it wrote, and started again.
            ledger.remove_leftovers()


@contextmanager
def _ray_folder(pace: Pace, reporter: Reporter, start: LocalStart) -> Iterator[Path]:
    """Wait for the local Ray, if it is needed; yield a folder for files of Tune and of a local Ray."""
    if pace.address is not None:
        with scratch.folder() as folder:
            yield folder
        return
    with reporter.phase("Ray started"):
        folder = start.wait()
    yield folder


def _run_on_ray(
    prepared: Prepared, ledger: Ledger, pace: Pace, reporter: Reporter, temporary: Path
) -> RunEnd:
    """Connect to Ray and run the missing trials.

    Args:
        prepared: the configuration.
        ledger: of the sweep.
        pace: the place and speed of the run.
        reporter: shows the progress.
        temporary: folder for the files of Tune and of a local Ray.
    """
    config, folder = prepared.config, ledger.folder
    # A worker can't import a user's module, so objects of its classes travel with their definitions.
    for module in (*python.local_modules(), *defining_modules(used_extensions(config))):
        ray.cloudpickle.register_pickle_by_value(module)
    count = connect(pace.address, config.resources, temporary)
    watch = Watch(reporter.say)
    try:
        with watch:
            if not count_current_slots(config.resources.cpu, config.resources.gpu_at_most):
                reporter.say("waiting for nodes: the cluster has no node yet that fits a trial")
            with reporter.phase("networks ready"):
                networks = train_networks(prepared, reporter, min(count, pace.workers or count))
            share, context = choose_gpu_share(prepared, reporter)
            slots = Slots(config.resources.cpu, share, pace.workers)
            fingerprints = {name: fingerprint(module) for name, module in networks.items()}
            check_networks(ledger, fingerprints)
            ledger.start({**describe_sweep(prepared), "networks": fingerprints})
            write_atomically(folder / layout.RESOLVED_CONFIG, to_yaml(config, folder).encode())
            packs = PackWidths(prepared)
            reporter.say(describe_slots(slots(), packs.widest))
            journal = LiveJournal(
                folder / layout.OPTUNA_JOURNAL,
                prepared.studies,
                ended_records(ledger, prepared.studies, config),
                config,
                reporter.say,
            )

            def on_event(event: str, record: Mapping[str, Any]) -> None:
                reporter.trial(event, record)
                if event == "ended":
                    _load_figures()
                    journal.add(record)

            searcher = SweepSearcher(
                prepared.studies,
                config,
                ledger,
                on_event,
                slots,
                share,
                prepared.shape,
                packs.width,
                lambda name: len(prepared.outlines[name].layers),
            )
            _tune(prepared, ledger, networks, searcher, slots(), context, pace, temporary)
    except (KeyboardInterrupt, Exception) as error:
        if watch.failure:
            raise StoppedError(watch.failure) from error
        if isinstance(error, KeyboardInterrupt):
            return RunEnd(interrupted=True, lost=0)
        raise
    finally:
        ray.shutdown()
        watch.close()
    if watch.failure and not searcher.exhausted:
        raise StoppedError(watch.failure)
    # Tune returns normally after Ctrl-C.
    is_out_of_time = searcher.is_out_of_time
    interrupted = not (searcher.exhausted or is_out_of_time)
    return RunEnd(interrupted, len(searcher.lost), searcher.stopped, is_out_of_time)


@cache
def _load_figures() -> None:
    """Import Matplotlib in a thread, once: the figures at the end then need not wait for it."""
    Thread(target=import_module, args=["stitch_sweep.charts.figures"], daemon=True).start()


def choose_gpu_share(prepared: Prepared, reporter: Reporter) -> tuple[float, int]:
    """Return a trial's share of a GPU, and the bytes that a process takes before it computes.

    Raises:
        InputError: the share is smaller than those bytes.
    """
    config = prepared.config
    share, cpu = config.resources.gpu, config.resources.cpu
    if share == "auto":
        reporter.say("measuring the GPU memory of a trial")
        task = make_task(measure_pack_remotely, num_cpus=cpu, num_gpus=1)
        pack = find_largest_pack(prepared)
        networks = (used_extensions(config), prepared.untrained())
        footprint = ray.get(task.remote(config, prepared.data, networks, pack))
        share = choose_share(footprint, count_cpus_per_gpu() // cpu)
        reporter.say(describe_share(share, footprint))
    elif 0 < share < 1:
        task = make_task(measure_context, num_cpus=cpu, num_gpus=share)
        footprint = ray.get(task.remote())
        allocatable(share, footprint.total, footprint.context)
    else:
        return share, 0
    return share, footprint.context


def _tune(
    prepared: Prepared,
    ledger: Ledger,
    networks: Mapping[str, Any],
    searcher: SweepSearcher,
    slots: int,
    context: int,
    pace: Pace,
    temporary: Path,
) -> None:
    config = prepared.config
    shared = Shared(
        config=config,
        data=ray.put(data_to_arrays(prepared.data)),
        networks=ray.put(dict(networks)),
        writer=_start_writer(ledger, prepared),
        context=context,
        report_seconds=pace.report_seconds,
        checkpoint_seconds=pace.checkpoint_seconds,
        extensions=tuple(used_extensions(config)),
    )
    # For a custom searcher Tune's default is 1, so that workers would start one after the other.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    # Tune prints pages of traceback for a retried trial; the reporter prints a line.
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
    is_local = ray_internals.is_local_head()
    in_any_worker = ray_internals.run_trials_in_any_worker() if is_local else nullcontext()
    with in_any_worker, interrupts.restored_handlers():
        tuner.fit()


def _start_writer(ledger: Ledger, prepared: Prepared) -> Any:
    """Start the actor that writes the ledger, on the driver's node."""
    config = prepared.config
    this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return (
        ray.remote(LedgerWriter)
        # No worker can record anything without the writer: if killed, it restarts and repeats its calls.
        .options(num_cpus=0, scheduling_strategy=this_node, max_restarts=-1, max_task_retries=-1)
        .remote(str(ledger.folder.resolve()), stitches_to_keep(config), config.search.mode)
    )
