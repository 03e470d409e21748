"""From a configuration to everything that a sweep needs; every problem is found before training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from stitch_sweep.config.networks import (
    CLASS_ONLY,
    EXTERNAL_KINDS,
    LOGITS_ONLY,
    SENDERS_ONLY,
    NetworkConfig,
)
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import restored_afterwards
from stitch_sweep.data.duplicates import find_duplicates
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks import construction
from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.logits_only import LogitsOnly, Probes
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.probe_fitting import fit_probes
from stitch_sweep.networks.recipes import Recipe, make_probe_recipe, make_recipe
from stitch_sweep.networks.weights.fitting import load_pretrained
from stitch_sweep.networks.weights.reading import load_weights
from stitch_sweep.networks.zoo import StoredNetwork, Zoo, load
from stitch_sweep.plan.machine import pretraining_notes
from stitch_sweep.plan.outlines import Outline, outline_networks
from stitch_sweep.plan.sizes import allot_trials, bound_all_trainings, count_trials
from stitch_sweep.plan.studies import enumerate_studies
from stitch_sweep.plan.teaching import teaching_notes
from stitch_sweep.plan.validation import find_cell_problems, find_head_problems
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.study import Study

_MOST_PROBLEMS = 10
"""Number of problems of cells that a message lists."""

Train = Callable[[Recipe, bytes | None], Iterator[Progress]]


@dataclass(frozen=True)
class Prepared:
    """A configuration that can be run: its data, its networks' shapes, its studies.

    Attributes:
        config: the configuration.
        data: the images.
        outlines: the shapes of every network's layers, by name.
        studies: every cell under every combination of factors and every repeat, sender by sender.
    """

    config: Config
    data: Data
    outlines: dict[str, Outline]
    studies: list[Study]

    @property
    def notes(self) -> list[str]:
        """Notes for the user before the sweep starts, computed at each access."""
        notes = teaching_notes(self.config, self.studies, self.shape, len(self.data.train))
        for name, outline in self.outlines.items():
            notes += [f"network {name!r}: {note}" for note in outline.notes]
        if self.config.parts:
            notes.append("parts: a sweep skips them; `stitch-sweep assemble` trains them")
        trials, trainings = sum(allot_trials(self.config, self.studies)), self.trainings
        if trainings < trials:
            notes.append(
                f"search.space: has too few points for {trials} different trials; equal trials of a "
                f"study are trained once and copied, so at most {trainings} stitches are trained"
            )
        duplicates = [f"data: {entry}" for entry in find_duplicates(self.data)]
        return [*self.data.notes, *duplicates, *notes, *pretraining_notes(self.config)]

    @property
    def trials(self) -> int:
        """Number of trials of the configuration."""
        return sum(count_trials(self.config, self.studies))

    @property
    def trainings(self) -> int:
        """Upper bound on the number of trained stitches: equal trials of a study are trained once."""
        return sum(bound_all_trainings(self.config, self.studies))

    def shape(self, network: str, layer: int) -> Shape:
        """Return the shape of one image's representation at a layer of a network."""
        return self.outlines[network].shape(layer)

    def recipes(self) -> list[Recipe]:
        """Return the recipes of the networks that the zoo has to provide.

        Class-only senders, and networks whose configuration names weights, need no recipe. The
        probes of logits-only senders have one once their network exists; see `add_probes`.
        """
        return [
            make_recipe(network, self.config, self.data)
            for network in self.config.networks
            if network.kind not in (*EXTERNAL_KINDS, *SENDERS_ONLY)
        ]

    def class_only(self, network: NetworkConfig) -> ClassOnly:
        """Build the sender of a network with `weights: class_only`; it needs no training."""
        assert network.noise is not None
        shapes = self.outlines[network.name].layers
        return ClassOnly(shapes, seed=network.seed, noise=network.noise)

    def untrained(self) -> dict[str, nn.Module]:
        """Build `networks` with random weights, to measure time or memory before any training."""
        modules: dict[str, nn.Module] = {}
        for network in self.config.networks:
            if network.kind == CLASS_ONLY:
                modules[network.name] = self.class_only(network)
                continue
            module = construction.build(network, self.data)
            if network.kind == LOGITS_ONLY:
                module = LogitsOnly(module, self.blank_probes(network))
            modules[network.name] = module
        return modules

    def blank_probes(self, network: NetworkConfig) -> Probes:
        """Build the probes of a network with `weights: logits_only`, before they are fitted."""
        shapes = self.outlines[network.name].layers
        return Probes(shapes, self.data.num_classes, seed=network.seed)

    def networks(self, entries: dict[str, StoredNetwork]) -> dict[str, nn.Module]:
        """Load the networks and class-only senders, by name, on the CPU.

        Logits-only senders are missing: see `add_probes`.

        Args:
            entries: the zoo's entries by network name.
        """
        modules: dict[str, nn.Module] = {}
        for network in self.config.networks:
            if network.kind in EXTERNAL_KINDS:
                modules[network.name] = load_pretrained(network, self.data)
                continue
            if network.kind == CLASS_ONLY:
                modules[network.name] = self.class_only(network)
                continue
            if network.kind == LOGITS_ONLY:
                continue
            module = construction.build(network, self.data)
            module.load_state_dict(load_weights(entries[network.name].weights_file))
            modules[network.name] = module.eval()
        return modules


