"""Fast copies of frozen networks for training steps: folded, in bfloat16, compiled."""
