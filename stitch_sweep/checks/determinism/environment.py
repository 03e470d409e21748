"""The circumstances of a recording: configuration, machine, libraries and generators."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stitch_sweep.checks.inspection import sha256_of
from stitch_sweep.config.paths import flatten
from stitch_sweep.config.plugins import plugin_contents
from stitch_sweep.config.root import Config
from stitch_sweep.core import seeding
from stitch_sweep.core.versions import versions

# Each makes a library choose other kernels or number formats, whatever torch is told.
_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR"),
    *("MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"),
)


def hash_generators(device: str) -> dict[str, Any]:
    """Return the states of the global random number generators: a hash and the beginning of each."""
    python_state = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": {
            "sha256": _sha256(repr(python_state)),
            "position": python_state[1][-1],
            "first": list(python_state[1][:5]),
        },
        "numpy": {
            "sha256": _sha256(json.dumps(numpy_state, default=np.ndarray.tolist)),
            "position": numpy_state[2],
            "first": numpy_state[1][:5].tolist(),
        },
        "torch": {
            "sha256": sha256_of(torch.get_rng_state()),
            "seed": torch.initial_seed(),
        },
    }
    if device != "cpu":
        cuda_states = torch.cuda.get_rng_state_all()
        states["cuda"] = [{"sha256": sha256_of(state)} for state in cuda_states]
    return states


def describe_environment(device: str) -> dict[str, Any]:
    """Describe versions, machine, device, flags, variables, and the limits of determinism.

    Returns:
        The content of `environment.json`.
    """
    hardware: dict[str, Any] = {"type": device, "processor": seeding.processor()}
    if device != "cpu":
        hardware["gpu"] = torch.cuda.get_device_name(device)
        hardware["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        hardware["cuda"] = torch.version.cuda
        hardware["cudnn"] = torch.backends.cudnn.version()
    return {
        "versions": versions(),
        "system": {
            "name": platform.system(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()),
        },
        "device": hardware,
        "settings": seeding.settings(),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "not_deterministic": seeding.caveats(device),
    }


def flatten_settings(config: Config) -> dict[str, Any]:
    """Return the settings that affect the recorded values, by dotted path, without file locations."""
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
    if contents := plugin_contents(config):
        tree["plugins"] = contents
    # Recordings contain empty mappings.
    return dict(flatten(tree, keep_empty=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
