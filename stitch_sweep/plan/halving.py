"""Ray Tune's schedulers ASHA, Hyperband and median stopping, for trials that wait for each other.

The rules are those of Ray Tune 2.60 with `stop_last_trials=False`: a trial that reaches `max_t` trains
to its end, because a stopped trial has no result. Ray decides when a trial arrives, and knows the results
of those that arrived before. Here every trial is judged as if it were the last of its round to arrive.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stitch_sweep.core.seeding import derive


@dataclass(frozen=True)
class StudyPlan:
    """The facts about a study that its scheduler needs.

    Attributes:
        study_id: identity of the study.
        seed: of the sweep.
        maximize: whether larger values of the metric are better.
        longest: largest number of epochs of a trial.
        round_size: number of trials of a round.
        total: number of trials of the study.
    """

    study_id: str
    seed: int
    maximize: bool
    longest: int
    round_size: int
    total: int

    @property
    def sign(self) -> float:
        """Factor that makes larger values of the metric better."""
        return 1.0 if self.maximize else -1.0

    def round_of(self, number: int) -> range:
        """Return the numbers of the trials in a trial's round."""
        start = number // self.round_size * self.round_size
        return range(start, min(start + self.round_size, self.total))


class Asha:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), as Ray Tune computes it.

    Rung k of bracket s is at grace_period * reduction_factor^(k + s) epochs. There, a trial stops if it
    is worse than the percentile 1 - 1/reduction_factor of the other trials of its bracket.

    Args:
        plan: the study.
        max_t: no rung is beyond this number of epochs. Default: the longest training.
        grace_period: number of epochs before the first rung.
        reduction_factor: about one trial in this number continues at each rung.
        brackets: number of brackets. A trial's bracket is drawn from the sweep's seed.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        plan: StudyPlan,
        *,
        max_t: int | None = None,
        grace_period: int = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
    ) -> None:
        _check_counts(max_t=max_t, grace_period=grace_period, brackets=brackets)
        if reduction_factor <= 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor:g}")
        longest = max(plan.longest, grace_period) if max_t is None else max_t
        if grace_period > longest:
            raise ValueError(f"grace_period = {grace_period} is above max_t = {longest}")
        self._plan = plan
        self._keep = 1 / reduction_factor
        self._brackets = []
        for s in range(brackets):
            count = int(np.log(longest / grace_period) / np.log(reduction_factor) - s + 1)
            milestones = [grace_period * reduction_factor ** (k + s) for k in range(count)]
            self._brackets.append(sorted({math.ceil(milestone) for milestone in milestones}))
        weights = np.exp([len(bracket) for bracket in self._brackets])
        self._bounds = np.cumsum(weights / weights.sum())

    def rungs(self, number: int, epochs: int) -> list[int]:
        """See `Scheduler`."""
        return [epoch for epoch in self._brackets[self._bracket(number)] if epoch < epochs]

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        """See `Scheduler`."""
        values = {
            number: self._plan.sign * history[epoch - 1]
            for number, history in histories.items()
            if len(history) >= epoch
        }
        stopped = set()
        for number in sorted(arrived):
            bracket = self._bracket(number)
            others = [
                value
                for other, value in values.items()
                if other != number and self._bracket(other) == bracket
            ]
            if others and values[number] < np.percentile(others, 100 * (1 - self._keep)):
                stopped.add(number)
        return stopped

    def _bracket(self, number: int) -> int:
        """Draw a trial's bracket with Ray Tune's probabilities: brackets with many rungs are likely."""
        draw = derive(self._plan.seed, "bracket", number) / 2**63
        return min(int(np.searchsorted(self._bounds, draw, side="right")), len(self._bounds) - 1)


