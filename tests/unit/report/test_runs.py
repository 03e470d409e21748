"""Links to MLflow runs.

tests/process/report/test_tracking_servers.py tests that only the server that the user names is contacted.
"""

from __future__ import annotations

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.runs import LOCAL, Tracking, web_address
from stitch_sweep.report.writing import analyze
from tests.support.report_pages import Parsed
from tests.support.reports import make_folder


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


def test_runs_are_linked_where_a_server_has_them(folder):
    experiment = load_experiment(folder)
    trial = str(experiment.results["trial"].iloc[0])
    address = "http://127.0.0.1:5000/#/experiments/1/runs/abc"
    page = Page("x", {(str(folder), trial): address})
    page.add(derive_findings(experiment))
    linked = {k: about["run"] for k, about in Parsed(page.html()).data["trials"].items()}
    assert linked.pop(trial) == address
    assert set(linked.values()) == {None}


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
