r"""Controls are comparisons that show what a matrix proves.

A stitched network may be accurate for reasons other than similar representations. Each control keeps
one such reason and removes the others. Every pair of trained networks, also a self-pair, gets every
control in the list:

```yaml
controls: [untrained_sender, class_only, logits_only]
```

- Controls are networks and pairs like any other: `--dry-run` counts them, and `config.resolved.yml` and
  every table list them. `sender_kind` and `receiver_kind` of `results.parquet` show the kind of each
  network.
- A control uses the layers of the pair except -1, because the image is the same for all networks.
- Pairs share the networks of controls, and existing networks and pairs are not added twice. A network
  of yours is refused if it has the name of a control's network but differs from it.
- Knock-outs have no controls.
- A plugin registers further controls with `CONTROLS`.
"""

from __future__ import annotations

NOTES: dict[str, str] = {
    "untrained_sender": """
The sender's architecture with random weights, stitched into the trained receiver.

The network has `weights: random`: Kaiming fan-out weights, and BatchNorm statistics from one pass over
the training images. The seed follows from the trained network's seed and name, so the weights are not
the initial weights of that network. `weights: random_raw` leaves the statistics at 0 and 1, so
activations of a deep network can vanish or explode.

Adds: the network `a-untrained`, and the pair `a-untrained` to `b`.

Shows: how well random features of the sender's architecture work.

Limits: random features contain much information about an image; a high accuracy doesn't mean that
training changed nothing.

Cost: as many trials as the pair has.
""",
    "untrained_receiver": """
The trained sender, stitched into the receiver's architecture with random weights.

The network has `weights: random`, as for [`untrained_sender`](untrained_sender.md).

Adds: the network `b-untrained`, and the pair `a` to `b-untrained`.

Shows: what the stitch can learn without a trained receiver.

Limits: the receiver's own accuracy is that of guessing, so penalties can't be compared with those of
other pairs.

Cost: as many trials as the pair has.
""",
    "untrained_both": """
Both architectures with random weights.

The networks have `weights: random`, as for [`untrained_sender`](untrained_sender.md).

Adds: the networks `a-untrained` and `b-untrained`, and the pair `a-untrained` to `b-untrained`.

Shows: how well the stitch works by itself.

Limits: as for the two other untrained controls.

Cost: as many trials as the pair has.
""",
    "class_only": r"""
A sender that knows only the class of an image.

```math
r_i(n) = m_i[y_n] + \text{noise} \cdot \varepsilon_i[n]
```

r_i(n) is the representation of the n-th image, of class y_n, at layer i. The prototypes m and the noise
have the shape of the sender's layer; their entries are independent and standard normal. They depend
only on the seed, the layer, and the class or image, so an image has the same representation in every
batch and epoch. Test images reveal their labels, too. For a `noise` other than 1, add a network with
`weights: class_only` yourself. Such a network can only be a sender, has no layer -1, and can't be the
teacher of a loss.

Adds: the network `a-class-only`, and the pair `a-class-only` to `b`.

Shows: whether class information suffices for the receiver. If this control gives a triangle, too, the
report says so.

Limits: it knows the test labels, so it is no null hypothesis, and doesn't show how much of a cell's
accuracy class information explains. With few channels, a stitch can't average out the noise, so the
noise may cause a low accuracy.

Cost: as many trials as the pair has.

Source: after Smith, Mannering and Marcu, ICML 2025, "Functional alignment can mislead". Their prototypes are
uniform and clamped.
""",
    "logits_only": r"""
A sender that knows only what linear probes read from the layers of the trained sender.

```math
r_i(n) = \sum_c z_i[n, c] \, P_i[c]
```

z_i[n, c] is the log-probability that a linear probe of the sender's layer i predicts for class c and
image n, centered and scaled. The prototypes P are standard normal and have the shape of the layer. Each
layer has two probes: each is fitted on one half of the training images, and reads the other half. The
strength of the L2 penalty is chosen on validation images. The probes are fitted when a sweep starts,
and stored in the zoo.

Adds: the network `a-logits-only`, and the pair `a-logits-only` to `b`.

Shows: how much of an accuracy linearly decodable class information explains. In each cell, the accuracy
with this control is subtracted from that with the trained sender; the differences are judged as a
separate matrix (`beyond_logits`).

Limits: class information that a linear probe can't read is missing.

Cost: as many trials as the pair has, and two probes per layer.
""",
    "image": """
The image itself in place of the sender's layers (layer -1).

Adds: the pair `a` to `b` with sender layer -1.

Shows: what the stitch can compute from raw pixels.

Limits: layer -1 has few channels, so most stitches from it have fewer parameters than stitches from
other layers.

Cost: one row of the matrix.
""",
    "linear_probe": """
A linear classifier on each layer of the networks.

`analyze` fits multinomial logistic regressions on pooled features. No stitch is trained. The table
`probes` in `measured/` contains the accuracies.

Adds: no pair.

Shows: which accuracy a representation allows without the receiver.

Limits: it says nothing about the receiver.

Cost: one logistic regression per sender layer.
""",
}
"""The page of each control, as the text of a docstring."""