class Hyperband:
    """Hyperband (Li et al. 2017, arXiv 1603.06560), as Ray Tune computes it.

    Trials fill brackets in the order of their numbers. Bracket s has n = ceil((S + 1) / (s + 1) * eta^s)
    trials that begin with int(max_t / eta^s) epochs; at each of its s rungs the best ceil(n / eta) of n
    continue, for eta times as many epochs. S = round(log_eta(max_t)), and eta is `reduction_factor`.

    A bracket halves the trials that it has in one round. If these are fewer than n, n is their number.

    Args:
        plan: the study.
        max_t: number of epochs of a trial that is never stopped. Default: the longest training.
        reduction_factor: eta.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, plan: StudyPlan, *, max_t: int | None = None, reduction_factor: float = 3
    ) -> None:
        _check_counts(max_t=max_t)
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor must be at least 2, got {reduction_factor:g}")
        self._plan = plan
        self._eta = reduction_factor
        longest = max(1, plan.longest) if max_t is None else max_t
        count = int(np.round(np.log(longest) / np.log(reduction_factor))) + 1
        self._slots: list[int] = []  # the bracket of each trial of a band
        self._rungs: list[list[int]] = []
        for s in range(count):
            epochs = int(longest * reduction_factor ** (-s))
            rungs = []
            for _ in range(s):
                rungs.append(epochs)
                epochs = int(min(epochs * reduction_factor, longest))
            self._rungs.append(rungs)
            if rungs[:1] != [0]:
                size = int(np.ceil(count / (s + 1) * reduction_factor**s))
                self._slots += [s] * size

    def rungs(self, number: int, epochs: int) -> list[int]:
        """See `Scheduler`."""
        return [epoch for epoch in self._rungs[self._bracket(number)[1]] if epoch < epochs]

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        """See `Scheduler`."""
        brackets: dict[tuple[int, int], list[int]] = {}
        for number in sorted(arrived):
            brackets.setdefault(self._bracket(number), []).append(number)
        stopped = set()
        for bracket, numbers in brackets.items():
            members = self._plan.round_of(numbers[0])
            keep = sum(self._bracket(member) == bracket for member in members)
            for _ in range(self._rungs[bracket[1]].index(epoch) + 1):
                keep = math.ceil(keep / self._eta)
            numbers.sort(key=lambda number: self._plan.sign * histories[number][epoch - 1])
            stopped.update(numbers[: max(0, len(numbers) - keep)])
        return stopped

    def _bracket(self, number: int) -> tuple[int, int]:
        """Return the number of a trial's band, and its bracket in the band."""
        band, slot = divmod(number, len(self._slots))
        return band, self._slots[slot]


class MedianStopping:
    """The median stopping rule of Google Vizier (Golovin et al. 2017), as Ray Tune computes it.

    A trial stops if its best value so far is worse than the median of the other trials' means up to the
    same epoch.

    Args:
        plan: the study.
        grace_period: first epoch of the means and of the decisions. Ray's default is 60 seconds; here
            it is 1 epoch.
        min_samples_required: number of other trials below which no trial is stopped.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, plan: StudyPlan, *, grace_period: int = 1, min_samples_required: int = 3
    ) -> None:
        _check_counts(grace_period=grace_period, min_samples_required=min_samples_required)
        self._plan = plan
        self._grace = grace_period
        self._least = min_samples_required

    def rungs(self, number: int, epochs: int) -> list[int]:
        """See `Scheduler`."""
        if self._plan.round_of(number).stop - 1 < self._least:
            return []  # there can't be enough other trials
        return list(range(self._grace, epochs))

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        """See `Scheduler`."""
        sign = self._plan.sign
        means = {
            number: sign * float(np.mean(history[self._grace - 1 : epoch]))
            for number, history in histories.items()
            if len(history) >= epoch
        }
        stopped = set()
        for number in sorted(arrived):
            others = [mean for other, mean in means.items() if other != number]
            best = max(sign * value for value in histories[number][:epoch])
            if len(others) >= self._least and best < np.median(others):
                stopped.add(number)
        return stopped


def _check_counts(**counts: int | None) -> None:
    """Check that arguments are whole numbers above 0, or None where that is the default."""
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
