"""Whether an accuracy is a function of the networks and the images, and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from stitch_sweep.data import Loader
from stitch_sweep.evaluation import CHUNK, evaluate
from stitch_sweep.sanity import plain
from stitch_sweep.sanity.differences import largest_difference
from stitch_sweep.sanity.subject import Finding, Subject, joined

TIMES = 5
BATCH_SIZES = (1, 7, 64, 256)


def evaluate_again(subject: Subject) -> Finding:
    """Five evaluations in a row, and one after an unrelated training with the same networks."""
    sender, i, receiver, j = subject.cell_networks()
    loaders = subject.loaders()
    stitch = subject.run(sender, i, receiver, j, loaders=loaders).result.stitch
    stitched = joined(sender, i, stitch, receiver, j)
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
            last = len(sender.layer_names) - 1
            subject.run(receiver, 0, sender, last, subject.plain_settings("task"), loaders=loaders)
            after = "the evaluation after an unrelated training"
        accuracy, again = one()
        gap = largest_difference(first, again)
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
    """What a trial reports under several batch sizes, against a count over all images at once."""
    sender, i, receiver, j = subject.cell_networks()
    trained = subject.run(sender, i, receiver, j).result.stitch
    network = joined(sender, i, trained, receiver, j)
    splits = {"train": "train", "validation": "val", "test": "test"}
    logits = {s: subject.outputs(network, subject.normalised(subject.data, s)) for s in splits}
    labels = {s: getattr(subject.data, s).labels.cpu() for s in splits}
    untrained = subject.settings.model_copy(
        update={"training": subject.settings.training.model_copy(update={"epochs": 0})}
    )
    worst, wrong = 0.0, []
    for size in (*BATCH_SIZES, len(subject.data.train)):
        run = subject.start(
            sender, i, receiver, j, untrained, loaders=subject.loaders(batch_size=size)
        )
        run.stitch.load_state_dict(trained.state_dict())
        result = run.finish()
        assert result.predictions is not None
        for split, short in splits.items():
            right = logits[split].argmax(dim=1) == labels[split]
            counted = right.double().mean().item()
            reported = result.metrics[f"{short}_accuracy"]
            gap = abs(counted - reported)
            worst = max(worst, gap)
            # Both are a whole number divided by the number of images.
            if gap > 1e-9:
                wrong.append(
                    f"with batch size {size} the {split} accuracy is said to be {reported:.4f}, "
                    f"but {int(right.sum())} of {len(right)} images are right, {counted:.4f}"
                )
        if not torch.equal(result.predictions, logits["test"].argmax(dim=1)):
            worst = max(worst, 1.0)
            wrong.append(f"with batch size {size} other classes are predicted")
    drift = _drift(subject, network)
    return Finding(
        "batch size",
        f"accuracies and predictions, batch size {', '.join(map(str, BATCH_SIZES))} and all",
        worst,
        "fail" if wrong else "pass",
        wrong[0]
        if wrong
        else f"without fixed chunks logits would move by {max(drift.values()):.2g}",
        {"raw_drift": drift},
    )


@torch.no_grad()
def _drift(subject: Subject, network: object) -> dict[str, float]:
    """How far logits move when images are really run in batches of another size."""
    assert callable(network)
    images = subject.normalised(subject.data, "test")[:CHUNK]
    whole = network(images).cpu()
    return {
        str(size): largest_difference(
            whole, torch.cat([network(b).cpu() for b in images.split(size)])
        )
        for size in BATCH_SIZES
        if size < len(images)
    }


def order(subject: Subject) -> Finding:
    """Which images a training sees when, and that evaluation takes them as they are stored."""
    data, seed = subject.data, subject.config.seed
    one, other = subject.loaders(), subject.loaders()
    wrong = []
    count = len(data.train)
    for epoch in range(2):
        wanted = plain.order(seed, epoch, count)
        for loader in (one["train"], other["train"]):
            if not torch.equal(torch.cat(list(loader.indices(epoch))).cpu(), wanted):
                wrong.append(f"epoch {epoch} isn't in the order that seed {seed} gives")
        first, second = (_whole_epoch(loaders["train"], epoch) for loaders in (one, other))
        if not torch.equal(first[2], data.train.labels[wanted]):
            wrong.append(f"in epoch {epoch} labels don't belong to the images at their places")
        if not all(torch.equal(x, y) for x, y in zip(first, second, strict=True)):
            wrong.append(f"two loaders with one seed differ in epoch {epoch}")
    if torch.equal(plain.order(seed, 0, count), plain.order(seed, 1, count)):
        wrong.append("two epochs have one order")
    wrong += _evaluation_order(subject)
    wrong += _seen(subject)
    return Finding(
        "order",
        "order of training and what the seed gives; evaluation and stored order",
        None,
        "fail" if wrong else "pass",
        "; ".join(dict.fromkeys(wrong)),
    )


def _whole_epoch(loader: Loader, epoch: int) -> list[Tensor]:
    """Indices, images and labels of all batches of an epoch."""
    return [torch.cat(parts).cpu() for parts in zip(*loader.batches(epoch), strict=True)]


def _evaluation_order(subject: Subject) -> list[str]:
    wrong = []
    loaders = subject.loaders()
    for split, loader in loaders.items():
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
    sender, i, receiver, j = subject.cell_networks()
    loaders = subject.loaders()
    training = subject.start(sender, i, receiver, j, loaders=loaders)
    if training.total_steps == 0:
        return []
    seen: list[Tensor] = []
    training.stitch.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().clone()) if module.training else None
    )
    training.advance(3)
    prefix = sender.prefix(i)
    batches = loaders["train"].batches(0)
    for step, (got, batch) in enumerate(zip(seen, batches, strict=False)):
        with torch.no_grad():
            wanted = prefix(batch.images)
        # Cached and fresh representations may differ in their last bits, which depend on batch size.
        scale = wanted.abs().max().item() or 1.0
        if largest_difference(got, wanted) > 1e-4 * scale:
            return [f"at step {step} the stitch sees other images than the seed's order says"]
    return []
