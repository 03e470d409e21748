"""The report: reading folders, merging them, what is written. How it looks is for the browser's test."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.quality import listed
from stitch_sweep.charts.colors import SERIES
from stitch_sweep.charts.plotly_renderer import escape_markup
from stitch_sweep.core.credentials import public
from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.pictures import read_pictures, write_pictures
from stitch_sweep.report.cells import MAX_POINTS, describe_trials, thin_trajectories
from stitch_sweep.report.doubts import list_doubts
from stitch_sweep.report.figures import list_charts
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.merging import merge
from stitch_sweep.report.page.markup import encode_json, escape_script, render_sentence
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.runs import LOCAL, Tracking, web_address
from stitch_sweep.report.tables.catalog import all_tables
from stitch_sweep.report.tables.table import escape_latex
from stitch_sweep.report.wording import format_duration
from stitch_sweep.report.writing import Report, analyze, analyze_matrix
from stitch_sweep.storage.layout import REPORT_MANIFEST
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.tracker import Tracker
from tests.support.paths import SHARED
from tests.support.reports import make_folder
from tests.support.sweeps import run, write_config

HOSTILE = "</script><script>alert(1)</script>\"&'<img src=x onerror=alert(2)>"


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "sweep", layers=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with everything in it and its report, which no test changes."""
    folder = make_folder(tmp_path_factory.mktemp("whole") / "sweep", measured=True, sanity=True,
                         samples=2, layers=3, pairs=(("a", "b"), ("c", "d")))  # fmt: skip
    return folder, write(folder)


def write(*folders: Path, **options):
    return analyze(list(folders), measured=False, **options)


def read(folder: Path) -> Parsed:
    """The page of a folder, without the files beside it."""
    page = Page("title")
    page.add(derive_findings(load_experiment(folder)))
    return Parsed(page.html())


def doubts_of(folder: Path) -> list[str]:
    return list_doubts(derive_findings(load_experiment(folder)))


