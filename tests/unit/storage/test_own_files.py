"""Files that Stitch Sweep did not make: no command changes them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import stitch_sweep.sweep.run as sweeping
from stitch_sweep.checks.sanity.suite import check_output_file
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.prepare import Prepared, prepare
from stitch_sweep.storage.layout import ANALYSIS_MANIFEST, REPORT_MANIFEST, SWEEP_MANIFEST
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.manifest import Manifest, replacing_files
from stitch_sweep.sweep.assemble import _check_free, run_assembly
from stitch_sweep.sweep.description import describe_sweep
from stitch_sweep.sweep.local_start import LocalStart
from stitch_sweep.sweep.single import run_pair
from stitch_sweep.sweep.views import check_views
from tests.support.sweeps import SMALL, write_config

PARTS = [
    {"network": "a", "end": 1},
    {"stitch": {"name": "paper"}},
    {"network": "b", "start": 1},
]
PATTERN = re.compile(r"figures/[a-z]+\.png")


def content(folder: Path) -> dict[str, bytes]:
    """All files and folders below a folder; folders have no content."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in found}


def put(folder: Path, name: str, text: str = "mine") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("config")
    changes = {"tracking": {"enabled": False}, "data__train_images": 100}
    return prepare(read_config(write_config(folder, folder / "zoo", **changes)))


