"""Known good settings: their check against the search space, their sources, and who begins with them."""

import json
import shutil
from pathlib import Path

import pytest

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.enqueue import check_enqueued, describe_enqueued, enqueued_settings
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study
from tests.support.searches import ENDED, LR, SPACE, STUDIES, make_config

SGD = {
    "training.optimizer.name": "sgd",
    "training.optimizer.momentum": 0.9,
    "training.optimizer.lr": 0.01,
    "training.epochs": 3,
}
ADAM = {"training.optimizer.name": "adam", "training.optimizer.lr": 0.1, "training.epochs": 9}


def config_with(enqueue, space=SPACE, **search):
    return make_config(space, enqueue=enqueue, **{"samples": 4, **search})


class TestCheck:
    def test_accepts_points_of_the_space(self):
        check_enqueued(config_with([SGD, ADAM, {**ADAM, "training.optimizer.lr": 1e-4}]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"training.epoch": 3},
                r"\[1\]: training.epoch: is not a path of search.space: did you",
            ),
            ({"training.epochs": None}, r"training.epochs: is missing"),
            ({"training.epochs": 10}, r"training.epochs: 10 is not in search.space"),
            ({"training.epochs": 2.5}, r"training.epochs: 2.5 is not in search.space"),
            ({"training.epochs": True}, r"training.epochs: true is not in search.space"),
            ({"training.optimizer.lr": 0.2}, r"training.optimizer.lr: 0.2 is not in search.space"),
            ({"training.optimizer.lr": "0.1"}, r"training.optimizer.lr: '0.1' is not in"),
            ({"training.optimizer.name": "muon"}, r"training.optimizer.name: 'muon' is not in"),
            ({"training.optimizer.momentum": 0.5}, r"training.optimizer.momentum: 0.5 is not in"),
            ({"training.optimizer.momentum": None}, r"training.optimizer.momentum: is missing"),
        ],
    )
    def test_names_what_is_wrong(self, change, message):
        settings = {k: v for k, v in {**SGD, **change}.items() if v is not None}
        with pytest.raises(InputError, match=message):
            check_enqueued(config_with([ADAM, settings]))

    def test_names_all_problems_of_all_settings(self):
        wrong = {**ADAM, "training.epochs": 0, "training.optimizer.lr": 7}
        with pytest.raises(InputError) as caught:
            check_enqueued(config_with([wrong, {"training.optimizer.name": "sgd"}]))
        assert len(caught.value.problems) == 5

    def test_a_step_of_a_range_counts(self):
        space = {"training.schedule.warmup": {"type": "float", "low": 0, "high": 0.9, "step": 0.3}}
        check_enqueued(config_with([{"training.schedule.warmup": 0.3 * 3}], space))
        with pytest.raises(InputError, match=r"0.4 is not in search.space"):
            check_enqueued(config_with([{"training.schedule.warmup": 0.4}], space))

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            ({"enqueue": [SGD] * 5}, "has 5 settings, and a study has only 4 trials"),
            ({"sampler": "grid", "samples": 1}, "has no use with grid"),
            ({"enqueue": []}, "expected an experiment's folder, a file's path, or a list"),
            ({"enqueue": [3]}, "expected an experiment's folder, a file's path, or a list .*got 3"),
            ({"enqueue": 3}, "expected an experiment's folder, a file's path, or a list .*got 3"),
        ],
    )
    def test_the_configuration_refuses(self, search, message):
        values = {"enqueue": [SGD], "samples": 4, **search}
        with pytest.raises(ValueError, match=message):
            make_config(SPACE, **values)

    def test_a_crossed_value_may_decide_what_is_missing(self):
        space = {**SPACE, "training.optimizer.name": None}
        space = {path: value for path, value in space.items() if value}
        cross = {"training.optimizer.name": ["adam", "sgd"]}
        settings = {"training.optimizer.lr": 0.01, "training.epochs": 2}
        with pytest.raises(InputError, match=r"training.optimizer.momentum: is missing"):
            check_enqueued(config_with([settings], space, cross=cross))
        both = {**settings, "training.optimizer.momentum": 0.9}
        config = config_with([both], space, cross=cross)
        check_enqueued(config)
        chosen = [
            enqueued_settings(config, Study("a", 0, "b", 0, {"training.optimizer.name": name}))
            for name in ("adam", "sgd")
        ]
        assert chosen == [[settings], [both]]  # for adam, the momentum has no effect


