"""Stitch Sweep: model stitching between frozen networks, swept, tracked and read."""


def __getattr__(name: str) -> str:
    # Looked up when asked for: every command imports this file first, and it must be quick.
    if name == "__version__":
        from importlib.metadata import version

        return version("stitch-sweep")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
