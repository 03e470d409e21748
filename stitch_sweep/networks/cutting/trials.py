"""Verify a cut with hooks on images: `suffix(prefix(x))` must equal the network's output bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.networks.cutting.hooked_part import IMAGE, HookedPart
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.running import black_image, eval_mode

_COUNT = 2
"""Number of test images of each kind used to verify a cut."""
_BRIGHT = 3.0
"""Value of a pixel that is brighter than most white pixels of normalized images."""
_LOUD = 30.0
"""Standard deviation of noise that is far stronger than any normalized image."""


class CutTrials:
    """Test images of several kinds, and the network's output for them.

    Args:
        model: the network.
        image_shape: `(C, H, W)`.
        obstacle: the reason why torch.fx can't trace the network, for messages.
        images: `[B, C, H, W]`, further test images, from the data set.
    """

    def __init__(
        self, model: nn.Module, image_shape: Sequence[int], obstacle: str, images: Tensor | None
    ) -> None:
        self._model = model
        self._image_shape = tuple(image_shape)
        self._obstacle = obstacle
        self._images = images

    @torch.no_grad()
    def explain_difference(self, path: str) -> str:
        """Explain how a cut behind a submodule changes the output; empty if it changes no bit.

        Args:
            path: the submodule's path.

        Raises:
            CutError: the network can't take the data's images.
        """
        prefix = HookedPart(self._model, IMAGE, path, self._image_shape)
        suffix = HookedPart(self._model, path, None, self._image_shape)
        for kind, (images, expected) in self._expected_outputs.items():
            try:
                with eval_mode(self._model):
                    output = suffix(prefix(images))
            except Exception as error:
                return f"the part behind the cut can't run alone ({type(error).__name__}: {error})"
            if not _same_bits(output, expected):
                if kind == "noise" and output.shape == expected.shape and output.allclose(expected):
                    return "with hooks on it, torch takes another computation, with other last bits"
                others = "" if kind == "noise" else f" for {kind}, though not for noise"
                return f"other tensors cross there{others}: a value from before the cut is used behind it"
        return ""

    @cached_property
    @torch.no_grad()
    def _expected_outputs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images of every kind and the network's output for them; noise comes first."""
        example = black_image(self._model, self._image_shape)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(_COUNT, *self._image_shape, generator=generator).to(example)
        flat = torch.ones_like(noise)
        kinds = {
            "noise": noise,
            "bright images": _BRIGHT * flat,
            "dark images": -_BRIGHT * flat,
            "strong noise": _LOUD * noise,
        }
        if self._images is not None:
            images = self._images.to(example)
            order = images.flatten(1).mean(1).argsort()
            kinds["the data's images"] = images
            kinds["the darkest of the data's images"] = images[order[:1]]
            kinds["the brightest of the data's images"] = images[order[-1:]]
        outputs = {}
        for kind, images in kinds.items():
            try:
                with eval_mode(self._model):
                    outputs[kind] = images, self._model(images.clone())
            except Exception as error:
                if "data's" in kind:
                    raise CutError(
                        f"can't take {kind}: {type(error).__name__}: {error}. ({self._obstacle})"
                    ) from error
                # The network may refuse artificial images, because a sweep never passes them to it.
        return outputs


def _same_bits(output: Any, expected: Any) -> bool:
    """Return whether two outputs are equal; NaN equals NaN."""
    if not (isinstance(output, Tensor) and isinstance(expected, Tensor)):
        return False
    if output.shape != expected.shape:
        return False
    return bool(((output == expected) | (output.isnan() & expected.isnan())).all())