class Parsed(HTMLParser):
    """The elements of a page, its visible text, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)

    @property
    def data(self):
        return next(
            json.loads(script) for script in self.scripts if script.startswith('{"figures"')
        )


def page_of(path: Path) -> Parsed:
    return Parsed((path / "report.html").read_text())


# What is written


def test_a_copy_of_the_folder_holds_the_report_and_what_it_is_made_of(whole, tmp_path):
    folder, _ = whole
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sent = set(Mirror(folder, f"file://{tmp_path}/copy").send())
    assert there - sent == {"sanity.json"}, "which another command writes where it is told to"


def test_everything_is_written_and_listed(whole):
    folder, report = whole
    names = {str(path.relative_to(folder)) for path in report.files}
    assert all(path.stat().st_size > 0 for path in report.files)
    assert names == set(json.loads((folder / REPORT_MANIFEST).read_text())["files"])
    stems = {Path(name).stem for name in names if name.startswith("figures/")}
    wanted = {"matrices_accuracy_calibrated", "ladder_width", "representations", "correlations",
              "probes", "importances", "images__a__d"}  # fmt: skip
    assert wanted <= stems
    assert {stem for stem in stems if f"figures/{stem}.png" not in names} == set()
    assert {stem for stem in stems if f"figures/{stem}.pdf" not in names} == set()
    tables = {Path(name).stem for name in names if name.endswith(".csv")}
    assert {"verdicts", "ladder_width", "representations", "networks", "probes"} <= tables
    latex = {Path(name).stem for name in names if name.endswith(".tex")}
    assert tables == latex | {"agreement_cells"}, "of which no page has room for every cell"
    page = page_of(folder)
    heads = {attrs.get("id") for tag, attrs in page.tags if tag == "h2"}
    sections = {"summary", "glance", "matrices", "ladder", "losses", "images", "networks", "search"}
    assert heads == sections | {"sanity", "made"}


def test_every_value_of_a_matrix_is_in_the_page(folder):
    (group,) = read(folder).data["groups"]
    found = matrices(load_experiment(folder).results, "penalty")
    assert len(group["variants"]) == len(found) == 2
    for variant, matrix in zip(group["variants"], found, strict=True):
        np.testing.assert_allclose(variant["values"]["penalty"], matrix.values, rtol=1e-4)


def test_the_page_says_what_the_sweep_was_made_with(folder, tmp_path):
    page = analyze([folder], output=tmp_path, measured=False).page.read_text()
    assert "python 3.12.1, torch 2.12.0" in page
    assert "a CPU of our own" in page


def test_a_cell_lists_its_best_trial_first_and_all_of_them(tmp_path):
    data = read(make_folder(tmp_path / "sweep", samples=3, layers=2)).data
    (group,) = data["groups"]
    for row in group["variants"][0]["trials"]:
        for cell in row:
            found = [data["trials"][trial] for trial in cell]
            assert len(found) == 3
            assert [trial["best"] for trial in found] == [True, False, False]
            assert found[0]["val"] == max(trial["val"] for trial in found)


def test_a_second_report_is_the_same_and_removes_what_is_stale_and_nothing_else(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2)
    first = {path.name: path.read_bytes() for path in write(folder).files}
    known = json.loads((folder / REPORT_MANIFEST).read_text())["files"]
    stale = folder / "figures" / "old.png"
    stale.touch()
    (folder / "figures" / "theirs.png").touch()
    outside = ["../x.png", "figures/../config.resolved.yml", "results.parquet", "figures/old.png"]
    (folder / REPORT_MANIFEST).write_text(json.dumps({"files": [*known, *outside]}))
    second = {path.name: path.read_bytes() for path in write(folder).files}
    assert first == second
    assert not stale.exists()
    assert (folder / "figures" / "theirs.png").exists()
    assert (folder / "results.parquet").exists()
    assert (folder / "config.resolved.yml").exists()


# Bad and half-finished folders


def test_a_half_finished_sweep_gives_a_report_that_says_so(tmp_path):
    folder = make_folder(tmp_path / "sweep", ended=9, tables=False)
    said = " ".join(doubts_of(folder))
    assert "results.parquet is not there yet" in said
    assert "9 of 32 trials have ended" in said
    assert len(load_experiment(folder).results) == 9
    assert "9 of 32 trials have ended" in " ".join(read(folder).text)


def test_a_table_behind_its_ledger_is_not_used(folder):
    results = pd.read_parquet(folder / "results.parquet")
    results.iloc[:5].to_parquet(folder / "results.parquet")
    assert len(load_experiment(folder).results) == len(results)


def test_missing_cells_are_counted_and_left_empty(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", losses=("task",), failed=((0, 1),), unconverged=((2, 2),)
    )
    doubts = doubts_of(folder)
    assert "1 trial of 16 failed; × marks cells without any other." in doubts
    assert any(text.startswith("1 finished trial of 15 did not converge") for text in doubts)
    data = read(folder).data
    (variant,) = data["groups"][0]["variants"]
    assert variant["values"]["test_accuracy"][0][1] is None
    assert variant["marks"][2][2] == "*"
    (trial,) = variant["trials"][0][1]
    assert data["trials"][trial]["error"] == "the loss is not finite"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda f: [p.unlink() for p in f.rglob("*") if p.is_file()],
            "neither results.parquet nor",
        ),
        (
            lambda f: pd.DataFrame({"x": [1]}).to_parquet(f / "results.parquet"),
            r"results.parquet: missing columns: trial, sender.*is it a sweep's",
        ),
        (lambda f: (f / "results.parquet").write_bytes(b"PAR1 no"), "not a readable parquet table"),
        (lambda f: swap_config(f, "other"), "has a, which config.resolved.yml doesn't name"),
        (
            lambda f: (f / "ledger/trials").rename(f / "t") and None,
            "trials that the ledger doesn't know",
        ),
        (lambda f: edit(f, lambda t: pd.concat([t, t.iloc[:1]])), "is in results.parquet twice"),
        (
            lambda f: edit(f, lambda t: t.assign(sender_accuracy=np.linspace(0.5, 0.9, len(t)))),
            "network a has test accuracies from 0.5000 to 0.9000",
        ),
    ],
)
def test_a_bad_folder_ends_with_a_plain_message(folder, spoil, problem):
    spoil(folder)
    with pytest.raises(InputError, match=problem):
        write(folder)
    assert not (folder / "report.html").exists()


def edit(folder, change):
    path = folder / "results.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def swap_config(folder, name):
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["networks"][0]["name"] = name
    path.write_text(yaml.safe_dump(config))


def test_every_bad_folder_is_named_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        write(tmp_path / "empty", tmp_path / "nowhere")
    assert len(caught.value.problems) == 2


def test_a_sweep_without_an_ended_trial_is_refused(tmp_path):
    folder = make_folder(tmp_path / "sweep", ended=0, tables=False)
    with pytest.raises(InputError, match="none of its 32 trials has ended yet"):
        write(folder)


def test_foreign_tables_beside_the_results_are_left_out_and_named(tmp_path):
    folder = make_folder(tmp_path / "sweep", measured=True, sanity=True)
    pd.DataFrame({"x": [1]}).to_parquet(folder / "measured" / "networks.parquet")
    (folder / "measured" / "images.safetensors").write_bytes(b"no")
    (folder / "sanity.json").write_text('{"checks": [1]}')
    (folder / "traj.parquet").unlink()
    experiment = load_experiment(folder)
    said = " ".join(experiment.notes)
    assert "measured/networks.parquet lacks columns" in said
    assert "images.safetensors" in said
    assert "sanity.json is not what" in said
    assert "traj.parquet is missing" in said
    assert experiment.table("networks") is None
    assert len(read(folder).data["groups"]) == 1


def test_measured_tables_of_an_earlier_state_are_told(tmp_path):
    folder = make_folder(tmp_path / "sweep", measured=True)
    (folder / "measured" / "about.json").write_text('{"trials": 3}')
    assert (
        "measured/ was computed when 3 trials had ended; now 32 have"
        in load_experiment(folder).notes
    )


# Several folders


def test_parts_of_one_study_are_merged_with_what_differs_as_a_factor(tmp_path):
    task = make_folder(tmp_path / "task", losses=("task",), crossed=False)
    mse = make_folder(tmp_path / "mse", losses=("mse",), crossed=False)
    (merged,), apart = merge([load_experiment(task), load_experiment(mse)])
    assert apart == []
    assert merged.name == "task + mse"
    assert sorted(merged.results["factor.loss"].unique()) == ["mse", "task"]
    # The same cells have the same ids in both folders, and mean different trials.
    assert merged.results["trial"].is_unique
    assert set(merged.predictions["trial"]) == set(merged.results["trial"])
    assert set(merged.trajectories["trial"]) == set(merged.results["trial"])
    for matrix in matrices(merged.results):
        alone = matrices(load_experiment(tmp_path / matrix.factors["loss"]).results)[0]
        pd.testing.assert_frame_equal(matrix.values, alone.values)


def test_a_setting_that_one_folder_left_to_its_default_is_no_obstacle(tmp_path):
    """A number beside nothing, in a column of texts and numbers."""
    left = make_folder(tmp_path / "left", losses=("task",), crossed=False)
    given = make_folder(tmp_path / "given", losses=("mse",), crossed=False)
    path = given / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["training"]["optimizer"]["lr"] = 0.004
    path.write_text(yaml.safe_dump(config))
    (merged,), apart = merge([load_experiment(given), load_experiment(left)])
    assert apart == []
    assert [m.factors for m in matrices(merged.results)] == [{"loss": "mse"}, {"loss": "task"}]
    (note,) = [note for note in merged.notes if "differ in training.optimizer.lr too" in note]
    assert "always together with loss" in note


def test_a_sweep_that_trained_nothing_lacks_no_trajectories(tmp_path):
    folder = make_folder(tmp_path / "closed", losses=("mse",), crossed=False)
    trajectories = pd.read_parquet(folder / "traj.parquet")
    trajectories[["trial"]].head(0).to_parquet(folder / "traj.parquet")
    found = load_experiment(folder)
    assert found.trajectories is None
    assert not any("traj.parquet" in note for note in found.notes)


def test_what_tells_trials_of_one_loss_apart_is_a_factor_too(tmp_path):
    """The same loss in closed form and trained: told apart by the fewest settings that do."""
    folders = []
    for name, loss, epochs, start in (
        ("task", "task", 16, "least_squares"),
        ("closed", "mse", 0, "least_squares"),
        ("trained", "mse", 4, "random"),
    ):
        folders.append(make_folder(tmp_path / name, losses=(loss,), crossed=False))
        path = folders[-1] / "config.resolved.yml"
        config = yaml.safe_load(path.read_text())
        config["training"]["epochs"], config["stitch"]["start"] = epochs, start
        path.write_text(yaml.safe_dump(config))
    (merged,), _ = merge([load_experiment(folder) for folder in folders])
    assert [m.factors for m in matrices(merged.results)] == [
        {"loss": "mse", "stitch.start": "least_squares"},
        {"loss": "mse", "stitch.start": "random"},
        {"loss": "task", "stitch.start": "least_squares"},
    ]


def test_other_pairs_of_the_same_study_are_merged(tmp_path):
    one = make_folder(tmp_path / "one", pairs=(("a", "b"),))
    two = make_folder(tmp_path / "two", pairs=(("c", "d"),))
    (merged,), _ = merge([load_experiment(one), load_experiment(two)])
    assert len(matrices(merged.results)) == 4
    assert merged.planned == 64


def test_a_copy_of_a_folder_adds_nothing(tmp_path):
    one = make_folder(tmp_path / "one" / "x")
    two = make_folder(tmp_path / "two" / "x")
    (merged,), _ = merge([load_experiment(one), load_experiment(two)])
    pd.testing.assert_frame_equal(
        merged.results.drop(columns="folder"), load_experiment(one).results.drop(columns="folder")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "seed differs"),
        ({"data": "other"}, "data differ"),
        ({"layers": 3}, "a is not the same network in both"),
    ],
)
def test_folders_of_different_studies_are_compared(tmp_path, change, reason):
    one = make_folder(tmp_path / "one", losses=("task",), layers=2)
    two = make_folder(tmp_path / "two", losses=("task",), **{"layers": 2, **change})
    found, (why,) = merge([load_experiment(one), load_experiment(two)])
    assert len(found) == 2
    assert why == f"one and two are compared and not merged: {reason}"


def test_compared_folders_stand_side_by_side(tmp_path):
    one = make_folder(tmp_path / "one", losses=("task",), layers=2)
    two = make_folder(tmp_path / "two", losses=("task",), layers=2, seed=1)
    report = write(one, two, output=tmp_path / "out")
    assert len(report.verdicts) == 2
    page = page_of(tmp_path / "out")
    assert "one and two are compared and not merged: seed differs" in " ".join(page.text)
    assert {attrs.get("id") for tag, attrs in page.tags if tag == "h2"} >= {"compared", "summary-2"}
    head, *lines = (tmp_path / "out" / "tables" / "compared.csv").read_text().splitlines()
    assert "one: label" in head
    assert "two: label" in head
    assert len(lines) == 1
    assert not (one / "report.html").exists()


def test_the_same_trials_with_other_results_are_not_merged(tmp_path):
    one = make_folder(tmp_path / "one")
    two = make_folder(tmp_path / "two")
    edit(two, lambda t: t.assign(test_accuracy=t["test_accuracy"] / 2))
    _, (why,) = merge([load_experiment(one), load_experiment(two)])
    assert "trials of the same name and settings have different results" in why


# Nothing from a folder is more than data


def rename(folder: Path, old: str, new: str) -> None:
    """Give a network another name, everywhere but in trials' ids."""
    for path in [folder / "results.parquet", *(folder / "measured").glob("*.parquet")]:
        table = pd.read_parquet(path)
        for column in {"sender", "receiver", "network"} & set(table.columns):
            table[column] = table[column].replace(old, new)
        table.to_parquet(path)
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    for network in config["networks"]:
        network["name"] = new if network["name"] == old else network["name"]
    path.write_text(yaml.safe_dump(config))
    images = folder / "measured" / "images.safetensors"
    pictures = read_pictures(images)
    for picture in pictures.pictures:
        picture.about["sender"] = new
    write_pictures(images, pictures)


