"""From a configuration to what a sweep needs, with every problem found before anything trains."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stitch_sweep.config.controls import CLASS_ONLY
from stitch_sweep.config.models import (
    GIVEN,
    Config,
    KnockOutConfig,
    NetworkConfig,
    PairConfig,
    StitchConfig,
    TrialSettings,
    trial_settings,
)
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.duplicates import find_duplicates
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.losses.base import CombinedLoss, LossContext
from stitch_sweep.networks import construction
from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.cutting.gradients import GradientFlow, gradient_flow
from stitch_sweep.networks.cutting.hooks import open_network
from stitch_sweep.networks.cutting.tracing import black_image
from stitch_sweep.networks.external.examination import output_note
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.frozen import IMAGE_LAYER
from stitch_sweep.networks.zoo import (
    Entry,
    Progress,
    Recipe,
    Zoo,
    load_given,
    load_weights,
    make_recipe,
    train_network,
)
from stitch_sweep.plan.search import (
    check_size,
    combinations,
    once_per_factors,
    trainings_per_study,
    trials_by_study,
)
from stitch_sweep.plan.teaching import teaching_notes
from stitch_sweep.stitches import building as stitches
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.ledger import Study
from stitch_sweep.training.loop import no_teacher

_PROBED = 2
"""Number of images with which gradients are tried."""

Train = Callable[[Recipe, bytes | None], Iterator[Progress]]


@dataclass(frozen=True)
class Outline:
    """A network without weights: its layers' shapes.

    Attributes:
        image: shape of the image, layer -1; None for a sender that knows only the class.
        layers: shape of each layer from 0 on.
        outputs: length of the logits; None for a sender that knows only the class.
        gradients: how far gradients reach into it.
        notes: what a user should know of it.
    """

    image: Shape | None
    layers: list[Shape]
    outputs: int | None
    gradients: GradientFlow = field(default_factory=GradientFlow)
    notes: tuple[str, ...] = ()

    def check_layers(self, name: str, layers: Iterable[int]) -> None:
        """See that the network `name` has these layers.

        Raises:
            InputError: it doesn't; the message has the range.
        """
        last = len(self.layers) - 1
        first = 0 if self.image is None else IMAGE_LAYER
        if outside := [str(layer) for layer in layers if not first <= layer <= last]:
            where = "-1 (the image)" if self.image else "0 (it knows only the class, no image)"
            raise InputError(f"{name} has layers {where} to {last}, not {', '.join(outside)}")

    def shape(self, layer: int) -> Shape:
        """Shape of one image's representation at a layer, which must be one that it has."""
        if layer != IMAGE_LAYER:
            return self.layers[layer]
        assert self.image is not None
        return self.image


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
        """What a user should know before the sweep starts; worked out when it is asked for."""
        found = teaching_notes(self.config, self.studies, self.shape)
        for name, network in self.outlines.items():
            found += [f"network {name!r}: {note}" for note in network.notes]
        if self.config.parts:
            found.append("parts: a sweep leaves them out; `stitch-sweep assemble` trains them")
        trials, trainings = self.trials, self.trainings
        if trainings < trials:
            found.append(
                f"search.space: has too few points for {trials} different trials; equal trials of a "
                f"study are trained once and copied, so at most {trainings} stitches are trained"
            )
        duplicates = [f"data: {entry}" for entry in find_duplicates(self.data)]
        return [*self.data.notes, *duplicates, *found]

    @property
    def trials(self) -> int:
        """How many trials the configuration asks for."""
        return sum(trials_by_study(self.config, self.studies))

    @property
    def trainings(self) -> int:
        """Upper bound on the stitches that are trained: equal trials of a study are trained once."""
        return sum(
            once_per_factors(self.studies, lambda study: trainings_per_study(self.config, study))
        )

    def shape(self, network: str, layer: int) -> Shape:
        """Shape of one image's representation at a layer of a network."""
        return self.outlines[network].shape(layer)

    def recipes(self) -> list[Recipe]:
        """What the zoo has to provide: nothing trained elsewhere, nothing that knows only the class."""
        return [
            make_recipe(network, self.config, self.data)
            for network in self.config.networks
            if network.kind not in (*GIVEN, CLASS_ONLY)
        ]

    def class_only(self, network: NetworkConfig) -> ClassOnly:
        """What a configured network with `weights: class_only` is: there is nothing to train or load."""
        assert network.noise is not None
        shapes = self.outlines[network.name].layers
        return ClassOnly(shapes, seed=network.seed, noise=network.noise)

    def untrained(self) -> dict[str, nn.Module]:
        """As `networks`, with random weights: to measure time or memory before there are others."""
        return {
            of.name: self.class_only(of)
            if of.kind == CLASS_ONLY
            else construction.build(of, self.data)
            for of in self.config.networks
        }

    def networks(self, entries: dict[str, Entry]) -> dict[str, nn.Module]:
        """The networks, and what stands in their place, by name, on the CPU.

        Args:
            entries: the zoo's entries by network name.
        """
        found: dict[str, nn.Module] = {}
        for network in self.config.networks:
            if network.kind in GIVEN:
                found[network.name] = load_given(network, self.data)
                continue
            if network.kind == CLASS_ONLY:
                found[network.name] = self.class_only(network)
                continue
            module = construction.build(network, self.data)
            module.load_state_dict(
                load_weights(entries[network.name].folder / "weights.safetensors")
            )
            found[network.name] = module.eval()
        return found


