"""The place where MLflow keeps runs: its address, the check of the address, and the artifact location.

Nothing in this module imports MLflow, which takes seconds, or contacts a server.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stitch_sweep.config.places import (
    Places,
    expand_variables,
    has_variables,
    quote_database,
    split_sqlite,
    variable_names,
)
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.core.credentials import redact_uri
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.untrusted import printable
from stitch_sweep.storage.files import check_writable

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
"""Name of the default store, a file in the project's root."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOWED = "http://, https://, sqlite:///, postgresql://, mysql://, mssql://, databricks"
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "PyMySQL",
}
"""Module -> package to install, where their names differ."""
_SQLITE_HEADER = b"SQLite format 3\0"


def resolve(uri: str | None, places: Places | None = None) -> str:
    """Return the address that MLflow uses. It may contain a password that the configuration lacks.

    Args:
        uri: `tracking.uri`; None for MLFLOW_TRACKING_URI or the store in the project's root.
        places: of the configuration; by default the current folder's.

    Raises:
        InputError: an environment variable in the address is not set.
    """
    if uri:
        return (places or Places()).locate_database(expand_variables(uri))
    if address := os.environ.get(VARIABLE):
        # This address is the shell's, and relative to the current folder.
        return Places().locate_database(address)
    root = (places or Places()).root
    # MLflow's rule: a folder of runs takes precedence over the sqlite file, unless MLflow refuses such
    # folders.
    has_runs = any((root / "mlruns").glob("[0-9]*/meta.yaml"))
    if has_runs and _folders_are_allowed():
        return (root / "mlruns").as_uri()
    return f"sqlite:///{quote_database(root / DATABASE)}"


def show_address(uri: str | None, address: str) -> str:
    """Return an address for messages, without credentials and without the values of variables.

    Args:
        uri: `tracking.uri`.
        address: for which it stands, see `resolve`.
    """
    return redact_uri(uri if uri and has_variables(uri) else address)


def secret_variables(uri: str | None) -> list[str]:
    """Return the environment variables in an address whose values may be credentials.

    The address of a server may contain a token anywhere. That of an sqlite file is a path.
    """
    return [] if uri is None or split_sqlite(uri)[0] else variable_names(uri)


def local_database(uri: str) -> Path | None:
    """Return the file of an sqlite address; None for other addresses and databases in memory."""
    match = re.match(r"sqlite(\+\w+)?:///([^?]*)", uri, re.IGNORECASE)
    if match is None:
        return None
    path: str | None = match.group(2)
    if "%" in uri:
        # Whether a quoted character is decoded depends on SQLAlchemy's version.
        from sqlalchemy.engine import make_url

        path = make_url(uri).database
    return Path(path) if path and path != ":memory:" else None


def artifact_location(uri: str) -> str | None:
    """Return the folder for a new experiment's artifacts beside an sqlite file; None for the server's."""
    database = local_database(uri)
    return None if database is None else (database.parent.resolve() / "mlruns").as_uri()


def check_tracking(config: TrackingConfig, places: Places | None = None) -> None:
    """Check the tracking address on this machine; contact no server and create nothing.

    Args:
        config: the section `tracking`.
        places: of the configuration; by default the current folder's.

    Raises:
        InputError: MLflow can never use this address on this machine.
    """
    if not config.enabled:
        return
    address = resolve(config.uri, places)
    if problem := _problem(address):
        source = "tracking.uri" if config.uri else VARIABLE
        if not config.uri and not os.environ.get(VARIABLE):
            source = "tracking"
        raise InputError(f"{source}: {printable(show_address(config.uri, address))} {problem}")


