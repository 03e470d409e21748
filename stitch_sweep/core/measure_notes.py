r"""Measures compare two representations of the same images, or the decisions of two networks.

Every trial records all similarity measures, whatever its loss. They are computed in one pass over the
validation set, with sums in float64. Their columns in `results.parquet` begin with `val_`. A measure is
NaN where it isn't defined, for example many measures for a constant representation. In Python,
`ss.similarity(x, y)` computes all measures.

On these pages, s is the stitched and e the expected representation. Each position has a vector of C
channels, and n is the number of positions of all images. The units of an image are all its C H W
values.
"""

from __future__ import annotations

_NEIGHBORS = """
The neighbors of an image are the 10 other images whose representations, as vectors, have the
largest cosine with that of the image. All layers of a sweep use the same 512 validation images, drawn with a seed, or all
images if there are fewer. The value depends on the number of images, which is in `val_knn_images`. The
representations may use at most 256 MiB, so a layer with more than 65,536 units (float32) uses fewer
images; don't compare its value with that of other layers. With fewer than 12 images, the measure is
NaN. The choice of neighbors has no useful gradient, so the measure can't be a loss.
"""

NOTES: dict[str, str] = {
    "mse": r"""
The mean squared error between stitched and expected representation.

```math
\frac{1}{n C} \sum_{p,c} (s_{pc} - e_{pc})^2
```

The value depends on the scale of the layer. To compare layers, use `relative_mse`.

Invariant to: nothing.

Assumes: equal channels and positions of both representations correspond.

Cost: O(n C).
""",
    "relative_mse": r"""
The mean squared error in units of the expected representation's variance.

```math
\frac{\frac{1}{n C} \sum_{p,c} (s_{pc} - e_{pc})^2}{\frac{1}{C} \sum_c \operatorname{Var}(e_c)}
```

The best constant output has the value 1, so a stitch with 1 or more is no better than a constant.

Invariant to: nothing. But the same scale or shift of both representations cancels.

Assumes: equal channels and positions of both representations correspond.

Cost: O(n C).
""",
    "cosine": r"""
The cosine of stitched and expected channel vectors, averaged over positions.

```math
\frac{1}{|P|} \sum_{p \in P} \frac{s_p \cdot e_p}{\lVert s_p \rVert \lVert e_p \rVert}, \qquad P = \{p : e_p \ne 0\}
```

Activations after a ReLU are never negative, so their cosines are high for unrelated layers, too.

Invariant to: a positive scale of each position.

Assumes: the origin is meaningful: a shift changes the measure.

Cost: O(n C).
""",
    "correlation": r"""
The Pearson correlation between stitched and expected channel over positions, averaged over channels.

```math
\frac{1}{|V|} \sum_{c \in V} \operatorname{corr}(s_c, e_c), \qquad V = \{c : \operatorname{Var}(s_c), \operatorname{Var}(e_c) > 0\}
```

The measure skips channels without variance; `val_correlation_left_out` is their number.

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

The canonical correlations rho are the singular values of the cross-covariance of the whitened s and e.
Unlike the loss, the measure has no ridge.

Invariant to: any invertible affine map of the channels.

Assumes: many more positions than channels; with few positions, even independent data correlate.

Cost: O(n C^2 + C^3).

Source: Hotelling 1936.
""",
    "svcca": r"""
CCA of the leading principal components of both representations.

```math
\frac{1}{k} \sum_{i=1}^{k} \rho_i
```

Of s and of e, only the fewest principal components that explain 0.99 of the variance are kept. The rho
are the k canonical correlations of the kept components. So directions of little variance, which are
often noise, don't count.

Invariant to: rotation, one scale and a shift of the channels.

Assumes: only directions with much variance matter.

Cost: O(n C^2 + C^3).

Source: Raghu et al. 2017, arXiv 1706.05806.
""",
    "pwcca": r"""
CCA whose correlations are weighted by the share of the expected representation that they explain.

```math
\frac{\sum_i a_i \rho_i}{\sum_i a_i}, \qquad a_i = \sum_c |\langle h_i, e_c \rangle|
```

h_i are the canonical variates of e. The measure isn't symmetric in s and e, because the weights are
shares of e.

Invariant to: any invertible affine map of the channels of s.

Assumes: many more positions than channels.

Cost: O(n C^2 + C^3).

Source: Morcos, Raghu and Bengio 2018, arXiv 1806.05759.
""",
    "cka": r"""
Linear centered kernel alignment with the debiased estimator and one row per image.

```math
\frac{\mathrm{HSIC}(s, e)}{\sqrt{\mathrm{HSIC}(s, s)\, \mathrm{HSIC}(e, e)}}
```

CKA measures whether the same images are close to each other in both representations. It needs at least
4 images. The debiased estimate may be below 0.

The comparison of every image with every other may use up to 256 MiB. If this isn't enough, the images
are split at random into blocks that fit (512 images for 64 x 32 x 32 units), and compared only within
blocks. The debiased HSIC is averaged over blocks before the ratio is computed, and this average is
unbiased, too. `val_cka_blocks` is the number of blocks. With 1 block, the value is exact.

Invariant to: any rotation of all units of an image, one scale and a shift.

Assumes: images are independent of each other.

Cost: O(N^2 C H W) for N images.

Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012 (the estimator).
""",
    "jaccard_knn": rf"""
The Jaccard similarity of an image's nearest neighbors in both representations, averaged over images.

```math
\frac{{1}}{{N}} \sum_i \frac{{|N_s(i) \cap N_e(i)|}}{{|N_s(i) \cup N_e(i)|}}
```

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. A shift changes the measure.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Klabunde et al. 2024 (ReSi), arXiv 2408.00531.
""",
    "second_order_cosine": rf"""
The cosine between two vectors of distances to an image's neighbors, one vector per representation,
averaged over images.

```math
\frac{{1}}{{N}} \sum_i \cos\big(d_s(i), d_e(i)\big), \qquad d(i)_j = 1 - \cos(x_i, x_j), \quad j \in N_s(i) \cup N_e(i)
```

The measure compares cosine distances, as the program of ReSi does. Hamilton et al. 2016 compare the
cosines themselves, but these are all similar if activations are never negative.

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. A shift changes the measure.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Klabunde et al. 2024 (ReSi), arXiv 2408.00531; Hamilton, Leskovec and Jurafsky 2016, arXiv 1606.02821.
""",
    "knn_agreement": rf"""
The share of an image's 10 nearest neighbors that are the same in both representations, averaged over
images.

```math
\frac{{1}}{{N}} \sum_i \frac{{|N_s(i) \cap N_e(i)|}}{{10}}
```

For unrelated representations of N images, the expected value is 10/(N - 1).

{_NEIGHBORS}

Invariant to: a rotation of an image's units, a positive scale of each image. A shift changes the measure.

Assumes: near images matter, and far ones don't.

Cost: O(n^2 C H W) for n = 512 images.

Source: Huh et al. 2024, arXiv 2405.07987 (mutual nearest neighbors).
""",
    "procrustes": r"""
The share of the variance of e that the best rotation, reflection, scale and shift of s doesn't explain.

```math
1 - \frac{\left(\sum_i \sigma_i\right)^2}{\operatorname{tr}(S_{ss}) \operatorname{tr}(S_{ee})}, \qquad \sigma: \text{singular values of } S_{se}
```

This is a symmetric distance, 0 for equal representations. S_se is the cross-covariance of s and e. The
representation with fewer channels is padded with zeros.

Invariant to: rotation, reflection, one scale and a shift of the channels.

Assumes: distances between positions matter.

Cost: O(n C^2 + C^3).

Source: Gower 1975; Ding et al. 2021, arXiv 2108.01661, compare it with CCA and CKA.
""",
}
"""The page of each measure of similarity, as the text of a docstring."""
