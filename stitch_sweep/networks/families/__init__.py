"""A family is a kind of network whose size you choose.

All families are made for small images: the first convolution has stride 1 and no pool follows it.
Nothing works in place. The head is a linear layer of the average over positions, or of the class token.
Layer 0 is the output of the stem, layer k that of block k. `stitch-sweep describe NAME` prints the
layers, and every other place that `layers` may name.

On a ladder of sizes, width is the option `width`, depth is the number of layers less one, and
parameters include the head. Depth and width mean different things in different families, so only
parameters put two families on one ladder.

Convolutions of `resnet`, `densenet` and `vgg` start with variance 2 / fan_out (He et al. 2015), those of
`cnn` and the layers of `mlp` with 2 / fan_in. A `vit` starts with Xavier uniform weights.

[Between families](../results/cifar10_families.md#networks) has accuracies of all families.

In the tables below, w is `width` and s the side of the images in pixels. `resnet` and `cnn` halve sides
by rounding up, the others by rounding down.
"""
