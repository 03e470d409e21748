"""Errors, registries, seeds, versions and signals: what every other package builds on."""
