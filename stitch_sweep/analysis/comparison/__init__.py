"""Comparisons across losses, representations, mistakes and objectives."""