class TestFirstTrials:
    @pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
    @pytest.mark.parametrize("sampler", ["tpe", "random", "QMCSampler", "NSGAIISampler"])
    def test_every_study_begins_with_them(self, sampler):
        config = config_with([SGD, ADAM, SGD], sampler=sampler)
        search = StudySearch(STUDIES[0], config)
        asked = []
        for number in range(4):
            asked.append(search.ask(number))
            search.tell(number, asked[-1], [0.5 + number])
        assert asked[:2] == [SGD, ADAM]
        assert asked[2] not in (SGD, ADAM)  # each once
        assert search.optuna.best_trial.number == 3

    def test_neighbors_come_before_them(self):
        config = config_with([SGD])
        search = StudySearch(STUDIES[0], config, [ADAM, SGD, ADAM])
        assert [search.ask(n) for n in range(2)] == [ADAM, SGD]

    def test_the_sampler_learns_from_them(self):
        """Suggestions after the known settings follow their results; the seeds are the same."""
        space = {"training.optimizer.lr": {"type": "float", "low": 1e-9, "high": 1.0}}
        places = [0.1, 0.11, 0.12, 0.13, 0.87, 0.88, 0.89, 0.9] * 2
        known = [{"training.optimizer.lr": x + k / 1000} for k, x in enumerate(places)]
        sampler = {"name": "tpe", "n_startup_trials": len(known)}
        config = config_with(known, space, samples=30, sampler=sampler)
        means = []
        for target in (0.1, 0.9):
            search = StudySearch(STUDIES[0], config)
            asked = []
            for number in range(30):
                params = search.ask(number)
                asked.append(params["training.optimizer.lr"])
                search.tell(number, params, [-abs(asked[-1] - target)])
            means.append(sum(asked[len(known) :]) / (30 - len(known)))
        assert means[1] - means[0] > 0.3, means

    def test_a_resume_begins_with_them_again(self):
        config = config_with([SGD, ADAM])
        asked = []
        for _ in range(2):
            search = StudySearch(STUDIES[0], config)
            asked.append([search.ask(n) for n in range(3)])
        assert asked[0] == asked[1]


CONFIG = """
data: {name: digits}
networks: [{name: a, family: resnet1111}]
pairs: [{sender: a, receiver: a}]
search:
  space:
    training.optimizer.lr: {type: float, low: 0.001, high: 0.1, log: true}
    training.optimizer.name: {type: categorical, choices: [sgd, adam]}
    training.optimizer.momentum:
      {type: categorical, choices: [0.0, 0.9], when: {training.optimizer.name: sgd}}
  samples: 3
  enqueue: %s
"""
FROM_FILE = [
    {"training.optimizer.lr": 0.01, "training.optimizer.name": "adam"},
    {
        "training.optimizer.lr": 0.1,
        "training.optimizer.name": "sgd",
        "training.optimizer.momentum": 0.9,
    },
]
FILES = {
    "known.yml": "\n".join(f"- {json.dumps(settings)}" for settings in FROM_FILE),
    "known.json": json.dumps(FROM_FILE),
    "known.csv": "training.optimizer.lr,training.optimizer.name,training.optimizer.momentum\n"
    "1e-2,adam,\n0.1,sgd,0.9\n",
}


