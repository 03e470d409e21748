"""The page of network families and data sets, from their docstrings."""

from __future__ import annotations

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import facts, page
from reference_pages.options import built_in_names, describe_options
from stitch_sweep import data
from stitch_sweep.core.registry import DATASETS, FAMILIES
from stitch_sweep.networks import external, families


def make_page() -> str:
    """Make the page."""
    documented = read_docstring(families)
    blocks = [
        "[Stitch external networks](../guides/external_networks.md) and [Use your own images]"
        "(../guides/data.md) explain how to use your own networks and images.",
        "## Network families",
        documented.summary,
        *documented.text,
    ]
    for name in built_in_names(FAMILIES):
        entry = FAMILIES.get(name)
        text = read_docstring(entry.factory)
        blocks += [f"### `{name}`", text.summary, *text.text]
        blocks += [describe_options(entry, text), facts(text.facts)]
        blocks.append(f"```yaml\n{_EXAMPLES[name]}\n```")
    documented = read_docstring(external)
    blocks += ["## External networks", documented.summary, *documented.text]
    documented = read_docstring(data)
    blocks += ["## Data sets", documented.summary, *documented.text]
    library = _torchvision_sets()
    for name in built_in_names(DATASETS):
        if name in library:
            continue
        entry = DATASETS.get(name)
        text = read_docstring(entry.factory)
        blocks += [f"### `{name}`", text.summary, *text.text, describe_options(entry, text)]
    entry = DATASETS.get(library[0])
    text = read_docstring(entry.factory)
    blocks += [
        "### Data sets of torchvision",
        f"{', '.join(f'`{name}`' for name in library)}: torchvision's data sets, read from the original "
        "files. For `EMNIST`, Stitch Sweep reads the split `balanced`.",
        "```yaml\ndata: {source: torchvision, name: SVHN, path: ./svhn}\n```",
        describe_options(entry, text),
    ]
    return page(
        "Network families and data sets",
        *blocks,
        source="the docstrings in `stitch_sweep/networks/families/` and `stitch_sweep/data/`",
    )


_EXAMPLES = {
    "cnn": "networks: [{name: a, family: cnn6, width: 8}]",
    "densenet": "networks: [{name: a, family: densenet, blocks: [4, 4, 4], width: 8, skips: none}]",
    "mlp": "networks: [{name: a, family: mlp3, width: 64}]",
    "resnet": "networks: [{name: a, family: resnet1111, width: 8, skip: none}]",
    "vgg": "networks: [{name: a, family: vgg11, width: 8}]",
    "vit": "networks: [{name: a, family: vit, depth: 6, width: 64, heads: 4, patch: 4}]",
}
"""An entry of `networks` for each family."""


def _torchvision_sets() -> list[str]:
    """Return the data sets with an option `source`, which only those of torchvision have."""
    return [
        name for name in built_in_names(DATASETS) if "source" in DATASETS.options(name).model_fields
    ]
