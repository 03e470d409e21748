"""The scheduler of Ray Tune: one worker for each trial that waits."""

from __future__ import annotations

from typing import Any

from stitch_sweep.sweep.ray_setup import tune


class WaitForWorkers(tune.schedulers.FIFOScheduler):
    """Starts trials in their order, each on its own worker while that worker still starts.

    Tune's scheduler moves a waiting trial to any worker that becomes free, and drops the worker that was
    started for it. If trials took less time than a worker's start, only a single worker would run.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave the choice to the controller, which gives free workers to trials without a worker."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Drop Tune's statistics of a trial's reports, which nothing reads.

        They take most of an ended trial's memory in the driver.
        """
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
