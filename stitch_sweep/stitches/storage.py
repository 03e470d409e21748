"""Files of trained stitches, which contain everything needed to build and load a stitch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage import layout
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.checkpoints import pack, unpack
from stitch_sweep.storage.ledger import Ledger


def pack_stitch(
    stitch: nn.Module,
    name: str,
    sender: Shape,
    receiver: Shape,
    options: Mapping[str, Any],
    about: Mapping[str, Any],
) -> bytes:
    """Serialize a stitch with everything needed to build it again.

    Args:
        stitch: the module.
        name: its registered name.
        sender: shape of its input.
        receiver: shape of its output.
        options: its options.
        about: its origin, as plain data; see `describe_stitch`.
    """
    return pack(
        {
            "stitch": dict(stitch.state_dict()),
            "name": name,
            "sender": list(sender),
            "receiver": list(receiver),
            "options": dict(options),
            "about": dict(about),
        }
    )


def load_stitch(path: Path | str) -> nn.Module:
    """Load a stored stitch, on the CPU, in eval mode.

    A trial with the same settings as an earlier trial of its study stores no stitch of its own. The
    path of its stitch then loads the stitch of the earlier trial.

    Raises:
        InputError: the file is missing or damaged, or contains no stitch.

    Example:
        >>> stitch = load_stitch("experiments/quickstart/digits/stitches/<trial>.safetensors")
    """
    state = _read(path)
    shapes = (tuple(state["sender"]), tuple(state["receiver"]))
    stitch: nn.Module = STITCHES.build(state["name"], *shapes, options=state["options"])
    stitch.load_state_dict(state["stitch"])
    return stitch.eval()


def load_weights(stitch: nn.Module, data: bytes) -> None:
    """Give a stitch the weights of a stored one of the same type and shapes.

    Args:
        stitch: its tensors are replaced, on their device.
        data: as `pack_stitch` returned it.

    Raises:
        CheckpointError: the bytes are damaged.
        RuntimeError: the stored stitch has other tensors.
    """
    stitch.load_state_dict(unpack(data)["stitch"])


def describe_stitch(path: Path | str) -> dict[str, Any]:
    """Return the description of a stored stitch: name, shapes, options, and the trial it comes from.

    Raises:
        InputError: the file is missing or damaged, or contains no stitch.
    """
    return {key: value for key, value in _read(path).items() if key != "stitch"}


def _read(path: Path | str) -> dict[str, Any]:
    path = Path(path)
    if path.parent.name == layout.STITCHES and not path.exists():
        ledger = Ledger(path.parent.parent)
        path = ledger.stitch_path(ledger.trained_trial(path.stem))
    try:
        state = unpack(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such stitch") from None
    except CheckpointError as error:
        raise InputError(f"{path}: is not a stitch: {error}") from None
    if "stitch" not in state:
        raise InputError(f"{path}: is a checkpoint, but contains no stitch")
    return state