def test_hostile_texts_stay_texts(tmp_path):
    common = {"failed": ((1, 1),), "measured": True, "sanity": True, "layers": 3}
    folder = make_folder(tmp_path / "sweep", error=HOSTILE, **common)
    clean = make_folder(tmp_path / "clean", **common)
    for place in (folder, clean):
        shutil.rmtree(place / "ledger")  # its file names could not hold such a name
    rename(folder, "a", HOSTILE)
    page, reference = read(folder), read(clean)
    # Whatever the names are, the page has the same elements: none of them became markup.
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in reference.tags]
    assert len(page.scripts) == len(reference.scripts) == 3
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in "".join(page.text)
    names = [name for name, _ in list_charts(derive_findings(load_experiment(folder)))]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    errors = {trial["error"] for trial in page.data["trials"].values()}
    assert errors == {None, HOSTILE}
    for variant in page.data["groups"][0]["variants"]:
        assert "<" not in variant["hover"]


def test_scripts_and_data_can_not_end_their_element():
    hostile = {"a": HOSTILE, "<!--": ["]]>", "\u2028"]}
    text = encode_json(hostile)
    assert json.loads(text) == hostile
    assert not set("<>&") & set(text)
    assert "</script" not in escape_script("x = '</script>'; y = '<!--'")
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(math.nan)
    assert escape_markup("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert render_sentence("`a<b` <i>") == "<code>a&lt;b</code> &lt;i&gt;"


def test_a_page_forbids_every_request(whole):
    folder, _ = whole
    text = (folder / "report.html").read_text()
    page = Parsed(text)
    (policy,) = [
        a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    for tag, attributes in page.tags:
        if tag in ("script", "img", "link", "iframe"):
            source = attributes.get("src") or attributes.get("href") or "data:"
            assert source.startswith("data:")
    assert text.count("plotly.js v") == 1


def test_credentials_are_never_shown(tmp_path):
    tracking = {"enabled": False, "uri": "https://me:hunter2@host.example/x", "password": "hunter3"}
    folder = make_folder(tmp_path / "sweep", tracking=tracking, losses=("task",), layers=2)
    for path in write(folder).files:
        assert b"hunter" not in path.read_bytes()
    assert "https://host.example/x" in (folder / "report.html").read_text()
    for uri in ("https://me:p@ss@host/x", "https://me:p/ss@host/x", "https://host/x?api_key=p"):
        assert public(uri) == "https://host/x"
    nested = {"a": [{"api_key": "x", "url": "see http://u:p@h/ and http://v:q@i/"}], "token": None}
    hidden = {
        "a": [{"api_key": "(not shown)", "url": "see http://h/ and http://i/"}],
        "token": None,
    }
    assert public(nested) == hidden


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://me:word@host:8080/mlflow/?token=1#x", "https://host:8080/mlflow"),
        ("http://host:99999", LOCAL),
        ("http://[bad", LOCAL),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:///mlflow.db", LOCAL),
        ("file:///tmp/mlruns", LOCAL),
        ("javascript:alert(1)", LOCAL),
        ("", LOCAL),
    ],
)
def test_an_address_of_a_server_holds_no_credentials(uri, address):
    assert web_address(uri) == address


