"""No text, file or message shows a secret of a tracking address."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.cli.options import parse_assignments
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.core.credentials import conceal, redact, redact_uri
from stitch_sweep.core.errors import InputError
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.run import _without_credentials
from stitch_sweep.tracking.errors import explain
from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.mlflow_address import check_tracking
from tests.support.sweeps import write_config
from tests.support.tracking import BASE

# Letters that no message contains without a secret.
MARKS = "ЖZ"


PIECES = st.tuples(st.sampled_from(MARKS), st.sampled_from(["", *" @:/?#%&+;=\n\t'\"\\[]"]))


SECRETS = st.lists(PIECES, min_size=4, max_size=8).map(
    lambda pieces: "".join(mark + sign for mark, sign in pieces)
)


URIS = [
    *("https://me:{}@host/x", "https://{}@host/x", "https://host/x?token={}", "https://host#{}"),
    *("postgresql://me:{}@host:5432/db", "postgresql://host/db?user=me&password={}"),
    *("mssql+pyodbc:///?odbc_connect={}", "sqlite:///x.db?key={}", "sqlite+cipher://:{}@/x.db"),
    *("s3://key:{}@bucket/x", "s3://bucket/x?secret_key={}", "ray://host:1/?token={}"),
    *("https://me:{}@host/x?token={}", "ftp://me:{}@host", "databricks://me:{}@host"),
]


SCHEMELESS = ["me:{}@host:5000/x", "localhost:5000/?token={}", "https:me:{}@host"]


def shows(text: str) -> bool:
    """Return whether a text contains a part of a secret, plain or encoded."""
    escaped = ("%D0%96", "\\u0416", "%5A")
    return bool(set(MARKS) & set(text)) or any(form in text for form in escaped)


@settings(max_examples=50)
@given(SECRETS, st.sampled_from([*URIS, *SCHEMELESS]), st.sampled_from([str, quote, quote_plus]))
def test_no_text_shows_a_secret_of_a_known_address(secret, template, write):
    uri = template.replace("{}", write(secret))
    assert not shows(redact_uri(uri))
    for said in (
        f"API request to {uri}/api failed: {uri!r}, {quote(uri)}, {secret!r}",
        f"FATAL: {secret} and {write(secret)} are wrong\n{json.dumps(secret)}",
        f"Invalid url: {uri}".partition("\n")[0],
    ):
        assert not shows(conceal(said, uri)), said
        assert not shows(explain(ImportError(said), uri, "exp") or "")
    with pytest.raises(InputError) as caught:
        check_tracking(TrackingConfig(uri=f"no{uri}"))
    assert not shows(str(caught.value))


@settings(max_examples=50)
@given(SECRETS, st.sampled_from(URIS), st.sampled_from([str, quote, quote_plus]))
def test_no_data_and_no_file_shows_a_secret(secret, template, write):
    uri = template.replace("{}", write(secret))
    assert not shows(json.dumps(redact({"uri": uri, "notes": [uri]}), ensure_ascii=False))
    config = Config.model_validate({**BASE, "tracking": {"uri": uri}})
    assert not shows(
        yaml.safe_dump(yaml.safe_load(to_yaml(_without_credentials(config))), allow_unicode=True)
    )
    for make in (lambda: Mirror(Path(), f"no{uri}"), lambda: connect(f"x/{uri}", config.resources)):
        with pytest.raises(InputError) as caught:
            make()
        assert not shows(str(caught.value))


def test_an_address_without_credentials_stays_in_the_resolved_configuration():
    for uri in ("http://host:5000/x", "sqlite:////home/me@lab/a b#c/mlflow.db", "databricks://lab"):
        config = Config.model_validate({**BASE, "tracking": {"uri": uri}})
        assert _without_credentials(config).tracking.uri == uri
        assert conceal(f"no answer from {uri}.", uri) == f"no answer from {uri}."


def test_secrets_of_the_environment_are_concealed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2 hunter3")
    assert "hunter" not in conceal("Authorization: Bearer hunter2%20hunter3", None)


@pytest.mark.parametrize(
    "tracking",
    ["https://me:hunter2@host", {"uri": ["https://me:hunter2@host"]}, {"experiment": "h"}],
)
def test_problems_of_a_configuration_show_no_secret(tracking, tmp_path):
    if isinstance(tracking, dict) and "experiment" in tracking:
        tracking = {"enabled": "https://me:hunter2@host"}
    config = write_config(tmp_path, tmp_path / "zoo", tracking=tracking)
    with pytest.raises(InputError) as caught:
        read_config(config)
    assert "hunter" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        parse_assignments(["tracking.uri:https://me:hunter2@host"], "--set")
    assert "hunter" not in str(caught.value)
