"""Networks assembled from parts: pieces of networks, and stitches between them.

    image -> [a, to layer1.0] -> [stitch] -> [b, layer1.0 to layer3.0] -> [stitch] -> [a, from layer3.0]

A stitch between two networks is the assembly of three parts; any number may follow one another. Stitches
are trained, pieces of networks are frozen unless asked otherwise.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stitch_sweep.config.models import LossConfig, PartConfig, TrainingConfig
from stitch_sweep.config.optimization import Optimization
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import CombinedLoss, LossContext, LossInputs
from stitch_sweep.networks.cutting.gradients import gradient_through
from stitch_sweep.networks.cutting.hooks import Cuttable, belonging, open_network
from stitch_sweep.networks.cutting.tracing import LayerNames
from stitch_sweep.networks.evaluation import CHUNK, Scores
from stitch_sweep.networks.frozen import IMAGE_LAYER, FrozenNetwork
from stitch_sweep.stitches.base import DATA_STARTS
from stitch_sweep.stitches.building import build_stitch, misfit
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.starts import start_stitch

Order = Literal["together", "in_turn"]


class Piece(NamedTuple):
    """A part of an assembly with the shapes it joins.

    Attributes:
        config: what it is.
        takes: shape of what it gets, without the batch.
        gives: shape of what it makes of it.
    """

    config: PartConfig
    takes: Shape
    gives: Shape


def outline(
    parts: Sequence[PartConfig],
    networks: Mapping[str, nn.Module],
    image: Shape,
    layers: Mapping[str, LayerNames] | None = None,
) -> list[Piece]:
    """The shapes of all parts, checked without running anything but each network once.

    Args:
        parts: from the image to the logits.
        networks: by name, with any weights.
        image: shape of the image.
        layers: what a network's layer indices mean, where that is not its own `layer_names`.

    Raises:
        InputError: every place that is no cut point, every pair of parts whose shapes don't meet (with
            the stitches that could join them), and every stitch that can't join its neighbours.
    """
    found: list[Piece | None] = []
    problems: list[str] = []
    for k, part in enumerate(parts):
        piece = None
        if part.stitch is None:
            try:
                name = str(part.network)
                traced = open_network(networks[name], layer_names=(layers or {}).get(name))
                learns = any(p.stitch is not None or not p.frozen for p in parts[:k])
                piece = _network_piece(part, traced, image, learns)
            except InputError as error:
                problems += [f"parts[{k}]: {problem}" for problem in error.problems]
        found.append(piece)
    if problems:
        raise InputError(*problems)
    for k, part in enumerate(parts):
        if part.stitch is not None:
            before, after = found[k - 1], found[k + 1]
            assert before is not None  # a stitch has a piece of a network on either side
            assert after is not None
            found[k] = Piece(part, before.gives, after.takes)
            of, shapes = part.stitch, (before.gives, after.takes)
            why = misfit(of.name, *shapes, start=of.start, options=of.options)
            problems += [] if why is None else [f"parts[{k}]: {why}"]
        elif k and (before := found[k - 1]) is not None:
            piece = found[k]
            assert piece is not None
            if before.gives != piece.takes:
                problems.append(
                    f"parts[{k}]: wants {_shown(piece.takes)}, and the part before gives "
                    f"{_shown(before.gives)}; {_joining(before.gives, piece.takes)}"
                )
    if problems:
        raise InputError(*problems)
    return [piece for piece in found if piece is not None]


def _network_piece(part: PartConfig, traced: Cuttable, image: Shape, learns: bool) -> Piece:
    """A piece of a network; `learns` says whether a part before it is trained, through it."""
    # Whoever has no start begins at the image; the part before it ends there.
    before = traced.sub_network(None, IMAGE_LAYER if part.start is None else part.start)
    piece = traced.sub_network(part.start, part.end)
    with torch.no_grad():
        taken = before.eval()(torch.zeros(1, *image))
        given = piece.eval()(taken)
    if learns:
        gradient, why = gradient_through(piece, taken)
        if gradient is None:
            raise InputError(
                f"{part.network} passes no gradient back between its places "
                f"{'the image' if part.start is None else repr(part.start)} and "
                f"{'the logits' if part.end is None else repr(part.end)}{why}, so nothing before it "
                "can be trained (as with detach(), no_grad() or inference_mode())"
            )
    return Piece(part, tuple(taken.shape[1:]), tuple(given.shape[1:]))


def _joining(takes: Shape, gives: Shape) -> str:
    """Which stitches could stand between two shapes, with their defaults."""
    able = [name for name in STITCHES.names() if misfit(name, takes, gives) is None]
    return f"stitches that can join them: {', '.join(able)}" if able else "no stitch can join them"


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class AssemblyResult:
    """What came of training an assembly.

    Attributes:
        status: `finished`, or `failed` when the loss stopped being finite.
        metrics: `train_`, `val_` and `test_accuracy` and `_loss`; `receiver_accuracy`, the test accuracy
            of the network that the last part is of, by itself, and `penalty`, what the assembly lacks of
            it; `parameters`, how many were trained.
        trajectory: a row per epoch and split: `part` (the position of what was trained, None where that
            was several), step, epoch, split, loss, loss.<term>, accuracy, lr, time (seconds so far).
        predictions: int64 [N], the class predicted for every test image; None for a failed training.
        seconds: time spent.
    """

    status: str
    metrics: dict[str, Any]
    trajectory: list[dict[str, Any]]
    predictions: Tensor | None
    seconds: float


class Assembly(nn.Module):
    """Parts one after the other, from images [B, C, H, W] to logits [B, K].

    Pieces of networks are always in eval mode, those that are trained too: the statistics of their
    BatchNorms stay what they are. A stitch is in train mode while it is trained.

    Args:
        pieces: as `outline` gives them.
        networks: by name. They are frozen in place; a part with `frozen: false` gets a copy of its own.
        seed: decides the stitches' first weights, with their positions.
        layers: as for `outline`.

    Attributes:
        parts: the modules, in order.
        trained: the parameters that are trained, by the position of their part.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        networks: Mapping[str, nn.Module],
        seed: int = 0,
        layers: Mapping[str, LayerNames] | None = None,
    ) -> None:
        super().__init__()
        self.pieces = list(pieces)
        known = layers or {}
        self._frozen = {
            name: FrozenNetwork(network, f"network {name!r}", known.get(name))
            for name, network in networks.items()
        }
        modules: list[nn.Module] = []
        for k, piece in enumerate(pieces):
            part, of = piece.config, piece.config.stitch
            if of is not None:
                modules.append(
                    build_stitch(
                        of.name,
                        piece.takes,
                        piece.gives,
                        start=of.start,
                        options=of.options,
                        seed=seed,
                        repeat=k,
                    )
                )
            elif part.frozen:
                modules.append(self._frozen[str(part.network)].part(part.start, part.end))
            else:
                name = str(part.network)
                own = open_network(copy.deepcopy(networks[name]), layer_names=known.get(name))
                module = own.sub_network(part.start, part.end)
                for tensor in belonging(module).values():
                    if isinstance(tensor, nn.Parameter):
                        tensor.requires_grad_()
                modules.append(module)
        device = next(next(iter(networks.values())).parameters()).device
        self.parts = nn.ModuleList(modules).to(device)
        self.trained = {
            k: [p for p in module.parameters() if p.requires_grad]
            for k, module in enumerate(self.parts)
            if any(p.requires_grad for p in module.parameters())
        }
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        for part in self.parts:
            images = part(images)
        return images

    def learn(self, positions: Collection[int]) -> None:
        """From now on train the parts at these positions and no other."""
        for k, module in enumerate(self.parts):
            module.train(k in positions and self.pieces[k].config.stitch is not None)
            for parameter in self.trained.get(k, []):
                parameter.requires_grad_(k in positions)

    def own(self) -> FrozenNetwork:
        """The network that the last part is of."""
        return self._frozen[str(self.pieces[-1].config.network)]

    def start(self, train: Loader) -> None:
        """Let the stitches start that start from data, the first first.

        Each one's input is what the parts before it make of the training images, its target what the
        network after it would have there by itself.
        """
        for k, piece in enumerate(self.pieces):
            of = piece.config.stitch
            if of is not None and of.start in DATA_STARTS:
                start_stitch(self.parts[k], of.start, self._pairs(k, train))

    @torch.no_grad()
    def _pairs(self, position: int, train: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        after = self.pieces[position + 1].config
        start = IMAGE_LAYER if after.start is None else after.start  # the stitch makes an image
        expected = self._frozen[str(after.network)].part(None, start)
        for images, _, valid in train.in_order(CHUNK):
            before = images
            for part in self.parts[:position]:
                before = part(before)
            yield before[:valid], expected(images)[:valid]

    def verify(self) -> None:
        """Check that no frozen network changed.

        Raises:
            FrozenError: one did.
        """
        for network in self._frozen.values():
            network.verify()


def check_loss(loss: LossConfig) -> None:
    """See that a loss needs nothing but an assembly's own predictions.

    Raises:
        InputError: it compares with a representation or a teacher, and an assembly has no single one.
    """
    able = []
    for name in LOSSES.names():
        of: Any = LOSSES.get(name).factory
        if of.needs_logits and not (of.needs_expected or of.needs_teacher or of.needs_hints):
            able.append(name)
    if wrong := [term.name for term in loss.terms if term.name not in able]:
        raise InputError(
            f"loss.{', loss.'.join(wrong)}: compares with what one receiver would have made, and an "
            f"assembly has several; allowed: {', '.join(able)}"
        )


def train_assembly(
    assembly: Assembly,
    loaders: Mapping[str, Loader],
    loss: LossConfig,
    training: TrainingConfig,
    *,
    order: Order = "together",
    seed: int = 0,
    threads: int = 1,
) -> Iterator[AssemblyResult | tuple[int, int]]:
    """Train what of an assembly is trained, and evaluate it.

    Args:
        assembly: on the loaders' device.
        loaders: `train`, `validation` and `test`.
        loss: of its predictions; see `check_loss`.
        training: epochs, optimizer and schedule, of every stage.
        order: `together`, or `in_turn`: one part after the other, from the first on, `training.epochs`
            each, while the others stay as they are.
        seed: of this process's generators.
        threads: torch's intra-op threads.

    Yields:
        (epochs done, epochs in all) after every epoch; last the result.

    Raises:
        InputError: the loss is none that an assembly can have.
        FrozenError: a frozen part changed.
    """
    began = time.perf_counter()
    seed_everything(derive(seed, "assembly"), threads)
    check_loss(loss)
    terms = CombinedLoss([(t.name, t.weight, t.options) for t in loss.terms], LossContext())
    assembly.start(loaders["train"])
    positions = list(assembly.trained)
    stages = [positions] if order == "together" and positions else [[k] for k in positions]
    trajectory: list[dict[str, Any]] = []
    done, total, failed = 0, training.epochs * len(stages), False
    for stage in stages:
        optimization = Optimization(
            [p for k in stage for p in assembly.trained[k]],
            training.optimizer,
            training.schedule,
            training.epochs * len(loaders["train"]),
            terms.default_lr(training.optimizer.name),
        )
        for _ in range(0 if failed else training.epochs):
            rows = _epoch(assembly, stage, loaders, terms, optimization, done)
            done += 1
            about = {"part": stage[0] if len(stage) == 1 else None, "epoch": done}
            passed = {"time": time.perf_counter() - began}
            trajectory += [{**about, **row, **passed} for row in rows]
            failed = not all(math.isfinite(row["loss"]) for row in rows)
            if failed:
                break
            yield done, total
    assembly.learn([])
    assembly.verify()
    metrics: dict[str, Any] = {}
    predictions = None
    if not failed:
        for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
            measured, predictions = _measure(assembly, loaders[split], terms)
            metrics |= {f"{short}_{name}": value for name, value in measured.items()}
        metrics["receiver_accuracy"] = assembly.own().evaluate(loaders["test"]).accuracy
        metrics["penalty"] = metrics["receiver_accuracy"] - metrics["test_accuracy"]
        metrics["parameters"] = sum(p.numel() for k in positions for p in assembly.trained[k])
    seconds = time.perf_counter() - began
    status = "failed" if failed else "finished"
    yield AssemblyResult(status, metrics, trajectory, predictions, seconds)


def _epoch(
    assembly: Assembly,
    stage: Collection[int],
    loaders: Mapping[str, Loader],
    loss: CombinedLoss,
    optimization: Optimization,
    epoch: int,
) -> list[dict[str, Any]]:
    """Train for an epoch; its row, and that of the validation images after it."""
    assembly.learn(stage)
    sums: dict[str, Tensor] = {}
    count, lr = 0, 0.0
    for _, images, labels in loaders["train"].batches(epoch):
        logits = assembly(images)
        total, values = loss(LossInputs(labels=labels, stitched=logits, logits=logits))
        lr = optimization.step(total)
        right = (logits.argmax(dim=1) == labels).double().mean()
        found = {"loss": total, "accuracy": right, **{f"loss.{k}": v for k, v in values.items()}}
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value.detach().double() * len(labels)
        count += len(labels)
    trained = {name: (value / count).item() for name, value in sums.items()}
    assembly.learn([])
    measured, _ = _measure(assembly, loaders["validation"], loss)
    step = {"step": optimization.step_count, "lr": lr}
    return [{"split": "train", **step, **trained}, {"split": "validation", **step, **measured}]


@torch.no_grad()
def _measure(
    assembly: Assembly, loader: Loader, loss: CombinedLoss
) -> tuple[dict[str, float], Tensor]:
    scores = Scores()
    sums: dict[str, Tensor] = {}
    for images, labels, valid in loader.in_order(CHUNK):
        logits = assembly(images)
        scores.add(logits, labels, valid)
        of = LossInputs(labels=labels[:valid], stitched=logits[:valid], logits=logits[:valid])
        total, values = loss(of)
        for name, value in {"loss": total, **{f"loss.{k}": v for k, v in values.items()}}.items():
            sums[name] = sums.get(name, 0) + value.double() * valid
    found = scores.result()
    losses = {name: (value / len(loader.images)).item() for name, value in sums.items()}
    return {"accuracy": found.accuracy, **losses}, found.predictions