def test_latex_is_escaped_and_balanced(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", pairs=((r"a_1%$&#{~^\x}", "b→c"),), measured=True, layers=3
    )
    for table in all_tables(derive_findings(load_experiment(folder))):
        text = table.latex()
        bare = re.sub(r"\\[\\{}$&%#_]", "", text)  # escaped ones are characters like others
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert len(body) == len(table.frame)
        for line in body:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
        begun = re.findall(r"\\begin\{(\w+)\}", text)
        assert begun == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))


def test_latex_text_keeps_what_it_can_print():
    assert escape_latex("loss = task, 0.5") == "loss = task, 0.5"
    assert escape_latex("a\nb\x00") == "a b "
    assert escape_latex(r"50% of \alpha_1") == r"50\% of \textbackslash{}alpha\_1"


def test_csv_has_every_digit_and_reads_back(tmp_path):
    folder = make_folder(tmp_path / "sweep", pairs=(('a,"x"', "b"),))
    (table, *_) = all_tables(derive_findings(load_experiment(folder)))
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["sender"] for row in rows] == ['a,"x"'] * 2
    np.testing.assert_array_equal([float(r["triangle"]) for r in rows], table.frame["triangle"])


# What the page is told


def test_trajectories_are_thinned_and_keep_their_ends(folder):
    experiment = load_experiment(folder)
    first = experiment.results["trial"].iloc[0]
    steps = np.arange(1, 1001)
    long = pd.DataFrame({"trial": first, "step": steps, "epoch": (steps + 99) // 100, "split": "train",
                         "loss": 1 / steps, "accuracy": np.nan})  # fmt: skip
    experiment = type(experiment)(
        experiment.parts,
        experiment.results,
        trajectories=pd.concat([experiment.trajectories, long]),
    )
    known = describe_trials(experiment, {})
    found, places = thin_trajectories(experiment, known)
    path = found[first]
    assert len(path["loss"]) == len(places[path["xt"]]) == MAX_POINTS
    assert path["loss"][-1] == pytest.approx(1e-3)
    assert places[path["xt"]][-1] == 10.0
    others = {value["xv"] for trial, value in found.items() if trial != first}
    assert len(others) == 1, "equal steps are kept once"


