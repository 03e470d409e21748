"""A loss is the training objective of a stitch; most losses also measure similarity.

- To test whether the receiver can use the sender's representation, use `task`. This loss says nothing
  about similarity: a stitch can solve the task with a representation unlike the receiver's own.
- To test whether the stitched network makes the same predictions as the receiver, mistakes included,
  use `soft_task`. To compare with the sender's predictions instead, set `teacher: sender`.
- To test whether the stitched representation equals the expected one, use `mse`. For most affine
  stitches, the optimum of `mse` has a closed form, which shows whether a trial has converged.
- To test whether the receiver's later layers also produce the expected outputs, use `fula`.
- To test equality up to a group of maps, use a loss that is invariant to this group. The receiver isn't
  invariant to these maps, so compare such losses by `accuracy_calibrated`.
- If batches have few positions for the number of channels, use `cka` instead of `cca`, `svcca` or
  `pwcca`, because `cka` compares images, not channels.

On these pages, s is the stitched and e the expected representation, both [B, C, H, W] for a batch of B
images; z are the stitched network's logits. Each position has a vector of C channels. n is the number
of positions of all images: B H W for a map, B T for a sequence, B for a vector. A weighted sum of
losses is invariant to those maps to which all its terms are invariant. Its default learning rate is the
smallest default of its terms.

All losses except `task`, `soft_task`, `mse` and `fula` are computed in float64. Their gradients stay
finite at repeated and zero singular values and for constant channels. If such a loss is undefined for a
batch, it is 1 and its gradient 0. The default learning rates of `fula` and of the similarity losses
come from a grid search on digits with the stitch `paper`.
"""
