"""From the results of a sweep to matrices, verdicts and transitions; without torch."""
