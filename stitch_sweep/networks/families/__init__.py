"""A family is a kind of network whose size you choose.

All families are made for small images: in convolutional families, the first convolution has stride 1
and, except in `vgg`, no pooling follows it. No operation modifies its input. The head is a linear layer
on the average over positions, on the class token, or on the last hidden layer of an `mlp`. Layer 0 is
the output of the stem, and layer k is the output of block k. In `cnn`, `mlp` and `vgg`, which have no
stem, layer 0 is the output of the first convolution or hidden layer. `stitch-sweep describe NAME` prints
the layers.

A ladder compares networks of several sizes: the width is the option `width`, the depth is the number of
layers minus one, and the number of parameters includes the head. Depth and width mean different things
in different families, so compare two families by parameters only.

Initial weights have variance 2 / fan_out in the convolutions of `resnet`, `densenet` and `vgg` (He et
al. 2015), and 2 / fan_in in `cnn` and `mlp`. The encoder blocks of a `vit` start with Xavier uniform
weights, and all heads with torch's default.

[Between families](../results/cifar10_families.md#networks) lists test accuracies of all families.

In the tables below, w is `width` and s the side of the images in pixels. When an odd side is halved,
`resnet` and `cnn` round up; the other families round down.
"""
