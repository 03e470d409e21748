"""`stitch`: train one stitch between two networks, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from stitch_sweep.api.data import data_section
from stitch_sweep.api.settings import TRIAL_SECTIONS, expand_settings, network_section
from stitch_sweep.config.places import Places
from stitch_sweep.config.reading import make_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import restored_afterwards
from stitch_sweep.plan.cells import Cell
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.sweep.single import train_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Network = nn.Module | Mapping[str, Any]
"""A module, or an entry of the section `networks` of a configuration, without its name."""


@dataclass(frozen=True, eq=False)
class TrainedStitch:
    """A trained stitch.

    Attributes:
        title: the layers that the stitch joins, such as `sender:2 → receiver:layer3`.
        status: `finished`, or `failed` if the loss became NaN or infinite.
        metrics: final metrics, such as `test_accuracy`, `penalty`, `converged`; empty for a failed
            training. docs/explanation/method.md explains them.
        trajectory: a row per logged step: `step`, `epoch`, `split`, `loss`, `accuracy`, `lr`, `time`.
        predictions: int64 [N], the predicted class of every test image; None for a failed training.
        stitch: the trained module, on the CPU, in eval mode.
        seconds: duration of training and evaluation.
    """

    title: str
    status: str
    metrics: dict[str, Any]
    trajectory: pd.DataFrame = field(repr=False)
    predictions: Tensor | None = field(repr=False)
    stitch: nn.Module = field(repr=False)
    seconds: float
    _file: bytes = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the stitch to a file for `load_stitch`."""
        write_atomically(Path(path), self._file)
        return Path(path)

    def plot(self) -> Figure:
        """Draw the accuracy on training batches and validation images over the steps."""
        from stitch_sweep.api.pictures import shown_in_notebooks
        from stitch_sweep.charts.figures import draw
        from stitch_sweep.charts.trajectories import describe_training

        return shown_in_notebooks(draw(describe_training(self.trajectory, self.title)))

    def _repr_html_(self) -> str:
        texts = {key: _to_text(self.metrics.get(key)) for key in _SHOWN}
        shown = {key: text for key, text in texts.items() if text}
        table = pd.DataFrame({"value": shown}, dtype=str).rename_axis(self.title)
        return f"<p>{self.status} after {self.seconds:.1f} s</p>{table.to_html(escape=True)}"


_SHOWN = (
    *("test_accuracy", "val_accuracy", "penalty", "receiver_accuracy", "sender_accuracy"),
    *("accuracy_calibrated", "val_cka", "converged", "stitch_parameters"),
)


def _to_text(value: Any) -> str:
    """Format a metric for people; empty if there is none."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def stitch(
    net_a: Network,
    net_b: Network,
    sender_layer: int | str,
    receiver_layer: int | str,
    *,
    data: Any,
    **settings: Any,
) -> TrainedStitch:
    """Train one stitch from a layer of `net_a` to a layer of `net_b`, in this process.

    The networks stay unchanged, because the stitch is trained between frozen copies. The result equals
    that of the same trial in a sweep.

    Args:
        net_a: the sender. A module from images [B, C, H, W] to logits [B, K]; or an entry of the section
            `networks`, such as `{"family": "resnet18", "width": 16}`; Stitch Sweep then trains this
            network, or loads it from the zoo.
        net_b: the receiver, in the same form; it must classify the images of `data`. It may be the
            sender itself.
        sender_layer: index in `layers(net_a)`, -1 for the image, or the name of a cut point.
        receiver_layer: index in `layers(net_b)`, or the name of a cut point.
        data: a registered name, (images, labels), a `Dataset`, a `DataLoader`, or a mapping of splits;
            docs/reference/api.md lists all forms.
        **settings: sections of a configuration: `stitch`, `loss`, `training`, `seed`, `resources`,
            `pretraining`, `zoo`; and `recipe`. A name may stand for a section: `loss="mse"`,
            `stitch="conv1x1"`.

    Raises:
        InputError: a network, a layer, the data or a setting can't be used; one sentence per problem.

    Example:
        >>> result = ss.stitch(a, b, 2, 3, data="digits", recipe="fast")  # doctest: +SKIP
        >>> result.metrics["test_accuracy"]  # doctest: +SKIP
        0.95
    """
    tree = expand_settings(settings, TRIAL_SECTIONS, "stitch")
    sides = {"sender": (net_a, sender_layer), "receiver": (net_b, receiver_layer)}
    # A receiver that is the sender is one network, unless names choose layers of their own.
    is_same = net_a is net_b and not any(isinstance(layer, str) for _, layer in sides.values())
    names = {"sender": "sender", "receiver": "sender" if is_same else "receiver"}
    networks = {}
    for side, (network, layer) in sides.items():
        if not isinstance(layer, int | str) or isinstance(layer, bool):
            raise InputError(
                f"{side}_layer: is {layer!r}, but an index or the name of a cut point is required"
            )
        section = network_section(network, names[side])
        if isinstance(layer, str):
            section["layers"] = [layer]
        networks[names[side]] = section
    tree |= {"data": data_section(data), "networks": list(networks.values()), "pairs": [names]}
    config = make_config(tree, Places.of_folder(Path()))
    indices = {side: 0 if isinstance(layer, str) else layer for side, (_, layer) in sides.items()}
    cell = Cell(names["sender"], indices["sender"], names["receiver"], indices["receiver"])
    title = f"sender:{sender_layer} → receiver:{receiver_layer}"
    with restored_afterwards():
        training, result = train_cell(config, cell, f"stitch {title}", f"{title}: ")
    return TrainedStitch(
        title,
        result.status,
        result.metrics,
        pd.DataFrame(result.trajectory),
        result.predictions,
        result.stitch.eval(),
        result.seconds,
        training.pack_stitch({"cell": title}),
    )
