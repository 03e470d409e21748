"""Everything a YAML file may hold, as pydantic models, and the one way to read it.

`read_config` finds every problem it can before anything is started, each with its path in the file,
what it got and what it may be.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from glob import has_magic, iglob
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    RootModel,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from stitch_sweep.errors import InputError, nearest
from stitch_sweep.optimization import OptimizerConfig, ScheduleConfig
from stitch_sweep.problems import NAME, Place, at_places, describe_problems, joined, show, wants
from stitch_sweep.registry import DATASETS, FAMILIES, LOSSES, STITCHES, Options, Registry

Name = Annotated[str, Field(pattern=NAME, max_length=80)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
UNTRAINED = ("random", "random_raw")


class Component(BaseModel):
    """Settings of a registered thing: a name, our common fields, and the thing's own options."""

    model_config = ConfigDict(extra="allow", strict=True)
    registry: ClassVar[Registry]
    name_field: ClassVar[str] = "name"

    @property
    def options(self) -> dict[str, Any]:
        """The thing's own options, validated, with defaults filled in."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _options_fit(cls, values: Any, handler: ModelWrapValidatorHandler[Component]) -> Component:
        if isinstance(values, cls):
            return handler(values)
        errors, checked = [], {}
        try:
            component = handler(values)
        except ValidationError as error:
            errors.append(error)
        try:
            checked = cls._checked_options(values)
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise joined(cls.__name__, errors)
        component.__pydantic_extra__ = checked
        return component

    @classmethod
    def _checked_options(cls, values: Any) -> dict[str, Any]:
        """The options among `values`, which may be anything, with defaults filled in."""
        if not isinstance(values, Mapping):
            return {}
        name = values.get(cls.name_field, cls.model_fields[cls.name_field].default)
        if not isinstance(name, str):
            return {}
        try:
            entry = cls.registry.get(name)
        except InputError as error:
            raise at_places(cls.__name__, [((cls.name_field,), str(error))]) from None
        own = {key: value for key, value in values.items() if key not in cls.model_fields}
        known = {*entry.options.model_fields, *cls.model_fields}
        unknown = [
            ((key,), f"unknown key: {nearest(key, known)}") for key in own if key not in known
        ]
        errors = [at_places(cls.__name__, unknown)] if unknown else []
        try:
            checked = entry.options.model_validate({k: v for k, v in own.items() if k in known})
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise joined(cls.__name__, errors)
        return checked.model_dump()


class DataConfig(Component):
    """Which images, how they are split, cut down, augmented and loaded."""

    registry: ClassVar[Registry] = DATASETS

    name: str
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    split_seed: Seed = 0
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    train_images: Positive | None = None
    test_images: Positive | None = None
    augment: Literal["none", "crop_flip"] = "none"
    loader: Literal["torch"] = "torch"


class NetworkConfig(Component):
    """One frozen network: its family and shape, and where its weights come from."""

    registry: ClassVar[Registry] = FAMILIES
    name_field: ClassVar[str] = "family"

    name: Name
    family: str = "resnet"
    seed: Seed = 0
    weights: str = "trained"
    layers: list[str] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_family(
        cls, values: Any, handler: ModelWrapValidatorHandler[NetworkConfig]
    ) -> NetworkConfig:
        if isinstance(values, dict) and isinstance(values.get("family"), str):
            family, implied = FAMILIES.resolve(values["family"])
            clash = [
                ((key,), f"family {values['family']!r} fixes it: leave it out or use {family!r}")
                for key in implied
                if key in values
            ]
            if clash:
                raise at_places(cls.__name__, clash)
            values = {**values, **implied, "family": family}
        return handler(values)

    @field_validator("weights")
    @classmethod
    def _weights_known(cls, value: str) -> str:
        if value in {"trained", *UNTRAINED} or "/" in value or "." in value:
            return value
        wanted = "'trained', 'random', 'random_raw' or the path of a file"
        raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})

    @property
    def weights_file(self) -> Path | None:
        """The file the weights come from, if they come from one."""
        return None if self.weights in {"trained", *UNTRAINED} else Path(self.weights)


class TrainingConfig(Options):
    """How a stitch is trained. `epochs: 0` leaves it as it started."""

    epochs: Annotated[int, Field(ge=0)] = 4
    batch_size: Positive = 64
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    log_every: Positive | None = None


class PretrainingConfig(Options):
    """How the zoo trains a network."""

    epochs: Positive = 10
    batch_size: Positive = 128
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", lr=0.1)
    schedule: ScheduleConfig = ScheduleConfig()


def _layers(value: Any) -> Any:
    if value == "all":
        return value
    indices = value if isinstance(value, list) else []
    wrong = [x for x in indices if not isinstance(x, int) or isinstance(x, bool) or x < -1]
    if not indices or wrong:
        wanted = "'all' or a list of layer indices, -1 (the image) or above"
        why = wants(wanted, wrong[0] if wrong else value)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    return value


# Not a plain union: pydantic would report once per member.
Layers = Annotated[Literal["all"] | list[int], PlainValidator(_layers)]


class PairConfig(Options):
    """Which layers of a sender are stitched to which layers of a receiver."""

    sender: str
    receiver: str
    sender_layers: Layers = "all"
    receiver_layers: Layers = "all"


class StitchConfig(Component):
    """Which stitch, how it starts, and its own options."""

    registry: ClassVar[Registry] = STITCHES

    name: str = "paper"
    start: Literal["random", "identity"] = "random"


class LossTerm(Component):
    """One term of the training loss: its weight, and the loss's own options."""

    registry: ClassVar[Registry] = LOSSES

    name: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class LossConfig(RootModel[dict[str, LossTerm]]):
    """A weighted sum of losses, written `{task: 1.0, mse: {weight: 0.5}}` in a file."""

    model_config = ConfigDict(strict=True)
    root: Annotated[dict[str, LossTerm], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _name_terms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if not value:
            raise PydanticCustomError("ours", "wants at least one loss, such as task: 1.0")
        terms = {}
        for name, body in value.items():
            body = body if isinstance(body, Mapping) else {"weight": body}
            if "name" in body:
                raise at_places("loss", [((name, "name"), "the term's key is its name already")])
            terms[name] = {**body, "name": name}
        return terms

    @model_serializer
    def _to_mapping(self) -> dict[str, Any]:
        # Always the long form, so that `loss.mse.weight` is a path in every configuration.
        return {term.name: {"weight": term.weight, **term.options} for term in self.terms}

    @property
    def terms(self) -> list[LossTerm]:
        """The terms in the order of the file."""
        return list(self.root.values())

    @property
    def label(self) -> str:
        """A short text that names the sum: `task`, `task+0.5*mse`."""
        return "+".join(t.name if t.weight == 1 else f"{t.weight:g}*{t.name}" for t in self.terms)


class Distribution(Options):
    """What Optuna may choose for one dotted path of the configuration.

    `when` makes it conditional: it is sampled only where the given paths have one of the given values.
    """

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] | None = None
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Distribution:
        if self.type == "categorical":
            if not self.choices:
                raise ValueError("categorical needs a list of choices")
            if {self.low, self.high, self.step} != {None} or self.log:
                raise ValueError("categorical takes choices only, no low, high, log or step")
            return self
        if self.choices is not None:
            raise ValueError(f"{self.type} takes low and high, not choices")
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError(f"{self.type} needs low <= high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and takes no step")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        if self.type == "int" and any(
            x is not None and x != int(x) for x in (self.low, self.high, self.step)
        ):
            raise ValueError("int needs whole numbers")
        return self

    def representatives(self) -> list[Any]:
        """Values that stand for all: every choice, or both ends."""
        if self.type == "categorical":
            return list(self.choices or [])
        cast = int if self.type == "int" else float
        return [cast(self.low or 0), cast(self.high or 0)]


