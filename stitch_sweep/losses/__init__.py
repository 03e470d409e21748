"""A loss is the training objective of a stitch; most losses also measure similarity.

- To test whether the receiver can use the sender's representation, use `task`. This loss says nothing
  about similarity: a stitch can solve the task with a representation that the receiver has never seen.
- To test whether the stitched network predicts the same as the receiver, mistakes included, use
  `soft_task`; with `teacher: sender`, the same as the sender.
- To test whether the stitched representation equals the expected one, use `mse`. For affine stitches,
  the optimum of `mse` has a closed form, which shows whether a trial has converged.
- To test equality only as far as the receiver's later layers depend on it, use `fula`.
- To test equality up to a group of maps, use a loss with this invariance. The receiver isn't invariant
  to these maps, so compare such losses by `accuracy_calibrated`.
- With many channels and small batches, use `cka`, which compares images instead of channels, and not
  `cca`, `svcca` or `pwcca`.

On these pages, s is the stitched and e the expected representation, both [B, C, H, W]; z are the
stitched network's logits. A position is a vector of C channels. n is the number of positions of all
images: B H W for a map, B T for a sequence, B for a vector. A weighted sum is invariant to the maps to
which all its terms are invariant. Its default learning rate is the smallest one of its terms.

All losses except `task`, `soft_task`, `mse` and `fula` are computed in float64. Their gradients stay
finite at repeated and zero singular values and for constant channels. For a batch that is too small,
the loss is 1 and its gradient 0. The default learning rates of `fula` and of the similarity losses come
from a grid search on digits with the stitch `paper`.
"""
