"""The configuration: one file per section of the YAML, and the one way to read it."""
