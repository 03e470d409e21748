"""Networks to cut, and a check that every cut of a network is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torchvision
from torch import nn

from stitch_sweep.networks.cutting.traced import (
    TracedNetwork,
)
from stitch_sweep.networks.families.building import build, resolve


def family_factory(name: str, width: int) -> Callable[[], nn.Module]:
    """Return a function that makes a named network of a built-in family."""
    family, options = resolve(name)
    return lambda: build(family, 3, 10, {**options, "width": width})


def torchvision_factory(name: str, **options: object) -> Callable[[], nn.Module]:
    """Return a function that makes a network of torchvision for 10 classes."""
    return lambda: getattr(torchvision.models, name)(weights=None, num_classes=10, **options)


# Factory, image size, and the smallest number of cut points.
NETWORKS = {
    "resnet1111": (family_factory("resnet1111", 4), 16, 13),
    "resnet1122": (family_factory("resnet1122", 3), 16, 17),
    "our resnet18": (family_factory("resnet18", 2), 16, 21),
    "torchvision resnet18": (torchvision_factory("resnet18"), 32, 22),
    "mobilenet_v3_small": (torchvision_factory("mobilenet_v3_small"), 32, 30),
    "vgg11_bn": (torchvision_factory("vgg11_bn"), 32, 36),
    "densenet121": (torchvision_factory("densenet121"), 32, 20),
    "googlenet": (
        torchvision_factory("googlenet", init_weights=False, aux_logits=False),
        64,
        20,
    ),
    "efficientnet_b0": (torchvision_factory("efficientnet_b0"), 32, 40),
    "convnext_tiny": (torchvision_factory("convnext_tiny"), 32, 30),
    "swin_t": (torchvision_factory("swin_t"), 64, 20),
    "vit_b_16": (torchvision_factory("vit_b_16", image_size=32), 32, 12),
    "shufflenet_v2_x0_5": (torchvision_factory("shufflenet_v2_x0_5"), 32, 10),
    "squeezenet1_1": (torchvision_factory("squeezenet1_1"), 64, 20),
    "mnasnet0_5": (torchvision_factory("mnasnet0_5"), 32, 40),
    "regnet_y_400mf": (torchvision_factory("regnet_y_400mf"), 32, 20),
}


# Their cuts take seconds each.
SLOW_NETWORKS = (
    *("vgg11_bn", "densenet121", "googlenet", "efficientnet_b0", "convnext_tiny", "swin_t"),
    *("vit_b_16", "mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5"),
)


def prepared_network(factory: Callable[[], nn.Module]) -> nn.Module:
    """Make an untrained network in eval mode whose BatchNorm statistics are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def random_images(size: int) -> torch.Tensor:
    """Return two images of noise, always the same."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def model_state(model: nn.Module) -> tuple[object, ...]:
    """Return everything about a model that cutting must not change."""
    values = hashlib.sha256()
    for value in model.state_dict().values():
        values.update(value.numpy().tobytes())
    return (
        values.hexdigest(),
        [(path, module.training) for path, module in model.named_modules()],
        [getattr(module, "inplace", None) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
        [id(value) for value in model.state_dict(keep_vars=True).values()],
    )


def check_every_cut(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Assert that every cut of `model` is exact and safe; return the cut points' names."""
    before, original = model_state(model), x.clone()
    with torch.no_grad():
        expected = model(x.clone())
        network = TracedNetwork(model)
        for point in network.cut_points:
            prefix = network.sub_network(None, point.name)
            suffix = network.sub_network(point.name, None)
            at_cut = prefix(x)
            kept = at_cut.clone()
            assert torch.equal(suffix(at_cut), expected), point
            assert torch.equal(at_cut, kept), point
            assert torch.equal(prefix(x), kept), point
            assert torch.equal(x, original), point
            joined = {id(p) for p in (*prefix.parameters(), *suffix.parameters())}
            assert joined <= {id(p) for p in model.parameters()}, point
    assert model_state(model) == before
    names = [point.name for point in network.cut_points]
    assert len(set(names)) == len(names)
    return names
