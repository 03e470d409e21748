"""The process that writes the workers' results into the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitch_sweep.storage.checkpoint_files import CheckpointFile
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import rank


class LedgerWriter:
    """Writes the outcomes, stitches and checkpoints of trials. An actor on the driver's node.

    Workers send everything to this actor, so they need no shared disk. All calls may be repeated: Ray
    restarts the actor when its process dies, and repeats the calls that were not answered.

    Args:
        folder: the experiment folder.
        keep_stitches: `all`, `best` (of each study) or `none`.
        mode: whether `max` or `min` of the search metric is best.
    """

    def __init__(self, folder: str, keep_stitches: str, mode: str) -> None:
        self._ledger = Ledger(folder)
        self._keep = keep_stitches
        self._mode = mode
        self._best: dict[str, tuple[float, int]] = {}
        # All readers report damaged records; the writer skips them.
        records = self._ledger.records(lambda error: None)
        ended = [r for r in records if r["status"] != "running"]
        finished = [r for r in ended if r["status"] == "finished"]
        for record in finished:
            study, rank = record["study"], self._rank(record)
            self._best[study] = max(rank, self._best.get(study, rank))
        # A process that was killed after it wrote a record may have left checkpoints and stitches.
        for record in ended:
            self._ledger.remove_checkpoints(record["trial"])
        if keep_stitches == "best":
            for record in finished:
                if self._rank(record) != self._best[record["study"]]:
                    self._ledger.drop_stitch(record["trial"])

    def finish(
        self,
        trial: str,
        outcome: dict[str, Any],
        predictions: np.ndarray | None,
        stitch: bytes | None,
    ) -> None:
        """Write the outcome of a trial: its stitch first, then its record."""
        existing = self._ledger.read(trial)
        if existing is not None and existing["status"] != "running":
            # This is a second report: a worker seemed dead, or it died after its report, and the trial
            # ran again.
            return
        if stitch is not None and self._is_kept({**(existing or {}), **outcome}):
            write_atomically(self._ledger.stitch_path(trial), stitch)
            checksum = hashlib.sha256(stitch).hexdigest()
            outcome = {**outcome, "stitch": {"sha256": checksum, "bytes": len(stitch)}}
        else:
            outcome = {**outcome, "stitch": None}
        record = self._ledger.finish(trial, outcome, predictions)
        if record["status"] == "finished":
            self._update_best(record)

    def checkpoint(self, trial: str, data: bytes) -> None:
        """Write a checkpoint of a running trial."""
        record = self._ledger.read(trial)
        # A worker that is considered dead may continue a trial that another worker has ended.
        if record is None or record["status"] == "running":
            self._ledger.write_checkpoint(trial, data)

    def pause(self, trial: str, progress: dict[str, Any], checkpoint: bytes) -> None:
        """Store the state of a trial that waits for a decision; see `Ledger.pause`."""
        self._ledger.pause(trial, progress, checkpoint)

    def read_start(self, start: dict[str, str]) -> bytes | None:
        """Read the stitch that a trial starts from; see `Ledger.read_start`."""
        return self._ledger.read_start(start)

    def read_checkpoints(self, trial: str) -> list[CheckpointFile]:
        """Read the checkpoints of an interrupted trial, newest first."""
        return self._ledger.read_checkpoints(trial)

    def note(self, trial: str, error: str, out_of_memory: bool = False) -> None:
        """Record the reason why a running trial must be started again."""
        record = self._ledger.read(trial)
        if record is not None and record["status"] == "running":
            reason = {"error": error, "out_of_memory": out_of_memory}
            self._ledger.begin(trial, {**record, **reason})

    def _is_kept(self, record: Mapping[str, Any]) -> bool:
        if self._keep == "none" or record["status"] != "finished":
            return False
        if self._keep == "all":
            return True
        rank = self._rank(record)
        return rank >= self._best.get(record["study"], rank)

    def _rank(self, record: Mapping[str, Any]) -> tuple[float, int]:
        return rank(record, self._mode)

    def _update_best(self, record: Mapping[str, Any]) -> None:
        study, rank = record["study"], self._rank(record)
        best = self._best.get(study, rank)
        self._best[study] = max(rank, best)
        if self._keep == "best" and rank > best:
            self._ledger.drop_stitch(f"{study}-n{-best[1]}")
