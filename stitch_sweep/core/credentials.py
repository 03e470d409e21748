"""Credentials, and how to keep them out of files, messages and reports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "(not shown)"
"""What stands in the place of a credential."""

_SECRET = re.compile(r"passw|secret|token|credential|auth|bearer|(api|access)_?key", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# An authority without credentials: names, numbers, a port, several hosts of one database. Anything
# else may be half of a password that contains a slash or has no @ after it.
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[\w.-]*)(:\d*)?(,[\w.-]*(:\d*)?)*")
# What may follow an address in a sentence.
_PUNCTUATION = "'\")]}>,.:!"
_LONGEST_SCHEME = 64
# Shorter texts appear in every message by chance.
_SHORTEST = 4
_ENVIRONMENT = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"),
    *("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"),
)


def public(value: Any) -> Any:
    """Plain data without credentials: those in URIs, and values whose key sounds like one.

    Text that begins with a URI is a URI to its end. Inside other text a URI ends at white space, but
    everything before the last @ is removed, because a password may contain white space. A text
    about a known URI goes through `conceal` instead, which needs no guesses.

    Example:
        >>> public({"uri": "https://me:word@host/x", "api_key": "123"})
        {'uri': 'https://host/x', 'api_key': '(not shown)'}
    """
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if _SECRET.search(str(key)) and item else public(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    return public_uri(value) if _SCHEME.match(value.lstrip()) else _public_text(value)


def public_uri(uri: str) -> str:
    """A URI without user name, password, parameters and fragment.

    What can't be told apart from a credential is removed too, so the result need not be a URI.

    Example:
        >>> public_uri("https://me:word@host/x?token=1")
        'https://host/x'
        >>> public_uri("https://me:what?@host/x")
        'https://(not shown)'
    """
    match = _SCHEME.match(uri.lstrip())
    scheme = match.group() if match else ""
    rest = uri.lstrip()[len(scheme) :]
    before, at, after = rest.rpartition("@")
    if re.match("(sqlite|file):///", scheme + rest, re.IGNORECASE) and ":" not in before:
        # A path, which may contain an @; only what looks like a user and a password is removed.
        return scheme + re.split(r"[?;]", rest, maxsplit=1)[0]
    if at and re.search(r"[?#;]", before):
        # The @ may be part of a parameter, and the ? part of a password.
        return scheme + HIDDEN
    place = re.split(r"[?#;]", after, maxsplit=1)[0]
    if not _AUTHORITY.fullmatch(place.partition("/")[0] if scheme or at else "host"):
        return scheme + HIDDEN
    return scheme + place


def conceal(text: object, *uris: str | None) -> str:
    """A text about some URIs, such as an error message, without the credentials in them.

    Credentials of the environment are removed as well, each also where it is quoted or escaped.

    Args:
        text: any text; it may contain the URIs, or parts of them.
        uris: addresses that may contain credentials; None and "" are skipped.

    Example:
        >>> conceal("no route to https://me:pass word@host", "https://me:pass word@host")
        'no route to https://host'
    """
    shown = str(text)
    secrets: dict[str, str] = {}
    for uri in filter(None, uris):
        if public_uri(uri) == uri:
            continue
        for form in _forms(uri):
            secrets[form] = public_uri(uri)
        for secret in _secrets(uri):
            for form in _forms(secret):
                secrets.setdefault(form, HIDDEN)
    for name in _ENVIRONMENT:
        for form in _forms(os.environ.get(name, "")):
            secrets.setdefault(form, HIDDEN)
    # The longest first: a secret may contain another one.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            shown = shown.replace(secret, secrets[secret])
    return _public_text(shown)


def _secrets(uri: str) -> Iterator[str]:
    """Parts of a URI that may be credentials, as they are written there."""
    rest = uri[match.end() :] if (match := _SCHEME.match(uri)) else uri
    before, at, _ = rest.rpartition("@")
    if at:
        yield f"{before}@"
        yield before
        # A password may contain a colon, and a token may stand in the place of the user.
        parts = before.split(":")
        yield parts[0]
        yield from (":".join(parts[k:]) for k in range(1, len(parts)))
    for mark in "?#;":
        _, found, parameters = rest.partition(mark)
        if found:
            yield f"{mark}{parameters}"
            yield parameters
            for parameter in re.split("[&;#]", parameters):
                yield parameter.partition("=")[2]


def _forms(secret: str) -> Iterator[str]:
    """How a text may contain a secret: as it is, decoded, quoted for a URI, escaped, on one line."""
    for form in (secret, unquote(secret), unquote_plus(secret)):
        yield form
        yield from (quote(form), quote(form, safe=""), quote_plus(form))
        yield from (repr(form)[1:-1], json.dumps(form)[1:-1], " ".join(form.split()))
        # What requests makes of an address: white space is quoted, and what is quoted stays.
        yield quote(form, safe="!#$%&'()*+,/:;=?@[]~")
        # A message is cut off at the end of its first line.
        yield from (line for line in form.splitlines() if line != form)


def _public_text(text: str) -> str:
    """A text in which URIs have no credentials, as far as they can be recognized."""
    starts = list(_scheme_starts(text))
    if not starts:
        return text
    shown = [text[: starts[0]]]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        scheme = chunk[: chunk.index("://") + 3]
        before, at, after = chunk[len(scheme) :].rpartition("@")
        word = re.match(r"\S*", after)
        uri = word.group() if word else ""
        core = uri if re.search(r"[?#;]", uri) else uri.rstrip(_PUNCTUATION)
        shown.append(public_uri(f"{scheme}{before}{at}{core}") + after[len(core) :])
    return "".join(shown)


def _scheme_starts(text: str) -> Iterator[int]:
    """Where the schemes of URIs begin; in linear time, for a text may be megabytes of letters."""
    for separator in re.finditer("://", text):
        end = separator.start()
        beginning = max(0, end - _LONGEST_SCHEME)
        scheme = re.search(r"[A-Za-z][A-Za-z0-9+.-]*\Z", text[beginning:end])
        if scheme is not None:
            yield beginning + scheme.start()