def prepare(config: Config, cells: bool = True) -> Prepared:
    """Load the data and check every network, layer and stitch of a configuration.

    Args:
        config: the configuration.
        cells: whether it must have some to stitch, which parts of an assembly are not.

    Raises:
        InputError: all problems found.
    """
    if cells and not (config.pairs or config.knock_out):
        raise InputError(
            "pairs: there are none, and no knock_out; `stitch-sweep assemble` trains what has parts"
        )
    data = load_data(config.data)
    networks = _outlines(config, data)
    if problems := list(_head_problems(config, networks, data)):
        raise InputError(*problems)
    studies = _studies(config, networks)
    problems = list(dict.fromkeys(_stitch_problems(config, studies, networks)))
    problems += dict.fromkeys(_teacher_problems(config, studies, networks, data))
    problems += _gradient_problems(config, studies, networks)
    if problems:
        raise InputError(*problems[:10], *_more(problems))
    return Prepared(config, data, networks, studies)


def prepare_networks(config: Config, names: Collection[str]) -> Prepared:
    """Load the data and check some networks of a configuration; no cell is checked.

    Args:
        config: the configuration.
        names: of the networks.

    Returns:
        As `prepare`, without studies, and as if the configuration had these networks alone.

    Raises:
        InputError: the data or one of these networks can't be used.
    """
    data = load_data(config.data)
    networks = _outlines(config, data, names)
    used = [network for network in config.networks if network.name in networks]
    only = config.model_copy(
        update={"networks": used, "pairs": [], "knock_out": [], "parts": [], "controls": []}
    )
    return Prepared(only, data, networks, [])


def _outlines(
    config: Config, data: Data, names: Collection[str] | None = None
) -> dict[str, Outline]:
    """The networks of these names, by default all, examined."""
    networks: dict[str, Outline] = {}
    problems: list[str] = []
    for i, network in enumerate(config.networks):
        if names is not None and network.name not in names:
            continue
        try:
            networks[network.name] = _outline(network, data)
        except InputError as error:
            problems += [f"networks[{i}]: {problem}" for problem in error.problems]
    if problems:
        raise InputError(*problems)
    return networks


def provide_networks(
    prepared: Prepared,
    on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
) -> dict[str, nn.Module]:
    """All networks of a configuration, trained in this process where the zoo lacks them."""
    config = prepared.config
    zoo = Zoo(config.zoo)
    entries = {
        recipe.name: zoo.ensure(recipe, train_here(config, prepared.data), on_progress)
        for recipe in prepared.recipes()
    }
    return prepared.networks(entries)


