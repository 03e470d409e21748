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
from glob import glob, has_magic
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
    name_is_key: ClassVar[bool] = False  # the name stands before the colon, not below it

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
            place = () if cls.name_is_key else (cls.name_field,)
            raise at_places(cls.__name__, [(place, str(error))]) from None
        own = {key: value for key, value in values.items() if key not in cls.model_fields}
        known = {*entry.options.model_fields, *cls.model_fields}
        if cls.name_is_key:
            known.remove(cls.name_field)
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
    name_is_key: ClassVar[bool] = True

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
        return {
            term.name: {"weight": term.weight, **term.options} if term.options else term.weight
            for term in self.terms
        }

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
    low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    choices: list[Any] | None = None
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Distribution:
        if found := list(self._problems()):
            raise at_places("distribution", found)
        return self

    def _problems(self) -> Iterator[tuple[Place, str]]:
        for path, wanted in self.when.items():
            if wanted == []:
                yield ("when", path), "wants a value or a list of values, got an empty list"
        if self.type == "categorical":
            for key in ("low", "high", "log", "step"):
                if getattr(self, key):
                    yield (key,), "categorical takes choices only"
            if not self.choices:
                yield ("choices",), "categorical wants a list of at least one choice"
            elif twice := _first_twice(self.choices):
                yield ("choices",), f"has {twice} twice"
            return
        if self.choices is not None:
            yield ("choices",), f"{self.type} takes low and high, not choices"
        missing = [key for key in ("low", "high") if getattr(self, key) is None]
        for key in missing:
            yield (key,), f"is missing; {self.type} needs it"
        for key in ("low", "high", "step"):
            value = getattr(self, key)
            if self.type == "int" and value is not None and value != int(value):
                yield (key,), wants("a whole number, since type is int", value)
        if self.low is None or self.high is None:
            return
        if self.low > self.high:
            yield (), f"low is {self.low:g}, above high, which is {self.high:g}"
        if self.log and self.low <= 0:
            yield ("low",), wants("a number above 0, since log is true", self.low)
        if self.log and self.step is not None:
            yield ("step",), "can't go with log: true"

    def representatives(self) -> list[Any]:
        """Values that stand for all: every choice, or both ends."""
        if self.type == "categorical":
            return list(self.choices or [])
        cast = int if self.type == "int" else float
        return [cast(self.low or 0), cast(self.high or 0)]


