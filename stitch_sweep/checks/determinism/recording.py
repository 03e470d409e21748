"""Record what a configuration computes at its start, so that two runs can be laid side by side.

A recording is a folder that is written whole or not at all:

- `batch_info.json`: how images become batches, and which images the first and last batches hold
- `model_weights.json`: every parameter and buffer of every network, and of the stitch at its start
- `model_inspection.csv`: what every layer gives for the first batch
- `training.json`: loss, gradients and parameters of the first steps, and an evaluation after them
- `generators.json`: the states of the random number generators
- `environment.json`: versions, device, flags, thread counts, and what can't be made deterministic
- `tensors.safetensors`: the values behind the hashes, as far as they are kept
- `recording.json`: format, configuration, and the SHA-256 of each of these files; written last

It holds nothing that differs between two equal runs: no path, no time, no process id.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
import random
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from stitch_sweep.checks.inspection import (
    Output,
    inspect_outputs,
    inspect_weights,
    sha256_of,
    summarise,
)
from stitch_sweep.config.models import Config
from stitch_sweep.core import seeding
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.versions import versions
from stitch_sweep.data.augmentation import AUGMENTATIONS
from stitch_sweep.data.images import SPLITS, Data, Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import CHUNK, evaluate
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.zoo import Progress, Recipe
from stitch_sweep.plan.cells import Cell, choose_cell, parse_cell
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.checkpoints import fingerprint, tensors_of
from stitch_sweep.storage.files import check_writable, write_atomically
from stitch_sweep.sweep.resources import check_local
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.workbench import Workbench

FORMAT = 1
"""Raised when what the files mean changes."""
KEPT = 65_536
"""So many values of each tensor are kept; its hash covers all."""
STEPS = 3
"""Optimizer steps that are recorded, or all there are."""

MANIFEST = "recording.json"
_PARTS = {
    "batches": "batch_info.json",
    "weights": "model_weights.json",
    "outputs": "model_inspection.csv",
    "training": "training.json",
    "generators": "generators.json",
    "environment": "environment.json",
    "tensors": "tensors.safetensors",
}
_COLUMNS = (
    *("network", "position", "layer", "type", "mode", "shape", "dtype"),
    *("mean", "std", "min", "max", "not_finite", "sha256"),
)
# Each makes a library choose other kernels or formats, whatever we ask torch for.
_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR"),
    *("MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"),
)
_NAMES = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Recording:
    """What one run was like, as it lies in its folder.

    Attributes:
        about: `format`, `pair`, and `configuration`, its settings by dotted path.
        batches: `batch_info.json`.
        weights: by network (and `stitch`) and tensor name, summaries as plain data.
        outputs: the rows of `model_inspection.csv`.
        training: `training.json`.
        generators: `generators.json`.
        environment: `environment.json`.
        tensors: the first `KEPT` values of what the others have hashes of, by name, each flat.
    """

    about: dict[str, Any]
    batches: dict[str, Any]
    weights: dict[str, Any]
    outputs: list[dict[str, str]]
    training: dict[str, Any]
    generators: dict[str, Any]
    environment: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def sha256(self) -> str:
        """Of all there is: two recordings that agree entirely, and only they, have the same."""
        return hashlib.sha256(self._manifest(self._files())).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the recording.

        Args:
            folder: doesn't exist or is empty.

        Raises:
            InputError: there is something in it.
        """
        check_free(folder)
        files = self._files()
        with _whole(folder) as temporary:
            for name, content in files.items():
                write_atomically(temporary / name, content)
            write_atomically(temporary / MANIFEST, self._manifest(files))

    def _manifest(self, files: Mapping[str, bytes]) -> bytes:
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        return _json({**self.about, "files": hashes})

    def _files(self) -> dict[str, bytes]:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.outputs)
        plain = {part: getattr(self, part) for part in _PARTS if part not in ("outputs", "tensors")}
        contents = {
            **{part: _json(content) for part, content in plain.items()},
            "outputs": table.getvalue().encode(),
            "tensors": save_tensors(self.tensors),
        }
        return {name: contents[part] for part, name in _PARTS.items()}


