"""One YAML file describes a sweep.

Stitch Sweep never changes your file. It writes `config.resolved.yml`, a valid configuration with all
defaults, into the experiment folder. Before any training, it checks the whole file and reports all
problems together, each with its key. If there is a problem, the command ends with status 2 and writes
nothing. `stitch-sweep init` writes a commented configuration.

```yaml
data: {name: digits, image_size: 16}
networks:
  - {name: a, family: resnet1111, width: 8, seed: 0}
  - {name: b, family: resnet1111, width: 8, seed: 1}
  - {name: b-random, family: resnet1111, width: 8, seed: 2, weights: random}
pairs:
  - {sender: a, receiver: b}
  - {sender: b-random, receiver: b, sender_layers: [0, 4]}
search:
  cross: {loss: [task, mse]}
  space:
    training.optimizer.lr: {type: float, low: 0.0003, high: 0.03, log: true}
  samples: 12
```

Only `data`, `networks`, and at least one of `pairs`, `knock_out` and `parts` are required. A section
without content is an error: remove its key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.controls import ControlError, check_controls, expand
from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.defaults import without_defaults
from stitch_sweep.config.knock_out import KnockOutConfig
from stitch_sweep.config.networks import NetworkConfig
from stitch_sweep.config.pairs import PairConfig
from stitch_sweep.config.parts import PartConfig
from stitch_sweep.config.paths import replaced
from stitch_sweep.config.places import Places
from stitch_sweep.config.plugins import Plugins
from stitch_sweep.config.pretraining import PretrainingConfig
from stitch_sweep.config.recipe import can_choose_recipe, without_recipe
from stitch_sweep.config.references import reference_problems
from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.config.search import SearchConfig
from stitch_sweep.config.shorthand import lengthen
from stitch_sweep.config.stitch import options_for
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.bounds import LONGEST_LIST, MOST_NETWORKS, Positive, Seed, Text
from stitch_sweep.core.problems import errors_at, join_errors


class Config(TrialSettings):
    """A whole configuration file.

    Validation adds the networks and pairs of `controls` to `networks` and `pairs`.
    """

    seed: Seed = Field(
        default=0,
        description="Seed of the image order, augmentation, initial stitch weights and Optuna's "
        "suggestions. The weights of a network depend on the network's own `seed`.",
    )
    repeats: Positive = Field(
        default=1,
        description="Number of repetitions of each study, each with different random initial weights of "
        "the stitch.",
    )
    plugins: Plugins = Field(
        default_factory=list,
        description="Python files and modules that register stitches, losses, measures, data sets, "
        "network families, controls, and rules for the stitch options `down` and `up`. Stitch Sweep "
        "executes their code.",
    )
    data: DataConfig = Field(description="Data set and loader.")
    networks: Annotated[list[NetworkConfig], Field(min_length=1, max_length=MOST_NETWORKS)] = Field(
        description="The frozen networks."
    )
    pretraining: PretrainingConfig = Field(
        default=PretrainingConfig(), description="Training of networks in the zoo."
    )
    pairs: Annotated[list[PairConfig], Field(max_length=LONGEST_LIST)] = Field(
        default_factory=list,
        description="Senders and receivers, with the layers to stitch. Required unless `knock_out` or "
        "`parts` is set.",
    )
    knock_out: Annotated[list[KnockOutConfig], Field(max_length=LONGEST_LIST)] = Field(
        default_factory=list,
        description="Layers of a network that a stitch replaces.",
    )
    parts: Annotated[list[PartConfig], Field(max_length=LONGEST_LIST)] = Field(
        default_factory=list,
        description="A network assembled from stitches and pieces of networks, for `stitch-sweep "
        "assemble`.",
    )
    order: Literal["together", "in_turn"] = Field(
        default="together",
        description="Whether the trainable parts of an assembly are trained together, or one after "
        "the other for `training.epochs` epochs each.",
    )
    controls: Annotated[
        list[str], PlainValidator(check_controls, json_schema_input_type=list[str])
    ] = Field(
        default_factory=list,
        description="Names of controls to add for each pair of trained networks.",
    )
    search: SearchConfig = Field(
        default=SearchConfig(),
        description="Crossed and searched settings. Default: one trial per cell.",
    )
    resources: ResourcesConfig = Field(
        default=ResourcesConfig(), description="CPUs, GPUs and memory of one trial."
    )
    tracking: TrackingConfig = Field(
        default=TrackingConfig(), description="MLflow and other loggers."
    )
    keep_stitches: Literal["all", "best", "none"] = Field(
        default="best",
        description="Stitches to store: those of all trials, that of each study's best trial, or none.",
    )
    report: Literal["auto", "never"] = Field(
        default="auto",
        description="Whether a sweep writes `report.html` at its end.",
    )
    zoo: Text = Field(
        default="zoo",
        description="Folder of trained networks. Sweeps with the same zoo share networks.",
    )
    _places: Places = PrivateAttr(default_factory=Places)

    @model_validator(mode="wrap")
    @classmethod
    def _validate_references(
        cls, values: Any, handler: ModelWrapValidatorHandler[Config]
    ) -> Config:
        # On the raw values, so that these problems are reported together with all others.
        errors = []
        if isinstance(values, Mapping) and (problems := list(reference_problems(values))):
            errors.append(errors_at(cls.__name__, problems))
        try:
            config = handler(values)
        except ValidationError as error:
            errors.insert(0, error)
        if errors:
            raise join_errors(cls.__name__, errors)
        problems = []
        for k, network in enumerate(config.networks):
            if network.pretraining is None:
                continue
            try:
                network.pretraining = config.pretraining.overridden(network.pretraining)
            except ValidationError as error:
                place = ("networks", k, "pretraining")
                problems += [((*place, *e["loc"]), e["msg"]) for e in error.errors()]
        if problems:
            raise errors_at(cls.__name__, problems)
        try:
            config.networks, config.pairs = expand(config.networks, config.pairs, config.controls)
        except ControlError as error:
            raise errors_at(cls.__name__, error.problems) from None
        return config

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), _LATER_KEYS)

    @property
    def places(self) -> Places:
        """Folders in which the configuration's files lie; by default the current folder."""
        return self._places

    def set_places(self, places: Places) -> None:
        """Say where the configuration was read."""
        self._places = places

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a trial as plain data, without factors and searched values."""
        return self.all_values()

    @classmethod
    def _marks_keys(cls, values: Any) -> bool:
        return can_choose_recipe(values)

    def trial_settings(self, overrides: Mapping[str, Any]) -> TrialSettings:
        """Return the validated settings of a trial.

        Args:
            overrides: factors and searched values, {dotted path: value}. A whole section is replaced
                before the values in it. A recipe among them replaces the values of the configuration's
                own recipe; keys that the configuration sets itself stay. With another `stitch.name`, the
                options of the configuration's stitch stay where the other stitch allows them.

        Raises:
            pydantic.ValidationError: a setting is not valid.
            InputError: a path does not exist.
        """
        base = self.settings
        if self.training.keys_beside_recipe is not None:
            base = without_recipe(base)
        section = lengthen("stitch", overrides.get("stitch", base["stitch"]))
        if isinstance(section, Mapping) and isinstance(name := overrides.get("stitch.name"), str):
            overrides = {**overrides, "stitch": options_for(section, name)}
        return TrialSettings.model_validate(replaced(base, overrides))

    def factor_combinations(self) -> Iterator[dict[str, Any]]:
        """Iterate over the combinations of the crossed factors, each as {dotted path: value}."""
        paths = list(self.search.cross)
        for values in itertools.product(*self.search.cross.values()):
            yield dict(zip(paths, values, strict=True))


_LATER_KEYS = ("plugins", "controls", "knock_out", "parts", "order", "report")