class SamplerConfig(BaseModel):
    """`tpe`, `random`, `grid`, or the class name of another sampler of Optuna with its arguments.

    What they are is checked where Optuna is known, in `sweep.search`.
    """

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
    space: dict[str, Distribution] | None = None
    samples: Positive = 1
    sampler: SamplerConfig = SamplerConfig()
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    mode: Literal["max", "min"] = "max"
    parallel_per_study: Positive = 1

    @field_validator("space", mode="before")
    @classmethod
    def _space_is_read(cls, value: Any) -> Any:
        if value is None or isinstance(value, Mapping):
            return value
        wanted = "a file's path, or dotted paths with their distributions"
        raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})

    @model_validator(mode="before")
    @classmethod
    def _mode_follows_metric(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "mode" not in values:
            return {**values, "mode": "min" if values.get("metric") == "val_loss" else "max"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> SearchConfig:
        found: list[tuple[Place, str]] = []
        if self.samples > 1 and not self.space:
            why = (
                f"is {self.samples}, but there is no space to sample from; "
                "use repeats for the same settings under other seeds"
            )
            found.append((("samples",), why))
        best = "min" if self.metric == "val_loss" else "max"
        if self.mode != best:
            found.append((("mode",), wants(f"{best!r} for {self.metric}", self.mode)))
        if found:
            raise at_places("search", found)
        return self

    @property
    def distributions(self) -> dict[str, Distribution]:
        """The search space; empty without a search."""
        return self.space or {}


class ResourcesConfig(Options):
    """What one trial takes. `cpu` is also torch's number of intra-op threads, everywhere."""

    cpu: Annotated[int, Field(ge=1)] = 1
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            why = wants("a share of one GPU or a whole number of them", value)
            raise PydanticCustomError("ours", "{why}", {"why": why})
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

    @field_validator("experiment")
    @classmethod
    def _stays_in_its_place(cls, value: str) -> str:
        # A leading / is how Databricks names experiments; nothing else in a name may climb.
        parts = value.removeprefix("/").split("/")
        if any(part.strip(". ") == "" for part in parts) or not value.isprintable():
            wanted = "a name of printable characters without empty parts, '.' or '..' between its /"
            raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})
        return value


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
    zoo: Annotated[str, Field(min_length=1)] = "zoo"

    @model_validator(mode="wrap")
    @classmethod
    def _names_fit(cls, values: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        # On the raw values, so that these problems are found beside all others.
        errors = []
        if isinstance(values, Mapping) and (found := list(_name_problems(values))):
            errors.append(at_places(cls.__name__, found))
        try:
            config = handler(values)
        except ValidationError as error:
            errors.insert(0, error)
        if errors:
            raise joined(cls.__name__, errors)
        return config

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
    """Settings with dotted paths replaced, a whole section before what lies in it.

    Raises:
        pydantic.ValidationError: the result is no valid setting.
        InputError: a path leads nowhere.
    """
    return TrialSettings.model_validate(replaced(base, overrides))


def replaced(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with dotted paths replaced, not validated.

    Raises:
        InputError: a path leads nowhere.
    """
    tree = copy.deepcopy(dict(base))
    for path in sorted(overrides, key=lambda path: path.count(".")):
        _assign(tree, path, overrides[path])
    return tree


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted path.

    Raises:
        KeyError: there is none.
    """
    for part in path.split("."):
        if not isinstance(tree, Mapping):
            raise KeyError(path)
        tree = tree[part]
    return tree


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
    problems = []
    for key, value in (overrides or {}).items():
        try:
            _assign(tree, key, value)
        except InputError as error:
            problems += [f"--set {problem}" for problem in error.problems]
    try:
        _find_files(tree, path.parent)
    except InputError as error:
        problems += [f"{path}: search.space: {problem}" for problem in error.problems]
        del tree["search"]["space"]  # or it would be reported twice
        tree["search"].pop("samples", None)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += [f"{path}: {problem}" for problem in describe_problems(error, Config)]
    else:
        problems += [f"{path}: {problem}" for problem in _search_problems(config)]
        if not _is_folder_or_free(Path(config.zoo)):
            problems.append(f"{path}: zoo: {config.zoo} is a file, a folder is wanted")
    if problems:
        raise InputError(*problems)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping of plain data.

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
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read ({reason})") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
        json.dumps(tree)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: {where}is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML of plain values: {reason}") from None
    if tree is None:
        raise InputError(f"{path}: is empty")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: wants key: value pairs, got {show(tree)}")
    return tree


def parse_value(text: str) -> Any:
    """One value written as in a YAML file, for `--set`."""
    try:
        value = yaml.load(text, Loader=_Loader)
        json.dumps(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text
    return value


def to_yaml(config: BaseModel) -> str:
    """A configuration as YAML text that reads back equal."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _name_problems(tree: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Networks named alike, and pairs of networks that aren't there; the values may be anything."""
    networks = [
        network.get("name") if isinstance(network, Mapping) else None
        for network in _list(tree.get("networks"))
    ]
    names = list(dict.fromkeys(name for name in networks if isinstance(name, str)))
    for i, name in enumerate(networks):
        if name in names and networks.index(name) < i:
            yield (
                ("networks", i, "name"),
                f"{name!r} is the name of networks[{networks.index(name)}]",
            )
    for i, pair in enumerate(_list(tree.get("pairs"))):
        for side in ("sender", "receiver"):
            wanted = pair.get(side) if isinstance(pair, Mapping) else None
            if isinstance(wanted, str) and names and wanted not in names:
                yield (
                    ("pairs", i, side),
                    f"no network is named {wanted!r}: {nearest(wanted, names)}",
                )


def _search_problems(config: Config) -> Iterator[str]:
    """What is wrong with crossed and searched values, found by building settings with each."""
    search = config.search
    where = {
        **{path: f"search.cross.{path}" for path in search.cross},
        **{path: f"search.space.{path}" for path in search.distributions},
    }
    for path, values in search.cross.items():
        if path in search.distributions:
            yield f"search: {path} is both crossed and searched; choose one"
        if twice := _first_twice(values):
            yield f"search.cross.{path}: has {twice} twice"
    broken = False
    for path in where:
        if path.split(".")[0] not in TrialSettings.model_fields:
            allowed = ", ".join(TrialSettings.model_fields)
            yield f"{where[path]}: can't differ between trials; only what is under {allowed} can"
            broken = True
    for problem in _condition_problems(config):
        yield problem
        broken = True
    if broken:
        return
    options = {path: list(_options(search, path)) for path in where}
    # One setting at a time, then every two together: adam with a searched momentum.
    for path in where:
        usable = []
        for name, overrides in options[path]:
            if found := _try(config, overrides):
                place = f"{where[path]}{name}"
                yield from (f"{place}: {p.removeprefix(f'{path}: ')}" for p in found)
                if path in search.distributions and not search.distributions[path].choices:
                    break  # the other end of a range says the same
            else:
                usable.append((name, overrides))
        options[path] = usable
    for one, other in itertools.combinations(where, 2):
        pairs = itertools.product(options[one], options[other])
        for (name, a), (other_name, b) in pairs:
            if any(a[path] != b[path] for path in a.keys() & b.keys()):
                continue
            if found := _try(config, {**a, **b}):
                together = f"{where[one]}{name} with {where[other]}{other_name}"
                yield from (f"{together}: {problem}" for problem in found)
                break


def _options(search: SearchConfig, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Values that stand for all of a crossed or searched path, as (how to name it, overrides)."""
    if path in search.cross:
        for i, value in enumerate(search.cross[path]):
            yield f"[{i}]", {path: value}
        return
    distribution = search.distributions[path]
    for value in distribution.representatives():
        for context in _contexts(search, path):
            shown = json.dumps(value) if distribution.choices else f"{value:g}"
            yield f" = {shown}", {**context, path: value}


def _contexts(search: SearchConfig, path: str) -> Iterator[dict[str, Any]]:
    """Every way in which the conditions of a path, and the conditions of those, can hold."""
    distribution = search.distributions.get(path)
    if distribution is None:
        yield {}
        return
    alternatives = [
        [
            {**above, source: value}
            for source, value, seen in _values_of(search, parent)
            if seen in (wanted if isinstance(wanted, list) else [wanted])
            for above in _contexts(search, source)
        ]
        or [{parent: wanted[0] if isinstance(wanted, list) else wanted}]
        for parent, wanted in distribution.when.items()
    ]
    for chosen in itertools.product(*alternatives):
        yield {key: value for context in chosen for key, value in context.items()}


def _values_of(search: SearchConfig, path: str) -> Iterator[tuple[str, Any, Any]]:
    """What a path can become by crossing and searching: (path that is set, to what, value then).

    The path that is set is the path itself or a section that is chosen as a whole and holds it.
    """
    for source in _sources(search, path):
        distribution = search.distributions.get(source)
        values = distribution.representatives() if distribution else search.cross[source]
        for value in values:
            try:
                yield (
                    source,
                    value,
                    value if source == path else look_up(value, path[len(source) + 1 :]),
                )
            except KeyError:
                continue


def _sources(search: SearchConfig, path: str) -> list[str]:
    paths = (*search.distributions, *search.cross)
    return [source for source in paths if f"{path}.".startswith(f"{source}.")]


def _condition_problems(config: Config) -> Iterator[str]:
    search = config.search
    for path, distribution in search.distributions.items():
        where = f"search.space.{path}.when"
        for parent, wanted in distribution.when.items():
            if not _sources(search, parent) and not _exists(config, parent):
                yield f"{where}: {parent} is no setting"
            if _depends_on(search, parent, path):
                yield f"{where}: {path} depends on itself"
                continue
            if parent in search.distributions and not search.distributions[parent].choices:
                yield f"{where}: {parent} is a range; only a choice can be a condition"
                continue
            possible = [value for _, _, value in _values_of(search, parent)]
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if possible and value not in possible:
                    allowed = ", ".join(dict.fromkeys(map(json.dumps, possible)))
                    yield f"{where}.{parent}: never is {json.dumps(value)}; allowed: {allowed}"


def _depends_on(search: SearchConfig, path: str, other: str) -> bool:
    """Whether a path, or what its condition leads to, is decided by `other`."""
    seen: set[str] = set()
    left = _sources(search, path)
    while left:
        current = left.pop()
        if current == other:
            return True
        if current not in seen and current in search.distributions:
            seen.add(current)
            for parent in search.distributions[current].when:
                left += _sources(search, parent)
    return False


def _exists(config: Config, path: str) -> bool:
    try:
        look_up(config.settings, path)
    except KeyError:
        return False
    return True


def _try(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    try:
        trial_settings(config.settings, overrides)
    except ValidationError as error:
        return describe_problems(error, TrialSettings)
    except InputError as error:
        return error.problems
    return []


def _first_twice(values: list[Any]) -> str | None:
    """The first value that a list has twice, as JSON."""
    return next((json.dumps(v) for i, v in enumerate(values) if v in values[:i]), None)


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    # `networks[0].width` as messages write it, or `networks.0.width`.
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    node: Any = tree
    for i, part in enumerate(parts):
        last, above = i == len(parts) - 1, ".".join(parts[:i])
        key: Any = part
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise InputError(
                    f"{path}: {above} is a list of {len(node)}; its entries are named "
                    f"{above}[0] and so on"
                )
            key = int(part)
        elif not isinstance(node, dict):
            raise InputError(f"{path}: {above} is {show(node)}, nothing can be below it")
        elif not last and node.get(part) is None:
            node[part] = {}
        elif not last and parts[:i] == ["loss"] and isinstance(node[part], int | float):
            node[part] = {"weight": node[part]}  # what a number after a loss's name stands for
        if last:
            node[key] = value
        else:
            node = node[key]


def _find_files(tree: dict[str, Any], folder: Path) -> None:
    """Put found paths, and what a space file holds, in the place of paths, where there are any.

    Raises:
        InputError: the space file can't be read.
    """
    zoo = tree.setdefault("zoo", Config.model_fields["zoo"].default)
    if isinstance(zoo, str) and zoo and (beside := folder.absolute() / zoo).exists():
        tree["zoo"] = str(beside)
    for section in [tree.get("data"), *_list(tree.get("networks"))]:
        for key in ("path", "weights"):
            name = section.get(key) if isinstance(section, dict) else None
            if isinstance(name, str) and name and name not in {"trained", *UNTRAINED}:
                section[key] = _found(name, folder)
    search = tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("space"), str):
        search["space"] = read_yaml(Path(_found(search["space"], folder)))


def _found(name: str, folder: Path) -> str:
    """A path or pattern beside the configuration, else in the current folder, else as it stands."""
    for base in (folder, Path()):
        candidate = base.absolute() / Path(name).expanduser()
        if candidate.exists() or (has_magic(name) and glob(str(candidate))):  # noqa: PTH207
            return str(candidate)
    return name


def _is_folder_or_free(path: Path) -> bool:
    return path.is_dir() or not path.exists()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, and a key given twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own attribute)
        # Dates stay text: nothing here is one.
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}:
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                problem = f"the key {shown} is not text; quotes make it text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
