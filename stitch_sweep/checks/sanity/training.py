"""Whether a training depends on what it should, and what is stored is what was trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.config.models import LossConfig
from stitch_sweep.plan.cells import Cell
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage import scratch
from stitch_sweep.training.workbench import Workbench


def self_against_copy(subject: Subject) -> Finding:
    """A layer stitched to itself, to a copy, and between copies and networks loaded once more."""
    name, layer = subject.cell.sender, subject.cell.sender_layer
    once_more = dict(subject.load_again())
    bench = subject.bench(
        modules={
            name: (copy.deepcopy(subject.modules[name]), name),
            f"copy of {name}": (copy.deepcopy(subject.modules[name]), name),
            f"{name} loaded again": (once_more[name], name),
        }
    )
    this, copied, loaded = bench.networks
    cell, settings = subject.to_itself(bench, name, layer)
    wanted = subject.run(bench, cell, settings).tensors()
    worst, wrong = 0.0, []
    for sender, receiver in ((this, copied), (this, loaded), (copied, copied), (loaded, loaded)):
        cell = Cell(sender, layer, receiver, layer)
        found = first_difference(wanted, subject.run(bench, cell, settings).tensors())
        if found is not None:
            place, gap = found
            worst = max(worst, gap)
            wrong.append(f"{sender} into {receiver}: the first thing to differ is {place}")
    return Finding(
        "self against copy",
        f"training of {name}:{layer} into itself, between copies, and loaded again",
        worst,
        "fail" if wrong else "pass",
        "; ".join(wrong),
    )


def other_trials(subject: Subject) -> Finding:
    """A trial in a process of its own, and after trials of other cells in the same process."""
    loss = LossConfig.model_validate({"task": 1.0, "mse": 1.0})  # asks for both representations
    settings = subject.short.model_copy(update={"loss": loss})
    wanted = subject.run(subject.bench(), settings=settings).tensors()
    compared = "a trial alone, and after trials of other cells in one process"
    others: list[Cell | None] = [*_alike(subject)] or [None]
    for other in others:
        bench = subject.bench()
        if other is None:
            cell, own = subject.to_itself(bench, subject.cell.receiver, 0)
            subject.run(bench, cell, own)
        else:
            subject.run(bench, other, settings)
        found = first_difference(wanted, subject.run(bench, settings=settings).tensors())
        if found is not None:
            place, gap = found
            why = f"what ran before in the process changes a trial: the first thing to differ is {place}"
            return Finding("other trials", compared, gap, "fail", why)
    return Finding("other trials", compared, 0.0, "pass")


def _alike(subject: Subject) -> list[Cell]:
    """Cells of the same shapes, which could be taken for one another: of other networks, other layers."""
    bench, cell, image = subject.bench(), subject.cell, subject.data.image_shape
    places = {
        (name, layer): network.shape(layer, image)
        for name, network in bench.networks.items()
        for layer in range(len(network.layer_names))
    }
    senders, receivers = (
        [at for at, shape in places.items() if shape == wanted] for wanted in subject.shapes(bench)
    )
    found = [Cell(*s, *r) for s in senders for r in receivers if Cell(*s, *r) != cell]
    # One that shares no network or layer with the cell, and one that shares all but a layer.
    found.sort(key=lambda c: (c.sender == cell.sender) + (c.receiver == cell.receiver))
    return [found[0], found[-1]] if len(found) > 1 else found


def store_and_load(subject: Subject) -> Finding:
    """A trained stitch against what a file gives back: tensors, and logits on the whole test set."""
    data = replace(subject.data, test=subject.whole.test)
    bench = subject.bench(data)
    run = subject.run(bench)
    with scratch.folder() as folder:
        path = folder / "stitch.safetensors"
        path.write_bytes(run.training.pack_stitch({}))
        loaded = load_stitch(path)
    compared = f"stitch, and its logits on {len(data.test)} images, before and after a file"
    found = first_difference(run.result.stitch.state_dict(), loaded.state_dict())
    if found is not None:
        place, gap = found
        why = f"the stored stitch isn't the one that was trained and evaluated: its {place} differs"
        return Finding("store and load", compared, gap, "fail", why)
    images = subject.normalised(data, "test")
    before = subject.outputs(subject.stitched(bench, run.result.stitch), images)
    after = subject.outputs(subject.stitched(bench, loaded), images)
    gap = largest_difference(before, after)
    wrong = [] if gap == 0 else ["the loaded stitch gives other logits"]
    changed = (after.argmax(dim=1) != run.predictions).double().mean().item()
    if changed:
        wrong.append(
            f"{changed:.1%} of the predictions that the trial reported aren't those of its stored "
            "stitch"
        )
    figures = {}
    if subject.device != "cpu":
        figures["cpu_against_device"], more = _across_devices(subject, loaded, after)
        wrong += more
    return Finding(
        "store and load", compared, gap, "fail" if wrong else "pass", "; ".join(wrong), figures
    )


def _across_devices(subject: Subject, stitch: nn.Module, there: Tensor) -> tuple[float, list[str]]:
    """The largest difference of the logits on a CPU, and what is wrong with it if anything is."""
    bench = subject.bench(device="cpu")
    images = subject.normalised(subject.whole, "test", "cpu")
    logits = subject.outputs(subject.stitched(bench, copy.deepcopy(stitch)), images)
    gap = largest_difference(there, logits)
    # Float32 sums in another order: more than a thousandth of the largest logit is something else.
    if gap > 1e-3 * logits.abs().max().item():
        return gap, [f"on the CPU the same stitch gives logits that are up to {gap:.3g} apart"]
    return gap, []


def schedule(subject: Subject) -> Finding:
    """The learning rate that the optimizer has at every step, and the one logged, against the formula."""
    settings = subject.short
    training = settings.training
    used: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        used.append(float(optimizer.param_groups[0]["lr"]))

    hook = register_optimizer_step_pre_hook(look)
    try:
        run = subject.run(subject.bench(), settings=settings)
    finally:
        hook.remove()
    logged = [row["lr"] for row in run.result.trajectory if row["split"] == "train"]
    total = run.training.total_steps
    compared = f"learning rates of {total} steps, and their formula"
    if total == 0:
        return Finding("schedule", compared, None, "skip", "this stitch has nothing to train")
    base, of = subject.base_lr(settings), training.schedule
    wanted = [base * plain.factor(of.name, of.warmup, step, total) for step in range(total)]
    worst, wrong = 0.0, []
    for what, rates in (("used", used), ("logged", logged)):
        if len(rates) != total:
            wrong.append(f"{len(rates)} learning rates were {what}")
        gaps = [abs(a - b) for a, b in zip(rates, wanted, strict=False)]
        worst = max(worst, *gaps)
        # A product of two floats may be rounded once more on the way.
        far = [k for k, gap in enumerate(gaps) if gap > 1e-12 * base]
        if far:
            k = far[0]
            wrong.append(
                f"at step {k} the learning rate {what} is {rates[k]:.6g}, not {wanted[k]:.6g}"
            )
    if wrong and used and max(used) < 0.99 * max(wanted):
        wrong.append(
            f"it never gets past {max(used):.6g}, of {max(wanted):.6g}: is the warm-up longer than "
            "the training?"
        )
    return Finding("schedule", compared, worst, "fail" if wrong else "pass", "; ".join(wrong))


def no_abstractions(subject: Subject) -> Finding:
    """Trainings of this project against loops written out in plain PyTorch."""
    compared = "stitches of several trainings, and those of a plain PyTorch loop"
    own = {term.name: term.weight for term in subject.settings.loss.terms}
    sums: list[dict[str, float]] = [{"task": 1.0}, {"mse": 1.0}, {"task": 1.0, "mse": 0.5}]
    if set(own) <= {"task", "mse"} and own not in sums:
        sums.append(own)
    worst, wrong = 0.0, []
    # Without augmentation, which the loop written out doesn't have; `order` looks at that.
    for cache_gb in (subject.config.resources.cache_gb, 0.0):
        bench = subject.bench(augment="none", cache_gb=cache_gb)
        try:
            places = subject.places(bench)
        except LookupError as error:
            return Finding("no abstractions", compared, None, "skip", str(error.args[0]))
        for loss in sums if cache_gb else sums[:2]:
            gap, why = _by_hand(subject, bench, places, loss, cache_gb)
            worst = max(worst, gap)
            if why:
                how = "from cached activations" if cache_gb else "batch by batch"
                wrong.append(f"trained for {' + '.join(loss)} {how}, {why}")
    return Finding(
        "no abstractions", compared, worst, "fail" if wrong else "pass", "; ".join(wrong)
    )


def _by_hand(
    subject: Subject,
    bench: Workbench,
    places: tuple[nn.Module | None, nn.Module | None],
    loss: dict[str, float],
    cache_gb: float,
) -> tuple[float, str]:
    """The largest difference from the loop written out, and what differs if anything does."""
    cell = subject.cell
    sender, receiver = bench.networks[cell.sender], bench.networks[cell.receiver]
    settings = subject.plain(loss)
    shapes = subject.shapes(bench)
    run = subject.run(bench, settings=settings)
    begun = plain.start(subject.config.seed, *shapes)
    if (found := first_difference(begun, run.start)) is not None:
        return found[1], f"its {found[0]} doesn't start as its seed says"
    roles = shapes if "mse" in loss else shapes[:1]
    largest = max(shape.numel() for shape in map(torch.Size, roles))
    by_hand = plain.train(
        (sender.network, places[0]),
        (receiver.network, places[1]),
        subject.normalised(subject.data, "train"),
        subject.data.train.labels.to(subject.device),
        begun,
        loss,
        settings.training,
        subject.base_lr(settings),
        subject.config.seed,
        whole=4 * len(subject.data.train) * largest <= cache_gb * 2**30,
    )
    if (found := first_difference(by_hand, run.result.stitch.state_dict())) is not None:
        return found[1], f"its {found[0]} is another one"
    return 0.0, ""