class SamplerConfig(BaseModel):
    """`tpe`, `random`, `grid`, or the class name of another sampler of Optuna with its arguments."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = "tpe"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the sampler's class."""
        return dict(self.model_extra or {})


class SearchConfig(Options):
    """What is crossed (run in every cell) and what is searched (sampled by Optuna)."""

    cross: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    space: str | dict[str, Distribution] | None = None
    samples: Positive = 1
    sampler: SamplerConfig = SamplerConfig()
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    mode: Literal["max", "min"] = "max"
    parallel_per_study: Positive = 1

    @model_validator(mode="after")
    def _samples_need_a_space(self) -> SearchConfig:
        if self.samples > 1 and not self.space:
            raise ValueError(
                f"samples is {self.samples}, but there is no space to sample from; "
                "use repeats for the same settings under other seeds"
            )
        return self

    @property
    def distributions(self) -> dict[str, Distribution]:
        """The search space; empty without a search."""
        return self.space if isinstance(self.space, dict) else {}


class ResourcesConfig(Options):
    """What one trial takes. `cpu` is also torch's number of intra-op threads, everywhere."""

    cpu: Annotated[int, Field(ge=1)] = 1
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 it must be a whole number of GPUs")
        return value

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where a trial computes."""
        return "cuda" if self.gpu > 0 else "cpu"


class TrackingConfig(Options):
    """Where MLflow keeps the runs; without `uri`, MLFLOW_TRACKING_URI or a local sqlite file."""

    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "stitch-sweep"
    uri: str | None = None
    enabled: bool = True


class TrialSettings(Options):
    """The part of a configuration that may differ from trial to trial."""

    stitch: StitchConfig = Field(default_factory=StitchConfig)
    loss: LossConfig = Field(default_factory=lambda: LossConfig.model_validate({"task": 1.0}))
    training: TrainingConfig = TrainingConfig()


class Config(TrialSettings):
    """A whole configuration file."""

    seed: Seed = 0
    repeats: Positive = 1
    data: DataConfig
    networks: Annotated[list[NetworkConfig], Field(min_length=1)]
    pretraining: PretrainingConfig = PretrainingConfig()
    pairs: Annotated[list[PairConfig], Field(min_length=1)]
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    keep_stitches: Literal["all", "best", "none"] = "best"
    zoo: str = "zoo"

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        names = [network.name for network in self.networks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two networks are named {name!r}")
        for i, pair in enumerate(self.pairs):
            for side in ("sender", "receiver"):
                name = getattr(pair, side)
                if name not in names:
                    raise PydanticCustomError(
                        "unknown_network", "pairs[{i}].{side}: no network is named {name}: {hint}",
                        {"i": i, "side": side, "name": repr(name), "hint": nearest(name, names)},
                    )  # fmt: skip
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The trial settings as plain data, before factors and searched values."""
        return self.model_dump(include=set(TrialSettings.model_fields))

    def factor_combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of the crossed factors, as {dotted path: value}."""
        paths = list(self.search.cross)
        for values in itertools.product(*self.search.cross.values()):
            yield dict(zip(paths, values, strict=True))


def trial_settings(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> TrialSettings:
    """Settings with dotted paths replaced.

    Raises:
        pydantic.ValidationError: the result is no valid setting.
        InputError: a path leads nowhere.
    """
    tree = copy.deepcopy(dict(base))
    for path, value in overrides.items():
        _assign(tree, path, value)
    return TrialSettings.model_validate(tree)


def label(value: Any) -> str | int | float | bool:
    """A factor's or setting's value as one cell of a table: a loss as `task+0.5*mse`."""
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        try:
            return LossConfig.model_validate(value).label
        except ValidationError:
            pass
    return json.dumps(value, sort_keys=True)


def read_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: a YAML file. Paths in it are looked up beside it first, then in the current folder.
        overrides: dotted path -> value, as given by `--set`.

    Raises:
        InputError: every problem found, one line each.
    """
    path = Path(path)
    tree = read_yaml(path)
    for key, value in (overrides or {}).items():
        _assign(tree, key, value)
    space_file = None
    if isinstance(tree.get("search"), dict) and isinstance(tree["search"].get("space"), str):
        space_file = _beside(tree["search"]["space"], path.parent)
        tree["search"]["space"] = read_yaml(Path(space_file))
    for where in [tree.get("data"), *_list(tree.get("networks"))]:
        for key in ("path", "weights"):
            if isinstance(where, dict) and isinstance(where.get(key), str):
                where[key] = str(_beside(where[key], path.parent))
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(*(f"{path}: {p}" for p in describe_problems(error, Config))) from None
    problems = [f"{path}: {p}" for p in _search_problems(config)]
    if problems:
        raise InputError(*problems)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        InputError: missing, a folder, empty, binary, unparsable, with a key twice, or no mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, a YAML file is wanted") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file (UTF-8), a YAML file is wanted") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        raise InputError(f"{path}: is empty")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds a {type(tree).__name__}, key: value pairs are wanted")
    return tree