def test_only_the_best_of_very_many_trials_keep_their_trajectories(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "sweep", samples=2, layers=2)
    experiment = load_experiment(folder)
    known = describe_trials(experiment, {})
    assert len(thin_trajectories(experiment, known)[0]) == 16
    monkeypatch.setattr("stitch_sweep.report.cells.MAX_TRIALS", 15)
    kept, _ = thin_trajectories(experiment, known)
    assert set(kept) == {trial for trial, about in known.items() if about["best"]}


def test_runs_are_linked_where_a_server_has_them(folder):
    experiment = load_experiment(folder)
    trial = str(experiment.results["trial"].iloc[0])
    address = "http://127.0.0.1:5000/#/experiments/1/runs/abc"
    page = Page("x", {(str(folder), trial): address})
    page.add(derive_findings(experiment))
    linked = {k: about["run"] for k, about in Parsed(page.html()).data["trials"].items()}
    assert linked.pop(trial) == address
    assert set(linked.values()) == {None}


class Listener:
    """A server on this machine that counts the connections that it gets."""

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *error):
        self._socket.close()

    def connections(self) -> int:
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@pytest.mark.parametrize("store", ["server", "sqlite", "file", "environment", "default"])
def test_no_server_or_store_that_the_user_does_not_name_is_contacted(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database, mlruns = tmp_path / "mlflow.db", tmp_path / "mlruns"
    database.write_text("mine")
    mlruns.mkdir()
    with Listener() as listener:
        uri = {"server": listener.uri, "sqlite": f"sqlite:///{database}", "file": mlruns.as_uri()}
        if store == "environment":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", listener.uri)
        named = {"uri": uri.get(store), "experiment": "x"}
        folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2, tracking=named)
        report = analyze([folder], measured=False)
        assert report.sent == 0
        assert not any("answer" in text for said in report.doubts for text in said)
        assert listener.connections() == 0
    assert database.read_text() == "mine"
    assert list(mlruns.iterdir()) == []


