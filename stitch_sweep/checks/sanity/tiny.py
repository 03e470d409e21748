"""The tiny networks on which every check runs in seconds, whatever the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.plan.cells import Cell
from stitch_sweep.stitches.building import misfit
from stitch_sweep.storage.checkpoints import unpack

_SHAPE = (8, 8, 8)
"""Shape of layer 2 of both networks."""
_KEYS = ("coordinates", "keep", "evaluate_every")
"""Keys of `training` that the configuration decides."""


def tiny_subject(config: Config, settings: TrialSettings) -> Subject:
    """Make two untrained networks of width 4 on handwritten digits, on the CPU.

    Args:
        config: provides the seed and the number of threads.
        settings: provide the loss, how a stitch is kept and in which coordinates it is trained, and
            the stitch where it fits two equal feature maps.
    """
    tiny = Config.model_validate(
        {
            "seed": config.seed,
            "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 100},
            "networks": [
                {"name": name, "family": "resnet1111", "width": 4, "seed": k, "weights": "random"}
                for k, name in enumerate("ab")
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "training": {"batch_size": 32},
            "resources": {"cpu": config.resources.cpu},
        }
    )
    data = load(tiny.data)
    weights = {name: _make_weights(tiny, k, data) for k, name in enumerate("ab")}

    def build() -> dict[str, nn.Module]:
        modules = {}
        for k, name in enumerate("ab"):
            module = make_recipe(tiny.networks[k], tiny, data).architecture()
            module.load_state_dict(unpack(weights[name])["model"])
            modules[name] = module.eval()
        return modules

    tiny_settings = TrialSettings.model_validate(tiny.settings)
    fits = misfit(settings.stitch, _SHAPE, _SHAPE) is None
    stitch = settings.stitch if fits else tiny_settings.stitch
    training = tiny_settings.training.model_copy(
        update={key: getattr(settings.training, key) for key in _KEYS}
    )
    tiny_settings = tiny_settings.model_copy(
        update={"stitch": stitch, "loss": settings.loss, "training": training}
    )
    cell = Cell("a", 2, "b", 2)
    return Subject(tiny, data, build(), build, cell, tiny_settings, images=200, is_tiny=True)


def _make_weights(config: Config, k: int, data: Data) -> bytes:
    recipe = make_recipe(config.networks[k], config, data)
    progress: Iterator[Any] = train_network(recipe, data, threads=config.resources.cpu)
    weights = [step.weights for step in progress][-1]
    assert weights is not None
    return weights