def parse_value(text: str) -> Any:
    """One value written as in a YAML file, for `--set`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def to_yaml(config: BaseModel) -> str:
    """A configuration as YAML text that reads back equal."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Pydantic's findings as sentences: path, what is wrong, what it got, the nearest right key."""
    problems = []
    for found in error.errors(include_url=False):
        where = _dotted(found["loc"])
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            where, _, key = where.rpartition(".") if "." in where else ("", "", where)
            message = f"unknown key {key!r}: {nearest(key, _keys_at(model, found['loc'][:-1]))}"
        elif found["type"] == "missing":
            message = "is missing"
        elif not isinstance(found.get("input"), dict | list | BaseModel):
            message = f"{message[0].lower()}{message[1:]}, got {found['input']!r}"
        problems.append(f"{where}: {message}" if where else message)
    # A union reports once per member; one sentence a place is enough.
    return list(dict.fromkeys(problems))


def _search_problems(config: Config) -> Iterator[str]:
    """What is wrong with crossed and searched values, found by building settings with each."""
    search = config.search
    for path, values in search.cross.items():
        for i, value in enumerate(values):
            for problem in _try(config, {path: value}):
                yield f"search.cross.{path}[{i}]: {problem}"
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            yield f"search.cross.{path}: has a value twice"
        if path in search.distributions:
            yield f"search: {path} is both crossed and searched; choose one"
    if any(_try(config, {path: values[0]}) for path, values in search.cross.items()):
        return
    first = {path: values[0] for path, values in search.cross.items()}
    for path, distribution in search.distributions.items():
        conditions = {}
        for parent, wanted in distribution.when.items():
            known = search.distributions.get(parent)
            if known is None and parent not in search.cross and not _exists(config, parent):
                yield f"search.space.{path}.when: {parent} is no setting"
            conditions[parent] = wanted[0] if isinstance(wanted, list) else wanted
        for value in distribution.representatives():
            for problem in _try(config, {**first, **conditions, path: value}):
                yield f"search.space.{path}: {value!r}: {problem}"


