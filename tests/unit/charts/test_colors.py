"""Colors of lines."""

from __future__ import annotations

import numpy as np

from stitch_sweep.charts.colors import SERIES


def test_lines_can_be_seen_on_a_white_and_on_a_dark_page():
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colour in SERIES:
        for page in ("#ffffff", "#14171b", "#1d2127"):
            light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, page)