def test_a_server_that_the_user_names_is_asked_and_its_silence_is_told(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", tracking={"uri": "http://192.0.2.1", "experiment": "x"}
    )
    uri = "http://127.0.0.1:9"  # the discard port: nothing listens there
    tracking = Tracking([load_experiment(folder)], uri)
    assert tracking.addresses() == {}
    (note,) = tracking.notes
    assert note.startswith("http://127.0.0.1:9 did not answer for sweep")


@pytest.mark.parametrize(
    "kept", ["none.db", "sqlite:///{}/none.db", "file://{}/none", "gopher://x"]
)
def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path, monkeypatch, kept):
    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "sweep", tracking={"experiment": "x"})
    with pytest.raises(InputError, match="--track"):
        analyze([folder], measured=False, track=kept.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.long
def test_the_report_hangs_on_the_run_of_its_sweep(tmp_path, monkeypatch):
    from mlflow import MlflowClient  # takes seconds

    monkeypatch.chdir(tmp_path)  # artifacts of a store that is a file lie in the current folder
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2,
                         tracking={"uri": uri, "experiment": "x"})  # fmt: skip
    tracker = Tracker(folder, "x", uri)
    assert tracker.runs() is None, "looking makes nothing"
    assert analyze([folder], measured=False, track=uri).sent == 0
    assert len(list(tracker.send())) == 4
    assert analyze([folder], measured=False).sent == 0
    report = analyze([folder], measured=False, track=uri)
    assert report.sent == len(report.files), report.doubts
    runs = tracker.runs()
    shown = {t["id"]: t["run"] for t in page_of(folder).data["trials"].values()}
    assert shown == {
        trial: f"{LOCAL}/#/experiments/{runs.experiment}/runs/{run}"
        for trial, run in runs.children.items()
    }
    client = MlflowClient(tracking_uri=uri)
    held = {
        artifact.path
        for place in (None, "figures", "tables")
        for artifact in client.list_artifacts(runs.parent, place)
        if not artifact.is_dir
    }
    assert {str(path.relative_to(folder)) for path in report.files} <= held


