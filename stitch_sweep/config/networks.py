"""Section `networks`: the frozen networks and the sources of their weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.components import Component, check_length, unknown_keys
from stitch_sweep.config.pretraining import PretrainingConfig
from stitch_sweep.core.bounds import (
    LARGEST_NUMBER,
    LONGEST_NAME,
    From0,
    ImageSize,
    Number,
    Seed,
    Text,
)
from stitch_sweep.core.problems import NAME, Location, errors_at, mismatch, refusal
from stitch_sweep.core.registry import FAMILIES, Options, Registry

CLASS_ONLY = "class_only"
LOGITS_ONLY = "logits_only"
SENDERS_ONLY = (CLASS_ONLY, LOGITS_ONLY)
"""Kinds of weights of controls that can send, but not receive."""
WEIGHTS = ("trained", "random", "random_raw", CLASS_ONLY, LOGITS_ONLY)
"""Values of `weights` that Stitch Sweep creates itself."""
FROM_FACTORY = "factory"
"""Value of `weights` for the weights that the user's factory returns."""
EXTERNAL_KINDS = ("file", "named", FROM_FACTORY)
"""Kinds of weights that were trained outside of Stitch Sweep."""
IN_MEMORY = "in_memory"
"""First part of the `factory` of a module that the caller of the Python API gave."""
LIBRARIES = ("torchvision", "timm")
"""Libraries of networks with published weights; each has a module in `networks/external/`."""

Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]


def weights_kind(weights: str) -> str:
    """Return the kind of a value of `weights`.

    Returns:
        `trained`, `random`, `random_raw`, `class_only`, `logits_only`, `file`, `named` or `factory`.
    """
    if weights in (*WEIGHTS, FROM_FACTORY):
        return weights
    return "file" if "/" in weights or "." in weights else "named"


def is_file(factory: str) -> bool:
    """Return whether an import path refers to a file (`./mine.py:make`) and not to a package."""
    module = factory.rpartition(":")[0]
    return module.endswith(".py") or "/" in module


def is_in_memory(factory: str) -> bool:
    """Return whether a factory stands for a module that the caller of the Python API gave."""
    return factory.startswith(f"{IN_MEMORY}:")


class NormalizationConfig(Options):
    """Normalization of an external network's input images, per channel: (pixel / 255 - mean) / std.

    ```yaml
    normalisation: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    ```
    """

    mean: Annotated[list[Number], Field(min_length=1, max_length=16)] = Field(
        description="Mean of each channel, for pixel values from 0 to 1."
    )
    std: Annotated[
        list[Annotated[Number, Field(ge=1 / LARGEST_NUMBER)]], Field(min_length=1, max_length=16)
    ] = Field(description="Standard deviation of each channel, for pixel values from 0 to 1.")

    @model_validator(mode="after")
    def _validate_lengths(self) -> NormalizationConfig:
        if len(self.mean) != len(self.std):
            sizes = f"which has {len(self.mean)}, got {len(self.std)}"
            problem = f"expected as many numbers as in mean, {sizes}"
            raise errors_at("normalisation", [(("std",), problem)])
        return self


