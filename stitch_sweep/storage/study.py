"""Identity of a study and of its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def format_cell(key: Mapping[str, Any]) -> str:
    """Return the cell of a study's key or of a trial's record as text: `a:2 -> b:3`."""
    return "{sender}:{sender_layer} -> {receiver}:{receiver_layer}".format_map(key)


@dataclass(frozen=True)
class Study:
    """One cell with one combination of factors and one repeat: one Optuna study.

    Attributes:
        sender: name of the sending network.
        sender_layer: layer after which the sender is cut; -1 is the image.
        receiver: name of the receiving network.
        receiver_layer: layer after which the receiver continues; -1: the stitch makes an image.
        factors: crossed settings, {dotted path: value}.
        repeat: number of the repetition, from 0.
    """

    sender: str
    sender_layer: int
    receiver: str
    receiver_layer: int
    factors: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """Identity as plain data."""
        return {
            "sender": self.sender,
            "sender_layer": self.sender_layer,
            "receiver": self.receiver,
            "receiver_layer": self.receiver_layer,
            "factors": dict(self.factors),
            "repeat": self.repeat,
        }

    @property
    def id(self) -> str:
        """Readable identity that is valid as a file name. A hash distinguishes similar studies."""
        text = json.dumps(self.key, sort_keys=True)
        short = hashlib.sha256(text.encode()).hexdigest()[:8]
        layers = [str(k) if k >= 0 else "image" for k in (self.sender_layer, self.receiver_layer)]
        return f"{self.sender}.{layers[0]}-{self.receiver}.{layers[1]}-r{self.repeat}-{short}"

    def trial(self, number: int) -> str:
        """Return the id of the trial with this number in the study."""
        return f"{self.id}-n{number}"
