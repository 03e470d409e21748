"""The plugin of the tutorial, and a registry without what a test has registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stitch_sweep.core import plugins, registry
from tests.support.documents import code_blocks
from tests.support.paths import ROOT

TUTORIAL = ROOT / "docs/tutorials/extensions.md"


def blocks(language: str) -> list[str]:
    """Return the tutorial's code blocks in a language."""
    return [code for _, code in code_blocks(TUTORIAL.read_text(), language)]


def write_tutorial(folder: Path) -> Path:
    """Write the tutorial's plugin and configuration to a folder, and return the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text("\n\n".join(blocks("python")))
    (config,) = blocks("yaml")
    path = folder / "config.yml"
    path.write_text(config)
    return path


@contextmanager
def forgetting_plugins() -> Iterator[None]:
    """Remove everything that is registered in the block, and forget the plugins loaded in it."""
    before = {entry.module for entry in registry.extensions()}
    loaded = dict(plugins._loaded)
    try:
        yield
    finally:
        for module in {entry.module for entry in registry.extensions()} - before:
            registry.drop_module(module)
            sys.modules.pop(module, None)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
