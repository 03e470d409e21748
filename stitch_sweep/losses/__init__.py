"""Losses say what a stitch is trained for; the same functions measure similarity.

- To ask whether the receiver can use the sender's representation, take `task`. It says nothing about
  similarity: a stitch can solve the task with a representation that the receiver has never seen.
- To ask whether the stitched network decides as the receiver does, mistakes included, take `soft_task`;
  with `teacher: sender`, as the sender does.
- To ask whether the representation is the same, take `mse`. It is strict, and affine stitches have a
  closed-form optimum, so a trial knows whether it has converged.
- To ask whether it is the same where later layers use it, take `fula`.
- To ask whether it is the same up to a group of maps, take a loss with this invariance. The receiver is
  not blind to these maps, so compare such losses by `accuracy_calibrated`.
- With many channels and small batches, don't take the CCA family. `cka` compares images instead of
  channels.

On these pages, s is the stitched and e the expected representation, both [B, C, H, W]; z are the
stitched network's logits. Positions are the rows of C channels of all images; n is their number: B H W
for a map, B T for a sequence, B for a vector. A weighted sum is blind to the maps that all its terms
are blind to, and its default learning rate is the smallest of its terms.

All losses but `task`, `soft_task`, `mse` and `fula` compute in float64. Gradients stay finite at
repeated and zero singular values, for constant channels, and for batches that are too small; there the
loss is 1 and its gradient 0. The learning rates of `fula` and the similarities come from a grid on
digits with the stitch `paper`.
"""
