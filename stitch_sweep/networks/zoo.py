"""The zoo: networks trained once, stored under what determined them, and loaded again.

A network's folder is `<family>-<data>-seed<seed>-<hash>`; the hash covers its recipe: everything that
decided its weights. `recipe.json` is written last, so a folder that has one is complete.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.config.models import GIVEN, Config, NetworkConfig
from stitch_sweep.config.optimization import Optimization, OptimizerConfig, ScheduleConfig
from stitch_sweep.core.errors import DivergedError, InputError, nearest
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, printable, read_json
from stitch_sweep.core.versions import versions
from stitch_sweep.data.images import SPLITS, Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks import construction
from stitch_sweep.networks.evaluation import CHUNK, evaluate
from stitch_sweep.networks.external.building import what_went_wrong
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.families.building import build
from stitch_sweep.storage.checkpoints import FORMAT as CHECKPOINT_FORMAT
from stitch_sweep.storage.checkpoints import (
    CheckpointError,
    ForeignFileError,
    digest,
    generators,
    pack,
    set_generators,
    take_up,
    unpack,
)
from stitch_sweep.storage.files import forget, keep, kept, remove_temporaries, write_atomically

FORMAT = 1
"""Part of every recipe: raised when the training code changes what a recipe gives."""
_LARGEST_RECIPE = MIB
_PICKLED = b"\x80"  # the first byte of what pickle wrote
_ZIP = b"PK\x03\x04"
_COMPILED = "_orig_mod."  # what torch.compile puts into the names of a state dict


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a network's weights.

    Attributes:
        name: what the network is called in messages; not part of what determines it.
        content: plain data, hashed as JSON.
        factory: the user's function that makes the network, for `source: python`: a process to which a
            recipe is sent need not have its file.
    """

    name: str
    content: dict[str, Any]
    factory: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    @property
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over the content."""
        text = json.dumps(self.content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the network's folder in a zoo."""
        content = self.content
        untrained = "" if content["weights"] == "trained" else f"-{content['weights']}"
        data = content["data"]["name"]
        title = re.sub(r"[^A-Za-z0-9._-]", "-", self.title)
        return f"{title}-{data}{untrained}-seed{content['seed']}-{self.hash}"

    @property
    def title(self) -> str:
        """What kind of network it is, as `NetworkConfig.title`."""
        plan = self.content.get("network")
        if plan is None:
            return str(self.content["family"])
        made_by = plan.get("model") or plan["factory"].rpartition(":")[2]
        return f"{plan['source']}:{made_by}"

    @property
    def epochs(self) -> int:
        """Epochs of training; 0 for an untrained control."""
        pretraining = self.content.get("pretraining")
        return int(pretraining["epochs"]) if pretraining else 0

    def architecture(self) -> nn.Module:
        """The network with fresh weights from torch's global generator.

        Raises:
            InputError: it can't be made here; see `stitch_sweep.networks.construction.construct`.
        """
        content = self.content
        if "network" in content:
            return construction.construct(content["network"], self.factory)
        return build(
            content["family"],
            content["data"]["channels"],
            content["data"]["classes"],
            content["options"],
            image_size=content["data"]["image_size"],
        )


@dataclass(frozen=True)
class Progress:
    """One epoch of a network's training.

    Attributes:
        epoch: epochs done.
        epochs: epochs in all.
        loss: mean training loss of the epoch, nats; NaN for an untrained network.
        val_accuracy: on the validation split, in [0, 1].
        checkpoint: state to resume from, now and then.
        weights: the finished network's state, with the last epoch only.
        accuracy: the finished network's accuracy per split, with the last epoch only.
    """

    epoch: int
    epochs: int
    loss: float
    val_accuracy: float
    checkpoint: bytes | None = None
    weights: bytes | None = None
    accuracy: dict[str, float] | None = None


@dataclass(frozen=True)
class Entry:
    """A stored network: its folder, recipe and accuracies."""

    folder: Path
    recipe: dict[str, Any]
    accuracy: dict[str, float]
    seconds: float
    versions: dict[str, str | None]

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with: a family's options, or the arguments of a network from elsewhere."""
        found = self.recipe.get("options")
        return dict(self.recipe["network"]["arguments"] if found is None else found)


