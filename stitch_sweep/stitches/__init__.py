"""Stitches are the small trainable maps that join two frozen networks.

A stitch decides what counts as the same representation. The more it can compute, the less a high
accuracy proves: a stitch that can compute the receiver's features from the image says nothing about the
sender. Compare stitches along their number of parameters, which every trial reports.

- To reproduce the paper of Hernandez et al. 2023, take `paper`.
- The usual choice is `conv1x1`: its number of parameters doesn't depend on the sizes of the maps.
- To ask whether channels are the same up to their order, take `permutation`; up to a rotation,
  `orthogonal`; up to a scale, `affine`.
- To ask how many dimensions the receiver needs, take `lowrank`, and cross its ranks.
- To ask what a linear map lacks, take `mlp`, `basic_block` or `bottleneck`: they can compute new
  features.
- To start from a closed form and correct it a little, take `dora`.

On these pages, x is the sender's representation, with C channels; the receiver's has C' channels. The
channels of a sequence are the values of a token. r is the row that a position sees: its C channels, or
those of a k x k window. D is the length of r. P is the number of positions at which the weights act:
those of the smaller map, or of the receiver's map for `conv3x3` and the residual blocks.
"""