def train_here(config: Config, data: Data) -> Train:
    """How the zoo trains in this process."""

    def train(recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        return train_network(
            recipe,
            data,
            threads=config.resources.cpu,
            device=config.resources.device,
            resume=resume,
        )

    return train


def _outline(network: NetworkConfig, data: Data) -> Outline:
    # Not on "meta", whose random numbers and batch norms would import torch's compiler (1.5 s).
    given = network.kind in GIVEN
    module = load_given(network, data) if given else construction.build(network, data).eval()
    # The weights may be others than those that its places were found with.
    traced = open_network(
        module,
        layer_names=network.cuts,
        image_shape=data.image_shape,
        images=construction.some_images(data),
    )
    shapes = traced.shapes(data.image_shape)
    layers = [shapes[layer.name] for layer in traced.layers]
    if network.kind == CLASS_ONLY:
        return Outline(None, layers, None)
    whole = traced.sub_network(None, None)
    with torch.no_grad():
        outputs = whole(black_image(module, data.image_shape)).shape[1]
    if not isinstance(module, Imported):
        return Outline(data.image_shape, layers, outputs)
    images = construction.some_images(data)
    flow = gradient_flow(module, traced, images[:_PROBED])
    notes = [output_note(module, images)]
    if given and flow.last_zero > flow.last_blocked:  # what is trained here may start with zeros
        notes.append(
            f"for the images tried, only gradients of 0 come back from its logits to layer "
            f"{flow.last_zero} and those before it: no stitch into them learns from the logits"
        )
    found = tuple(note for note in notes if note is not None)
    return Outline(data.image_shape, layers, outputs, flow, found)


def _studies(config: Config, networks: dict[str, Outline]) -> list[Study]:
    problems = []
    studies: dict[str, Study] = {}
    cells: list[tuple[str, str, int, int]] = []
    grids: dict[tuple[tuple[str, str], tuple[int, ...], tuple[int, ...]], None] = {}
    for i, pair in enumerate(config.pairs):
        chosen = {}
        for side in ("sender", "receiver"):
            try:
                chosen[side] = _layers(pair, side, networks)
            except InputError as error:
                problems += [f"pairs[{i}].{side}_layers: {problem}" for problem in error.problems]
        if len(chosen) < 2:
            continue
        grids[(pair.sender, pair.receiver), tuple(chosen["sender"]), tuple(chosen["receiver"])] = (
            None
        )
    check_size(config, sum(len(rows) * len(columns) for _, rows, columns in grids))
    for ends, rows, columns in grids:
        cells += [(*ends, i, j) for i, j in itertools.product(rows, columns)]
    for i, part in enumerate(config.knock_out):
        last = len(networks[part.network].layers) - 1
        problems += [f"knock_out[{i}].{problem}" for problem in _out_of_reach(part, last)]
        cells += [(part.network, part.network, *cell) for cell in part.cells(last)]
        check_size(config, len(cells))
    if problems:
        raise InputError(*problems)
    for sender, receiver, *cell in cells:
        for factors in config.factor_combinations():
            for repeat in range(config.repeats):
                study = Study(sender, cell[0], receiver, cell[1], factors, repeat)
                studies.setdefault(study.id, study)
    # Sender by sender, so that a worker can keep a sender's activations for several trials.
    order = {network.name: k for k, network in enumerate(config.networks)}
    return sorted(studies.values(), key=lambda s: (order[s.sender], s.sender_layer))


def _out_of_reach(part: KnockOutConfig, last: int) -> Iterator[str]:
    """What of a knock-out its network, whose last layer is `last`, is too short for."""
    stem = part.first != "all" and 0 in part.first  # one layer more
    for key, most, what in (
        ("first", last, f"layers 0 (the stem) to {last} to take out"),
        ("removed", last + stem, f"{last + stem} of them"),
    ):
        wanted = getattr(part, key)
        if wanted != "all" and (beyond := [str(k) for k in wanted if k > most]):
            yield f"{key}: {part.network} has {what}, not {', '.join(beyond)}"
    if not part.cells(last):
        yield f"removed: {part.network} ends at layer {last}, before so many could be taken out"


def _layers(pair: PairConfig, side: str, networks: dict[str, Outline]) -> list[int]:
    network = networks[getattr(pair, side)]
    wanted = getattr(pair, f"{side}_layers")
    if wanted == "all":
        return list(range(len(network.layers)))
    network.check_layers(getattr(pair, side), wanted)
    return sorted(set(wanted))


def _stitch_problems(
    config: Config, studies: list[Study], networks: dict[str, Outline]
) -> Iterator[str]:
    """Every cell that a stitch it will meet can't join."""
    checked: dict[Any, str | None] = {}  # there are few pairs of shapes, and many cells
    stitches: dict[str, list[StitchConfig]] = {}  # nor many combinations of factors
    for study in studies:
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in stitches:
            stitches[factors] = [found.stitch for found in stitch_settings(config, study)]
        shapes = (
            networks[study.sender].shape(study.sender_layer),
            networks[study.receiver].shape(study.receiver_layer),
        )
        for stitch in stitches[factors]:
            key = (shapes, stitch.name, stitch.start, str(stitch.options))
            if key not in checked:
                checked[key] = misfit(stitch, *shapes)
            if (why := checked[key]) is not None:
                cells = (study.sender, study.sender_layer), (study.receiver, study.receiver_layer)
                yield f"{' -> '.join(f'{name}:{layer}' for name, layer in cells)}: {why}"


def _head_problems(config: Config, networks: dict[str, Outline], data: Data) -> Iterator[str]:
    """Every network that answers for a cell or an assembly with logits for other classes."""
    answering = [(f"pairs[{i}].receiver", pair.receiver) for i, pair in enumerate(config.pairs)]
    answering += [
        (f"knock_out[{i}].network", part.network) for i, part in enumerate(config.knock_out)
    ]
    if config.parts:
        last = len(config.parts) - 1
        answering.append((f"parts[{last}].network", str(config.parts[last].network)))
    for where, name in answering:
        if (why := wrong_head(name, networks[name], data)) is not None:
            yield f"{where}: {why}"


def wrong_head(name: str, network: Outline, data: Data) -> str | None:
    """Why a network can't receive: its logits are not those of the data's classes; None if they are."""
    if network.outputs in (None, data.num_classes):
        return None
    return (
        f"{name!r} has a head for {network.outputs} classes, and the data has {data.num_classes}, so "
        "what it says of an image is neither right nor wrong. It can be a sender; to receive it needs a "
        "head for these classes: its own with weights trained for them (arguments: {num_classes: "
        f"{data.num_classes}}}), or a factory that puts one on"
    )


def _teacher_problems(
    config: Config, studies: list[Study], networks: dict[str, Outline], data: Data
) -> Iterator[str]:
    """Every sender that can't teach a loss that it will meet."""
    silent = {name for name, of in networks.items() if of.outputs != data.num_classes}
    taught: dict[str, bool] = {}  # there are few combinations of factors, and many cells
    for study in studies:
        if study.sender in silent:
            factors = json.dumps(study.factors, sort_keys=True)
            if factors not in taught:
                taught[factors] = _learns_from_sender(config, study)
            if taught[factors]:
                network = networks[study.sender].outputs is not None
                yield no_teacher(f"network {study.sender!r}", network=network)


def _learns_from_sender(config: Config, study: Study) -> bool:
    """Whether the sender is the teacher of any loss that the study's search may choose."""
    return any("sender" in loss.teachers for loss in _losses(config, study))


def _losses(config: Config, study: Study) -> Iterator[CombinedLoss]:
    """Every loss that the study's search may choose."""
    for chosen in combinations(config, study, only="loss"):
        yield combined(trial_settings(config.settings, {**study.factors, **chosen}))


def combined(settings: TrialSettings) -> CombinedLoss:
    """The loss of some settings, to ask what it needs."""
    terms = [(term.name, term.weight, term.options) for term in settings.loss.terms]
    return CombinedLoss(terms, LossContext())


def _gradient_problems(
    config: Config, studies: list[Study], networks: dict[str, Outline]
) -> Iterator[str]:
    """Every receiver with layers into which no stitch can be trained by a loss that it will meet."""
    needed: dict[str, bool] = {}  # there are few combinations of factors, and many cells
    layers: dict[str, set[int]] = {}
    for study in studies:
        if study.receiver_layer > networks[study.receiver].gradients.last_blocked:
            continue
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in needed:
            needed[factors] = any(map(_looks_behind, _losses(config, study)))
        if needed[factors]:
            layers.setdefault(study.receiver, set()).add(study.receiver_layer)
    for name, found in layers.items():
        yield no_gradient(name, networks[name], sorted(found))


def _looks_behind(loss: CombinedLoss) -> bool:
    """Whether a loss needs what the receiver computes after the cut."""
    return loss.needs_logits or loss.needs_hints


def no_gradient(name: str, network: Outline, layers: Iterable[int]) -> str:
    """Why no stitch into these layers of a network can be trained by its logits."""
    last = network.gradients.last_blocked
    remedy = (
        f"its layers from {last + 1} on can receive"
        if last + 1 < len(network.layers)
        else "no layer of it can receive"
    )
    return (
        f"{name!r} can't receive at layer {', '.join(map(str, layers))}: its forward passes no gradient "
        f"back {network.gradients.place}, so a stitch before that learns nothing from the logits (as "
        f"with detach(), no_grad() or inference_mode()); {remedy}, and a loss of representations alone, "
        "such as mse, needs no gradient from there"
    )


def cell_problem(network: Outline, name: str, layer: int, settings: TrialSettings) -> str | None:
    """Why no stitch into a receiver's layer can be trained under these settings; None where it can."""
    if layer <= network.gradients.last_blocked and _looks_behind(combined(settings)):
        return no_gradient(name, network, [layer])
    return None


def misfit(stitch: StitchConfig, sender: Shape, receiver: Shape) -> str | None:
    """Why a configured stitch can't join two shapes; None where it can."""
    return stitches.misfit(
        stitch.name, sender, receiver, start=stitch.start, options=stitch.options
    )


def first_settings(config: Config, study: Study) -> TrialSettings:
    """The settings of a study under the first stitch that its search may choose."""
    return next(stitch_settings(config, study))


def stitch_settings(config: Config, study: Study) -> Iterator[TrialSettings]:
    """The settings of a study under every stitch that its search may choose."""
    for chosen in combinations(config, study, only="stitch"):
        yield trial_settings(config.settings, {**study.factors, **chosen})


def _more(problems: list[str]) -> list[str]:
    return [f"... and {len(problems) - 10} more cells"] if len(problems) > 10 else []
