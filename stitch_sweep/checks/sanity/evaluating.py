"""Whether an accuracy is a function of the networks and the images, and of nothing else."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.subject import Finding, Run, Subject, share_right
from stitch_sweep.data.images import SPLITS, Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import CHUNK, evaluate
from stitch_sweep.training.workbench import Workbench

TIMES = 5
BATCH_SIZES = (1, 7, 64, 256)
SEVERAL_CHUNKS = 2 * CHUNK + 100
"""Enough images that there is a last chunk, and that it is another one than all."""

_SHORT = {"train": "train", "validation": "val", "test": "test"}


def evaluate_again(subject: Subject) -> Finding:
    """Five evaluations in a row, and one after an unrelated training with the same networks."""
    bench = subject.bench()
    loaders = bench.loaders(subject.short.training.batch_size)
    stitched = subject.stitched(bench, subject.run(bench).result.stitch)
    logits: list[Tensor] = []

    def listening(images: Tensor) -> Tensor:
        out = stitched(images)
        logits.append(out.detach().cpu().clone())
        return out

    def one() -> tuple[float, Tensor]:
        logits.clear()
        return evaluate(listening, loaders["test"]).accuracy, torch.cat(logits)

    first_accuracy, first = one()
    worst, wrong = 0.0, ""
    for k in range(1, TIMES + 1):
        after = f"evaluation {k + 1} in a row"
        if k == TIMES:
            cell, settings = subject.to_itself(bench, subject.cell.receiver, 0)
            subject.run(bench, cell, settings)
            after = "the evaluation after an unrelated training"
        accuracy, again = one()
        gap = max(largest_difference(first, again), abs(first_accuracy - accuracy))
        worst = max(worst, gap)
        if gap and not wrong:
            wrong = f"{after} gave other logits; accuracy {first_accuracy:.4f}, then {accuracy:.4f}"
    return Finding(
        "evaluate again",
        f"logits of {TIMES} evaluations in a row and of one after another training",
        worst,
        "fail" if wrong else "pass",
        wrong,
    )


def batch_size(subject: Subject) -> Finding:
    """What a trial reports under several batch sizes, against figures over all images at once."""
    data = subject.data
    for split in SPLITS:
        size = max(SEVERAL_CHUNKS, len(getattr(data, split)))
        data = subject.of_length(data, split, size)
    bench = subject.bench(data, augment="none")
    run = subject.run(bench)
    trained = copy.deepcopy(run.result.stitch)
    figures, predictions = _by_hand(subject, bench, data, trained)
    wrong = _trajectory(run, figures)
    for size in (*BATCH_SIZES, len(data.train)):
        training = subject.short.training.model_copy(update={"epochs": 0, "batch_size": size})
        settings = subject.short.model_copy(update={"training": training})
        again = subject.start(bench, settings=settings)
        again.stitch.load_state_dict(trained.state_dict())
        result = again.finish()
        for name, value in figures.items():
            told = result.metrics[name]
            if (gap := abs(told - value)) > _tolerance(name, value):
                text = f"{name} is said to be {told:.6g}, and is {value:.6g} over all images"
                wrong.append((gap, f"with batch size {size} {text}"))
        assert result.predictions is not None
        if not torch.equal(result.predictions, predictions):
            wrong.append((1.0, f"with batch size {size} other classes are predicted"))
    drift = _drift(subject, bench, trained)
    moved = max(drift.values(), default=0.0)
    return Finding(
        "batch size",
        f"{len(figures)} figures and all predictions at {len(BATCH_SIZES) + 1} batch sizes, by hand",
        max((gap for gap, _ in wrong), default=0.0),
        "fail" if wrong else "pass",
        wrong[0][1] if wrong else f"without fixed chunks logits would move by {moved:.2g}",
        {"raw_drift": drift},
    )


def _tolerance(name: str, value: float) -> float:
    """Shares are whole numbers over a whole number; losses are means of float32 means of chunks."""
    return 1e-5 * max(1.0, abs(value)) if "loss" in name else 1e-9


@torch.no_grad()
def _by_hand(
    subject: Subject, bench: Workbench, data: Data, stitch: nn.Module
) -> tuple[dict[str, float], Tensor]:
    """Figures that a trial should report, by the names of its metrics, and the test predictions."""
    cell = subject.cell
    stitched = subject.stitched(bench, stitch)
    sender, receiver = bench.networks[cell.sender], bench.networks[cell.receiver]
    weights = {term.name: term.weight for term in subject.short.loss.terms}
    found: dict[str, float] = {}
    scale = 1.0
    for split, short in _SHORT.items():
        images, labels = subject.normalised(data, split), getattr(data, split).labels.cpu()
        logits = subject.outputs(stitched, images)
        found[f"{short}_accuracy"] = share_right(logits, labels)
        terms = {}
        if "task" in weights:
            terms["task"] = functional.cross_entropy(logits.double(), labels).item()
        if "mse" in weights:
            put = nn.Sequential(sender.prefix(cell.sender_layer), stitch)
            s = subject.outputs(put, images).double()
            e = subject.outputs(receiver.prefix(cell.receiver_layer), images).double()
            if split == "train":
                if e.ndim == 3:  # tokens, whose channels come last
                    e, s = e.transpose(1, 2), s.transpose(1, 2)
                spread = e.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().item()
                scale = e.shape[1] / (spread or 1.0)
            terms["mse"] = ((s - e).square().mean() * scale).item()
        found |= {f"{short}_loss.{name}": value for name, value in terms.items()}
        if terms.keys() == weights.keys():
            found[f"{short}_loss"] = sum(weights[name] * value for name, value in terms.items())
    own = {
        role: share_right(subject.outputs(network.network, images), labels)
        for role, network in (("sender", sender), ("receiver", receiver))
    }
    found |= {f"{role}_accuracy": value for role, value in own.items()}
    found["penalty"] = own["receiver"] - found["test_accuracy"]
    return found, logits.argmax(dim=1)


def _trajectory(run: Run, figures: Mapping[str, float]) -> list[tuple[float, str]]:
    """What is wrong with the trajectory's last figures for the validation images."""
    rows = [row for row in run.result.trajectory if row["split"] == "validation"]
    wrong = []
    for key in ("accuracy", "loss") if rows else ():
        value = figures.get(f"val_{key}")
        if value is not None and (gap := abs(rows[-1][key] - value)) > _tolerance(key, value):
            last = f"{rows[-1][key]:.6g}, and it is {value:.6g} over all images"
            text = f"the trajectory ends with a validation {key} of {last}"
            wrong.append((gap, text))
    return wrong


