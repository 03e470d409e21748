"""The built-in network families; importing this module registers them."""

from stitch_sweep.networks.families import (  # noqa: F401
    building,
    cnn,
    densenet,
    mlp,
    resnet,
    vgg,
    vit,
)
