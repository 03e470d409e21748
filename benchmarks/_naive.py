"""The digits matrix as a competent user would first write it: plain PyTorch in plain Ray Tune.

A function trainable, one process per trial (Tune's default), a `DataLoader`, the whole sender run at
every step with a hook at the sender's layer, the receiver split by hand. The script uses only the
definition of the network from Stitch Sweep. `baseline.py` runs it for a comparison.

    python benchmarks/_naive.py INPUTS.pt OUTPUT.json --epochs 50 --batch-size 32 --lr 0.03 --seed 0

The stopwatch measures the parts of a trial; it costs about a microsecond a lap.
"""

import argparse
import json
import math
import os
import tempfile
import time

import ray
import torch
from ray import tune
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stitch_sweep.networks.families.resnet import resnet


class Stopwatch:
    """Seconds by part of a trial."""

    def __init__(self):
        self.spent = {}
        self._since = time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._since
        self._since = now


def layers_of(network):
    """Return the modules whose outputs can be stitched, in order."""
    return [network.relu, *network.layer1, *network.layer2, *network.layer3, *network.layer4]


def rest_of(network, layer):
    """Return the part of a network after a layer."""
    head = [network.avgpool, nn.Flatten(), network.fc]
    return nn.Sequential(*layers_of(network)[layer + 1 :], *head)


def make_stitch(sender_shape, receiver_shape):
    """Make a strided convolution if the receiver's map is smaller; with upsampling if it is larger."""
    (c_in, size_in), (c_out, size_out) = sender_shape[:2], receiver_shape[:2]
    if size_in >= size_out:
        k = size_in // size_out
        return nn.Conv2d(c_in, c_out, k, stride=k)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1), nn.Upsample(scale_factor=size_out // size_in, mode="nearest")
    )


def train_one(config, networks=None, data=None):
    """Train the stitch of one cell: one trial."""
    watch = Stopwatch()
    began = time.time()
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    sender, receiver = (n.eval().requires_grad_(False) for n in networks)

    captured = {}

    def keep(name):
        def hook(module, inputs, output):
            captured[name] = output

        return hook

    layer_out = layers_of(sender)[config["sender_layer"]]
    layer_in = layers_of(receiver)[config["receiver_layer"]]
    handles = [layer_out.register_forward_hook(keep("sender"))]
    handles += [layer_in.register_forward_hook(keep("receiver"))]
    with torch.no_grad():
        sender(data["x_train"][:1])
        receiver(data["x_train"][:1])
    shapes = [captured[name].shape[1:] for name in ("sender", "receiver")]
    handles[1].remove()

    stitch = make_stitch(*shapes)
    rest = rest_of(receiver, config["receiver_layer"])
    train, val, test = (
        DataLoader(
            TensorDataset(data[f"x_{split}"], data[f"y_{split}"]),
            batch_size=config["batch_size"] if split == "train" else 256,
            shuffle=split == "train",
        )
        for split in ("train", "val", "test")
    )
    optimizer = torch.optim.Adam(stitch.parameters(), lr=config["lr"])
    total = config["epochs"] * len(train)
    warmup = round(0.1 * total)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    @torch.no_grad()
    def evaluate(loader):
        stitch.eval()
        right = count = 0
        loss = 0.0
        for x, y in loader:
            sender(x)
            logits = rest(stitch(captured["sender"]))
            loss += nn.functional.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
            count += len(y)
        return right / count, loss / count

    watch.lap("set-up in the trial")
    for epoch in range(config["epochs"]):
        stitch.train()
        for x, y in train:
            watch.lap("DataLoader")
            with torch.no_grad():
                sender(x)
            watch.lap("sender")
            loss = nn.functional.cross_entropy(rest(stitch(captured["sender"])), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            watch.lap("stitch and receiver")
        val_accuracy, val_loss = evaluate(val)
        watch.lap("evaluation")
        if epoch + 1 < config["epochs"]:
            tune.report({"epoch": epoch, "val_accuracy": val_accuracy, "val_loss": val_loss})
            watch.lap("tune.report")
    test_accuracy, _ = evaluate(test)
    watch.lap("evaluation")
    tune.report(
        {
            "epoch": config["epochs"] - 1,
            "val_accuracy": val_accuracy,
            "val_loss": val_loss,
            "test_accuracy": test_accuracy,
            "spent": watch.spent,
            "began": began,
            "ended": time.time(),
        }
    )


def main():
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs")
    parser.add_argument("output")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    inputs = torch.load(arguments.inputs, weights_only=True)
    networks = []
    for weights in inputs["weights"]:
        network = resnet(1, 10, **inputs["options"])
        network.load_state_dict(weights)
        networks.append(network)
    layers = list(range(len(layers_of(networks[0]))))

    # init() without an address would join any cluster on this machine.
    ray.init(address="local", num_cpus=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_one, networks=networks, data=inputs["data"]), {"cpu": 1}
            ),
            param_space={
                "sender_layer": tune.grid_search(layers),
                "receiver_layer": tune.grid_search(layers),
                "epochs": arguments.epochs,
                "batch_size": arguments.batch_size,
                "lr": arguments.lr,
                "seed": arguments.seed,
            },
            run_config=tune.RunConfig(storage_path=scratch),
        )
        results = tuner.fit()
        cells = [{**r.config, **r.metrics} for r in results if r.error is None]
    columns = ("sender_layer", "receiver_layer", "val_accuracy", "test_accuracy", "spent", "began")
    with open(arguments.output, "w") as file:  # noqa: PTH123
        rows = [{key: cell[key] for key in (*columns, "ended")} for cell in cells]
        json.dump({"started": started, "cells": rows}, file)


if __name__ == "__main__":
    main()
