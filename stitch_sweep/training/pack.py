"""Packs: several stitches into one layer of a receiver, trained side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stitch_sweep.training.joint_step import joint_step
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import Rows
from stitch_sweep.training.shared_pass import SharedPass


class Pack:
    """A fixed number of places for trainings that share each pass of the receiver's frozen rest.

    A member's result is bit for bit the same whatever its place, whoever its neighbors, and whenever it
    joined: the result depends on the width only. Members have their own stitch, loss, settings, random
    numbers and epoch.

    Args:
        width: number of places, at least 1.

    Example:
        >>> pack = Pack(4)
        >>> for training in trainings[:4]:
        ...     pack.add(training)
        >>> while pack.members:
        ...     errors = pack.run_epoch()
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._places: list[StitchTraining | None] = [None] * width
        self._shared: SharedPass | None = None

    @property
    def members(self) -> list[StitchTraining]:
        """The trainings in the pack, in the order of their places."""
        return [member for member in self._places if member is not None]

    @property
    def free(self) -> int:
        """Number of free places."""
        return self._places.count(None)

    def fits(self, training: StitchTraining) -> bool:
        """Return whether a training may join: its pass has the width and shape of the members' passes.

        An empty pack accepts every training that isn't done and was built for packs of this width.
        """
        if training.pack_width != self.width or training.done:
            return False
        return all(training.can_share_with(member) for member in self.members)

    def add(self, training: StitchTraining) -> None:
        """Let a training join, in the first free place.

        Raises:
            ValueError: there is no free place, or the training doesn't fit.
        """
        if not self.free or training in self.members or not self.fits(training):
            raise ValueError(
                f"a training can't join a pack with {self.free} of {self.width} places free: "
                "see `Pack.fits`"
            )
        if self._shared is None or self._shared.rest is not training.rest:
            self._shared = SharedPass(training.rest, self.width)
        self._places[self._places.index(None)] = training

    def remove(self, training: StitchTraining) -> None:
        """Take a training out, and free its place.

        Raises:
            ValueError: it isn't a member.
        """
        self._places[self._places.index(training)] = None

    def run_epoch(self) -> dict[StitchTraining, Exception]:
        """Train every member to the end of its current epoch, in lockstep.

        Afterwards, members that are done, that failed or that raised an error have left the pack.

        Returns:
            The error of each member whose own part of a step raised one.

        Raises:
            Exception: the shared part of a step failed. Members may then be at different steps of their
                epochs.
        """
        errors: dict[StitchTraining, Exception] = {}
        if not self.members:
            return errors
        assert self._shared is not None
        batches: dict[StitchTraining, Iterator[Rows]] = {}
        for number in range(self.members[0].steps_per_epoch):
            due = [member for member in self.members if self._is_due(member, number)]
            for member in due:
                member.clock.start(share=1 / len(due))
            try:
                batch = [self._next_batch(member, due, batches, errors) for member in self._places]
                if any(batch):
                    errors |= joint_step(batch, self._shared)
            finally:
                for member in due:
                    member.clock.stop()
            for member in errors:
                self._discard(member)
        for member in self.members:
            if member.done:
                self._discard(member)
        return errors

    def _is_due(self, member: StitchTraining, number: int) -> bool:
        """Return whether a member takes step `number` of the epoch.

        A member that resumes within an epoch joins at its own step.
        """
        return not member.done and member.step % member.steps_per_epoch == number

    def _next_batch(
        self,
        member: StitchTraining | None,
        due: Sequence[StitchTraining],
        batches: dict[StitchTraining, Iterator[Rows]],
        errors: dict[StitchTraining, Exception],
    ) -> tuple[StitchTraining, Rows] | None:
        """Return a member with its next batch; None if it isn't due."""
        if member is None or member not in due:
            return None
        try:
            if member not in batches:
                batches[member] = member.remaining_batches()
            return member, next(batches[member])
        except Exception as error:
            errors[member] = error
            return None

    def _discard(self, member: StitchTraining) -> None:
        if member in self._places:
            self.remove(member)
