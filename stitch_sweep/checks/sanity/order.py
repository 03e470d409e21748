"""The check of the order of training images, and of the images that an evaluation reads."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.data.loader import Loader
from stitch_sweep.training.workbench import Workbench

_MOST_DEFECTS = 3


def order(subject: Subject) -> Finding:
    """Compare the images of every training step with the seed's order, and evaluations with storage."""
    defects = (
        _epoch_defects(subject) + _evaluation_defects(subject) + _stitch_input_defects(subject)
    )
    return judge(
        "order",
        "training order and the seed's order; evaluation order and stored order",
        None,
        list(dict.fromkeys(defects[:_MOST_DEFECTS])),
    )


def _epoch_defects(subject: Subject) -> list[str]:
    """Compare two epochs of two equal loaders with the order and the augmentation of the seed."""
    data, seed = subject.data, subject.config.seed
    defects = []
    for augment in dict.fromkeys(("none", "crop_flip", subject.config.data.augment)):
        first, second = (_loaders(subject, subject.bench(augment=augment)) for _ in range(2))
        for epoch in range(2):
            expected_order = plain.order(seed, epoch, len(data.train))
            images, labels = data.train.images, data.train.labels.cpu()[expected_order]
            if augment == "crop_flip":
                images = plain.crop_flip(images.cpu(), seed, epoch)
            augmented = replace(data, train=replace(data.train, images=images.to(subject.device)))
            expected = subject.normalized(augmented, "train")
            expected = expected[expected_order.to(subject.device)].cpu()
            epochs = [_read_epoch(loaders["train"], epoch) for loaders in (first, second)]
            indices, images_read, labels_read = epochs[0]
            place = f"in epoch {epoch} (augment: {augment})"
            if not torch.equal(indices, expected_order):
                defects.append(f"{place} the training order differs from that of seed {seed}")
            if not torch.equal(labels_read, labels):
                defects.append(f"{place} labels do not belong to the images at their indices")
            if not torch.equal(images_read, expected):
                defects.append(
                    f"{place} the images differ from the augmented images at their indices"
                )
            if not all(torch.equal(x, y) for x, y in zip(*epochs, strict=True)):
                defects.append(f"{place} two loaders with one seed differ")
    return defects


def _loaders(subject: Subject, bench: Workbench) -> dict[str, Loader]:
    return bench.loaders(subject.short.training.batch_size)


def _read_epoch(loader: Loader, epoch: int) -> list[Tensor]:
    """Return indices, images and labels of all batches of an epoch."""
    parts = zip(*((b.indices, b.images, b.labels) for b in loader.batches(epoch)), strict=True)
    return [torch.cat(part).cpu() for part in parts]


def _evaluation_defects(subject: Subject) -> list[str]:
    """Compare the images and labels that an evaluation reads with the stored ones."""
    defects = []
    for split, loader in _loaders(subject, subject.bench()).items():
        images, labels = [], []
        for chunk in loader.in_order():
            images.append(chunk.images[: chunk.valid])
            labels.append(chunk.labels[: chunk.valid])
        stored = getattr(subject.data, split).labels
        if not torch.equal(torch.cat(labels).cpu(), stored.cpu()):
            defects.append(
                f"evaluation shuffles the {split} images: labels are not in stored order"
            )
        elif not torch.equal(torch.cat(images), subject.normalized(subject.data, split)):
            defects.append(
                f"the evaluated {split} images differ from the stored ones in stored order"
            )
    return defects


def _stitch_input_defects(subject: Subject) -> list[str]:
    """Compare the inputs of the stitch in the first training steps with the seed's order."""
    bench = subject.bench(augment="none")
    training = subject.start(bench)
    if training.total_steps == 0:
        return []
    inputs: list[Tensor] = []
    training.stitch.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0].detach().clone()) if module.training else None
    )
    training.advance(3)
    images = subject.normalized(subject.data, "train")
    prefix = bench.networks[subject.cell.sender].prefix(subject.cell.sender_layer)
    expected_order = plain.order(subject.config.seed, 0, len(images)).to(images.device)
    size = choose_batch_size(subject.short.training.batch_size, len(images))
    batches = expected_order.split(size)
    for step, (images_read, indices) in enumerate(zip(inputs, batches, strict=False)):
        with torch.no_grad():
            expected = prefix(images[indices])
        # Cached and fresh representations may differ in last bits, which depend on the batch size.
        scale = expected.abs().max().item() or 1.0
        if largest_difference(images_read, expected) > 1e-4 * scale:
            return [f"at step {step} the stitch receives other images than the seed's order gives"]
    return []
