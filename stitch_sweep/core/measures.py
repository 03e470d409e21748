"""The registry of measures: name, title, direction, range and formula of every compared quantity.

`losses/measures.py` computes the similarity measures, `measuring/squared_differences.py` the
differences, `measuring/outliers.py` the out-of-distribution scores, and
`analysis/comparison/agreement.py` the agreements. Tables, charts and comparisons read this registry. To
add a similarity measure to the package, write its function and register it here. A plugin registers a
class:

    @SIMILARITY_MEASURES.register("largest_error")
    class LargestError:
        title, direction, range = "largest error", "lower", (0.0, math.inf)
        formula = "max |s - e|"

        def __init__(self) -> None:
            self.largest = 0.0

        def add(self, stitched: Tensor, expected: Tensor) -> None:
            self.largest = max(self.largest, (stitched - expected).abs().max().item())

        def result(self) -> float:
            return self.largest

An object sees the validation images once, in chunks `[B, *receiver shape]`. `result` returns NaN where
the measure is undefined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import Registration, Registry

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measure:
    """A quantity that compares networks or representations.

    Attributes:
        name: the name under which it is computed.
        title: the full title, for menus and captions.
        direction: whether "higher" or "lower" values are better (for similarity measures: more
            alike); None for a count that only describes how a measure was computed.
        range: lowest and highest possible value; infinite where there is no bound.
        formula: the definition in one line. `s` is the stitched representation, `e` the expected
            one, `t` the one of the task-trained stitch.
        short: a short title for table columns and axes; `title` if not given.
    """

    name: str
    title: str
    direction: Direction | None
    range: tuple[float, float]
    formula: str
    short: str = ""

    def __post_init__(self) -> None:
        if not self.short:
            object.__setattr__(self, "short", self.title)

    @property
    def sign(self) -> int:
        """1 if higher values are better, -1 if lower ones are, 0 if neither."""
        return {"higher": 1, "lower": -1, None: 0}[self.direction]


def _by_name(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


_UNBOUNDED = (0.0, math.inf)
_SHARE = (0.0, 1.0)
_COSINE = (-1.0, 1.0)

MEASURES = _by_name(
    Measure("mse", "mean squared error", "lower", _UNBOUNDED, "mean((s - e)^2)", "MSE"),
    Measure(
        "relative_mse",
        "relative mean squared error",
        "lower",
        _UNBOUNDED,
        "mse / var(e), the variance averaged over channels; 1 is no better than a constant",
        "relative MSE",
    ),
    Measure(
        "cosine",
        "cosine similarity",
        "higher",
        _COSINE,
        "mean over positions with e_p != 0 of s_p · e_p / (|s_p| |e_p|)",
        "cosine",
    ),
    Measure(
        "correlation",
        "correlation",
        "higher",
        _COSINE,
        "mean over channels of the Pearson correlation of s_c and e_c",
    ),
    Measure(
        "correlation_left_out",
        "channels without variance",
        None,
        _UNBOUNDED,
        "number of constant channels, which the correlation skips",
    ),
    Measure(
        "cca",
        "CCA",
        "higher",
        _SHARE,
        "mean canonical correlation, over the smaller rank of s and e",
    ),
    Measure(
        "svcca",
        "SVCCA",
        "higher",
        _SHARE,
        "CCA of the leading principal components of s and e that explain 99 % of their variance",
    ),
    Measure(
        "pwcca",
        "PWCCA",
        "higher",
        _SHARE,
        "canonical correlations, each weighted by the share of e that its variate explains",
    ),
    Measure(
        "cka",
        "CKA",
        "higher",
        _COSINE,
        "HSIC(s, e) / sqrt(HSIC(s, s) HSIC(e, e)), linear kernel over images, debiased",
    ),
    Measure(
        "cka_blocks",
        "blocks of images for CKA",
        None,
        (1.0, math.inf),
        "number of blocks of images in which CKA is computed; 1 is exact",
    ),
    Measure(
        "jaccard_knn",
        "Jaccard similarity of the 10 nearest neighbors",
        "higher",
        _SHARE,
        "mean over images of |N_s ∩ N_e| / |N_s ∪ N_e|, N the 10 nearest images by cosine",
        "Jaccard k-NN",
    ),
    Measure(
        "second_order_cosine",
        "second-order cosine similarity",
        "higher",
        _SHARE,
        "mean over images of the cosine of their cosine distances to the images of N_s ∪ N_e",
        "second-order cosine",
    ),
    Measure(
        "knn_agreement",
        "agreement of the 10 nearest neighbors",
        "higher",
        _SHARE,
        "mean over images of |N_s ∩ N_e| / 10; 10 / (n - 1) for unrelated representations",
        "k-NN agreement",
    ),
    Measure(
        "knn_images",
        "images for nearest neighbors",
        None,
        _UNBOUNDED,
        "number n of images among which the 10 nearest neighbors are searched, at most 512",
    ),
    Measure(
        "procrustes",
        "Procrustes distance",
        "lower",
        _SHARE,
        "1 - (nuclear norm of s^T e)^2, with s and e centered and scaled to norm 1",
        "Procrustes",
    ),
)
"""The measures of stitched against expected representation, by name, in the order they are computed."""

DIFFERENCES = _by_name(
    Measure(
        "ev", "EV: expected against task-stitched", "lower", _UNBOUNDED, "mean((e - t)^2)", "EV"
    ),
    Measure("es", "ES: expected against this loss's", "lower", _UNBOUNDED, "mean((e - s)^2)", "ES"),
    Measure(
        "sv", "SV: this loss's against task-stitched", "lower", _UNBOUNDED, "mean((s - t)^2)", "SV"
    ),
    Measure(
        "ev_relative",
        "EV, relative: expected against task-stitched",
        "lower",
        _UNBOUNDED,
        "ev / var(e)",
        "EV, relative",
    ),
    Measure(
        "es_relative",
        "ES, relative: expected against this loss's",
        "lower",
        _UNBOUNDED,
        "es / var(e)",
        "ES, relative",
    ),
    Measure(
        "sv_relative",
        "SV, relative: this loss's against task-stitched",
        "lower",
        _UNBOUNDED,
        "sv / var(e)",
        "SV, relative",
    ),
)
"""The differences in `representations.parquet`, by column: mean squared differences of a cell's
representations, all computed after the calibration."""

OUTLIER_SCORES = _by_name(
    Measure(
        "ood_task",
        "out-of-distribution score of the task-stitched",
        "lower",
        _SHARE,
        "P(E(t) > E(e)) with the energy E below; 0.5: can't be told apart from the receiver's own",
        "OOD, task",
    ),
    Measure(
        "ood_similarity",
        "out-of-distribution score of this loss's",
        "lower",
        _SHARE,
        "P(E(s) > E(e)) with the energy E below; 0.5: can't be told apart from the receiver's own",
        "OOD, this loss",
    ),
)
"""The out-of-distribution scores in `representations.parquet`, by column."""

REPRESENTATION_QUANTITIES = [
    *(name for name in DIFFERENCES if name.endswith("_relative")),
    *OUTLIER_SCORES,
]
"""Those columns of `representations.parquet` that can be compared between layers: EV, ES and SV over the
variance of the expected representation, and the out-of-distribution scores."""

_PARTNERS = {
    "sender": "with the sender",
    "receiver": "with the receiver",
    "own": "of sender and receiver",
}

AGREEMENTS = _by_name(
    *(
        Measure(
            f"agreement_{partner}",
            f"agreement {words}",
            "higher",
            _SHARE,
            "share of test images for which both networks name the same class",
        )
        for partner, words in _PARTNERS.items()
    ),
    *(
        Measure(
            f"kappa_{partner}",
            f"error consistency κ {words}",
            "higher",
            _COSINE,
            "(c - c_0) / (1 - c_0); c: share of images that both get right or both get wrong; c_0: c "
            "expected by chance",
        )
        for partner, words in _PARTNERS.items()
    ),
)
"""The columns of `comparison.agreement`, by name."""

ACCURACIES = _by_name(
    Measure(
        "accuracy_calibrated",
        "test accuracy, calibrated",
        "higher",
        _SHARE,
        "share of test images that are classified correctly after the stitch is calibrated",
        "calibrated accuracy",
    ),
    Measure(
        "test_accuracy",
        "test accuracy, raw",
        "higher",
        _SHARE,
        "share of test images that are classified correctly",
        "test accuracy",
    ),
    Measure(
        "val_accuracy",
        "validation accuracy",
        "higher",
        _SHARE,
        "share of validation images that are classified correctly",
    ),
    Measure(
        "penalty",
        "stitching penalty",
        "lower",
        _COSINE,
        "the receiver's own test accuracy - test accuracy",
    ),
)
"""The accuracies in `results.parquet`, by column."""

BEYOND_LOGITS = "beyond_logits"
"""The column of the excess over the logits-only control; see `analysis/matrix/excess.py`."""

_DERIVED = _by_name(
    Measure(
        BEYOND_LOGITS,
        "accuracy beyond the logits-only control",
        "higher",
        _COSINE,
        "accuracy with the sender - accuracy with the log-probabilities of its linear probes",
        "beyond logits-only",
    )
)

SIMILARITIES = {f"val_{name}": m for name, m in MEASURES.items() if m.direction is not None}
"""The columns of `results.parquet` that contain a similarity measure, computed on validation images."""

COLUMNS = {
    **ACCURACIES,
    **SIMILARITIES,
    **DIFFERENCES,
    **OUTLIER_SCORES,
    **AGREEMENTS,
    **_DERIVED,
}
"""Every registered column of `results.parquet` and of the analysis, by its name."""


class MeasureRegistry(Registry):
    """The registry of further similarity measures; it keeps the tables of this module complete."""

    def add(self, entry: Registration) -> None:
        """Add a measure to the tables.

        Raises:
            InputError: the class doesn't describe a measure, or another measure or column has its name.
        """
        name, column, factory = entry.name, f"val_{entry.name}", entry.factory
        place = f"measure {name!r} at {entry.place}"
        is_taken = name not in self._entries and (name in MEASURES or column in COLUMNS)
        if is_taken or not name.isidentifier():
            raise InputError(
                f"{place}: Stitch Sweep has a column {column}; choose another name"
                if is_taken
                else f"{place}: a measure's name consists of letters, digits and _"
            )
        direction = getattr(factory, "direction", get_args(Direction)[0])
        if direction not in get_args(Direction):
            raise InputError(f"{place}: direction must be 'higher' or 'lower'")
        if entry.parameters:
            raise InputError(f"{place}: has options, which a measure can't have")
        super().add(entry)
        described: dict[str, Any] = {key: getattr(factory, key) for key in _DESCRIPTION}
        measure = Measure(name, **described, short=getattr(factory, "short", ""))
        MEASURES[name] = SIMILARITIES[column] = COLUMNS[column] = measure

    def drop(self, module: str) -> list[Registration]:
        """Remove what a module has registered, from the tables too."""
        entries = super().drop(module)
        for entry in entries:
            del MEASURES[entry.name], SIMILARITIES[f"val_{entry.name}"]
            del COLUMNS[f"val_{entry.name}"]
        return entries


_DESCRIPTION = ("title", "direction", "range", "formula")

SIMILARITY_MEASURES = MeasureRegistry(
    "measure",
    __name__,
    always_used=True,
    attributes=(*_DESCRIPTION, "add", "result"),
    base="the example in stitch_sweep/core/measures.py",
)
"""Further similarity measures; see the example above."""


def short_title(column: str) -> str:
    """Return a short title for a column of results; an unregistered column keeps its name."""
    return COLUMNS[column].short if column in COLUMNS else column.replace("_", " ")
