"""The built-in network families; importing this module registers them."""

from stitch_sweep.networks.families import cnn, densenet, mlp, resnet, vgg, vit  # noqa: F401