def make_recipe(network: NetworkConfig, config: Config, data: Data) -> Recipe:
    """The recipe of a network that a configuration asks the zoo for.

    Thread count and kind of device are part of it, because they decide the last bits of the weights;
    so is the content of the training images, not where they lie.
    """
    if network.source == "family":
        what: dict[str, Any] = {"family": network.family, "options": network.options}
    else:
        what = {"network": construction.blueprint(network, data)}
    content: dict[str, Any] = {
        "format": FORMAT,
        **what,
        "seed": network.seed,
        "weights": network.weights,
        "data": {
            "name": data.name,
            "channels": data.image_shape[0],
            "image_size": data.image_shape[1],
            "classes": len(data.classes),
        },
    }
    if network.weights == "random" and network.source != "family":
        # Statistics once were filled with dropout active; our own families have none.
        content["statistics"] = "in eval mode"
    if network.weights != "random_raw":
        content["data"]["train_sha256"] = _train_digest(data)
        content["threads"] = config.resources.cpu
        content["device"] = config.resources.device
    if network.weights == "trained":
        content["data"]["augment"] = config.data.augment
        own = network.pretraining or config.pretraining
        content["pretraining"] = own.model_dump(mode="json")
    return Recipe(network.name, content, construction.factory(network))


@functools.lru_cache(maxsize=2)
def _train_digest(data: Data) -> str:
    """SHA-256 of what a network learns from; the same for all networks of a sweep."""
    train = data.train
    return digest(
        {"images": train.images, "labels": train.labels, "mean": data.mean, "std": data.std}
    )


def train_network(
    recipe: Recipe,
    data: Data,
    *,
    threads: int,
    device: str = "cpu",
    resume: bytes | None = None,
    checkpoint_seconds: float = 30.0,
) -> Iterator[Progress]:
    """Train a network (or make an untrained control), epoch by epoch.

    The control `random` has Kaiming fan-out weights and BatchNorm statistics from one pass over the
    training images; `random_raw` keeps the statistics at 0 and 1.

    Args:
        recipe: what to make.
        data: the images of the recipe.
        threads: torch's intra-op threads.
        device: where to compute.
        resume: a checkpoint of the same recipe to go on from.
        checkpoint_seconds: at least so long lies between two checkpoints.

    Yields:
        Progress after every epoch; the last one carries the weights.

    Raises:
        CheckpointError: `resume` is damaged, or not of this recipe.
        DivergedError: the training diverged.
    """
    content = recipe.content
    seed_everything(derive(content["seed"], "network", recipe.title), threads)
    network = recipe.architecture().to(device)
    augment = content["data"].get("augment", "none")
    pretraining = content.get("pretraining", {"batch_size": CHUNK})
    seed = derive(content["seed"], "network data")
    loaders = make_loaders(
        data, pretraining["batch_size"], seed=seed, augment=augment, device=device
    )
    progress = Progress(0, 0, float("nan"), float("nan"))
    if content["weights"] == "random":
        _fill_batchnorm_statistics(network, loaders["train"])
    elif content["weights"] == "trained":
        for progress in _train(recipe, network, loaders, resume, checkpoint_seconds):
            if progress.epoch < progress.epochs:
                yield progress
    network.eval()
    accuracy = {split: evaluate(network, loader).accuracy for split, loader in loaders.items()}
    yield Progress(
        progress.epochs,
        progress.epochs,
        progress.loss,
        accuracy["validation"],
        weights=pack({"model": dict(network.state_dict())}),
        accuracy=accuracy,
    )


