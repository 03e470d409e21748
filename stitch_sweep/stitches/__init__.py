"""Stitches are the small trainable maps that join two frozen networks.

The type of the stitch decides which representations count as equal. The more a stitch can compute, the
less a high accuracy proves: a stitch that can compute the receiver's features from the image says
nothing about the sender. Compare stitches by their number of parameters, which every trial reports.

- To reproduce Hernandez et al. 2023, use `paper`.
- The usual choice is `conv1x1`: its number of parameters doesn't depend on the sizes of the maps.
- To test whether the channels of both networks are equal up to a simple map, use `permutation` (for
  their order), `orthogonal` (for a rotation) or `affine` (for a scale and a shift of each channel).
- To measure how many dimensions the receiver needs, compare several ranks of `lowrank`.
- To test whether a linear map is enough, compare `conv1x1` or `conv3x3` with `mlp`, `basic_block` or
  `bottleneck`, which can compute new features.
- To start from a closed form and train a small correction, use `dora`.

On these pages, x is the sender's representation, with C channels; the receiver's representation has C'
channels. The channels of a sequence are the values of a token. r is the vector to which the weights are
applied at a position: the C channels of this position, or of a k x k window around it. D is the length
of r. P is the number of positions at which the weights are applied. For `conv3x3`, `basic_block` and
`bottleneck`, these are the positions of the receiver's map; for other stitches, those of the smaller
map.
"""