def prepare(config: Config, cells: bool = True) -> Prepared:
    """Load the data and check every network, layer and stitch of a configuration.

    Args:
        config: the configuration.
        cells: whether the configuration must have cells; an assembly has none.

    Raises:
        InputError: all problems of the configuration.
    """
    if cells and not (config.pairs or config.knock_out):
        raise InputError(
            "pairs: is empty, and so is knock_out; add either, or train parts with "
            "`stitch-sweep assemble`"
        )
    data = load_data(config.data)
    outlines = outline_networks(config, data)
    if problems := list(find_head_problems(config, outlines, data)):
        raise InputError(*problems)
    studies = enumerate_studies(config, outlines)
    if problems := find_cell_problems(config, studies, outlines, data):
        raise InputError(*problems[:_MOST_PROBLEMS], *_count_rest(problems))
    return Prepared(config, data, outlines, studies)


def prepare_networks(config: Config, names: Collection[str]) -> Prepared:
    """Load the data and check some networks of a configuration; no cell is checked.

    Args:
        config: the configuration.
        names: names of the networks. A network that one of them probes is added.

    Returns:
        As `prepare`, without studies, and as if the configuration had these networks alone.

    Raises:
        InputError: the data or one of these networks can't be used.
    """
    data = load_data(config.data)
    probed = {n.probes_of for n in config.networks if n.name in names and n.probes_of is not None}
    names = {*names, *probed}
    outlines = outline_networks(config, data, names)
    used = [network for network in config.networks if network.name in names]
    only = config.model_copy(
        update={"networks": used, "pairs": [], "knock_out": [], "parts": [], "controls": []}
    )
    return Prepared(only, data, outlines, [])


def provide_networks(
    prepared: Prepared,
    on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
) -> dict[str, nn.Module]:
    """Return all networks of a configuration; train in this process those that the zoo lacks.

    Args:
        prepared: the configuration.
        on_progress: is called after each epoch of a network's training.
    """
    config = prepared.config
    zoo = Zoo(config.zoo)
    entries = {
        recipe.name: zoo.ensure(recipe, make_local_trainer(config, prepared.data), on_progress)
        for recipe in prepared.recipes()
    }
    return add_probes(prepared, prepared.networks(entries), on_progress)


def add_probes(
    prepared: Prepared,
    modules: dict[str, nn.Module],
    on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
) -> dict[str, nn.Module]:
    """Add the logits-only senders; fit in this process the probes that the zoo lacks.

    Args:
        prepared: the configuration.
        modules: its other networks by name; see `Prepared.networks`.
        on_progress: is called after each fit.

    Returns:
        All networks, in the configuration's order.
    """
    config, data = prepared.config, prepared.data
    found = dict(modules)
    for network in config.networks:
        if network.kind != LOGITS_ONLY:
            continue
        probed = modules[str(network.probes_of)]
        recipe = make_probe_recipe(network, probed, config, data)
        probes = prepared.blank_probes(network)
        fit = partial(_fit_probes, probes, probed, network, prepared)
        entry = Zoo(config.zoo).ensure(recipe, fit, on_progress)
        load(entry.folder, into=probes)
        found[network.name] = LogitsOnly(probed, probes)
    return {network.name: found[network.name] for network in config.networks}


def _fit_probes(
    probes: Probes,
    probed: nn.Module,
    network: NetworkConfig,
    prepared: Prepared,
    recipe: Recipe,
    resume: bytes | None,
) -> Iterator[Progress]:
    """Fit probes as a training of the zoo: one step, so that there is nothing to resume."""
    threads = prepared.config.resources.cpu
    with restored_afterwards():  # this process may be a user's notebook
        fitted = fit_probes(
            probes, probed, prepared.data, threads=threads, layer_names=network.cuts
        )
    yield fitted


def make_local_trainer(config: Config, data: Data) -> Train:
    """Return a function for the zoo that trains a network in this process."""

    def train(recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        return train_network(
            recipe,
            data,
            threads=config.resources.cpu,
            device=config.resources.device,
            resume=resume,
        )

    return train


def _count_rest(problems: list[str]) -> list[str]:
    hidden_count = len(problems) - _MOST_PROBLEMS
    return [f"... and {hidden_count} more cells"] if hidden_count > 0 else []