@pytest.mark.long
def test_a_real_sweep_is_measured_and_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = {"sender": "a", "receiver": "b", "sender_layers": [0, 4], "receiver_layers": [-1, 4]}
    config = write_config(
        tmp_path / "sweep",
        tmp_path / "zoo",
        pairs=[pair],
        training={"epochs": 2, "batch_size": 64},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    status, output = run(
        "analyze", config.parent, "--allow", tmp_path / "zoo", "--track", tracked(config)
    )
    assert status == 0, output
    page = page_of(config.parent)
    heads = {attrs.get("id") for tag, attrs in page.tags if tag == "h2"}
    assert {"losses", "images", "networks", "search"} <= heads
    text = " ".join(page.text)
    assert "EV, relative" in text
    assert "paired bootstrap" not in text, "words, not the names of methods"
    assert all(trial["run"] for trial in page.data["trials"].values())


def test_fronts_of_several_objectives_are_listed(tmp_path):
    folder = make_folder(tmp_path / "sweep", samples=2, losses=("task",), layers=2,
                         objectives={"val_accuracy": "max", "val_mse": "min"})  # fmt: skip
    findings = derive_findings(load_experiment(folder))
    (front,) = [table for table in all_tables(findings) if table.name == "pareto"]
    # Both are better in a cell's first trial.
    assert len(front.frame) == 4
    assert set(front.frame["number"]) == {0}
    assert [name for name, _ in list_charts(findings) if name.startswith("pareto__")]


# Words


def test_words():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert [format_duration(x) for x in (45, 300, 9000, math.nan)] == [
        "45 s",
        "5.0 min",
        "2.5 h",
        "unknown",
    ]


def test_the_summary_says_what_was_run_and_what_is_doubtful(whole):
    folder, report = whole
    (doubts,) = report.doubts
    assert "The sanity suite of sweep failed: order." in doubts
    assert any(text.startswith("No controls were run") for text in doubts)
    text = " ".join("".join(page_of(folder).text).split())
    assert "4 networks on digits (16 × 16 pixels), stitched as 2 pairs in 18 cells" in text
    assert "images 3 and 4 changed places" in text


def test_lines_can_be_seen_on_a_white_and_on_a_dark_page():
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colour in SERIES:
        for page in ("#ffffff", "#14171b", "#1d2127"):
            light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, page)


