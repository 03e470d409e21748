r"""Measures compare two representations of the same images, or the decisions of two networks.

Every trial has all measures of similarity, whatever its stitch was trained for: over the whole validation
set, in float64, in one pass. Their columns in `results.parquet` begin with `val_`. A measure that isn't
defined, such as one of a constant representation, is NaN. In Python, `ss.similarity(x, y)` computes them.

On these pages, s is the stitched and e the expected representation. A position is one row of C channels; the
units of an image are all its C H W values.
"""

from __future__ import annotations

_NEIGHBORS = """
The neighbors of an image are the 10 other images with the largest cosine between all their units. All layers
of a sweep are compared among the same 512 validation images, drawn by a seeded permutation, or among all if
there are fewer. The value depends on their number, which is in `val_knn_images`. The representations may take
256 MiB, so layers with more than 65,536 units (float32) are compared among fewer images; don't compare their
values with those of other layers. With fewer than 12 images the measure is NaN. It counts neighbors, so it has
no useful gradient and is no loss.
"""

NOTES: dict[str, str] = {
    "mse": r"""
The mean squared error between stitched and expected representation.

```math
\frac{1}{n C} \sum_{p,c} (s_{pc} - e_{pc})^2
```

Its unit is that of the layer, so don't compare layers by it; `relative_mse` has none.

Invariant to: nothing.

Assumes: both representations have one coordinate system.

Cost: O(n C).
""",
    "relative_mse": r"""
The mean squared error in units of the expected representation's variance.

```math
\frac{\frac{1}{n C} \sum_{p,c} (s_{pc} - e_{pc})^2}{\frac{1}{C} \sum_c \operatorname{Var}(e_c)}
```

1 is the value of the best constant: a stitch with 1 or more is no nearer than a constant.

Invariant to: nothing. A common scale or shift of both sides cancels.

Assumes: both representations have one coordinate system.

Cost: O(n C).
""",
    "cosine": r"""
The mean cosine of stitched and expected channel vectors, over positions.

```math
\frac{1}{|P|} \sum_{p \in P} \frac{s_p \cdot e_p}{\lVert s_p \rVert \lVert e_p \rVert}, \qquad P = \{p : e_p \ne 0\}
```

Activations after a ReLU are never negative, so their cosines are high for unrelated layers, too.

Invariant to: a positive scale of each position.

Assumes: the origin means something: a shift changes the measure.

Cost: O(n C).
""",
    "correlation": r"""
The Pearson correlation over positions of a stitched with its expected channel, a mean over channels.

```math
\frac{1}{|V|} \sum_{c \in V} \operatorname{corr}(s_c, e_c), \qquad V = \{c : \operatorname{Var}(s_c), \operatorname{Var}(e_c) > 0\}
```

`val_correlation_left_out` is the number of channels without variance, which are not counted.

Invariant to: shift and positive scale of each channel.

Assumes: channel c of one side corresponds to channel c of the other.

Cost: O(n C^2).

Source: Li et al. 2016, arXiv 1511.07543.
""",
    "cca": r"""
The mean of the canonical correlations between stitched and expected channels, over positions.

```math
\frac{1}{r} \sum_{i=1}^{r} \rho_i, \qquad r = \min(\operatorname{rank} s, \operatorname{rank} e)
```

The canonical correlations are the singular values of the cross-covariance of the whitened sides. There is no
ridge.

Invariant to: any invertible affine map of the channels.

Assumes: many more positions than channels; with few positions, independent data correlate.

Cost: O(n C^2 + C^3).

Source: Hotelling 1936.
""",
    "svcca": r"""
CCA of the leading principal components of both sides.

```math
\frac{1}{k} \sum_{i=1}^{k} \rho_i
```

Each side keeps the fewest principal components with 0.99 of its variance, so directions of little variance,
often noise, don't count.

Invariant to: rotation, one scale and a shift of the channels.

Assumes: directions with much variance matter.

Cost: O(n C^2 + C^3).

Source: Raghu et al. 2017, arXiv 1706.05806.
""",
    "pwcca": r"""
CCA whose correlations are weighted by the share of the expected representation that they explain.

```math
\frac{\sum_i a_i \rho_i}{\sum_i a_i}, \qquad a_i = \sum_c |\langle h_i, e_c \rangle|
```

h_i are the canonical variates of the expected side. The measure isn't symmetric: the weights are those of e.

Invariant to: any invertible affine map of the channels of s.

Assumes: many more positions than channels.

Cost: O(n C^2 + C^3).

Source: Morcos, Raghu and Bengio 2018, arXiv 1806.05759.
""",
    "cka": r"""
Linear centered kernel alignment with the debiased estimator, a row per image.

```math
\frac{\mathrm{HSIC}(s, e)}{\sqrt{\mathrm{HSIC}(s, s)\, \mathrm{HSIC}(e, e)}}
```

It compares which images are close to each other. The debiased estimate may be below 0. It needs 4 images.

CKA compares every image with every other, and keeps up to 256 MiB for that. Where this isn't enough, images
are compared in blocks of 512 in random order, and the debiased HSIC of the blocks is averaged before the ratio
is taken. That is unbiased, too. `val_cka_blocks` is the number of blocks; 1 means exact.

Invariant to: any rotation of all units of an image, one scale and a shift.

Assumes: images are independent of each other.

Cost: O(N^2 C H W) for N images.

Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012 (the estimator).
""",
    "jaccard_knn": rf"""
The share of nearest neighbors that both representations have in common, a mean over images.

```math
\frac{{1}}{{N}} \sum_i \frac{{|N_s(i) \cap N_e(i)|}}{{|N_s(i) \cup N_e(i)|}}
```

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. It sees a shift.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Klabunde et al. 2024 (ReSi), arXiv 2408.00531.
""",
    "second_order_cosine": rf"""
How alike the distances to the nearest neighbors are, a mean over images.

```math
\frac{{1}}{{N}} \sum_i \cos\big(d_s(i), d_e(i)\big), \qquad d(i)_j = 1 - \cos(x_i, x_j), \quad j \in N_s(i) \cup N_e(i)
```

It compares cosine distances, as the program of ReSi does. Cosines themselves, as Hamilton et al. 2016 compare
them, hardly differ between activations that are never negative.

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. It sees a shift.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Klabunde et al. 2024 (ReSi), arXiv 2408.00531; Hamilton, Leskovec and Jurafsky 2016, arXiv 1606.02821.
""",
    "knn_agreement": rf"""
The number of common nearest neighbors over 10, a mean over images.

```math
\frac{{1}}{{N}} \sum_i \frac{{|N_s(i) \cap N_e(i)|}}{{10}}
```

Unrelated representations of n images have 10/(n - 1).

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. It sees a shift.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Huh et al. 2024, arXiv 2405.07987 (mutual nearest neighbors).
""",
    "procrustes": r"""
The share of variance that is left after the best rotation, reflection, scale and shift.

```math
1 - \frac{\left(\sum_i \sigma_i\right)^2}{\operatorname{tr}(S_{ss}) \operatorname{tr}(S_{ee})}, \qquad \sigma: \text{singular values of } S_{se}
```

It is a distance: 0 for equal representations. It is the same in both directions. The narrower side is padded
with zeros.

Invariant to: rotation, reflection, one scale and a shift of the channels.

Assumes: distances between positions matter.

Cost: O(n C^2 + C^3).

Source: Gower 1975; Ding et al. 2021, arXiv 2108.01661, compare it with CCA and CKA.
""",
}
"""The page of each measure of similarity, as the text of a docstring."""
