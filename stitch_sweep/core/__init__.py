"""Errors, registries, seeds, versions, signals and credentials, used by all other packages."""