def _problem(address: str) -> str:
    """Return the problem of an address as the end of a sentence that starts with it; empty if none."""
    if address != address.strip() or not address.isprintable():
        return (
            "has white space around it, or characters that aren't printable: remove or quote them"
        )
    scheme, colon, address_part = address.partition(":")
    scheme = scheme.lower() if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme) and colon else ""
    if re.match(r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d+(/|$)", address):
        return f"has no scheme: write http://{redact_uri(address)} or https://"
    if address == "databricks" or scheme == "databricks":
        return _databricks_problem(address_part)
    if address in ("uc", "databricks-uc"):
        scheme = address
    if scheme in ("", "file"):
        return _folder_problem(address)
    if scheme in ("http", "https"):
        return _web_problem(address)
    if (database := scheme.partition("+")[0]) in _DATABASES:
        return _sqlite_problem(address) if database == "sqlite" else _driver_problem(address)
    if scheme in {point.name for point in entry_points(group="mlflow.tracking_store")}:
        return ""
    suggestion = nearest(scheme, ["http", "https", *_DATABASES, "databricks"])
    hint = f"{suggestion} " if suggestion.startswith("did") else ""
    return f"begins with {scheme}:, which MLflow can't track to: {hint}allowed: {_ALLOWED}"


def _web_problem(address: str) -> str:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        valid = bool(host) and parts.port != 0 and not re.search(r"\s", host)
    except ValueError:  # a port that is no number or too large, or unclosed brackets
        valid = False
    return (
        "" if valid else "isn't an address: write it as http://HOST:PORT, the port from 1 to 65535"
    )


def _folder_problem(address: str) -> str:
    if not _folders_are_allowed():
        return (
            "is a folder, and MLflow no longer keeps runs in folders: use sqlite:///FOLDER/mlflow.db "
            "(`mlflow migrate-filestore` copies existing runs), or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    path = urlsplit(address).path if address.lower().startswith("file:") else address
    return _unwritable(Path(url2pathname(path)) / "runs")


def _folders_are_allowed() -> bool:
    return os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")


def _sqlite_problem(address: str) -> str:
    if not re.match(r"sqlite(\+\w+)?:///.", address, re.IGNORECASE):
        if not re.fullmatch(r"sqlite(\+\w+)?:/{0,3}", address, re.IGNORECASE):
            return "isn't an sqlite address: write three slashes before the path, sqlite:///PATH"
        return "is a database in memory, which ends with the process: write sqlite:///PATH"
    if address.partition(":")[0].lower() != "sqlite" and (problem := _driver_problem(address)):
        return problem
    path = local_database(address)
    if path is None:
        return "is a database in memory, which ends with the process: write sqlite:///PATH"
    try:
        if not path.exists():
            if "%" in address and not path.parent.is_dir():
                # MLflow creates a folder of the quoted name, which is another folder.
                return "lies in a folder that doesn't exist: create it first"
            return _unwritable(path)
        if not stat.S_ISREG(path.stat().st_mode):
            return (
                "is not a file: give the path of an sqlite file, such as sqlite:///PATH/mlflow.db"
            )
        with path.open("rb+") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        return f"can't be opened: {error.strerror}"
    if "+" not in address.partition(":")[0] and header not in (b"", _SQLITE_HEADER):
        return "is not an sqlite database: give the path of a database or of a new file"
    return _unwritable(path)  # sqlite writes its journal beside the file


def _unwritable(path: Path) -> str:
    try:
        check_writable(path, "")
    except (InputError, OSError):
        return "can't be written: its parent is not a folder, or isn't writable; give another path"
    return ""


def _driver_problem(address: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(address).get_dialect().import_dbapi()
    except NoSuchModuleError:
        return "names a driver that SQLAlchemy doesn't know: remove the + and the text after it"
    except ImportError as error:
        module = error.name or str(error)
        package = _PACKAGES.get(module, module)
        return f"needs the Python package {package}, which isn't installed: pip install '{package}'"
    except (ArgumentError, ValueError):
        # The text of these errors may contain parts of the password.
        return (
            "isn't an address of a database: write it as SCHEME://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return ""


def _databricks_problem(address_part: str) -> str:
    """Return the problem of a Databricks address: no host, no credentials, or no such profile."""
    profile = address_part.removeprefix("//") or os.environ.get("DATABRICKS_CONFIG_PROFILE", "")
    file = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    if ":" in profile or (not profile and any(n.startswith("DATABRICKS_") for n in os.environ)):
        return ""
    if not file.is_file():
        return (
            f"needs credentials: set DATABRICKS_HOST and DATABRICKS_TOKEN, or write {file} with "
            "`databricks configure`"
        )
    profiles = configparser.ConfigParser(interpolation=None)
    try:
        profiles.read(file)
    except (configparser.Error, UnicodeDecodeError):
        return f"needs {file}, which is damaged: rewrite it with `databricks configure`"
    if profile and profile not in (*profiles.sections(), "DEFAULT"):
        names = ", ".join(profiles.sections()) or "DEFAULT"
        return f"names a profile that {file} doesn't have: allowed: {names}"
    return ""