def _train(
    recipe: Recipe,
    network: nn.Module,
    loaders: Mapping[str, Loader],
    resume: bytes | None,
    checkpoint_seconds: float,
) -> Iterator[Progress]:
    train = loaders["train"]
    pretraining = recipe.content["pretraining"]
    epochs = pretraining["epochs"]
    optimization = Optimization(
        network.parameters(),
        OptimizerConfig.model_validate(pretraining["optimizer"]),
        ScheduleConfig.model_validate(pretraining["schedule"]),
        epochs * len(train),
        default_lr=0.1,
    )
    if resume is not None:
        state = _unpack_checkpoint(resume, recipe)
        network.load_state_dict(state["model"])
        optimization.load_state_dict(state["optimization"])
        set_generators(state["generators"], train.device)
    stored = time.monotonic()
    for epoch in range(optimization.step_count // len(train), epochs):
        network.train()
        total = torch.zeros((), dtype=torch.float64, device=train.device)
        for _, images, labels in train.batches(epoch):
            loss = functional.cross_entropy(network(images), labels)
            optimization.step(loss)
            total += loss.detach().double() * len(labels)
        mean = (total / len(train.images)).item()
        # The last step of all may ruin the weights without any loss that shows it.
        if not (math.isfinite(mean) and all(p.isfinite().all() for p in network.parameters())):
            raise DivergedError(
                f"network {recipe.name!r}: its training diverged in epoch {epoch + 1}; "
                "lower pretraining.optimizer.lr"
            )
        network.eval()
        checkpoint = None
        if time.monotonic() - stored >= checkpoint_seconds and epoch + 1 < epochs:
            stored = time.monotonic()
            checkpoint = pack(
                {
                    "of": _identity(recipe),
                    "model": dict(network.state_dict()),
                    "optimization": optimization.state_dict(),
                    "generators": generators(train.device),
                }
            )
        accuracy = evaluate(network, loaders["validation"]).accuracy
        yield Progress(epoch + 1, epochs, mean, accuracy, checkpoint)


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint says it belongs to, as it comes back from one."""
    content: dict[str, Any] = json.loads(json.dumps(recipe.content))
    return {"format": CHECKPOINT_FORMAT, "recipe": content}


def _unpack_checkpoint(data: bytes, recipe: Recipe) -> dict[str, Any]:
    state = unpack(data)
    of = state.get("of")
    if not isinstance(of, Mapping):
        raise CheckpointError("foreign: no checkpoint of a network's training")
    if of != _identity(recipe):
        raise CheckpointError("a checkpoint of another recipe or version")
    return state


@torch.no_grad()
def _fill_batchnorm_statistics(network: nn.Module, loader: Loader) -> None:
    """BatchNorm's running statistics as means over one pass of the training images.

    The statistics of each chunk weigh as much as it has images.
    """
    normalisations = [
        m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [m.momentum for m in normalisations]
    for module in normalisations:
        module.reset_running_stats()
    network.eval()  # what drops out or draws would be in the statistics, and in no forward pass
    for module in normalisations:
        module.train()
    seen = 0
    for images, _, valid in loader.in_order(CHUNK):
        seen += valid
        for module in normalisations:
            module.momentum = valid / seen
        network(images[:valid])
    for module, momentum in zip(normalisations, momenta, strict=True):
        module.momentum = momentum


class Zoo:
    """A folder of networks.

    Args:
        root: the folder; made when the first network is stored.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, recipe: Recipe) -> Entry | None:
        """The stored network of that recipe, if there is one."""
        folder = self.root / recipe.folder
        return _read_entry(folder) if (folder / "recipe.json").exists() else None

    def entries(self) -> list[Entry]:
        """Every complete network, sorted by folder."""
        return [_read_entry(path.parent) for path in sorted(self.root.glob("*/recipe.json"))]

    def lock(self, recipe: Recipe) -> FileLock:
        """Held while a network is made, so that two processes never train the same one."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{recipe.folder}.lock")

    def checkpoint(self, recipe: Recipe) -> bytes | None:
        """Where an interrupted training of that recipe stopped, if it got anywhere.

        A damaged or foreign file is named on standard error, and the one before it is used.
        """

        def whole(data: bytes) -> bytes:
            _unpack_checkpoint(data, recipe)
            return data

        beginning = f"the training of network {recipe.name!r} starts from the beginning"
        data, said = take_up(kept(self._checkpoint(recipe)), whole, beginning)
        if said is not None:
            print(printable(said), file=sys.stderr, flush=True)
        return data

    def store(self, recipe: Recipe, progress: Progress, seconds: float = 0.0) -> None:
        """Keep what an epoch brought: a checkpoint, or the finished network."""
        folder = self.root / recipe.folder
        if progress.checkpoint is not None:
            keep(self._checkpoint(recipe), progress.checkpoint)
        if progress.weights is not None:
            write_atomically(folder / "weights.safetensors", progress.weights)
            description = {
                "recipe": recipe.content,
                "accuracy": progress.accuracy,
                "seconds": round(seconds, 3),
                "versions": versions(["torch"]),
            }
            text = json.dumps(description, indent=2) + "\n"
            write_atomically(folder / "recipe.json", text.encode())
            forget(self._checkpoint(recipe))
            remove_temporaries(folder)

    def _checkpoint(self, recipe: Recipe) -> Path:
        return self.root / recipe.folder / "checkpoint.safetensors"

    def ensure(
        self,
        recipe: Recipe,
        train: Callable[[Recipe, bytes | None], Iterator[Progress]],
        on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Entry:
        """The network of that recipe, trained now if it isn't there.

        Waits while another process trains the same one, then takes what that one made.

        Args:
            recipe: which network.
            train: starts the training, from a checkpoint if given one: `train_network` bound to its
                data, here or on a cluster.
            on_progress: called after every epoch.
            given_up: asked now and then while another process holds the network.

        Raises:
            InterruptedError: we gave up waiting.
        """
        if (found := self.find(recipe)) is not None:
            return found
        with self._locked(recipe, given_up):
            # Another process may have made it while we waited for the lock.
            if self.find(recipe) is None:
                began = time.monotonic()
                for progress in train(recipe, self.checkpoint(recipe)):
                    self.store(recipe, progress, time.monotonic() - began)
                    on_progress(recipe, progress)
        return _read_entry(self.root / recipe.folder)

    @contextmanager
    def _locked(self, recipe: Recipe, given_up: Callable[[], bool]) -> Iterator[None]:
        lock = self.lock(recipe)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                if given_up():
                    raise InterruptedError(f"network {recipe.name!r} is being trained") from None
        try:
            yield
        finally:
            lock.release()


def load(folder: Path | str, into: nn.Module | None = None) -> nn.Module:
    """A stored network, in eval mode, on the CPU.

    Args:
        folder: its folder in a zoo.
        into: the network without its weights; made by its recipe if not given.

    Raises:
        InputError: there is no complete network there, or its weights are damaged; or it is made by
            code that the recipe names, which is not run: it has to be given.

    Example:
        >>> network = load("zoo/resnet-digits-seed0-0123456789abcdef")
    """
    entry = _read_entry(Path(folder))
    path = entry.folder / "weights.safetensors"
    try:
        state = unpack(path.read_bytes())["model"]
    except (OSError, CheckpointError, KeyError) as error:
        raise InputError(f"{path}: {error}; delete the folder to train again") from None
    network = Recipe("", entry.recipe).architecture() if into is None else into
    network.load_state_dict(state)
    return network.eval()


def load_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file: one of the zoo's, plain safetensors, or a PyTorch file.

    A PyTorch file is read with `weights_only`: code in it is never run.

    Args:
        path: the file.
        key: where in a PyTorch file's mapping the state dict is; `state_dict`, where there is such a key,
            or else the file's whole content.

    Raises:
        InputError: the file is missing or holds no weights.
    """
    state, inside = _read_weights(path, key)
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(_no_state_dict(path, inside))
    return state


