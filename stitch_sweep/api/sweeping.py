"""`sweep`: run a sweep from Python, with networks and data in files or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.api.data import data_section
from stitch_sweep.api.experiment import SweepExperiment, measure_labels
from stitch_sweep.api.settings import expand_settings, network_section, to_plain
from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.places import Places
from stitch_sweep.config.reading import make_config, read_tree
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import restored_afterwards
from stitch_sweep.sweep.run import run_sweep

_WHOLE_SECTIONS = ("stitch", "loss")
"""Sections whose keys belong to one choice, so they are replaced as a whole."""


def sweep(
    config: Mapping[str, Any] | Config | str | Path,
    *,
    networks: Mapping[str, nn.Module | Mapping[str, Any]] | None = None,
    data: Any = None,
    folder: str | Path | None = None,
    resume: bool = False,
    address: str | None = None,
    workers: int | None = None,
    mirror: str | None = None,
    **settings: Any,
) -> SweepExperiment:
    """Run every trial of a configuration.

    Networks and data that you pass as objects are sent to the workers, also to those of a cluster. A
    resume with other objects is refused.

    Args:
        config: the path of a YAML file, or the same as a mapping.
        networks: networks by name. If the configuration has an entry of this name, the other keys of the
            entry apply, such as `layers` and `normalisation`; otherwise, the network is added.
        data: the images, in any form of docs/reference/api.md. Keys of the configuration's section
            `data`, such as `train_images`, apply to them too.
        folder: the experiment folder; by default the folder of the YAML file.
        resume: whether to resume the sweep in the folder.
        address: a running Ray cluster (`auto` or `host:port`); None starts a local Ray.
        workers: maximum number of workers at the same time; by default as many as CPUs and GPUs allow.
        mirror: a URI where a copy of the folder is kept.
        **settings: keys that replace those of the configuration, and `recipe`; see `stitch`. `stitch`
            and `loss` are replaced as a whole; in other sections, only the given keys are replaced.

    Returns:
        The experiment. After Ctrl-C, it contains the trials that ended; `resume=True` runs the others.

    Raises:
        InputError: the configuration, a network, the data or the folder can't be used, or the sweep in
            the folder began with other networks, data or settings. Nothing was started.
        StoppedError: a problem with the machine ended the sweep. Every ended trial is recorded, and
            `resume=True` continues.

    Example:
        >>> ss.sweep("my/config.yml", workers=2).matrices  # doctest: +SKIP
    """
    if isinstance(config, str | Path):
        path = Path(config)
        (tree, places), prefix = read_tree(path), f"{path}: "
        target = path.parent if folder is None else Path(folder)
    else:
        values = config.model_dump(mode="json") if isinstance(config, Config) else config
        if not isinstance(values, Mapping):
            raise InputError(
                f"sweep: the configuration is a {type(config).__name__}, but the path of a YAML file or "
                "a mapping is required"
            )
        if folder is None:
            raise InputError("sweep: name the experiment folder: folder='experiments/my'")
        tree, places, prefix = to_plain(values), Places.of_folder(Path()), ""
        target = Path(folder)
    for key, section in expand_settings(settings, list(Config.model_fields), "sweep").items():
        parts = (tree.get(key), section)
        merges = key not in _WHOLE_SECTIONS and all(isinstance(part, dict) for part in parts)
        tree[key] = {**tree[key], **section} if merges else section
    if networks is not None:
        tree["networks"] = _merge_networks(tree.get("networks"), networks)
    if data is not None:
        tree["data"] = _merge_data(tree.get("data"), data)
    if workers is not None and workers < 1:
        raise InputError(f"sweep: workers is {workers}; at least 1 is needed")
    with restored_afterwards():
        run_sweep(
            make_config(tree, places, prefix),
            target,
            resume=resume,
            address=address,
            workers=workers,
            mirror=mirror,
        )
    if networks is not None or data is not None:
        # Other processes lack these objects.
        measure_labels(target)
    return SweepExperiment(target)


def _merge_networks(listed: Any, networks: Mapping[str, Any]) -> list[Any]:
    """Add networks to those that a configuration lists, or complete the listed ones."""
    merged = list(listed) if isinstance(listed, list) else []
    for name, network in networks.items():
        section = network_section(network, name)
        place = next(
            (
                k
                for k, entry in enumerate(merged)
                if isinstance(entry, Mapping) and entry.get("name") == name
            ),
            None,
        )
        if place is None:
            merged.append(section)
            continue
        clashes = sorted(
            key
            for key in section.keys() & merged[place].keys() - {"name"}
            if merged[place][key] != section[key]
        )
        if clashes:
            raise InputError(
                f"networks: {name!r} is given in Python, and the configuration sets its "
                f"{', '.join(clashes)} too; remove either"
            )
        merged[place] = {**merged[place], **section}
    return merged


def _merge_data(listed: Any, data: Any) -> dict[str, Any]:
    """Apply the settings in a configuration's section `data` to data that is given in Python."""
    section = data_section(data)
    if not isinstance(listed, Mapping):
        return section
    # Options of another data set, such as a path, have no meaning for this one.
    kept = {key: value for key, value in listed.items() if key in DataConfig.model_fields}
    return {**kept, **section}