def record(
    config: Config,
    folder: Path,
    pair: str | None = None,
    *,
    steps: int = STEPS,
    on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
) -> Recording:
    """Run the start of a training and write down all that should be the same the next time.

    The networks come from the configuration's zoo and are trained first where it lacks them; one
    cell is then stitched as `stitch-sweep stitch` would, for a few steps.

    Args:
        config: the cell is trained under the first of its factors and searched stitches.
        folder: where to write; must not exist, or be empty.
        pair: `sender:layer,receiver:layer`; the middle layers of the first pair if not given.
        steps: so many optimizer steps are recorded.
        on_progress: called after every epoch of a network that is trained.

    Raises:
        InputError: something about the configuration, the pair or the folder is wrong.

    Example:
        >>> record(read_config("config.yml"), Path("check1")).about["pair"]
        'a:2,b:2'
    """
    check_free(folder)
    check_writable(folder, "--output-dir")
    check_local(config.resources)
    named = None if pair is None else parse_cell(pair, config)
    prepared = prepare(config)
    cell, settings = choose_cell(prepared, named)
    modules = provide_networks(prepared, on_progress)

    notes = _Notes()
    weights = {
        where: notes.weights(where, module)
        for where, module in ((f"network {name!r}", module) for name, module in modules.items())
    }
    used = {name: modules[name] for name in dict.fromkeys((cell.sender, cell.receiver))}
    bench = Workbench(config, prepared.data, used)
    generators = {"after seeding": _generators(bench.device)}
    # A row per step; when it is written changes nothing about what is computed.
    each = settings.training.model_copy(update={"log_every": 1})
    training = bench.training(
        cell.sender,
        cell.sender_layer,
        cell.receiver,
        cell.receiver_layer,
        settings.model_copy(update={"training": each}),
    )
    generators["before training"] = _generators(bench.device)
    weights["stitch"] = notes.weights("stitch", training.stitch)
    loaders = bench.loaders(settings.training.batch_size)
    batches = _batches(config, prepared.data, loaders, notes)
    outputs = _outputs(cell, bench.networks, training.stitch, loaders["train"], notes)
    trained = _steps(cell, bench.networks, training, loaders["validation"], steps, notes)
    generators["after training"] = _generators(bench.device)
    recording = Recording(
        about={
            "format": FORMAT,
            "pair": str(cell),
            "configuration": {"pair": str(cell), **_configuration(config)},
        },
        batches=batches,
        weights=weights,
        outputs=outputs,
        training=trained,
        generators=generators,
        environment=_environment(bench.device),
        tensors=notes.tensors,
    )
    recording.write(folder)
    return recording


def read_recording(folder: Path) -> Recording:
    """The recording in a folder.

    Raises:
        InputError: there is none, another version of the format wrote it, or a file of it is missing
            or isn't what was written; the message names it.
    """
    manifest = folder / MANIFEST
    try:
        about = json.loads(manifest.read_bytes())
        version, files = about["format"], about.pop("files")
        if not isinstance(about["configuration"], dict):
            raise TypeError(about["configuration"])
        expected = {name: str(files[name]) for name in _PARTS.values()} if version == FORMAT else {}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: holds no recording; `stitch-sweep determinism record` makes one"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{manifest}: is damaged; record anew") from None
    if version != FORMAT:
        raise InputError(
            f"{manifest}: is of format {version!r}, and this version of Stitch Sweep reads "
            f"{FORMAT}; record both anew"
        )
    contents: dict[str, Any] = {}
    problems = []
    for part, name in _PARTS.items():
        try:
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != expected[name]:
                problems.append(f"{folder / name}: changed since it was recorded; record anew")
            else:
                contents[part] = _read(name, data)
        except FileNotFoundError:
            problems.append(f"{folder / name}: is missing; record anew")
        except (ValueError, SafetensorError):
            problems.append(f"{folder / name}: is damaged; record anew")
    if problems:
        raise InputError(*problems)
    return Recording(about, **contents)


def check_free(folder: Path) -> None:
    """See that a recording can be written there.

    Raises:
        InputError: something else is.
    """
    if folder.is_dir():
        if (folder / MANIFEST).exists():
            raise InputError(f"{folder}: holds a recording already; give another folder")
        if any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; give a folder that is, or a new one")
    elif folder.exists():
        raise InputError(f"{folder}: is a file; give a new or empty folder")


