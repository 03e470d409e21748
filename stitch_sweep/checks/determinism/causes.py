"""Usual causes of differences between two recordings."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_SETTINGS = 4
"""Maximum number of settings that a cause names."""

_BATCHES = ("seed", "data.", "training.batch_size")
_NETWORKS = ("networks.", "pretraining.", "data.", "resources.cpu", "resources.gpu")
_STEPS = ("seed", "loss", "training.", "resources.")
# Prefixes of the settings that determine a kind of difference directly, and not through an earlier
# kind.
_DETERMINING = {
    **dict.fromkeys(("indices", "files", "labels", "images", "rest of the data"), _BATCHES),
    **dict.fromkeys(("transform settings", "transformed"), ("seed", "data.")),
    **dict.fromkeys(("parameter", "buffer"), _NETWORKS),
    "stitch": ("seed", "stitch.", "pair"),
    "shape": ("pair", "networks.", "stitch.", "data."),
    "layer": ("pair", "stitch.", "resources.cpu", "resources.gpu"),
    **dict.fromkeys(("loss", "learning rate", "gradient", "step", "end", "evaluation"), _STEPS),
}
_WITHOUT_EFFECT = ("data.loader",)  # FFCV must give the same images as torch
# Kinds of difference that can come from the last bits of a sum.
_SENSITIVE = (
    *("transformed", "parameter", "buffer", "stitch", "layer", "loss", "gradient", "step"),
    *("end", "evaluation"),
)

_CAUSES = {
    "indices": "the order depends only on the seed and the epoch: another seed, another number of "
    "images, another batch size, or code that shuffles on its own.",
    "files": "images were added, removed, renamed or listed in another order, so that an index now "
    "means another image; with equal files, another data.split_seed.",
    "labels": "another choice of images for the same indices (data.split_seed), or another set of "
    "class folders: the number of a class is its position among the sorted names.",
    "images": "the images themselves: changed or replaced files, another choice of images "
    "(data.split_seed), or another version of the library that decodes and resizes them (Pillow, "
    "torch).",
    "rest of the data": "an image or label outside the recorded batches.",
    "transform settings": "data.augment or data.image_size; mean and standard deviation come from "
    "the official training images.",
    "transformed": "equal pixels have different values after the transforms: the code of the "
    "augmentation or the normalization, or random numbers that do not come from the seed and the "
    "epoch.",
    "parameter": "weights that were trained again: another seed, recipe, thread count or version of "
    "torch, another weights file, or a zoo in which somebody changed a file.",
    "buffer": "changed BatchNorm statistics: the network ran in train mode after its training, or it "
    "is another network.",
    "stitch": "the stitch's initial weights depend on seed, repeat, stitch and shapes: one of these, "
    "or torch's initialization, differs.",
    "shape": "another architecture: family, width, blocks, image size, or the pair.",
    "mode": "one of the two networks was left in train mode; call .eval() before you use a network.",
    "layer": "equal inputs and weights gave another output: the code of this layer or between it and "
    "the layer before, or a kernel that sums in another order (thread count, device, library "
    "version, flags).",
    "loss": "equal outputs gave another loss: the loss, its weights or options, or its labels.",
    "learning rate": "training.optimizer.lr or the schedule; a schedule also depends on epochs and "
    "batch size, since it extends over all steps.",
    "gradient": "equal losses gave other gradients: the backward pass of a custom function, or a "
    "kernel without a deterministic backward pass.",
    "step": "equal gradients changed the parameters differently: the optimizer or its options "
    "(momentum, weight decay).",
    "evaluation": "the stitch after the recorded steps is equal and its evaluation is not: the "
    "evaluation's code, or validation images outside the recorded batches.",
    "end": "the stitch differs outside its recorded parameters: in a buffer.",
    "generator": "one of the two runs used a global generator: dropout, sampling, or a library that "
    "draws when it is used.",
    "setting": "two different configurations.",
    "fact": "two different machines, installations or shells; the last bits of sums depend on the "
    "thread count, the device and the versions of the libraries.",
}


def explain_difference(
    kind: str, changed_settings: Sequence[str], environments_differ: bool
) -> str:
    """Return the usual cause of a difference.

    Args:
        kind: what differs; a key of the table of causes.
        changed_settings: dotted paths of the settings that differ between the two recordings.
        environments_differ: whether the recordings' environments differ.
    """
    determining = [
        setting
        for setting in changed_settings
        if setting.startswith(_DETERMINING.get(kind, ())) and setting not in _WITHOUT_EFFECT
    ]
    if determining:
        listed = ", ".join(determining[:_MOST_SETTINGS])
        more = " and more" if len(determining) > _MOST_SETTINGS else ""
        return f"the configurations differ in {listed}{more}, which is enough to cause this."
    cause = _CAUSES[kind]
    if environments_differ and kind in _SENSITIVE:
        return f"{cause} The environments differ, which alone can change the last bits."
    return cause
