"""The suite of sanity checks, and the command `sanity`."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.plain_subject import find_cut_modules
from stitch_sweep.checks.sanity.suite import run_sanity
from stitch_sweep.cli import main as cli
from stitch_sweep.config.root import Config
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.plan.cells import Cell
from stitch_sweep.training.loop import StitchTraining
from tests.support.subjects import around, make_subject, run_check
from tests.support.sweeps import SMALL, write_config


def long_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ScheduleConfig, "factor", lambda self, step, total: min(1.0, (step + 1) / (2.5 * total))
    )


class TestSuite:
    @pytest.fixture
    def config(self, tmp_path) -> Config:
        return Config.model_validate({**SMALL, "zoo": str(tmp_path / "zoo")})

    def test_a_module_that_runs_twice_is_left_to_the_other_checks(self, digits, trained):
        modules = copy.deepcopy(trained)
        modules["a"].layer1[0].relu1 = modules["a"].layer1[0].relu2 = modules["a"].relu
        subject = make_subject(digits, modules, Cell("a", 0, "b", 2))
        finding = run_check("no abstractions", replace(subject, cell=Cell("b", 1, "b", 2)))
        assert finding.verdict == "pass"
        bench = subject.bench()
        bench.networks["a"].layer_names[0] = "relu"
        with pytest.raises(LookupError, match="runs 3 times"):
            find_cut_modules(subject, bench)

    def test_a_training_that_diverges_is_said_to(self, config):
        training = {"epochs": 2, "optimizer": {"name": "sgd", "lr": 1e30}}
        changes = {"loss": {"mse": 1.0}, "training": training, "search": {}}
        wild = Config.model_validate({**SMALL, "zoo": config.zoo, **changes})
        result = run_sanity(wild, images=50, only=["store and load", "precision"])
        assert [finding.verdict for finding in result.findings] == ["fail", "fail"]
        assert all("lower training.optimizer.lr" in f.detail for f in result.findings)

    def test_what_is_not_finite_is_json_all_the_same(self):
        finding = Finding("x", "y", math.inf, "fail", figures={"a": {"b": math.nan}, "c": 1.0})
        written = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
        assert written["difference"] == "inf"
        assert written["figures"] == {"a": {"b": "nan"}, "c": 1.0}

    def test_a_crash_is_a_finding_and_the_rest_goes_on(self, config, monkeypatch):
        def broken(original: Any, self: StitchTraining) -> Any:
            raise RuntimeError("the planted crash")

        around(monkeypatch, StitchTraining, "finish", broken)
        result = run_sanity(
            config, images=100, only=["little: frozen", "little: schedule", "order"]
        )
        verdicts = {finding.name: finding.verdict for finding in result.findings}
        assert verdicts == {"order": "pass", "little: schedule": "fail", "little: frozen": "fail"}
        assert "RuntimeError: the planted crash" in result.findings[1].detail
        assert not result.passed


class TestCommand:
    @pytest.fixture
    def config(self, tmp_path) -> Path:
        return write_config(tmp_path, tmp_path / "zoo")

    @pytest.fixture
    def sanity(self, config, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
        def sanity(*arguments: object) -> tuple[int, str, str]:
            command = ["stitch-sweep", "sanity", config, "--images", 50, *arguments]
            monkeypatch.setattr(sys, "argv", [*map(str, command)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            return (int(ended.value.code or 0), *capsys.readouterr())

        return sanity

    def test_all_is_well(self, sanity, config):
        status, out, _ = sanity("--only", "little: order", "--only", "order")
        assert status == 0
        assert out.count("pass") == 2
        written = json.loads((config.parent / "sanity.json").read_text())
        assert written["only"] == ["little: order", "order"]

    def test_a_failed_check_ends_with_1_and_is_named(self, sanity, monkeypatch):
        long_warmup(monkeypatch)
        status, out, _ = sanity("--only", "little: schedule")
        assert status == 1
        assert "is the warm-up longer than the training?" in " ".join(out.split())

    def test_one_object_on_standard_output(self, sanity):
        status, out, _ = sanity("--only", "little: identity", "--json")
        assert status == 0
        (check,) = json.loads(out)["checks"]
        assert check["name"] == "little: identity"
        assert (check["verdict"], check["difference"]) == ("pass", 0.0)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--only", "ordr"), "did you mean 'order'?"),
            (("--images", "3"), "at least 20"),
            (("--pair", "a:9,b:1"), "a has layers -1 (the image) to 4, not 9"),
            (("--output", "."), "is a folder"),
            (("--output", "/proc/x.json"), "can't be written"),
            (("--set", "loss={tsk: 1.0}"), "tsk"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_runs(self, arguments, said, sanity, tmp_path):
        status, out, err = sanity(*arguments)
        assert status == 2
        assert said in " ".join(err.split())
        assert out == ""
        assert not (tmp_path / "zoo").exists()

    def test_the_configuration_is_not_overwritten(self, sanity, config):
        before = config.read_bytes()
        assert sanity("--output", config)[0] == 2
        assert config.read_bytes() == before
