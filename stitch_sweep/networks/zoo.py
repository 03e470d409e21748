"""The zoo: networks that are trained once and stored under the hash of their recipe.

A network's folder is `<family>-<data>-seed<seed>-<hash>`; the hash covers its recipe: everything that
determined its weights. `recipe.json` is written last, so a folder with this file is complete.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from torch import nn

from stitch_sweep.config.networks import LOGITS_ONLY
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, printable, read_json
from stitch_sweep.core.versions import versions
from stitch_sweep.networks.pretraining import Progress, unpack_training_checkpoint
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.storage.checkpoint_files import (
    CheckpointError,
    read_checkpoints,
    remove_checkpoints,
    resume_newest,
    write_checkpoint,
)
from stitch_sweep.storage.checkpoints import unpack
from stitch_sweep.storage.files import remove_temporaries, write_atomically

_LARGEST_RECIPE = MIB
RECIPE_FILE = "recipe.json"
_WEIGHTS_FILE = "weights.safetensors"
_CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class StoredNetwork:
    """A complete network of a zoo.

    Attributes:
        folder: its folder.
        recipe: content of its recipe.
        accuracy: accuracy per split, in [0, 1].
        seconds: seconds of its training.
        versions: versions of the packages that trained it.
    """

    folder: Path
    recipe: dict[str, Any]
    accuracy: dict[str, float]
    seconds: float
    versions: dict[str, str | None]

    @property
    def weights_file(self) -> Path:
        """Its weights, as safetensors."""
        return self.folder / _WEIGHTS_FILE

    @property
    def options(self) -> dict[str, Any]:
        """Options of the network's family, or the arguments of an external network."""
        options = self.recipe.get("options")
        return dict(self.recipe["network"]["arguments"] if options is None else options)


