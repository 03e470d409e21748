"""Removal of credentials from files, messages and reports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "(not shown)"
"""Text that replaces a credential."""

_SECRET = re.compile(r"passw|secret|token|credential|auth|bearer|(api|access)_?key", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# An authority without credentials: names, numbers, a port, several hosts of one database. Any other text
# may be a part of a password that contains a slash or has no @ after it.
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[\w.-]*)(:\d*)?(,[\w.-]*(:\d*)?)*")
# Characters that may follow an address in a sentence.
_PUNCTUATION = "'\")]}>,.:!"
_LONGEST_SCHEME = 64
# A shorter secret could occur in a message by chance, so it is not replaced.
_SHORTEST_SECRET = 4
_ENVIRONMENT = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"),
    *("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET", "WANDB_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"),
)


def redact(value: Any) -> Any:
    """Remove credentials from plain data: those in URIs, and values whose key names a secret.

    Text that begins with a URI is treated as a URI to its end. Inside other text a URI ends at white
    space. Passwords may contain white space, so everything before the last @ is removed as well. If
    the URIs in a text are known, use `conceal`, which does not have to guess.

    Example:
        >>> redact({"uri": "https://me:word@host/x", "api_key": "123"})
        {'uri': 'https://host/x', 'api_key': '(not shown)'}
    """
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if _SECRET.search(str(key)) and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    return redact_uri(value) if _SCHEME.match(value.lstrip()) else _redact_text(value)


def redact_uri(uri: str) -> str:
    """Remove user name, password, parameters and fragment from a URI.

    Parts that cannot be told apart from a credential are removed too, so the result may not be a valid
    URI.

    Example:
        >>> redact_uri("https://me:word@host/x?token=1")
        'https://host/x'
        >>> redact_uri("https://me:what?@host/x")
        'https://(not shown)'
    """
    match = _SCHEME.match(uri.lstrip())
    scheme = match.group() if match else ""
    rest = uri.lstrip()[len(scheme) :]
    before, at_sign, after = rest.rpartition("@")
    if re.match("(sqlite|file):///", scheme + rest, re.IGNORECASE) and ":" not in before:
        # A path may contain an @. Only text that looks like user:password is removed.
        return scheme + re.split(r"[?;]", rest, maxsplit=1)[0]
    if at_sign and re.search(r"[?#;]", before):
        # Ambiguous: the @ may belong to a parameter, or the ? to a password. Hide everything.
        return scheme + HIDDEN
    address = re.split(r"[?#;]", after, maxsplit=1)[0]
    if not _AUTHORITY.fullmatch(address.partition("/")[0] if scheme or at_sign else "host"):
        return scheme + HIDDEN
    return scheme + address


def conceal(text: object, *uris: str | None, variables: Iterable[str] = ()) -> str:
    """Remove the credentials in the given URIs from a text, such as an error message.

    Credentials in environment variables are removed as well. Quoted and escaped forms are recognized.

    Args:
        text: any text; it may contain the URIs, or parts of them.
        uris: addresses that may contain credentials; None and "" are skipped.
        variables: further environment variables whose values are credentials.

    Example:
        >>> conceal("no route to https://me:pass word@host", "https://me:pass word@host")
        'no route to https://host'
    """
    shown = str(text)
    replacements: dict[str, str] = {}
    for uri in filter(None, uris):
        if redact_uri(uri) == uri:
            continue
        for form in _written_forms(uri):
            replacements[form] = redact_uri(uri)
        for secret in _secrets(uri):
            for form in _written_forms(secret):
                replacements.setdefault(form, HIDDEN)
    for name in (*_ENVIRONMENT, *variables):
        for form in _written_forms(os.environ.get(name, "")):
            replacements.setdefault(form, HIDDEN)
    # Longest first, because a secret may contain another secret.
    for secret in sorted(replacements, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            shown = shown.replace(secret, replacements[secret])
    return _redact_text(shown)


def _secrets(uri: str) -> Iterator[str]:
    """Iterate over the parts of a URI that may be credentials, as written in the URI."""
    rest = uri[match.end() :] if (match := _SCHEME.match(uri)) else uri
    before, at_sign, _ = rest.rpartition("@")
    if at_sign:
        yield f"{before}@"
        yield before
        # A password may contain a colon, and a token may take the place of the user name.
        parts = before.split(":")
        yield parts[0]
        yield from (":".join(parts[k:]) for k in range(1, len(parts)))
    for mark in "?#;":
        _, separator, parameters = rest.partition(mark)
        if separator:
            yield f"{mark}{parameters}"
            yield parameters
            for parameter in re.split("[&;#]", parameters):
                yield parameter.partition("=")[2]


def _written_forms(secret: str) -> Iterator[str]:
    """Iterate over the written forms of a secret: literal, decoded, quoted, escaped, joined."""
    for form in (secret, unquote(secret), unquote_plus(secret)):
        yield form
        yield from (quote(form), quote(form, safe=""), quote_plus(form))
        yield from (repr(form)[1:-1], json.dumps(form)[1:-1], " ".join(form.split()))
        # The form that requests makes of an address: white space is quoted, quoted text stays.
        yield quote(form, safe="!#$%&'()*+,/:;=?@[]~")
        # Messages may be cut off at the end of their first line.
        yield from (line for line in form.splitlines() if line != form)


def _redact_text(text: str) -> str:
    """Remove credentials from the URIs that can be recognized in a text."""
    starts = list(_find_schemes(text))
    if not starts:
        return text
    shown = [text[: starts[0]]]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        scheme = chunk[: chunk.index("://") + 3]
        before, at_sign, after = chunk[len(scheme) :].rpartition("@")
        word = re.match(r"\S*", after)
        uri = word.group() if word else ""
        core = uri if re.search(r"[?#;]", uri) else uri.rstrip(_PUNCTUATION)
        shown.append(redact_uri(f"{scheme}{before}{at_sign}{core}") + after[len(core) :])
    return "".join(shown)


def _find_schemes(text: str) -> Iterator[int]:
    """Iterate over the positions of URI schemes. Takes linear time, because texts may have megabytes."""
    for separator in re.finditer("://", text):
        end = separator.start()
        beginning = max(0, end - _LONGEST_SCHEME)
        scheme = re.search(r"[A-Za-z][A-Za-z0-9+.-]*\Z", text[beginning:end])
        if scheme is not None:
            yield beginning + scheme.start()
