"""Galleries: test images, and the images that stitches make of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stitch_sweep.analysis.results import FACTOR
from stitch_sweep.measuring.pictures import Picture, Pictures
from stitch_sweep.report.experiment import pictures_by_pair
from stitch_sweep.report.wording import pluralize

MAX_ROWS = 60
"""Largest number of rows of a gallery; a note gives the number of further ones."""

_NOTE = (
    "The text below an image is the class that the receiver predicts. A reconstruction comes from a "
    "stitch trained to match the image, the other images from a stitch trained for the task."
)


@dataclass(frozen=True)
class Gallery:
    """Images of one sender and receiver.

    Attributes:
        title: sender and receiver.
        heads: the true class of each column.
        rows: a title, and each image's address with the text below it.
        note: how to read it.
    """

    title: str
    heads: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    note: str


def build_galleries(pictures: Pictures) -> list[Gallery]:
    """Build a gallery per sender and receiver: originals first, then a row per stitch."""
    if pictures.originals.shape[1] not in (1, 3):
        return []
    originals = [(encode_image(image), "") for image in pictures.originals]
    heads = [_class_name(pictures, label) for label in pictures.labels]
    galleries = []
    for (sender, receiver), members in pictures_by_pair(pictures).items():
        rows = [("the image", originals)]
        rows += [_build_row(pictures, picture) for picture in members[:MAX_ROWS]]
        note = _NOTE
        if (more := len(members) - MAX_ROWS) > 0:
            note += f" {pluralize(more, 'further row')} in measured/images.safetensors."
        galleries.append(Gallery(f"{sender} → image of {receiver}", heads, rows, note))
    return galleries


def _build_row(pictures: Pictures, picture: Picture) -> tuple[str, list[tuple[str, str]]]:
    about = picture.about
    kind = "reconstruction" if about["kind"] == "reconstruction" else "shown to the receiver"
    title = f"layer {about['sender_layer']}, {about['loss']}: {kind}"
    factors = [
        f"{name.removeprefix(FACTOR)} = {value}"
        for name, value in dict(about.get("factors") or {}).items()
    ]
    predicted: Sequence[int] = about.get("predicted") or []
    texts = [_class_name(pictures, label) for label in predicted]
    texts += [""] * (len(picture.images) - len(texts))
    images = [(encode_image(x), text) for x, text in zip(picture.images, texts, strict=True)]
    return ", ".join([title, *factors]), images


def _class_name(pictures: Pictures, label: int) -> str:
    label = int(label)
    return pictures.classes[label] if 0 <= label < len(pictures.classes) else str(label)


def encode_image(image: np.ndarray) -> str:
    """Encode an image as a `data:` address of a PNG.

    Args:
        image: uint8 [C, H, W] of one or three channels.
    """
    pixels = image.transpose(1, 2, 0)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