class Zoo:
    """A folder of networks.

    Args:
        root: the folder; created when the first network is stored.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, recipe: Recipe) -> StoredNetwork | None:
        """Return the stored network of a recipe; None if the zoo doesn't have it."""
        folder = self.root / recipe.folder
        return _read_stored_network(folder) if (folder / RECIPE_FILE).exists() else None

    def entries(self) -> list[StoredNetwork]:
        """Return every complete network, sorted by folder."""
        recipes = sorted(self.root.glob(f"*/{RECIPE_FILE}"))
        return [_read_stored_network(path.parent) for path in recipes]

    def lock(self, recipe: Recipe) -> FileLock:
        """Make the lock that prevents two processes from training the same network."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{recipe.folder}.lock")

    def checkpoint(self, recipe: Recipe) -> bytes | None:
        """Return the last checkpoint of an interrupted training of a recipe; None without a checkpoint.

        A damaged or foreign file is reported on standard error, and the previous checkpoint is used.
        """

        def check(data: bytes) -> bytes:
            unpack_training_checkpoint(data, recipe)
            return data

        beginning = f"the training of network {recipe.name!r} starts from the beginning"
        data, report = resume_newest(
            read_checkpoints(self._checkpoint_path(recipe)), check, beginning
        )
        if report is not None:
            print(printable(report), file=sys.stderr, flush=True)
        return data

    def store(self, recipe: Recipe, progress: Progress, seconds: float = 0.0) -> None:
        """Store the checkpoint or the finished network in an epoch's progress, if there is one."""
        folder = self.root / recipe.folder
        if progress.checkpoint is not None:
            write_checkpoint(self._checkpoint_path(recipe), progress.checkpoint)
        if progress.weights is not None:
            write_atomically(folder / _WEIGHTS_FILE, progress.weights)
            description = {
                "recipe": recipe.content,
                "accuracy": progress.accuracy,
                "seconds": round(seconds, 3),
                "versions": versions(["torch"]),
            }
            text = json.dumps(description, indent=2) + "\n"
            write_atomically(folder / RECIPE_FILE, text.encode())
            remove_checkpoints(self._checkpoint_path(recipe))
            remove_temporaries(folder)

    def ensure(
        self,
        recipe: Recipe,
        train: Callable[[Recipe, bytes | None], Iterator[Progress]],
        on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> StoredNetwork:
        """Return the network of a recipe; train it now if the zoo doesn't have it.

        If another process trains the same network, wait for it and return its network.

        Args:
            recipe: the recipe.
            train: starts the training, from a checkpoint if it gets one: `train_network` bound to its
                data, in this process or on a cluster.
            on_progress: called after every epoch.
            should_stop: called every second while another process trains the network; True ends the wait.

        Raises:
            InterruptedError: `should_stop` ended the wait.
        """
        if (stored := self.find(recipe)) is not None:
            return stored
        with self._locked(recipe, should_stop):
            # Another process may have trained the network before this process acquired the lock.
            if self.find(recipe) is None:
                start_time = time.monotonic()
                for progress in train(recipe, self.checkpoint(recipe)):
                    self.store(recipe, progress, time.monotonic() - start_time)
                    on_progress(recipe, progress)
        return _read_stored_network(self.root / recipe.folder)

    def _checkpoint_path(self, recipe: Recipe) -> Path:
        return self.root / recipe.folder / _CHECKPOINT_FILE

    @contextmanager
    def _locked(self, recipe: Recipe, should_stop: Callable[[], bool]) -> Iterator[None]:
        lock = self.lock(recipe)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                if should_stop():
                    raise InterruptedError(f"network {recipe.name!r} is being trained") from None
        try:
            yield
        finally:
            lock.release()


def load(folder: Path | str, into: nn.Module | None = None) -> nn.Module:
    """Load a stored network, in eval mode, on the CPU.

    Args:
        folder: the network's folder in a zoo.
        into: the network without its weights; by default, Stitch Sweep builds it from its stored
            description.

    Raises:
        InputError: the folder has no complete network, its weights are damaged, or a user's function
            makes the network. Such a function is not run: pass the network as `into`.

    Example:
        >>> network = load("zoo/resnet-digits-seed0-0123456789abcdef")
    """
    stored = _read_stored_network(Path(folder))
    path = stored.weights_file
    try:
        state = unpack(path.read_bytes())["model"]
    except (OSError, CheckpointError, KeyError) as error:
        raise InputError(f"{path}: {error}; delete the folder to train again") from None
    if into is None and stored.recipe["weights"] == LOGITS_ONLY:
        raise InputError(f"{folder}: contains linear probes (a control), and no network")
    network = Recipe("", stored.recipe).architecture() if into is None else into
    network.load_state_dict(state)
    return network.eval()


class _RecipeFile(BaseModel):
    """The part of `recipe.json` that is read."""

    recipe: dict[str, Any]
    accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    versions: dict[str, str | None]

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        options = recipe.get("options")
        network = recipe.get("network")
        if options is None and isinstance(network, dict):
            options = network.get("arguments")
        if not isinstance(recipe.get("weights"), str) or not isinstance(options, dict):
            raise PydanticCustomError("ours", "lacks weights or options")
        return recipe

    @field_validator("accuracy")
    @classmethod
    def _check_splits(cls, accuracy: dict[str, float]) -> dict[str, float]:
        if missing := [split for split in SPLITS if split not in accuracy]:
            raise PydanticCustomError("ours", "lacks {split}", {"split": missing[0]})
        return accuracy


def _read_stored_network(folder: Path) -> StoredNetwork:
    path = folder / RECIPE_FILE
    try:
        content = _RecipeFile.model_validate(read_json(path, _LARGEST_RECIPE), strict=True)
    except FileNotFoundError:
        raise InputError(f"{folder}: has no finished network of a zoo") from None
    except UnreadableFileError as error:
        raise InputError(f"{error}; delete the folder to train again") from None
    except ValidationError as error:
        problem = describe_problems(error, _RecipeFile)[0]
        raise InputError(
            f"{path}: is damaged ({problem}); delete the folder to train again"
        ) from None
    return StoredNetwork(
        folder, content.recipe, content.accuracy, content.seconds, content.versions
    )
