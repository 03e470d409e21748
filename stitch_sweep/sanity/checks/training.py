"""Whether a training depends on what it should, and what is stored is what was trained."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from stitch_sweep.frozen import FrozenNetwork
from stitch_sweep.sanity import plain
from stitch_sweep.sanity.differences import first_difference, largest_difference
from stitch_sweep.sanity.subject import Finding, Subject, joined
from stitch_sweep.stitches import load_stitch
from stitch_sweep.training import ActivationCache


def self_against_copy(subject: Subject) -> Finding:
    """A layer stitched to itself, to a copy in memory, and to the same network loaded once more."""
    name, layer = subject.cell.sender, subject.cell.sender_layer
    this = subject.network(name)
    others = {
        "itself": this,
        "its copy": subject.freeze(copy.deepcopy(this.network), name, f"copy of {name}"),
        "the network loaded again": subject.freeze(
            subject.load_again()[name], name, f"{name} once more"
        ),
    }
    settings = subject.self_settings(this, layer)
    runs = {
        which: subject.run(this, layer, other, layer, settings).tensors()
        for which, other in others.items()
    }
    worst, wrong = 0.0, []
    for which in list(others)[1:]:
        found = first_difference(runs["itself"], runs[which])
        if found is not None:
            place, gap = found
            worst = max(worst, gap)
            wrong.append(f"stitched to {which}: the first thing to differ is {place}")
    return Finding(
        "self against copy",
        f"training of {name}:{layer} into itself, its copy, and itself loaded again",
        worst,
        "fail" if wrong else "pass",
        "; ".join(wrong),
    )


def store_and_load(subject: Subject) -> Finding:
    """A trained stitch against what a file gives back: tensors, and logits on the whole test set."""
    sender, i, receiver, j = subject.cell_networks()
    whole = subject.loaders(data=subject.whole)
    loaders = {**subject.loaders(), "test": whole["test"]}
    run = subject.run(sender, i, receiver, j, loaders=loaders)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stitch.safetensors"
        path.write_bytes(run.training.pack_stitch({}))
        loaded = load_stitch(path)
    compared = (
        f"stitch, and its logits on {len(subject.whole.test)} images, before and after a file"
    )
    found = first_difference(run.result.stitch.state_dict(), loaded.state_dict())
    if found is not None:
        place, gap = found
        why = f"the stored stitch isn't the one that was trained and evaluated: its {place} differs"
        return Finding("store and load", compared, gap, "fail", why)
    images = subject.normalised(subject.whole, "test")
    before = subject.outputs(joined(sender, i, run.result.stitch, receiver, j), images)
    after = subject.outputs(joined(sender, i, loaded, receiver, j), images)
    gap = largest_difference(before, after)
    wrong = [] if gap == 0 else ["the loaded stitch gives other logits"]
    assert run.result.predictions is not None
    if not torch.equal(after.argmax(dim=1), run.result.predictions):
        share = (after.argmax(dim=1) != run.result.predictions).double().mean().item()
        wrong.append(
            f"{share:.1%} of the predictions that the trial reported aren't those of its stored stitch"
        )
    figures = {}
    if subject.device != "cpu":
        figures["cpu_against_device"], more = _across_devices(subject, loaded, after)
        wrong += more
    return Finding(
        "store and load", compared, gap, "fail" if wrong else "pass", "; ".join(wrong), figures
    )


def _across_devices(
    subject: Subject, stitch: nn.Module, there: torch.Tensor
) -> tuple[float, list[str]]:
    """The largest difference of the logits on a CPU, and what is wrong with it if anything is."""
    cell = subject.cell
    here = {
        name: FrozenNetwork(copy.deepcopy(subject.modules[name]), name)
        for name in (cell.sender, cell.receiver)
    }
    stitched = joined(
        here[cell.sender],
        cell.sender_layer,
        copy.deepcopy(stitch).cpu(),
        here[cell.receiver],
        cell.receiver_layer,
    )
    images = subject.normalised(subject.whole, "test").cpu()
    logits = subject.outputs(stitched, images)
    gap = largest_difference(there, logits)
    # Float32 sums in another order: more than a thousandth of the largest logit is something else.
    if gap > 1e-3 * logits.abs().max().item():
        return gap, [f"on the CPU the same stitch gives logits that are up to {gap:.3g} apart"]
    return gap, []


def schedule(subject: Subject) -> Finding:
    """The learning rate of every step against its formula."""
    settings = subject.explicit_settings
    training = settings.training
    run = subject.run(*subject.cell_networks(), settings)
    rates = [row["lr"] for row in run.result.trajectory if row["split"] == "train"]
    total = run.training.total_steps
    base = training.optimizer.lr
    assert base is not None
    wanted = [
        base * plain.factor(training.schedule.name, training.schedule.warmup, step, total)
        for step in range(total)
    ]
    compared = f"learning rates of {total} steps, and their formula"
    if total == 0:
        return Finding("schedule", compared, None, "skip", "this stitch has nothing to train")
    wrong = []
    if len(rates) != total:
        wrong.append(f"{len(rates)} steps were logged")
    gaps = [abs(a - b) for a, b in zip(rates, wanted, strict=False)]
    # A product of two floats may be rounded once more on the way.
    far = [k for k, gap in enumerate(gaps) if gap > 1e-12 * base]
    if far:
        k = far[0]
        wrong.append(f"at step {k} the learning rate is {rates[k]:.6g}, not {wanted[k]:.6g}")
        if max(rates) < 0.99 * max(wanted):
            wrong.append(
                f"it never gets past {max(rates):.6g}, of {max(wanted):.6g}: the warm-up is longer "
                "than the training"
            )
    return Finding(
        "schedule", compared, max(gaps, default=0.0), "fail" if wrong else "pass", "; ".join(wrong)
    )


def no_abstractions(subject: Subject) -> Finding:
    """Trainings of this project against loops written out in plain PyTorch, for each base loss."""
    sender, i, receiver, j = subject.cell_networks()
    compared = "stitches for task and MSE, and those of a plain PyTorch loop"
    try:
        places = subject.places(sender, i, receiver, j)
    except LookupError as error:
        return Finding("no abstractions", compared, None, "skip", str(error.args[0]))
    images = subject.normalised(subject.data, "train")
    labels = subject.data.train.labels.to(subject.device)
    loaders = subject.loaders()
    for loader in loaders.values():
        loader.augment = "none"  # the loop written out has no augmentation
    worst, wrong = 0.0, []
    for loss in ("task", "mse"):
        settings = subject.plain_settings(loss)
        run = subject.run(
            sender, i, receiver, j, settings, loaders=loaders, cache=ActivationCache(2**40)
        )
        by_hand = plain.train(
            (sender.network, places[0]),
            (receiver.network, places[1]),
            images,
            labels,
            run.start,
            loss,
            settings.training,
            subject.config.seed,
        )
        found = first_difference(by_hand, run.result.stitch.state_dict())
        if found is not None:
            name, gap = found
            worst = max(worst, gap)
            wrong.append(f"trained for {loss}, its {name} is another one")
    return Finding(
        "no abstractions", compared, worst, "fail" if wrong else "pass", "; ".join(wrong)
    )
