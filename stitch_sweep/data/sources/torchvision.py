"""Classification data sets of torchvision, by the names of their classes: SVHN, STL10, Flowers102, ..."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.decoding import resize, stack_splits, to_tensor
from stitch_sweep.data.images import Images
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.splits import cut_test


@dataclass(frozen=True)
class _Kind:
    """How torchvision stores a data set.

    Attributes:
        train: value of the argument `split` or `train` for the training images.
        test: likewise for the test images; None if all images are in one split.
        validation: likewise for official validation images, if there are any.
        arguments: further arguments.
        folder: where the files are expected, below the root, for messages.
    """

    train: str = "train"
    test: str | None = "test"
    validation: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    folder: str = ""


_WITH_VALIDATION = _Kind(validation="val")
# The labels of the test images are hidden, or there are none.
_TESTED_ON_VALIDATION = _Kind(test="val")
_WHOLE = _Kind(test=None)

KINDS = {
    "CIFAR10": _Kind(folder="cifar-10-batches-py"),
    "CIFAR100": _Kind(folder="cifar-100-python"),
    "CLEVRClassification": _TESTED_ON_VALIDATION,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _Kind(validation="valid"),
    "DTD": _WITH_VALIDATION,
    "EMNIST": _Kind(arguments={"split": "balanced"}),
    "EuroSAT": _WHOLE,
    "FER2013": _Kind(),
    "FGVCAircraft": _WITH_VALIDATION,
    "FashionMNIST": _Kind(folder="FashionMNIST/raw"),
    "Flowers102": _WITH_VALIDATION,
    "Food101": _Kind(),
    "GTSRB": _Kind(),
    "ImageNet": _TESTED_ON_VALIDATION,
    "Imagenette": _TESTED_ON_VALIDATION,
    "KMNIST": _Kind(),
    "MNIST": _Kind(folder="MNIST/raw"),
    "OxfordIIITPet": _Kind(train="trainval"),
    "PCAM": _WITH_VALIDATION,
    "Places365": _Kind(train="train-standard", test="val"),
    "QMNIST": _Kind(),
    "RenderedSST2": _WITH_VALIDATION,
    "SEMEION": _WHOLE,
    "STL10": _Kind(),
    "SUN397": _WHOLE,
    "SVHN": _Kind(),
    "StanfordCars": _Kind(),
    "USPS": _Kind(),
}
"""The data sets by the names of their classes in `torchvision.datasets`."""

_SHORT_NAMES = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
}


def _register(name: str, dataset: str) -> None:
    def build(
        image_size: int | None,
        *,
        path: str,
        download: bool = False,
        source: Literal["torchvision"] = "torchvision",
    ) -> Source:
        del source  # a word for the reader of a configuration, as in the section `networks`
        return _load(dataset, image_size, Path(path).expanduser(), download)

    build.__doc__ = f"""{dataset} of torchvision, in its original files.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: the folder that contains the files, torchvision's argument `root`.
        download: whether torchvision may download missing files.
        source: the library.
    """
    DATASETS.register(name)(build)


for _name in KINDS:
    _register(_name, _name)
for _name, _dataset in _SHORT_NAMES.items():
    _register(_name, _dataset)


def _load(name: str, image_size: int | None, root: Path, download: bool) -> Source:
    """Read all images of a data set.

    Raises:
        InputError: the files are missing or damaged, or the download failed.
    """
    from torchvision import datasets  # not at the top: torchvision takes over a second to import

    factory, kind = getattr(datasets, name), KINDS[name]
    place = f"data set {name}"
    values = {"train": kind.train, "validation": kind.validation, "test": kind.test}
    opened, images, labels = {}, {}, {}
    try:
        for split, value in values.items():
            if value is not None:
                arguments = _arguments(factory, kind, split, value, download, place)
                opened[split] = factory(root, **arguments)
                images[split], labels[split] = _read(opened[split], image_size)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{place}: torchvision needs a further package ({error})") from error
    # torchvision raises any type of exception for damaged files.
    except Exception as error:
        remedy = (
            "the download failed or the existing files are damaged"
            if download
            else f"put the files into {root / kind.folder}, or set download: true to fetch them there"
        )
        # Without a download, torchvision's error repeats this message.
        reason = f" ({printable(error)})" if download else ""
        raise InputError(f"{place}: no usable data in {root}{reason}; {remedy}") from error
    classes, numbers = _classes(opened["train"], labels["train"])
    made = {
        split: Images(stacked, _renumber(labels[split], numbers, place))
        for split, stacked in stack_splits(images, place).items()
    }
    if "test" not in made:
        made["train"], made["test"] = cut_test(made["train"], name)
    return Source(made["train"], made["test"], classes, validation=made.get("validation"))


def _arguments(
    factory: Callable[..., Any], kind: _Kind, split: str, value: str, download: bool, place: str
) -> dict[str, Any]:
    """Return the arguments that select a split, by the parameters of the class."""
    parameters = _parameters(factory)
    arguments = dict(kind.arguments)
    if "train" in parameters:
        arguments["train"] = split == "train"
    elif "split" in parameters:
        arguments["split"] = value
    if "download" in parameters:
        arguments["download"] = download
    elif download:
        raise InputError(f"{place}: torchvision can't download it; put the files in place")
    return arguments


def _parameters(factory: Callable[..., Any]) -> set[str]:
    """Return the names of a class's parameters, with those that it passes on to its base classes."""
    names: set[str] = set()
    for base in inspect.getmro(factory) if inspect.isclass(factory) else ():
        parameters = inspect.signature(base).parameters
        names |= parameters.keys()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _read(dataset: Any, image_size: int | None) -> tuple[list[Tensor], Tensor]:
    """Return all images, each `C x H x W`, uint8, and labels."""
    images, labels = [], []
    for k in range(len(dataset)):
        image, label = dataset[k]
        images.append(resize(to_tensor(image)[None], image_size)[0])
        labels.append(int(label))
    return images, torch.from_numpy(np.array(labels, dtype=np.int64))


def _classes(dataset: Any, labels: Tensor) -> tuple[tuple[str, ...], Tensor | None]:
    """Return the names of the classes; without names, the labels that occur, to renumber them."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if names:
        texts = (", ".join(name) if isinstance(name, tuple) else str(name) for name in names)
        return tuple(texts), None
    values = labels.unique()
    return tuple(map(str, values.tolist())), values


def _renumber(labels: Tensor, values: Tensor | None, place: str) -> Tensor:
    if values is None:
        return labels
    positions = torch.searchsorted(values, labels).clamp(max=len(values) - 1)
    if not torch.equal(values[positions], labels):
        label = int(labels[values[positions] != labels][0])
        raise InputError(f"{place}: no training image has the label {label}")
    return positions