@pytest.fixture
def sweep(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`run_sweep` in a folder, until trials would run; then an input error ends it."""
    monkeypatch.setattr(sweeping, "prepare", lambda config: prepared)

    def run(folder: Path, **options: bool) -> None:
        def stop(*arguments: object) -> None:
            raise InputError("found late")

        with monkeypatch.context() as patch:
            patch.setattr(sweeping, "_run", stop)
            patch.setattr(LocalStart, "begin", lambda self: None)  # no trial runs
            sweeping.run_sweep(prepared.config, folder, **options)

    return run


# A sweep


def test_a_refused_sweep_leaves_a_ledger_that_is_not_its_own(sweep, tmp_path):
    put(tmp_path, "ledger/accounts.csv")
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"accounts\.csv, which no sweep made"):
        sweep(tmp_path)
    assert content(tmp_path) == before


def test_a_refused_sweep_leaves_a_folder_as_it_found_it(sweep, tmp_path):
    put(tmp_path, "notes.txt")
    for name in (None, "ledger/.DS_Store"):
        if name:
            put(tmp_path, name)
        before = content(tmp_path)
        with pytest.raises(InputError, match="found late"):
            sweep(tmp_path)
        assert content(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        *("results.parquet", "predictions.parquet", "traj.parquet", "traj.pkl", "summary.json"),
        *("optuna.log", "config.resolved.yml", "matrices/a__b.csv", "figures/a__b__loss-mse.png"),
        *("results.parquet/inside", "matrices"),
    ],
)
def test_a_sweep_that_would_replace_a_file_is_refused_before_it_begins(sweep, tmp_path, name):
    put(tmp_path, name)
    put(tmp_path, "tables/a__b.csv")
    before = content(tmp_path)
    with pytest.raises(InputError) as caught:
        sweep(tmp_path)
    (problem,) = caught.value.problems
    assert str(tmp_path / name.removesuffix("/inside")) in problem
    assert content(tmp_path) == before


def test_a_sweeps_own_tables_are_no_hindrance(prepared, tmp_path):
    """After the ledger was removed to begin again, and for a ledger of a version without lists."""
    put(tmp_path, "results.parquet")
    check_views(tmp_path, prepared.studies, prepared.config, is_new=False)
    put(tmp_path, SWEEP_MANIFEST, json.dumps({"files": {"results.parquet": None, "../x": None}}))
    check_views(tmp_path, prepared.studies, prepared.config, is_new=True)
    put(tmp_path, "summary.json")
    with pytest.raises(InputError, match=r"summary\.json"):
        check_views(tmp_path, prepared.studies, prepared.config, is_new=True)


def ended(folder: Path, prepared: Prepared) -> Ledger:
    """A ledger of the prepared sweep, in which two trials have ended."""
    ledger = Ledger(folder)
    ledger.start(describe_sweep(prepared))
    writer = LedgerWriter(str(folder), "all", "max")
    settings = {"stitch": {"name": "linear"}, "loss": {"task": 1.0}}
    for study in prepared.studies[:2]:
        about = {"study": study.id, "number": 0, "params": {}, "settings": settings}
        ledger.begin(study.trial(0), {**study.key, **about})
        outcome = {"status": "finished", "metric": 0.5, "metrics": {}, "trajectory": []}
        writer.finish(study.trial(0), {**outcome, "seconds": 1.0}, None, b"stitch")
    return ledger


def test_a_resume_names_what_is_damaged_and_retrains_only_when_asked(
    sweep, prepared, tmp_path, capsys
):
    ledger = ended(tmp_path, prepared)
    first, second = sorted(ledger.trial_ids())
    ledger.stitch_path(first).unlink()
    with pytest.raises(InputError, match="found late"):
        sweep(tmp_path, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 kept stitches are missing, of trials {first};" in said
    assert ledger.read(first)["status"] == "finished"
    record = ledger.record_path(second)
    record.write_bytes(record.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(InputError, match="found late"):
        sweep(tmp_path, resume=True, retrain_stitches=True)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{second}.json: is damaged" in said
    assert ledger.read(first)["status"] == "running"
    assert ledger.read(second) is None
    assert (ledger.root / "set_aside" / record.name).exists()


def test_stitches_are_not_retrained_where_none_are_kept(prepared, tmp_path):
    config = prepared.config.model_copy(update={"keep_stitches": "none"})
    with pytest.raises(InputError, match="keep_stitches is none"):
        sweeping.run_sweep(config, tmp_path, resume=True, retrain_stitches=True)
    # With neighbors, the best ones are kept as long as the sweep runs. Too many CPUs end this one.
    search = config.search.model_copy(update={"share": "neighbors"})
    resources = config.resources.model_copy(update={"cpu": 1024})
    config = config.model_copy(update={"search": search, "resources": resources})
    with pytest.raises(InputError) as caught:
        sweeping.run_sweep(config, tmp_path, resume=True, retrain_stitches=True)
    assert "keep_stitches" not in str(caught.value)


# Lists of files


def made(folder: Path, *names: str, others: tuple[str, ...] = ()) -> None:
    with replacing_files(
        Manifest(folder / ANALYSIS_MANIFEST, PATTERN, others), names, "go elsewhere"
    ):
        for name in names:
            put(folder, name, "made")


def test_only_listed_files_are_replaced_and_only_unchanged_ones_removed(tmp_path):
    made(tmp_path, "figures/a.png", "figures/b.png", "figures/c.png")
    put(tmp_path, "figures/b.png", "edited")
    put(tmp_path, "figures/c.png", "edited")
    put(tmp_path, "figures/d.png")
    made(tmp_path, "figures/c.png")
    assert content(tmp_path / "figures") == {"b.png": b"edited", "c.png": b"made", "d.png": b"mine"}
    with pytest.raises(InputError, match=r"figures/d\.png: would be replaced.* or go elsewhere"):
        made(tmp_path, "figures/d.png")
    assert (tmp_path / "figures" / "d.png").read_text() == "mine"


def test_two_writers_of_a_folder_may_replace_each_others_files(tmp_path):
    made(tmp_path, "figures/a.png")
    (tmp_path / ANALYSIS_MANIFEST).rename(tmp_path / REPORT_MANIFEST)
    with pytest.raises(InputError):
        made(tmp_path, "figures/a.png")
    made(tmp_path, "figures/a.png", others=(REPORT_MANIFEST,))


@pytest.mark.parametrize("text", ["[", "3", '{"files": 3}', '{"files": [[], 3]}', "[" * 10**5])
def test_a_list_that_is_none_shows_nothing(tmp_path, text):
    put(tmp_path, ANALYSIS_MANIFEST, text)
    put(tmp_path, "figures/a.png")
    with pytest.raises(InputError, match="would be replaced"):
        made(tmp_path, "figures/a.png")


# An assembly


def assembly(tmp_path: Path, **changes: object) -> Config:
    networks = SMALL["networks"][:2]
    options = {"networks": networks, "pairs": [], "search": {}, "parts": PARTS, **changes}
    return read_config(write_config(tmp_path, tmp_path / "zoo", **options))


@pytest.mark.parametrize(
    "name", ["parts/1-stitch.safetensors", "parts/0-a.safetensors", "summary.json", "traj.pkl"]
)
def test_an_assembly_that_would_replace_a_file_is_refused_before_it_begins(tmp_path, name):
    config = assembly(tmp_path)
    put(tmp_path, name)
    before = content(tmp_path)
    with pytest.raises(InputError, match=f"{name}: would be replaced"):
        run_assembly(config, tmp_path)
    assert content(tmp_path) == before


def test_an_assembly_keeps_files_that_are_not_its_own_and_replaces_its_earlier_ones(tmp_path):
    config = assembly(tmp_path, training={"epochs": 1, "batch_size": 64})
    mine = put(tmp_path, "parts/mine.safetensors")
    run_assembly(config, tmp_path)
    # The next one trains another part, and the first one's result goes.
    shutil.move(tmp_path / "parts" / "1-stitch.safetensors", tmp_path / "parts" / "9-b.safetensors")
    listed = json.loads((tmp_path / ".assembly.json").read_text())["files"]
    listed["parts/9-b.safetensors"] = listed.pop("parts/1-stitch.safetensors")
    put(tmp_path, ".assembly.json", json.dumps({"files": listed}))
    run_assembly(config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert names == ["1-stitch.safetensors", "mine.safetensors"]
    assert mine.read_text() == "mine"


def test_an_assembly_does_not_replace_its_own_inputs(tmp_path):
    weights = put(tmp_path, "parts/0-a.safetensors")
    network = {"name": "a", "family": "resnet1111", "width": 4, "weights": str(weights)}
    tree = {**SMALL, "networks": [network, SMALL["networks"][1]], "pairs": [], "search": {}}
    config = Config.model_validate({**tree, "parts": PARTS})
    put(tmp_path, ".assembly.json", json.dumps({"files": {"parts/0-a.safetensors": None}}))
    with pytest.raises(
        InputError, match=r"networks\[0\]\.weights: .* result of an earlier assembly"
    ):
        _check_free(config, tmp_path)


# Files that an option names


def test_a_stitch_is_not_saved_over_another_kind_of_file(tmp_path):
    config = read_config(write_config(tmp_path, tmp_path / "zoo"))
    mine = put(tmp_path, "network.safetensors")
    with pytest.raises(InputError, match=r"--save .*contains no stitch, and would be replaced"):
        run_pair(config, "a:1,b:1", mine)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("text", ["mine", "{}", "[]"])
def test_results_of_sanity_are_not_written_over_another_kind_of_file(tmp_path, text):
    with pytest.raises(InputError, match="contains no results of"):
        check_output_file(put(tmp_path, "notes.json", text))
    check_output_file(put(tmp_path, "sanity.json", '{"checks": []}'))
    check_output_file(tmp_path / "new.json")