@torch.no_grad()
def _drift(subject: Subject, bench: Workbench, stitch: nn.Module) -> dict[str, float]:
    """How far logits move when images are really run in batches of another size."""
    network = subject.stitched(bench, stitch)
    images = subject.normalised(subject.data, "test")
    whole = subject.outputs(network, images)
    sizes = {str(size): size for size in BATCH_SIZES} | {"all": len(images)}
    few = images[:CHUNK]  # of the smallest batches there are many
    return {
        name: largest_difference(
            whole[: len(some)], torch.cat([network(batch).cpu() for batch in some.split(size)])
        )
        for name, size in sizes.items()
        for some in (images if size >= CHUNK else few,)
    }


def order(subject: Subject) -> Finding:
    """Which images a training sees when, and that evaluation takes them as they are stored."""
    data, seed = subject.data, subject.config.seed
    wrong = []
    for augment in dict.fromkeys(("none", "crop_flip", subject.config.data.augment)):
        one, other = (_loaders(subject, subject.bench(augment=augment)) for _ in range(2))
        for epoch in range(2):
            wanted = plain.order(seed, epoch, len(data.train))
            images, labels = data.train.images, data.train.labels.cpu()[wanted]
            if augment == "crop_flip":
                images = plain.crop_flip(images.cpu(), seed, epoch)
            changed = replace(data, train=replace(data.train, images=images.to(subject.device)))
            seen = subject.normalised(changed, "train")[wanted.to(subject.device)].cpu()
            first, second = (_whole_epoch(loaders["train"], epoch) for loaders in (one, other))
            when = f"in epoch {epoch} (augment: {augment})"
            if not torch.equal(first[0], wanted):
                wrong.append(f"{when} training isn't in the order that seed {seed} gives")
            if not torch.equal(first[2], labels):
                wrong.append(f"{when} labels don't belong to the images at their places")
            if not torch.equal(first[1], seen):
                wrong.append(
                    f"{when} the images aren't those at their places, changed as they should"
                )
            if not all(torch.equal(x, y) for x, y in zip(first, second, strict=True)):
                wrong.append(f"{when} two loaders with one seed differ")
    wrong += _evaluation_order(subject)
    wrong += _seen(subject)
    return Finding(
        "order",
        "order of training and what the seed gives; evaluation and stored order",
        None,
        "fail" if wrong else "pass",
        "; ".join(dict.fromkeys(wrong[:3])),
    )


def _loaders(subject: Subject, bench: Workbench) -> dict[str, Loader]:
    return bench.loaders(subject.short.training.batch_size)


def _whole_epoch(loader: Loader, epoch: int) -> list[Tensor]:
    """Indices, images and labels of all batches of an epoch."""
    return [torch.cat(parts).cpu() for parts in zip(*loader.batches(epoch), strict=True)]


def _evaluation_order(subject: Subject) -> list[str]:
    wrong = []
    for split, loader in _loaders(subject, subject.bench()).items():
        images, labels = [], []
        for chunk in loader.in_order(CHUNK):
            images.append(chunk.images[: chunk.valid])
            labels.append(chunk.labels[: chunk.valid])
        stored = getattr(subject.data, split).labels
        if not torch.equal(torch.cat(labels).cpu(), stored.cpu()):
            wrong.append(f"evaluation shuffles the {split} images: labels aren't in stored order")
        elif not torch.equal(torch.cat(images), subject.normalised(subject.data, split)):
            wrong.append(
                f"the {split} images that are evaluated aren't the stored ones in their order"
            )
    return wrong


def _seen(subject: Subject) -> list[str]:
    """Whether what reaches a stitch during training is what the order says."""
    bench = subject.bench(augment="none")
    training = subject.start(bench)
    if training.total_steps == 0:
        return []
    seen: list[Tensor] = []
    training.stitch.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().clone()) if module.training else None
    )
    training.advance(3)
    images = subject.normalised(subject.data, "train")
    prefix = bench.networks[subject.cell.sender].prefix(subject.cell.sender_layer)
    wanted_order = plain.order(subject.config.seed, 0, len(images)).to(images.device)
    batches = wanted_order.split(subject.short.training.batch_size)
    for step, (got, at) in enumerate(zip(seen, batches, strict=False)):
        with torch.no_grad():
            wanted = prefix(images[at])
        # Cached and fresh representations may differ in their last bits, which depend on batch size.
        scale = wanted.abs().max().item() or 1.0
        if largest_difference(got, wanted) > 1e-4 * scale:
            return [f"at step {step} the stitch sees other images than the seed's order says"]
    return []
