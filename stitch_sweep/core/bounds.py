"""How large the values of a configuration may be: the types of its fields, each with its range.

The ranges are far beyond every use. They keep a slip of the keyboard, or a file from somebody else, from
taking hours or all memory before a message says so. docs/config.md lists them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST_NUMBER = 10**6
"""Magnitude of a rate, weight, temperature or argument; float32 holds it with room for products."""
LARGEST_COUNT = 10**6
LARGEST_IMAGE = 1024
"""Pixels on a side."""
LONGEST_TEXT = 4096
"""Characters of a path or name: the longest path that Linux takes."""
LONGEST_LIST = 10_000
MOST_NETWORKS = 1000
MOST_CHOICES = 1000
"""Values of one crossed or searched setting."""
MOST_CHECKS = 50_000
"""Crossed and searched values, and pairs of them, that are tried before a sweep."""
MOST_COMBINATIONS = 2000
"""Combinations of crossed values: each makes a matrix of every pair."""
MOST_STUDIES = 200_000
MOST_TRIALS = 10**6
MOST_PARAMETERS = 500_000_000
"""Parameters and buffers of a network of a family: 2 GB in float32."""
MOST_EXTERNAL_PARAMETERS = 10**10
"""The same of an external network."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
"""How many of something: samples, images of a batch, steps, repetitions."""
Images = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
ImageSize = Annotated[int, Field(ge=4, le=LARGEST_IMAGE)]
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Channels, units, heads, rank, or pixels of a patch."""
Depth = Annotated[int, Field(ge=1, le=200)]
"""Layers of a network without stages."""
Blocks = Annotated[int, Field(ge=1, le=64)]
"""Blocks of one stage."""

Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, le=LARGEST_NUMBER, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1e38, allow_inf_nan=False)]
"""As large as float32 holds: one that makes a training diverge is a result and no slip."""
From0 = Annotated[float, Field(ge=0, le=LARGEST_NUMBER, allow_inf_nan=False)]

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