def _check_cuts(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    names = value if isinstance(value, list) else []
    wrong = [name for name in names if not isinstance(name, str)]
    if not names or wrong:
        raise refusal(
            mismatch("'auto' or a list of names of cut points", wrong[0] if wrong else value)
        )
    return check_length(names, value)


CutPoints = Annotated[
    Literal["auto"] | list[str] | None,
    PlainValidator(_check_cuts, json_schema_input_type=Literal["auto"] | list[str] | None),
]


class NetworkConfig(Component):
    """One frozen network: its architecture and the source of its weights.

    ```yaml
    networks:
      - {name: a, family: resnet18, width: 16, seed: 0}
      - {name: b, source: torchvision, model: resnet18, weights: IMAGENET1K_V1}
      - {name: c, source: python, factory: ./mine.py:make, weights: c.safetensors}
    ```

    A short name such as `resnet18` sets options of its family; don't set these options yourself.
    `stitch-sweep describe NAME` prints the layers, and all other cut points that you can list in
    `layers`. A network with `weights: class_only` or `logits_only` can only be a sender, has no layer
    -1, and can't be the `teacher` of a loss.
    """

    registry: ClassVar[Registry] = FAMILIES
    name_field: ClassVar[str] = "family"

    name: Name = Field(
        description="Name of the network: letters, digits, `.`, `_`, `-`. Pairs refer to this name."
    )
    source: Literal["family", "torchvision", "timm", "python"] = Field(
        default="family",
        description="Source of the network: a family of Stitch Sweep, a library, or your own function.",
    )
    family: str = Field(
        default="resnet",
        description="Network family, or a short name such as `resnet18`, for `source: family`. The "
        "family's options are keys of this section, too.",
    )
    model: Text | None = Field(
        default=None,
        description="Name of the library's model, for `source: torchvision` and `timm`.",
    )
    factory: Text | None = Field(
        default=None,
        description="Function that returns the network, for `source: python`: `package.module:function` "
        "or `path/to/file.py:function`. Stitch Sweep calls this function. `in_memory:<name>` stands for "
        "a module that you passed to the Python API.",
    )
    arguments: dict[str, Any] | None = Field(
        default=None, description="Arguments of `model` or `factory`, by name."
    )
    seed: Seed = Field(
        default=0,
        description="Seed of the initial weights, and of image order and augmentation in pretraining.",
    )
    weights: Text = Field(
        default="trained",
        description="Source of the weights. `trained`: Stitch Sweep trains the network and stores it in "
        "the zoo. `random`: random weights, with BatchNorm statistics from one pass over the training "
        "images. `random_raw`: random weights, with BatchNorm means 0 and variances 1. `class_only`: a "
        "control whose representations contain only the class of an image, in the shapes of this "
        "network's layers. `logits_only`: a control whose representations contain only the outputs of "
        "linear probes on the layers of `probes_of`. A path: a state dict (safetensors or PyTorch; no "
        "code of the file is run). A name: pretrained weights of torchvision or timm. `factory`: the "
        "weights of the network that the function returns.",
    )
    expects: Text | None = Field(
        default=None,
        description="Name of published weights whose normalization and image size this network uses, "
        "for `source: torchvision` and `timm`. Set this key for a file that was fine-tuned from "
        "published weights. Default: `weights`, if it is a name.",
    )
    weights_key: Text | None = Field(
        default=None,
        description="Key of the state dict in a PyTorch file. Default: `state_dict` if it exists, "
        "else the whole file.",
    )
    weights_prefix: Text | None = Field(
        default=None,
        description="Prefix of tensor names in the file, such as `module.`. Stitch Sweep "
        "loads only tensors with this prefix, and removes it from their names.",
    )
    normalisation: NormalizationConfig | None = Field(
        default=None,
        description="Normalization that an external network was trained with. Default: that "
        "of the named weights; without these, that of the data set.",
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="Side of an external network's input images in pixels. Default: the "
        "size that the named weights expect; without these, that of the data set's images.",
    )
    noise: From0 | None = Field(
        default=None,
        description="For `class_only`: standard deviation of the representations within a class, "
        "relative to that between classes. Default: 1.",
    )
    probes_of: Name | None = Field(
        default=None,
        description="For `logits_only`: name of the network whose layers the probes read. This entry "
        "must have the architecture and layers of that network.",
    )
    pretraining: PretrainingConfig | None = Field(
        default=None,
        description="Training of this network in the zoo. Keys that are missing here have the values "
        "of the top-level section `pretraining`.",
    )
    layers: CutPoints = Field(
        default=None,
        description="Names of the cut points that are used as layers, or `auto` for one per block. "
        "Default: the layers of the family; for external networks, the names in the attribute "
        "`layer_names`, else `auto`.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_family(
        cls, values: Any, handler: ModelWrapValidatorHandler[NetworkConfig]
    ) -> NetworkConfig:
        is_family = isinstance(values, dict) and values.get("source", "family") == "family"
        if is_family and isinstance(values.get("family"), str):
            family, implied = FAMILIES.resolve(values["family"])
            clashes = [
                (
                    (key,),
                    f"is fixed by family {values['family']!r}; remove it or set family: {family}",
                )
                for key in implied
                if key in values
            ]
            if clashes:
                raise errors_at(cls.__name__, clashes)
            values = {**values, **implied, "family": family}
        return handler(values)

    @classmethod
    def _check_options(cls, values: Any) -> dict[str, Any]:
        source = values.get("source", "family") if isinstance(values, Mapping) else "family"
        if source == "family":
            return super()._check_options(values)
        fields = set(cls.model_fields)
        given = {key: value for key, value in values.items() if key not in fields}
        if unknown := unknown_keys(given, fields - {"family"}):
            raise errors_at(cls.__name__, unknown)
        return {}

    @model_validator(mode="after")
    def _validate_source(self) -> NetworkConfig:
        if problems := list(self._source_problems()):
            raise errors_at("network", problems)
        return self

    def _source_problems(self) -> Iterator[tuple[Location, str]]:
        required = {**dict.fromkeys(LIBRARIES, "model"), "python": "factory"}.get(self.source)
        if self.source != "family" and "family" in self.model_fields_set:
            yield ("family",), f"not allowed with source: {self.source}; use {required}"
        for key in ("model", "factory"):
            if key != required and getattr(self, key) is not None:
                yield (key,), f"not allowed with source: {self.source}"
        if required is not None and getattr(self, required) is None:
            yield (required,), f"is missing; source: {self.source} needs it"
        if self.factory is not None and not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", self.factory):
            expected = "package.module:function or path/to/file.py:function"
            yield ("factory",), mismatch(expected, self.factory)
        for key in ("arguments", "normalisation", "image_size"):
            if self.source == "family" and getattr(self, key) is not None:
                yield (key,), "only for external networks (source: torchvision, timm, python)"
        if self.expects is not None and self.source not in LIBRARIES:
            yield (
                ("expects",),
                "only for source: torchvision and timm, whose weights have a normalization",
            )
        for key in ("weights_key", "weights_prefix"):
            if self.kind != "file" and getattr(self, key) is not None:
                yield (key,), "only for weights from a file"
        allowed = f"{', '.join(map(repr, WEIGHTS))}"
        if self.kind == FROM_FACTORY and self.source != "python":
            yield ("weights",), "'factory' is only for source: python"
        elif self.kind == "named" and self.source == "family":
            yield ("weights",), mismatch(f"{allowed} or the path of a file", self.weights)
        elif self.kind == "named" and self.source == "python":
            allowed += f", {FROM_FACTORY!r} or the path of a file"
            yield ("weights",), mismatch(allowed, self.weights)

    @model_validator(mode="after")
    def _validate_noise(self) -> NetworkConfig:
        if self.weights == CLASS_ONLY:
            self.noise = 1.0 if self.noise is None else self.noise
        elif self.noise is not None:
            raise errors_at("network", [(("noise",), f"only for weights: {CLASS_ONLY}")])
        return self

    @model_validator(mode="after")
    def _validate_probes(self) -> NetworkConfig:
        if (self.weights == LOGITS_ONLY) != (self.probes_of is not None):
            problem = (
                f"only for weights: {LOGITS_ONLY}"
                if self.weights != LOGITS_ONLY
                else f"is missing; weights: {LOGITS_ONLY} needs it"
            )
            raise errors_at("network", [(("probes_of",), problem)])
        return self

    @model_validator(mode="after")
    def _validate_pretraining(self) -> NetworkConfig:
        if self.pretraining is not None and self.weights != "trained":
            raise errors_at("network", [(("pretraining",), "only for weights: trained")])
        return self

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Descriptions of networks, and hashes of them, must not change when a new version adds a key.
        unused = {"source"} if self.source == "family" else {"family"}
        unused |= {key for key in _LATER_KEYS if getattr(self, key) is None}
        return {key: value for key, value in handler(self).items() if key not in unused}

    @property
    def weights_file(self) -> Path | None:
        """Path of the weights file; None for other kinds of weights."""
        return Path(self.weights) if self.kind == "file" else None

    @property
    def kind(self) -> str:
        """Kind of the weights, see `weights_kind`."""
        return weights_kind(self.weights)

    @property
    def cuts(self) -> list[str] | Literal["auto"] | None:
        """Names of the layers, if the configuration lists them; None if the built network defines them.

        An external network finds its `auto` layers when it is built. Networks of families know the
        names of their cut points.
        """
        return self.layers if isinstance(self.layers, list) or self.source == "family" else None

    @property
    def title(self) -> str:
        """Architecture of the network: the family, `torchvision:resnet18`, `python:make`."""
        if self.source == "family":
            return self.family
        return f"{self.source}:{self.model or (self.factory or '').rpartition(':')[2]}"


_LATER_KEYS = (
    *("model", "factory", "arguments", "expects", "weights_key", "weights_prefix"),
    *("normalisation", "image_size", "noise", "probes_of", "pretraining"),
)
