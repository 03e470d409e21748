"""Results of checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "warn", "skip"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: name of the check.
        compared: the two quantities that the check compares.
        difference: the largest difference; None where the check subtracts nothing.
        verdict: `fail` is a defect; `warn` is a fact to know before you trust a result.
        detail: the defect and its place, or the fact; may be empty.
        figures: further numbers, as plain data.
    """

    name: str
    compared: str
    difference: float | None
    verdict: Verdict
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON data; a non-finite number becomes the text `inf` or `nan`."""
        plain: dict[str, Any] = _replace_non_finite(dict(vars(self)))
        return plain


def judge(
    name: str,
    compared: str,
    difference: float | None,
    defects: Sequence[str],
    figures: dict[str, Any] | None = None,
) -> Finding:
    """Make a finding that fails where there are defects, and lists them."""
    verdict: Verdict = "fail" if defects else "pass"
    return Finding(name, compared, difference, verdict, "; ".join(defects), figures or {})


@dataclass(frozen=True)
class SanityReport:
    """The results of all checks.

    Attributes:
        findings: one per check.
        about: pair, settings, device and versions of the checks, as plain data.
    """

    findings: list[Finding]
    about: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no check failed; a warning is not a failure."""
        return not any(finding.verdict == "fail" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `about`, and `checks` with the findings."""
        return {**self.about, "checks": [finding.to_dict() for finding in self.findings]}


def _replace_non_finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _replace_non_finite(value) for key, value in node.items()}
    if isinstance(node, float) and not math.isfinite(node):
        return str(node)
    return node
