"""The network families that come with Stitch Sweep; importing this module registers them."""

from stitch_sweep.networks.families import cnn, densenet, mlp, resnet, vgg, vit  # noqa: F401