def _exists(config: Config, path: str) -> bool:
    node: Any = config.settings
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _try(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    for path in overrides:
        if path.split(".")[0] not in TrialSettings.model_fields:
            allowed = ", ".join(TrialSettings.model_fields)
            return [f"{path} can't differ between trials; only what is under {allowed} can"]
    try:
        trial_settings(config.settings, overrides)
    except ValidationError as error:
        return describe_problems(error, TrialSettings)
    except InputError as error:
        return error.problems
    return []


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    parts = path.split(".")
    node: Any = tree
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise InputError(f"{path}: {'.'.join(parts[:i])} is a list of {len(node)} entries")
            key: Any = int(part)
        elif isinstance(node, dict):
            key = part
            if not last and not isinstance(node.get(part), dict | list):
                node[part] = {}
        else:
            raise InputError(f"{path}: {'.'.join(parts[:i])} is a value, nothing can be below it")
        if last:
            node[key] = value
        else:
            node = node[key]


def _beside(name: str, folder: Path) -> Path | str:
    """A path of a configuration: beside its file, else as it stands (in the current folder)."""
    candidate = folder / Path(name).expanduser()
    return candidate if candidate.exists() else name


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    # Names that pydantic adds for the members of a union or the terms of a loss are no keys.
    text = re.sub(
        r"\.(literal\[[^]]*\]|list\[[^]]*\]+|str|dict\[[^]]*\]+|float|int)(?=\.|\[|$)", "", text
    )
    return text.removeprefix(".")


def _keys_at(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place of the configuration."""
    for part in loc:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        model = _model_in(field.annotation) if field else model
    fields = getattr(model, "model_fields", {})
    return list(fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