@dataclass
class _Notes:
    """Collects the values behind the hashes."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, tensor: Tensor) -> None:
        # A clone: a view would keep the whole tensor, and may be overwritten.
        self.tensors[name] = tensor.detach().reshape(-1)[:KEPT].cpu().clone()

    def summary(self, name: str, tensor: Tensor) -> dict[str, Any]:
        self.keep(name, tensor)
        return summarise(tensor).to_dict()

    def weights(self, where: str, module: nn.Module) -> dict[str, Any]:
        buffers = dict(module.named_buffers(remove_duplicate=False))
        for path, tensor in tensors_of(module).items():
            self.keep(f"weights/{where}/{path}", tensor)
        return {
            path: {"kind": "buffer" if path in buffers else "parameter", **summary.to_dict()}
            for path, summary in inspect_weights(module).items()
        }


def _batches(
    config: Config, data: Data, loaders: Mapping[str, Loader], notes: _Notes
) -> dict[str, Any]:
    train = loaders["train"]
    resized = "bilinear, with antialiasing" if config.data.image_size else "not resized"
    steps = {
        "image_shape": list(data.image_shape),
        "resizing": resized,
        "normalisation": {
            "formula": "(value / 255 - mean) / std",
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
        },
        "result": "float32",
    }
    found = [_training_batch(train, 0, 0, notes)]
    if len(train) > 1:
        found.append(_training_batch(train, 0, len(train) - 1, notes))
    found.append(_training_batch(train, 1, 0, notes))
    for split in ("validation", "test"):
        found += _chunks(split, loaders[split], notes)
    return {
        "data_set": {"name": data.name, "classes": list(data.classes), "sha256": data.fingerprint},
        "splits": {split: _split(getattr(data, split)) for split in SPLITS},
        "loaders": {
            "train": {
                "loader": config.data.loader,
                "batch_size": train.batch_size,
                "batches": len(train),
                "last_batch": len(train.images) - (len(train) - 1) * train.batch_size,
                "order": "shuffled anew every epoch, from the seed and the epoch",
                "seed": train.seed,
            },
            **{
                split: {
                    "loader": config.data.loader,
                    "chunk": CHUNK,
                    "chunks": -(-len(loaders[split].images) // CHUNK),
                    "order": "as stored; the last chunk is filled up from the beginning",
                }
                for split in ("validation", "test")
            },
        },
        "transforms": {
            "train": {**steps, "augmentation": _augmentation(train.augment, data.image_size)},
            "validation": {**steps, "augmentation": _augmentation("none", data.image_size)},
            "test": {**steps, "augmentation": _augmentation("none", data.image_size)},
        },
        "batches": found,
    }


def _split(images: Images) -> dict[str, Any]:
    files = None if images.files is None else _sha256("\n".join(images.files))
    return {
        "images": len(images),
        "files_sha256": files,
        "labels_sha256": sha256_of(images.labels),
        "images_sha256": sha256_of(images.images),
    }


def _augmentation(name: str, size: int) -> dict[str, Any]:
    """The augmentation's name, and from where to where its random numbers go for this image size."""
    draws = AUGMENTATIONS[name].draw(4096, size, seeding.generator("determinism"))
    return {
        "name": name,
        "numbers_per_image": draws.shape[1],
        "smallest": draws.amin(dim=0).tolist(),
        "largest": draws.amax(dim=0).tolist(),
        "sha256": sha256_of(draws),
    }


def _training_batch(loader: Loader, epoch: int, k: int, notes: _Notes) -> dict[str, Any]:
    batch = next(loader.batches(epoch, k))
    place = f"training batch {k} of epoch {epoch}"
    return _batch(place, "train", loader, batch.indices, batch.images, batch.labels, notes)


def _chunks(split: str, loader: Loader, notes: _Notes) -> Iterator[dict[str, Any]]:
    """The first and the last chunk of an evaluation, without what only fills it up."""
    last = (len(loader.images) - 1) // CHUNK
    for k, (images, labels, valid) in enumerate(loader.in_order(CHUNK)):
        if k in (0, last):
            indices = torch.arange(k * CHUNK, k * CHUNK + valid, device=loader.device)
            place = f"{_NAMES[split]} chunk {k}"
            yield _batch(place, split, loader, indices, images[:valid], labels[:valid], notes)


def _batch(
    place: str,
    split: str,
    loader: Loader,
    indices: Tensor,
    images: Tensor,
    labels: Tensor,
    notes: _Notes,
) -> dict[str, Any]:
    # Read a second time, and as the loader reads: it need not have them in memory.
    (raw,) = loader.read([indices])
    raw, images = raw.cpu(), images.cpu()
    notes.keep(f"images/{place}", raw)
    notes.keep(f"transformed/{place}", images)
    files = loader.images.files
    at = indices.tolist()
    return {
        "place": place,
        "split": split,
        "shape": list(raw.shape),
        "indices": at,
        "files": None if files is None else [files[k] for k in at],
        "labels": labels.tolist(),
        "images_sha256": sha256_of(raw),
        "images": [sha256_of(image)[:16] for image in raw],
        "transformed_sha256": sha256_of(images),
        "transformed": [sha256_of(image)[:16] for image in images],
    }


