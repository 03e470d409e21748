"""The outputs of every layer of a recorded cell, for the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from stitch_sweep.checks.determinism.kept_tensors import KeptTensors
from stitch_sweep.checks.determinism.recording import COLUMNS
from stitch_sweep.checks.inspection import LayerOutput, inspect_outputs, summarize
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.cells import Cell


def describe_outputs(
    cell: Cell,
    networks: Mapping[str, FrozenNetwork],
    stitch: nn.Module,
    loader: Loader,
    kept: KeptTensors,
) -> list[dict[str, str]]:
    """Describe the outputs of every layer of both networks, and of the stitched network's parts.

    Returns:
        The rows of `model_inspection.csv`.
    """
    images = next(loader.batches(0)).images
    rows: list[dict[str, str]] = []

    def add_row(network: str, output: LayerOutput, values: Tensor) -> None:
        kept.keep(f"outputs/{network}/{output.position}", values)
        summary = output.summary.to_dict()
        summary["shape"] = "x".join(map(str, summary["shape"]))
        row = {
            "network": network,
            "position": output.position,
            "layer": output.path,
            "type": output.type,
            "mode": output.mode,
            **summary,
        }
        rows.append({key: "" if row[key] is None else str(row[key]) for key in COLUMNS})

    sender, receiver = networks[cell.sender], networks[cell.receiver]
    for role, network in (("sender", sender), ("receiver", receiver)):
        label = f"{role} {getattr(cell, role)!r}"
        inspect_outputs(network.network, images, partial(add_row, label))
    was_training = stitch.training
    stitch.eval()
    parts = (
        (f"sender up to layer {cell.sender_layer}", sender.prefix(cell.sender_layer)),
        ("stitch", stitch),
        (f"receiver after layer {cell.receiver_layer}", receiver.suffix(cell.receiver_layer)),
    )
    values = images
    with torch.no_grad():
        for position, (path, part) in enumerate(parts):
            values = part(values)
            mode = "train" if any(module.training for module in part.modules()) else "eval"
            output = LayerOutput(position, path, type(part).__name__, mode, summarize(values))
            add_row("stitched", output, values)
    stitch.train(was_training)
    return rows
