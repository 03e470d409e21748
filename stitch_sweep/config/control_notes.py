r"""Controls are replacements that show what a matrix proves.

A stitch may perform well for other reasons than similar representations. Each control keeps one such reason
and removes the others. Every pair whose two networks are trained, self-pairs among them, gets every control:

```yaml
controls: [untrained_sender, class_only, logits_only]
```

- Controls are networks and pairs like any other: `--dry-run` counts them, and `config.resolved.yml` and every
  table list them. `sender_kind` and `receiver_kind` of `results.parquet` say what a network is.
- They have the layers of the pair, without -1: the image is the same whatever comes after it.
- Several pairs share a network, and existing networks and pairs are not added twice. A network of yours that
  has the name of a control's network and differs from it is refused.
- Knock-outs have no controls.
- A plugin registers further controls with `CONTROLS`.
"""

from __future__ import annotations

NOTES: dict[str, str] = {
    "untrained_sender": """
The sender's architecture with random weights, into the trained receiver.

The network has `weights: random`: Kaiming fan-out weights, and BatchNorm statistics from one pass over the
training images. Its seed follows from the network's seed and name, so it isn't what the network was before its
training. `weights: random_raw` leaves the statistics at 0 and 1, where a deep network's activations can vanish
or explode.

Adds: the network `a-untrained`, and the pair `a-untrained` to `b`.

Shows: what random features of the sender's architecture are worth.

Limits: random features know much of an image; a high accuracy doesn't mean that training changed nothing.

Cost: as many trials as the pair has.
""",
    "untrained_receiver": """
The trained sender into the receiver's architecture with random weights.

The network has `weights: random`, as for [`untrained_sender`](untrained_sender.md).

Adds: the network `b-untrained`, and the pair `a` to `b-untrained`.

Shows: what the stitch can learn without a trained receiver.

Limits: the receiver's own accuracy is that of guessing, so penalties are not comparable.

Cost: as many trials as the pair has.
""",
    "untrained_both": """
Both architectures with random weights.

The networks have `weights: random`, as for [`untrained_sender`](untrained_sender.md).

Adds: the networks `a-untrained` and `b-untrained`, and the pair `a-untrained` to `b-untrained`.

Shows: what the stitch reaches by itself.

Limits: as for the two other untrained controls.

Cost: as many trials as the pair has.
""",
    "class_only": r"""
A sender that knows only the class of an image.

```math
r_i(n) = m_i[y_n] + \text{noise} \cdot \varepsilon_i[n]
```

r_i(n) is the representation of the n-th image, of class y_n, at layer i. Every entry of the prototypes m and of
the noise is independent and standard normal, of the shape of the sender's layer. They are functions of the
seed, the layer, and the class or image, so an image has the same representation in every batch and epoch. The
label is given away for test images, too. For another `noise` than 1, list a network with `weights: class_only`
yourself. It can only send, has no layer -1, and can't be the teacher of a loss.

Adds: the network `a-class-only`, and the pair `a-class-only` to `b`.

Shows: whether class information suffices for the receiver. A triangle that it makes as well is reported so.

Limits: it knows the test labels, so it is no null hypothesis, and doesn't show how much of a cell class
information explains. With few channels much of the noise stays, so a low accuracy may be a matter of the noise.

Cost: as many trials as the pair has.

Source: after Smith, Mannering and Marcu, ICML 2025, "Functional alignment can mislead". Their prototypes are
uniform and clamped.
""",
    "logits_only": r"""
A sender that knows only what linear probes read from the sender's layers.

```math
r_i(n) = \sum_c z_i[n, c] \, P_i[c]
```

z are the log-probabilities that a linear probe of the sender's layer i gives to image n, centered and scaled;
P are standard normal prototypes, of the shape of the layer. There are two probes for each layer, one per half
of the training images, and each reads the images of the other half. Validation images choose the strength of
their L2 penalty. The probes are fitted when a sweep starts, and stored in the zoo.

Adds: the network `a-logits-only`, and the pair `a-logits-only` to `b`.

Shows: how much of an accuracy the linearly decodable class information explains. The accuracy of the trained
sender beyond it, cell by cell, is judged as a matrix of its own (`beyond_logits`).

Limits: class information that a linear probe can't read is missing.

Cost: as many trials as the pair has, and two probes per layer.
""",
    "image": """
The image itself as sender, layer -1.

Adds: the pair `a` to `b` with sender layer -1.

Shows: what the stitch can compute from raw pixels.

Limits: layer -1 has few channels, so most stitches are smaller from it than from other layers.

Cost: one row of the matrix.
""",
    "linear_probe": """
A linear classifier on each layer of the networks.

`analyze` fits multinomial logistic regressions on pooled features. No stitch is trained. Table `probes` of
`measured/` contains the accuracies.

Adds: no pair.

Shows: what can be read from a representation without the receiver's help.

Limits: it says nothing about the receiver.

Cost: one logistic regression per layer that sends.
""",
}
"""The page of each control, as the text of a docstring."""
