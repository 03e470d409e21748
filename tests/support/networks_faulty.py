"""Networks that Stitch Sweep must refuse or repair, and configurations that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stitch_sweep.config.root import Config
from tests.support import networks_external

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.n = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def middle(self, x):
        return torch.relu(self.b(x))

    def forward(self, x):
        return self.head(self.middle(torch.relu(self.n(self.a(x)))).mean((2, 3)))


class Branches(Net):
    """torch.fx can't trace it, so it is cut with hooks."""

    def forward(self, x):
        if x.sum() > 1e9:
            return self.head(x.mean((2, 3)).expand(-1, 4))
        return super().forward(x)


class Detached(Net):
    def middle(self, x):
        return super().middle(x.detach())


class Data(Net):
    def middle(self, x):
        return super().middle(x.data)


class DetachedBranches(Branches, Detached):
    pass


class NoGrad(Branches):
    def middle(self, x):
        with torch.no_grad():
            return super().middle(x)


class Inference(Branches):
    def middle(self, x):
        with torch.inference_mode():
            return super().middle(x)


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("no derivative was written")


class NoDerivative(Branches):
    def middle(self, x):
        return super().middle(Function.apply(x))


class Rounds(Net):
    def middle(self, x):
        return super().middle(torch.round(x))


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class LogSoftmax(Net):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Sigmoid(Net):
    def forward(self, x):
        return super().forward(x).sigmoid()


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.c.weight = self.b.weight

    def middle(self, x):
        return torch.relu(self.c(super().middle(x)))


class HalfInside(Net):
    def middle(self, x):
        return super().middle(x.half().float())


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.b = nn.LazyConv2d(4, 3, padding=1)


class DoubleLogits(Net):
    def forward(self, x):
        return super().forward(x).double()


def scripted():
    return torch.jit.script(Net())


def traced():
    return torch.jit.trace(Net().eval(), torch.zeros(1, 1, 8, 8))


def scripted_inside():
    made = Net()
    made.b = torch.jit.script(made.b)
    return made


def compiled():
    return torch.compile(Net())


def compiled_in_place():
    made = Net()
    made.compile()
    return made


def compiled_inside():
    made = Net()
    made.b = torch.compile(made.b)
    return made


def parallel():
    return nn.DataParallel(Net())


def half():
    return Net().half()


def double():
    return Net().double()


def half_inside():
    made = Net()
    made.b.bfloat16()
    return made


def meta():
    with torch.device("meta"):
        return Net()
'''


SECTIONS: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8, "train_images": 100, "test_images": 50},
    "resources": {"cache_gb": 0.1},
}


def config(folder: Path, *networks: dict[str, Any], **sections: Any) -> Config:
    """Write a configuration that stitches the first network to the last one, and read it."""
    return networks_external.config(folder, *networks, **{**SECTIONS, **sections})


def refused(folder: Path, *networks: dict[str, Any], **sections: Any) -> str:
    """Return the message with which a configuration is refused."""
    return networks_external.refused(folder, *networks, **{**SECTIONS, **sections})


def made_by(factory: str, **keys: Any) -> dict[str, Any]:
    """Return the configuration of a network that a factory in `net.py` makes."""
    return {"name": "n", "source": "python", "factory": f"./net.py:{factory}", **keys}


def ready(factory: str, **keys: Any) -> dict[str, Any]:
    """Return the configuration of such a network with the weights that the factory gives it."""
    return made_by(factory, weights="factory", **keys)
