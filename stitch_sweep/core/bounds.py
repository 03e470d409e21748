"""Limits of the values in a configuration, and field types with these limits.

The limits are far above every realistic value. They refuse a typing error or an untrusted file before it
costs hours or all memory. docs/reference/configuration.md lists them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

LARGEST_NUMBER = 10**6
"""Largest magnitude of a rate, weight, temperature or argument. float32 can multiply such values."""
LARGEST_COUNT = 10**6
LARGEST_IMAGE = 1024
"""Largest image side, in pixels."""
LONGEST_TEXT = 4096
"""Largest number of characters of a path or name. Linux allows no longer paths."""
LONGEST_NAME = 80
"""Largest number of characters of a network's name."""
LONGEST_LIST = 10_000
MOST_NETWORKS = 1000
MOST_CHOICES = 1000
"""Largest number of values of one crossed or searched setting."""
MOST_CHECKS = 50_000
"""Largest number of crossed and searched values, and of pairs of them, to check before a sweep."""
MOST_COMBINATIONS = 2000
"""Largest number of combinations of crossed values. Each combination makes one matrix per pair."""
MOST_STUDIES = 200_000
MOST_TRIALS = 10**6
MOST_PARAMETERS = 500_000_000
"""Largest number of parameters and buffer elements of a family's network: 2 GB in float32."""
MOST_EXTERNAL_PARAMETERS = 10**10
"""Largest number of parameters and buffer elements of an external network."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
"""A count: samples, images of a batch, steps, repetitions."""
BatchSize = int | Literal["auto"]
"""Images per training batch; `auto` depends on the number of training images."""
Images = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
ImageSize = Annotated[int, Field(ge=4, le=LARGEST_IMAGE)]
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Number of channels, units or heads, a rank, or the pixels of a patch."""
Depth = Annotated[int, Field(ge=1, le=200)]
"""Number of layers of a network without stages."""
Blocks = Annotated[int, Field(ge=1, le=64)]
"""Number of blocks of one stage."""

Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, le=LARGEST_NUMBER, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1e38, allow_inf_nan=False)]
"""At most the range of float32. Rates at which a training diverges are allowed: failure is a result."""
From0 = Annotated[float, Field(ge=0, le=LARGEST_NUMBER, allow_inf_nan=False)]

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