def _read_weights(path: Path, key: str | None) -> tuple[dict[str, Any], list[str]]:
    """See `load_weights` and `_chosen`; values need not be tensors."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty")
    try:
        if path.suffix == ".safetensors":
            data = path.read_bytes()
            try:
                return dict(unpack(data)["model"]), []
            except ForeignFileError:
                return load_file(path), []
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise InputError(f"{path}: holds no weights: {error}") from None
    except KeyError:
        raise InputError(f"{path}: holds no network") from None
    except Exception as error:  # torch.load raises whatever its parser stumbles over
        raise InputError(f"{path}: {_why_not_weights(path, error)}") from None
    return _chosen(path, state, key)


def _chosen(path: Path, content: Any, key: str | None) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a PyTorch file that a key means, and under which keys there are mappings.

    The mapping is empty where there is none; its values may be anything.

    Raises:
        InputError: the file lacks the key.
    """
    if not isinstance(content, Mapping):
        return {}, []
    if key is not None and key not in content:
        raise InputError(f"{path}: has no {key!r}: {nearest(key, map(str, content))}")
    inside = [str(k) for k, v in content.items() if isinstance(v, Mapping)]
    found = content[key] if key is not None else content.get("state_dict", content)
    if not isinstance(found, Mapping):
        return {}, inside
    return {str(name): value for name, value in found.items()}, inside


