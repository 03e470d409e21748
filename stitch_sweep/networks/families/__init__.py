"""A family is a kind of network whose size you choose.

All families are made for small images: in convolutional families, the first convolution has stride 1 and
no pooling follows it. No operation modifies its input. The head is a linear layer on the average over
positions, or on the class token. Layer 0 is the output of the stem, and layer k is the output of block
k. `stitch-sweep describe NAME` prints the layers, and all other cut points that you can list in
`layers`.

A ladder compares networks of several sizes: the width is the option `width`, the depth is the number of
layers minus one, and the number of parameters includes the head. Depth and width mean different things
in different families, so compare two families by parameters only.

Initial weights have variance 2 / fan_out in the convolutions of `resnet`, `densenet` and `vgg` (He et
al. 2015), and 2 / fan_in in `cnn` and `mlp`. A `vit` starts with Xavier uniform weights.

[Between families](../results/cifar10_families.md#networks) lists test accuracies of all families.

In the tables below, w is `width` and s the side of the images in pixels. When an odd side is halved,
`resnet` and `cnn` round up; the other families round down.
"""