class TestFiles:
    def read(self, folder: Path, name: str, text: str):
        (folder / name).write_text(text)
        (folder / "config.yml").write_text(CONFIG % name)
        return read_config(folder / "config.yml")

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_is_a_list(self, tmp_path, name):
        config = self.read(tmp_path, name, FILES[name])
        assert config.search.enqueue == FROM_FILE
        check_enqueued(config)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("known.csv", "training.optimizer.lr\n1,2\n", "line 2: has more cells than the header"),
            ("known.csv", "training.optimizer.lr,\n1,\n", "line 1: a column has no name"),
            ("known.csv", "", "expected an experiment's folder, a file's path, or a list"),
            ("known.yml", "training.optimizer.lr: 1", "search.enqueue: expected an experiment's"),
            ("known.yml", "[1", "search.enqueue: .*known.yml: line 1.* is not valid YAML"),
            ("known.json", "[[0.1]]", "search.enqueue: expected an experiment's folder"),
        ],
    )
    def test_refuses(self, tmp_path, name, text, message):
        with pytest.raises(InputError, match=message):
            self.read(tmp_path, name, text)

    def test_a_missing_file_is_named(self, tmp_path):
        (tmp_path / "config.yml").write_text(CONFIG % "none.yml")
        with pytest.raises(
            InputError, match=r"search.enqueue: .*none.yml: there is no such file or folder"
        ):
            read_config(tmp_path / "config.yml")

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_that_is_no_text_is_refused_with_what_is_allowed(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        (tmp_path / "config.yml").write_text(CONFIG % name)
        with pytest.raises(InputError, match=r"not a text file.*, expected a YAML, JSON or CSV f"):
            read_config(tmp_path / "config.yml")


class TestFolder:
    """The folder of an earlier experiment with two studies of a cell and one of another."""

    def record(self, ledger, study, number, lr, metric, **changes):
        trial = study.trial(number)
        settings = make_config().trial_settings({"training.optimizer.lr": lr, **study.factors})
        content = {
            **study.key,
            "study": study.id,
            "number": number,
            "params": {"training.optimizer.lr": lr},
            "settings": settings.model_dump(mode="json"),
        }
        ledger.begin(trial, content)
        ledger.finish(trial, {**ENDED, "metric": metric, **changes}, None)

    def make(self, folder: Path, mode: str = "max") -> Path:
        ledger = Ledger(folder)
        ledger.start({"trials": 1, "config": {"search": {"mode": mode}}})
        lrs = iter((0.01, 0.02, 0.03, 0.04, 0.05, 0.06))
        for study, metrics in (
            (Study("a", 0, "b", 0), (0.5, 0.6)),
            (Study("a", 0, "b", 0, repeat=1), (0.4, 0.3)),
            (Study("a", 1, "b", 0), (0.9, 0.8)),
        ):
            for number, metric in enumerate(metrics):
                self.record(ledger, study, number, next(lrs), metric)
        study = Study("a", 2, "b", 0)
        self.record(ledger, study, 0, 0.07, None, status="failed", metrics={})
        return folder

    def config(self, folder, space=None):
        return config_with(str(folder), space or {"training.optimizer.lr": LR}, samples=2)

    def lr_of(self, config, study):
        (settings,) = enqueued_settings(config, study)
        return settings["training.optimizer.lr"]

    def test_a_study_takes_the_best_of_its_own_its_cell_or_all(self, tmp_path):
        config = self.config(self.make(tmp_path / "earlier"))
        check_enqueued(config)
        assert self.lr_of(config, Study("a", 0, "b", 0)) == 0.02
        assert self.lr_of(config, Study("a", 0, "b", 0, repeat=1)) == 0.03
        assert self.lr_of(config, Study("a", 0, "b", 0, repeat=7)) == 0.02  # the cell's best
        assert self.lr_of(config, Study("a", 2, "b", 0)) == 0.05  # the best of all; its own failed
        assert StudySearch(Study("x", 0, "y", 3), config).ask(0) == {"training.optimizer.lr": 0.05}

    def test_a_folder_that_grows_is_read_again_for_the_next_sweep_alone(self, tmp_path):
        study = Study("a", 0, "b", 0)
        config = self.config(self.make(tmp_path / "earlier"))
        check_enqueued(config)
        before = describe_enqueued(config)
        self.record(Ledger(tmp_path / "earlier"), study, 2, 0.08, 0.7)
        assert (self.lr_of(config, study), describe_enqueued(config)) == (0.02, before)
        check_enqueued(config)
        assert self.lr_of(config, study) == 0.08
        assert describe_enqueued(config) != before

    def test_the_mode_of_the_earlier_experiment_counts(self, tmp_path):
        config = self.config(self.make(tmp_path / "earlier", mode="min"))
        assert self.lr_of(config, Study("a", 0, "b", 0)) == 0.01

    def test_settings_that_were_best_most_often_count_for_other_cells(self, tmp_path):
        ledger = Ledger(self.make(tmp_path / "earlier"))
        for layer in (3, 4):
            self.record(ledger, Study("a", layer, "b", 0), 0, 0.08, 0.1)
        config = self.config(tmp_path / "earlier")
        assert self.lr_of(config, Study("x", 0, "y", 0)) == 0.08

    def test_what_the_earlier_experiment_fixed_counts_as_well(self, tmp_path):
        space = {
            "training.optimizer.lr": LR,
            "training.epochs": {"type": "int", "low": 1, "high": 9},
        }
        config = self.config(self.make(tmp_path / "earlier"), space)
        (settings,) = enqueued_settings(config, Study("a", 0, "b", 0))
        assert settings == {"training.optimizer.lr": 0.02, "training.epochs": 4}

    @pytest.mark.parametrize(
        ("path", "choices", "best"),
        [
            ("training.coordinates", ["raw", "whitened"], "raw"),
            ("training.patience", [None, 3], None),
            ("training.patience", [None, 3], 3),
            ("training.optimizer.lr", [None, 0.01], None),
        ],
    )
    def test_a_default_or_null_that_was_best_or_fixed_counts(self, path, choices, best, tmp_path):
        ledger, study = Ledger(tmp_path), Study("a", 0, "b", 0)
        ledger.start({"trials": 1})
        settings = make_config().trial_settings({path: best}).model_dump(mode="json")
        space = {path: {"type": "categorical", "choices": choices}}
        for number, params in enumerate(({path: best}, {})):
            trial = study.trial(number)
            content = {**study.key, "study": study.id, "number": number, "params": params}
            ledger.begin(trial, {**content, "settings": settings})
            ledger.finish(trial, {**ENDED, "metric": 0.5 + number}, None)
            folder = tmp_path / str(number)
            shutil.copytree(tmp_path / "ledger", folder / "ledger")
            config = config_with(str(folder), space, samples=1)
            check_enqueued(config)
            assert enqueued_settings(config, study) == [{path: best}], params

    def test_values_outside_of_the_new_space_are_named(self, tmp_path):
        space = {"training.optimizer.lr": {"type": "float", "low": 0.001, "high": 0.03}}
        config = self.config(self.make(tmp_path / "earlier"), space)
        with pytest.raises(
            InputError, match=r"trial a.1-b.0-.*-n0: training.optimizer.lr: 0.05 is"
        ):
            check_enqueued(config)

    def test_a_folder_without_a_finished_trial_is_refused(self, tmp_path):
        config = self.config(tmp_path)
        with pytest.raises(InputError, match=r"search.enqueue: .* contains no sweep; name an"):
            check_enqueued(config)
        Ledger(tmp_path / "empty").start({"trials": 1})
        with pytest.raises(InputError, match=r"no trial of the sweep in .* has finished"):
            check_enqueued(self.config(tmp_path / "empty"))

    def test_the_description_changes_with_the_settings_and_not_with_the_place(self, tmp_path):
        first = describe_enqueued(self.config(self.make(tmp_path / "one")))
        assert first == describe_enqueued(self.config(self.make(tmp_path / "two")))
        assert first != describe_enqueued(self.config(self.make(tmp_path / "three", mode="min")))
        assert describe_enqueued(config_with([SGD])) == [SGD]
        assert describe_enqueued(make_config(SPACE)) is None