def _no_state_dict(path: Path, inside: list[str]) -> str:
    hint = f"; weights_key: says under which of {', '.join(inside)} it is" if inside else ""
    return f"{path}: holds no state dict (a mapping from names to tensors){hint}"


def _why_not_weights(path: Path, error: Exception) -> str:
    """What to say of a file that torch.load refuses."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP and not zipfile.is_zipfile(path):
        return (
            "is truncated: a PyTorch file begins, and its end is missing; copy or download it again"
        )
    if start == _ZIP:
        with zipfile.ZipFile(path) as archive:
            inner = {name.rpartition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in inner:
            return (
                "is a TorchScript archive, which holds code; store the network's state_dict() instead: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
            )
        if "data.pkl" not in inner:
            return "is a zip archive that torch.save didn't write; a state dict is wanted"
    if start[:1] == _PICKLED and type(error).__name__ != "UnpicklingError":
        return f"is truncated or damaged ({_line(error)}); copy or download it again"
    if type(error).__name__ != "UnpicklingError":
        return f"can't be read as PyTorch weights ({_line(error)})"
    # Torch's own words are how to run the code all the same.
    named = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if named is None and start[:1] != _PICKLED and start != _ZIP:
        return "can't be read as PyTorch weights (is none)"
    what = f" ({named[1]})" if named else ""
    return f"holds code or a whole module{what}, which is not run; store its state_dict() alone"


def _line(error: Exception) -> str:
    """The first line of what an error says; its type, where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def load_from_file(network: NetworkConfig, data: Data) -> nn.Module:
    """A configured network with weights from its file, checked name by name and shape by shape.

    Raises:
        InputError: the file holds no weights, or those of another network; the differences are listed.
    """
    path = network.weights_file
    assert path is not None
    module = construction.build(network, data)
    # Of a network from elsewhere the file has the network alone, as its author stored it.
    inner = module.network if isinstance(module, Imported) else module
    found, inside = _read_weights(path, network.weights_key)
    if (prefix := network.weights_prefix) is not None:
        found = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    if prefix is None and not any(isinstance(value, Tensor) for value in found.values()):
        raise InputError(_no_state_dict(path, inside))
    found = {name.replace(_COMPILED, ""): value for name, value in found.items()}
    wanted = inner.state_dict(keep_vars=True)
    wrong = dict(_wrong_values(inner, found, wanted))
    try:
        # Torch decides which names may be missing, and adapts those that older versions wrote.
        result = inner.load_state_dict(
            {name: value for name, value in found.items() if name not in wrong}, strict=False
        )
    except Exception as error:  # a network may load in a way of its own
        raise InputError(
            f"network {network.name!r}: {path} doesn't fit: {what_went_wrong(error)}"
        ) from error
    missing = set(result.missing_keys) - wrong.keys() - _tied_to_present(wanted, found)
    problems = [f"lacks {name}" for name in wanted if name in missing]
    problems += [f"has an unknown {name}" for name in result.unexpected_keys]
    problems += [f"{name} {why}" for name, why in wrong.items()]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        more += _prefix_hint(found, set(wanted), missing)
        raise InputError(
            f"network {network.name!r}: {path} doesn't fit: {'; '.join(problems[:5])}{more}"
        )
    return module.eval()


