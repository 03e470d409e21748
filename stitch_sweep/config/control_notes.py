r"""Controls are comparisons that show what a matrix proves.

A stitched network may be accurate for reasons other than similar representations. Each control keeps
one such reason and removes the others. Every pair of trained networks, including self-pairs, gets every
control that `controls` lists:

```yaml
controls: [untrained_sender, class_only, logits_only]
```

- Controls are networks and pairs like any other: `--dry-run` counts them, and `config.resolved.yml` and
  every table list them. `sender_kind` and `receiver_kind` of `results.parquet` show the kind of each
  network.
- Controls that replace a network use the pair's layers except sender layer -1, because the image is the
  same for all networks.
- Pairs of the same network share its control networks, and existing networks and pairs are not added
  again. A network of yours is refused if it has the name of a control network but differs from it.
- Knock-outs have no controls.
- A plugin registers further controls with `CONTROLS`.
"""

from __future__ import annotations

NOTES: dict[str, str] = {
    "untrained_sender": """
The sender's architecture with random weights, stitched into the trained receiver.

The network has `weights: random`: the architecture's initial weights, and BatchNorm statistics from one
pass over the training images. Its seed is computed from the trained network's seed and name, so its weights
differ from the initial weights of the trained network. The other setting, `weights: random_raw`, keeps
BatchNorm's means at 0 and its variances at 1, so activations of a deep network can vanish or explode.

Adds: the network `a-untrained`, and the pair `a-untrained` to `b`.

Shows: how well random features of the sender's architecture work.

Limits: random features contain much information about an image, so a high accuracy doesn't mean that
training the sender had no effect.

Cost: as many trials as the pair has.
""",
    "untrained_receiver": """
The trained sender, stitched into the receiver's architecture with random weights.

This receiver has `weights: random`; [`untrained_sender`](untrained_sender.md) describes these weights.

Adds: the network `b-untrained`, and the pair `a` to `b-untrained`.

Shows: what the stitch can learn without a trained receiver.

Limits: the receiver's own accuracy is that of guessing, so stitching penalties can't be compared with
those of other pairs.

Cost: as many trials as the pair has.
""",
    "untrained_both": """
Both architectures with random weights.

The networks have `weights: random`, as for [`untrained_sender`](untrained_sender.md).

Adds: the networks `a-untrained` and `b-untrained`, and the pair `a-untrained` to `b-untrained`.

Shows: what the stitch can learn without any trained network.

Limits: as for the two other untrained controls.

Cost: as many trials as the pair has.
""",
    "class_only": r"""
A sender whose representations contain only the class of an image.

```math
r_i(n) = m_i[y_n] + \text{noise} \cdot \varepsilon_i[n]
```

r_i(n) is the representation of the n-th image, of class y_n, at layer i. The prototypes m and the noise
have the shape of the sender's layer; their entries are independent and standard normal. Apart from the
seed and the layer, m depends only on the class, and the noise only on the image, so an image has the
same representation in every batch and epoch. The representations of test images reveal their labels,
too. For a `noise` other than 1, add a network with `weights: class_only` yourself. Such a network can
only be a sender, has no layer -1, and can't be the teacher of a loss.

Adds: the network `a-class-only`, and the pair `a-class-only` to `b`.

Shows: whether class information suffices for the receiver. If the control's matrix has the pair's label
or is about as accurate, the report says so.

Limits: the sender contains the test labels, so it is no null hypothesis: it doesn't show how much of a
cell's accuracy class information explains. With few channels, a stitch can't average out the noise, so
the noise may cause a low accuracy.

Cost: as many trials as the pair has.

Source: after Smith, Mannering and Marcu, ICML 2025, "Functional alignment can mislead". Their prototypes are
uniform and clamped.
""",
    "logits_only": r"""
A sender whose representations contain only the output of linear probes of the trained sender's layers.

```math
r_i(n) = \sum_c z_i[n, c] \, P_i[c]
```

z_i[n, c] is the log-probability that a linear probe of the sender's layer i predicts for class c and
image n, centered and scaled. The prototypes P are standard normal and have the shape of the layer. Each
layer has two probes: each is fitted on one half of the training images, and applied to the other half.
The strength of the L2 penalty is chosen on validation images. The probes are fitted when a sweep
starts, and stored in the zoo.

Adds: the network `a-logits-only`, and the pair `a-logits-only` to `b`.

Shows: how much of an accuracy linearly decodable class information explains. In each cell, the accuracy
with this control is subtracted from that with the trained sender. The differences form a matrix with
its own label (`beyond_logits`).

Limits: class information that a linear probe can't read is missing.

Cost: as many trials as the pair has, and two probes per layer.
""",
    "image": """
The image itself in place of the sender's layers (layer -1).

Adds: the pair `a` to `b` with sender layer -1.

Shows: which accuracy the stitch and the receiver reach from raw pixels.

Limits: layer -1 has few channels, so most stitches from it have fewer parameters than stitches from
other layers.

Cost: one row of the matrix.
""",
    "linear_probe": """
A linear classifier on each sender layer.

`analyze` fits multinomial logistic regressions on pooled features. No stitch is trained. The table
`probes` in `measured/` contains the accuracies.

Adds: no pair.

Shows: how accurately a linear classifier predicts the class from each sender layer.

Limits: it says nothing about the receiver.

Cost: four logistic regressions per sender layer, one per strength of the L2 penalty.
""",
}
"""The page of each control, as the text of a docstring."""