def _outputs(
    cell: Cell,
    networks: Mapping[str, FrozenNetwork],
    stitch: nn.Module,
    loader: Loader,
    notes: _Notes,
) -> list[dict[str, str]]:
    """What every layer of both networks gives for the first batch, and the stitched network's parts."""
    images = next(loader.batches(0)).images
    rows: list[dict[str, str]] = []

    def add(network: str, output: Output, values: Tensor) -> None:
        notes.keep(f"outputs/{network}/{output.position}", values)
        summary = output.summary.to_dict()
        summary["shape"] = "x".join(map(str, summary["shape"]))
        place = {"position": output.position, "layer": output.path, "type": output.type}
        row = {"network": network, **place, "mode": output.mode, **summary}
        rows.append({key: "" if row[key] is None else str(row[key]) for key in _COLUMNS})

    sender, receiver = networks[cell.sender], networks[cell.receiver]
    for role, network in (("sender", sender), ("receiver", receiver)):
        inspect_outputs(network.network, images, partial(add, f"{role} {getattr(cell, role)!r}"))
    mode = stitch.training
    stitch.eval()
    parts = (
        (f"sender up to layer {cell.sender_layer}", sender.prefix(cell.sender_layer)),
        ("stitch", stitch),
        (f"receiver after layer {cell.receiver_layer}", receiver.suffix(cell.receiver_layer)),
    )
    values = images
    with torch.no_grad():
        for position, (path, part) in enumerate(parts):
            values = part(values)
            kind = "train" if any(module.training for module in part.modules()) else "eval"
            summary = summarise(values)
            add("stitched", Output(position, path, type(part).__name__, kind, summary), values)
    stitch.train(mode)
    return rows


def _steps(
    cell: Cell,
    networks: Mapping[str, FrozenNetwork],
    training: StitchTraining,
    validation: Loader,
    count: int,
    notes: _Notes,
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    while len(steps) < count and not training.done:
        training.advance(1)
        step = training.step
        logged = [r for r in training.trajectory if (r["step"], r["split"]) == (step, "train")]
        row = logged[0] if logged else {"loss": None, "lr": None}
        parameters = dict(training.stitch.named_parameters())
        gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
        steps.append(
            {
                "step": step,
                "loss": row["loss"],
                "learning_rate": row["lr"],
                "gradients": {
                    name: notes.summary(f"gradients/{step}/{name}", gradient)
                    for name, gradient in gradients.items()
                },
                "parameters": {
                    name: notes.summary(f"parameters/{step}/{name}", parameter)
                    for name, parameter in parameters.items()
                },
            }
        )
    stitched = nn.Sequential(
        networks[cell.sender].prefix(cell.sender_layer),
        training.stitch,
        networks[cell.receiver].suffix(cell.receiver_layer),
    )
    stitched.eval()
    found = evaluate(stitched, validation)
    notes.keep("predictions", found.predictions)
    return {
        "total_steps": training.total_steps,
        "steps": steps,
        "stitch_sha256": fingerprint(training.stitch),
        "evaluation": {
            "split": "validation",
            "images": len(validation.images),
            "accuracy": found.accuracy,
            "loss": found.loss if math.isfinite(found.loss) else None,
            "predictions_sha256": sha256_of(found.predictions),
        },
    }


def _generators(device: str) -> dict[str, Any]:
    """The states of the global generators: a hash and the beginning of each."""
    words = random.getstate()
    numbers: Any = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": {
            "sha256": _sha256(repr(words)),
            "position": words[1][-1],
            "first": list(words[1][:5]),
        },
        "numpy": {
            "sha256": _sha256(json.dumps(numbers, default=np.ndarray.tolist)),
            "position": numbers[2],
            "first": numbers[1][:5].tolist(),
        },
        "torch": {
            "sha256": sha256_of(torch.get_rng_state()),
            "seed": torch.initial_seed(),
        },
    }
    if device != "cpu":
        states = torch.cuda.get_rng_state_all()
        found["cuda"] = [{"sha256": sha256_of(state)} for state in states]
    return found


def _environment(device: str) -> dict[str, Any]:
    where: dict[str, Any] = {"type": device, "processor": seeding.processor()}
    if device != "cpu":
        where["gpu"] = torch.cuda.get_device_name(device)
        where["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        where["cuda"] = torch.version.cuda
        where["cudnn"] = torch.backends.cudnn.version()
    return {
        "versions": versions(),
        "system": {
            "name": platform.system(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()),
        },
        "device": where,
        "settings": seeding.settings(),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "not_deterministic": seeding.caveats(device),
    }


def _configuration(config: Config) -> dict[str, Any]:
    """What decides the recorded figures, by dotted path; where files lie does not."""
    tree = config.model_dump(
        mode="json",
        include={
            *("seed", "data", "networks", "pretraining", "stitch", "loss", "training", "resources")
        },
    )
    for key in ("path", "download", "beton_folder"):
        tree["data"].pop(key, None)
    networks = tree["networks"]
    tree["networks"] = {
        network.pop("name"): {**network, "weights": Path(network["weights"]).name}
        for network in networks
    }
    return flat(tree)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted path; lists stay what they are.

    Example:
        >>> flat({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        found |= flat(value, path) if isinstance(value, Mapping) and value else {path: value}
    return found


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(name: str, data: bytes) -> Any:
    if name.endswith(".json"):
        return json.loads(data)
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return load_tensors(data)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