def _wrong_values(
    network: nn.Module, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Names in a file that are the network's, and why their values can't be taken.

    A file's floating-point numbers may be of any width: they are converted as torch does, exactly from 16
    bits and rounded from 64.
    """
    learned = dict(network.named_parameters(remove_duplicate=False))
    first_names: dict[int, str] = {}
    for name, own in wanted.items():
        if name not in found or not isinstance(own, Tensor):
            continue  # the extra state of a module may be anything
        value = found[name]
        if (why := _wrong_tensor(value, own)) is not None:
            yield name, why
            continue
        converted = value.to(own.dtype)
        # A mask among the buffers may well be infinite.
        if converted.isnan().any() or (name in learned and not converted.isfinite().all()):
            yield name, "holds NaN or infinite values"
        first = first_names.setdefault(id(own), name)
        if first != name and not torch.equal(found[first].to(own.dtype), converted):
            yield name, f"differs from {first}, and in the network both are one tensor"


def _wrong_tensor(value: Any, own: Tensor) -> str | None:
    """Why a file's value can't be copied into a tensor of a network; None where it can."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, where a tensor is wanted"
    if type(value) not in (Tensor, nn.Parameter):
        return f"is a {type(value).__name__}, where an ordinary tensor is wanted"
    kinds = {"quantized": value.is_quantized, "on the device meta, without values": value.is_meta}
    kinds["sparse"] = value.layout != torch.strided
    if special := [kind for kind, is_so in kinds.items() if is_so]:
        return f"is {special[0]}, where an ordinary tensor is wanted"
    if value.shape != own.shape:
        return f"is {list(value.shape)}, not {list(own.shape)}"
    got, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, own))
    if own.is_floating_point() and not value.is_floating_point():
        return f"is {got}, where {wanted} is wanted"
    if not (own.is_floating_point() or own.is_complex()) and (
        value.is_complex() or not torch.equal(value.to(own.dtype).to(value.dtype), value)
    ):
        return f"is {got} with values that {wanted} can't hold"
    return None


def _tied_to_present(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> set[str]:
    """Names of a network whose tensor a file has under another name: safetensors stores it once."""

    def memory(tensor: Tensor) -> tuple[Any, ...]:
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())

    tensors = {k: v for k, v in wanted.items() if isinstance(v, Tensor) and v.numel()}
    present = {memory(tensor) for name, tensor in tensors.items() if name in found}
    return {name for name, tensor in tensors.items() if memory(tensor) in present}


def load_given(network: NetworkConfig, data: Data) -> nn.Module:
    """A configured network whose weights were trained elsewhere (its `kind` is in `GIVEN`).

    Raises:
        InputError: as of `load_from_file` and `construction.load`.
    """
    assert network.kind in GIVEN
    return (
        load_from_file(network, data)
        if network.kind == "file"
        else construction.load(network, data)
    )


def _prefix_hint(found: Mapping[str, Any], wanted: set[str], missing: set[str]) -> str:
    """What to do where all that a network lacks is in the file behind a common beginning."""
    behind: dict[str, set[str]] = {}
    for name in found:
        for k in (k + 1 for k, character in enumerate(name) if character == "."):
            if name[k:] in wanted:
                behind.setdefault(name[:k], set()).add(name[k:])
    fitting = [prefix for prefix, names in behind.items() if missing and missing <= names]
    if not fitting:
        return ""
    if all(name.startswith(fitting[0]) for name in found):
        return f"; all its names begin with weights_prefix: {fitting[0]}"
    return f"; all that is wanted is there behind weights_prefix: {' or '.join(fitting)}"


class _Entry(BaseModel):
    """What `recipe.json` holds, as far as it is read."""

    recipe: dict[str, Any]
    accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    versions: dict[str, str | None]

    @field_validator("recipe")
    @classmethod
    def _recipe_can_be_listed(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        options = recipe.get("options")
        network = recipe.get("network")
        if options is None and isinstance(network, dict):
            options = network.get("arguments")
        if not isinstance(recipe.get("weights"), str) or not isinstance(options, dict):
            raise PydanticCustomError("ours", "lacks weights or options")
        return recipe

    @field_validator("accuracy")
    @classmethod
    def _every_split_has_one(cls, accuracy: dict[str, float]) -> dict[str, float]:
        if missing := [split for split in SPLITS if split not in accuracy]:
            raise PydanticCustomError("ours", "lacks {split}", {"split": missing[0]})
        return accuracy


def _read_entry(folder: Path) -> Entry:
    path = folder / "recipe.json"
    try:
        content = _Entry.model_validate(read_json(path, _LARGEST_RECIPE), strict=True)
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no finished network of a zoo") from None
    except UnreadableFileError as error:
        raise InputError(f"{error}; delete the folder to train again") from None
    except ValidationError as error:
        problem = describe_problems(error, _Entry)[0]
        raise InputError(
            f"{path}: is damaged ({problem}); delete the folder to train again"
        ) from None
    return Entry(folder, content.recipe, content.accuracy, content.seconds, content.versions)