# The command line


def tracked(config: Path) -> str:
    """The tracking address of a configuration."""
    return str(yaml.safe_load(config.read_text())["tracking"]["uri"])


def command(*arguments, **environment):
    status, output = run("analyze", *arguments, **environment)
    return status, output


@pytest.mark.long
def test_the_command_prints_one_object(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",))
    status, output = command(folder, "--no-measure", "--no-track", "--json")
    assert status == 0, output
    found = json.loads(output.splitlines()[-1])
    assert found["label"] == "triangle"
    (matrix,) = found["matrices"]
    assert {"label", "triangle", "diagonal", "order", "intervals", "reach"} <= matrix.keys()
    assert Path(found["report"]) == folder / "report.html"


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiment folders, or --matrix FILE.csv"),
        (["{}", "--matrix", "x.csv"], "and not both"),
        (["{}", "--test-images", "5"], "--test-images: only with --matrix"),
        (["{}", "--chance", "1.5"], "--chance 1.5: is not an accuracy"),
        (["{}"], "neither results.parquet nor a ledger"),
    ],
)
def test_a_wrong_call_ends_with_status_2(tmp_path, arguments, message):
    status, output = command(*(argument.format(tmp_path) for argument in arguments))
    assert status == 2, output
    assert message in " ".join(output.split())


def test_a_lone_matrix_has_its_label_at_the_top(tmp_path):
    def found(folder: Path) -> dict:
        return Report(None, [derive_findings(load_experiment(folder))]).to_dict()

    lone = found(make_folder(tmp_path / "one", losses=("task",)))
    assert lone["label"] == lone["matrices"][0]["label"] == "triangle"
    assert json.loads(json.dumps(lone, allow_nan=False)) == lone
    several = found(make_folder(tmp_path / "two"))
    assert "label" not in several
    assert [m["factors"]["loss"] for m in several["matrices"]] == ["mse", "task"]


# Bare matrices


def matrix_file(path: Path, values: list[list[float]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in values))
    return path


def test_a_bare_matrix_is_judged_and_reported(tmp_path):
    file = matrix_file(tmp_path / "m.csv", [[0.9, 0.3, 0.2], [0.9, 0.9, 0.3], [0.9, 0.9, 0.9]])
    report = analyze_matrix(file, receiver_accuracy=0.9, test_images=1000, output=tmp_path / "out")
    assert report.to_dict()["label"] == "triangle"
    assert {path.suffix for path in report.files} == {".html", ".png", ".pdf", ".csv", ".tex"}
    page = page_of(tmp_path / "out")
    assert page.data["groups"] == []
    assert len(page.data["figures"]) == 1
    assert analyze_matrix(file, sender_accuracy=0.9).files == []
    with pytest.raises(InputError, match="--sender-accuracy or --receiver-accuracy"):
        analyze_matrix(file)
    with pytest.raises(InputError, match="are these percent"):
        analyze_matrix(file, receiver_accuracy=90.0)


def test_a_published_matrix_is_the_triangle_that_its_authors_read():
    file = SHARED / "reference" / "r1111_r1111.csv"
    if not file.exists():
        pytest.skip("the published matrices are not beside this checkout")
    found = analyze_matrix(file, sender_accuracy=0.93, receiver_accuracy=0.93, test_images=1808)
    assert found.to_dict()["label"] == "triangle"


def test_an_output_that_can_not_be_is_found_before_the_work(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        write(folder, output=tmp_path / "file")


def test_ledgers_alone_are_enough(tmp_path):
    folder = make_folder(tmp_path / "sweep", tables=False)
    assert len(load_experiment(folder).predictions) == len(Ledger(folder).trial_ids())
