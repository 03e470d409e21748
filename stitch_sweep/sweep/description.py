"""`stitch-sweep sweep CONFIG --resume` continues the sweep in the folder, and checks the changes in the
configuration.

- You may extend `pairs`, `knock_out`, `controls`, `networks`, `repeats`, `samples`, `plugins`, and the
  values in `cross`. Stitch Sweep runs the new trials. With `share: neighbors`, you can't change
  `samples` and `stop`.
- You may change `stop`, `time_budget`, `journal`, `tracking`, `keep_stitches`, `report`, `loader`,
  shares of a GPU, and the locations of files.
- You can't change `seed`, the images and `augment`, `stitch`, `loss`, `training`, and existing networks
  (weights, `layers`, `normalisation`, `image_size`); in `search`, the keys `space`, `sampler`, `metric`,
  `mode`, `parallel_per_study`, `objectives`, `scheduler`, `share` and `enqueue`; in `resources`, the keys
  `cpu`, `cache_gb`, `pack`, and whether trials run on a GPU. You can't remove trials that were run.

If a resume would change a finished result, Stitch Sweep refuses it and prints the differences. A resume
lists stitches that are missing or damaged; `--resume --retrain-stitches` trains these stitches again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from stitch_sweep.config.networks import (
    CLASS_ONLY,
    EXTERNAL_KINDS,
    FROM_FACTORY,
    LOGITS_ONLY,
    is_in_memory,
)
from stitch_sweep.config.plugins import plugin_contents
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import processor
from stitch_sweep.core.versions import MAIN_PACKAGES, versions
from stitch_sweep.networks import construction
from stitch_sweep.plan.enqueue import describe_enqueued
from stitch_sweep.plan.neighbors import describe_chains
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.plan.sizes import count_samples
from stitch_sweep.storage.ledger import Ledger


def describe_sweep(prepared: Prepared) -> dict[str, Any]:
    """Describe a sweep; under `decides`, everything that decides its results.

    A resume may change nothing under `decides`.
    """
    config = prepared.config
    search = config.search.model_dump(mode="json")
    decisive = ["space", "sampler", "metric", "mode", "parallel_per_study"]
    if config.search.objectives:
        decisive.append("objectives")  # older sweeps have no such key, and must stay resumable
    decisive += [key for key in ("scheduler", "share", "enqueue") if key in search]
    if config.search.share == "neighbors":
        # A further trial may become the best, from which others learned.
        decisive += ["samples", *(["stop"] if "stop" in search else [])]
    if config.search.enqueue is not None:
        search["enqueue"] = describe_enqueued(config)
    resources: dict[str, Any] = {
        "cpu": config.resources.cpu,
        "device": config.resources.device,
        "cache_gb": config.resources.cache_gb,
    }
    if config.resources.pack != 1:
        resources["pack"] = config.resources.pack  # likewise
    return {
        "decides": {
            "seed": config.seed,
            "data": prepared.data.fingerprint,
            "augment": config.data.augment,
            "networks": _describe_networks(prepared),
            **config.model_dump(mode="json", include={"stitch", "loss", "training"}),
            "search": {key: search[key] for key in decisive},
            **_describe_sharing(prepared),
            **_describe_plugins(prepared),
            "resources": resources,
        },
        "config": _describe_config(config),
        "trials": prepared.trials,
        "classes": prepared.data.num_classes,
        "receiver_free": {
            name: list(outline.linear_rests) for name, outline in prepared.outlines.items()
        },
        "versions": versions(MAIN_PACKAGES),
        "processor": processor(),
    }  # fmt: skip


def _describe_config(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json", exclude={"tracking"})
    config.places.to_portable(tree, None)  # environment variables keep their names
    return tree


def check_unchanged(ledger: Ledger, prepared: Prepared) -> None:
    """Check that a resume adds to finished work and changes none of it.

    Raises:
        InputError: a line for each difference.
    """
    before = ledger.description()
    if before is None:
        if ledger.trial_ids():
            raise InputError(
                f"{ledger.root}: has trials, but sweep.json, which describes their sweep, is missing; "
                "restore it, or give the sweep another folder"
            )
        return
    old, new = before.get("decides", {}), describe_sweep(prepared)["decides"]
    # Networks and pairs may be added; those of the sweep must stay unchanged.
    for part in {"networks", "chains"} & new.keys():
        new[part] = {k: v for k, v in new[part].items() if k in old.get(part, {})}
    problems = _plugin_problems(old.get("plugins", {}), new.get("plugins", {}))
    old, new = ({k: v for k, v in part.items() if k != "plugins"} for part in (old, new))
    problems += [_explain(*difference) for difference in _differences(old, new)]
    current = {
        study.trial(number)
        for study in prepared.studies
        for number in range(count_samples(prepared.config, study))
    }
    missing = sorted(ledger.trial_ids() - current)
    if missing:
        problems.append(
            f"the configuration no longer contains {len(missing)} recorded trials, such as {missing[0]}"
        )
    if problems:
        additions = "pairs, repeats, samples or crossed values"
        if prepared.config.search.share == "neighbors":
            additions = "pairs, repeats or crossed values"
        raise InputError(
            f"{ledger.folder}: the configuration no longer fits the sweep in this folder; you may "
            f"add {additions}, and change nothing else:",
            *problems,
        )


def check_networks(ledger: Ledger, fingerprints: Mapping[str, str]) -> None:
    """Check that the networks' weights are those that the sweep began with.

    Raises:
        InputError: the weights have changed.
    """
    before = (ledger.description() or {}).get("networks", {})
    changed = [name for name, value in fingerprints.items() if before.get(name, value) != value]
    if changed:
        raise InputError(
            f"{ledger.folder}: the weights of {', '.join(changed)} are not those that the sweep in "
            "this folder began with"
        )


def _describe_sharing(prepared: Prepared) -> dict[str, Any]:
    """Describe which studies learn from each other, if they do."""
    if prepared.config.search.share == "none":
        return {}
    return {"chains": describe_chains(prepared.studies)}


def _describe_plugins(prepared: Prepared) -> dict[str, Any]:
    """Describe the content of the plugins that the sweep uses, if it uses any."""
    plugins = plugin_contents(prepared.config)
    return {"plugins": plugins} if plugins else {}


def _plugin_problems(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """List the plugins that have changed or are missing; plugins may be added."""
    problems = [
        f"plugin {name}: its content has changed since the sweep began; restore it"
        for name in old
        if new.get(name, old[name]) != old[name]
    ]
    return problems + [
        f"plugin {name}: the sweep uses it, and the configuration no longer does"
        for name in old
        if name not in new
    ]


def _describe_networks(prepared: Prepared) -> dict[str, Any]:
    """Describe what decides each network's weights and layers."""
    recipes = {recipe.name: recipe.content for recipe in prepared.recipes()}
    descriptions = {}
    for network in prepared.config.networks:
        if (file := network.weights_file) is not None:
            weights: Any = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            if network.source != "family":
                weights["network"] = construction.make_blueprint(network, prepared.data)
        elif network.kind in EXTERNAL_KINDS:
            weights = {
                "network": construction.make_blueprint(network, prepared.data),
                "named": network.weights,
            }
            if network.kind == FROM_FACTORY:
                weights["seed"] = network.seed
        elif network.kind == CLASS_ONLY:
            shapes = [list(shape) for shape in prepared.outlines[network.name].layers]
            weights = {CLASS_ONLY: {"seed": network.seed, "noise": network.noise, "shapes": shapes}}
        elif network.kind == LOGITS_ONLY:
            weights = {LOGITS_ONLY: {"seed": network.seed, "probes_of": network.probes_of}}
        else:
            weights = recipes[network.name]
        descriptions[network.name] = {"weights": weights, "layers": network.layers}
    return descriptions


def _explain(path: str, was: Any, now: Any) -> str:
    """Describe a difference in a sentence."""
    values = f"was {was!r}, is {now!r}"
    if path.endswith("network.factory") and any(
        isinstance(value, str) and is_in_memory(value) for value in (was, now)
    ):
        name = path.removeprefix("networks.").removesuffix(".weights.network.factory")
        return (
            f"network {name!r} is another module than the one that the sweep began with: {values}"
        )
    if path == "data":
        return f"data: images or labels differ from those that the sweep began with: {values}"
    return f"{path}: {values}"


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".removeprefix("."))
    elif old != new:
        yield path, old, new
