"""Permanent errors of a tracking server or store, each with its remedy."""

from __future__ import annotations

import contextlib
import re

from stitch_sweep.core.credentials import conceal, redact_uri
from stitch_sweep.core.untrusted import printable
from stitch_sweep.tracking.mlflow_address import VARIABLE

_LONGEST = 300
"""Maximum length of the server's text in a message."""

# A later call may succeed: this one took too long, collided with another, or came too often.
_TEMPORARY = (408, 409, 423, 425, 429, 499)
_DENIED = re.compile(
    r"password authentication failed|access denied for user|login failed for user"
    r"|no password supplied|role \S+ does not exist|permission denied for",
    re.IGNORECASE,
)
_NO_DATABASE = re.compile(r"database \S+ does not exist|unknown database", re.IGNORECASE)
_NO_SQLITE = re.compile(
    r"file is not a database|database disk image is malformed|attempt to write a readonly database"
    r"|unable to open database file"
)
_NO_TLS = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLCertVerification")
_OTHER_PROTOCOL = re.compile(r"WRONG_VERSION_NUMBER|record layer failure|packet length too long")


class RefusedError(Exception):
    """MLflow won't accept a sweep's runs until the problem is solved.

    Args:
        problem: a sentence with the problem and the remedy.
    """


def explain(error: BaseException, uri: str, experiment: str) -> str | None:
    """Explain in one sentence why a call failed and what to do; None for a possible outage.

    Args:
        error: the exception of MLflow's client.
        uri: the address of the call. The sentence contains none of its credentials.
        experiment: name of the MLflow experiment.
    """
    text = " ".join(conceal(str(error) or type(error).__name__, uri).split())
    words = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    problem = _problem(error, text, words, uri, experiment)
    return None if problem is None else printable(conceal(problem, uri))


def deleted_experiment(name: str, experiment_id: str, uri: str) -> RefusedError:
    """Return the error for a deleted experiment: MLflow adds no run to it."""
    return RefusedError(
        f"the experiment {name!r} at {redact_uri(uri)} was deleted. Restore it (`mlflow experiments "
        f"restore --experiment-id {experiment_id}`, with {VARIABLE} set to that address), or set "
        "tracking.experiment to another name"
    )


def refused_experiment(name: str, error: Exception) -> RefusedError:
    """Return the error for an experiment name that the server doesn't accept."""
    return RefusedError(
        f"the server refuses the experiment {name!r} ({error}). Set tracking.experiment to another "
        "name; Databricks requires a path such as /Users/NAME/EXPERIMENT"
    )


def _problem(error: BaseException, text: str, words: str, uri: str, experiment: str) -> str | None:
    shown = redact_uri(uri)
    if isinstance(error, RefusedError):
        return text
    if isinstance(error, ImportError):
        return f"a Python package is missing ({words}). Install it where the sweep is started"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        return (
            f"artifacts of the experiment {experiment!r} can't be written from this machine ({words}). "
            "An experiment keeps its artifact location: set tracking.experiment to another name, or "
            "let the server serve artifacts (`mlflow server --artifacts-destination`)"
        )
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return _schema_problem(text, uri)
    if _NO_TLS.search(text):
        return (
            f"the certificate of {shown} can't be verified. Set MLFLOW_TRACKING_SERVER_CERT_PATH to "
            "the certificate of its authority"
        )
    if _OTHER_PROTOCOL.search(text):
        return f"{shown} doesn't speak TLS. Write http:// in place of https://"
    if _DENIED.search(text):
        return f"the database at {shown} refuses the user ({words}). Check user, password and permissions"
    if _NO_DATABASE.search(text):
        return (
            f"the server at {shown} has no such database ({words}). Create it, or give another name"
        )
    if _NO_SQLITE.search(text):
        return (
            f"{shown} can't be used as an sqlite database ({words}). Make file and folder writable, or "
            "give another path"
        )
    return _answer_problem(error, words, shown, uri)


def _answer_problem(error: BaseException, words: str, shown: str, uri: str) -> str | None:
    """Explain an answer by its HTTP status."""
    from mlflow.exceptions import InvalidUrlException, MlflowException

    if isinstance(error, InvalidUrlException):
        return f"{shown} is not the address of a server. Write it as http://HOST:PORT"
    if not isinstance(error, MlflowException):
        return None
    if "Databricks" in words and "credential" in words:
        return f"the credentials for {shown} are missing or wrong ({words}). Set them"
    if "response body was not in a valid JSON format" in words:
        return f"{shown} answers, but it isn't MLflow, or asks for a login. Check the address"
    status = _status(error, uri)
    if status in (401, 403):
        return (
            f"{shown} denies access ({words}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or ask for permission"
        )
    if status in (404, 405) and "RESOURCE_DOES_NOT_EXIST" not in words:
        return f"{shown} doesn't have this interface of MLflow ({words}). Check host, port and path"
    if 400 <= status < 500 and status not in _TEMPORARY:
        return f"{shown} refuses the request ({words}). Sending it again has the same result"
    return None


def _status(error: object, uri: str) -> int:
    """Return the HTTP status of an answer, or the equivalent of a store's own error."""
    from mlflow.exceptions import MlflowException, RestException

    assert isinstance(error, MlflowException)
    if isinstance(error, RestException) and "error_code" not in error.json:
        # JSON of another program, which MLflow takes for an internal error of the server.
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        with contextlib.suppress(MlflowException):
            place = "/api/2.0/mlflow/experiments/get-by-name"
            name = {"experiment_name": "Default"}
            answer = http_request(get_default_host_creds(uri), place, "GET", params=name)
            return int(answer.status_code)
    return int(error.get_http_status_code())


def _schema_problem(text: str, uri: str) -> str:
    shown = redact_uri(uri)
    match = re.search(r"found version (\w+)|revision identified by '(\w+)'", text)
    revision = match and (match.group(1) or match.group(2))
    if revision and revision != "None" and not _is_earlier(revision):
        return (
            f"the database {shown} was written by a newer MLflow. Update it here: `pip install "
            "--upgrade mlflow`"
        )
    return (
        f"the database {shown} was written by an older MLflow. Make a copy of it, then run `mlflow "
        f"db upgrade {shown if shown == uri else 'URI'}`"
    )


def _is_earlier(revision: str) -> bool:
    """Whether the installed MLflow knows a revision of the schema."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        scripts = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False
