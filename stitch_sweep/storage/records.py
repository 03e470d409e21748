"""The ledger's JSON files: their checksums, and the fields that a record must have.

Files of an earlier version have no checksum and are read without one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import (
    LARGEST_JSON,
    UnreadableFileError,
    parse_json,
    printable,
    read_file,
)

_ID = re.compile(r"[^./\s()][^/\s()]*-n(?:0|[1-9][0-9]*)")

_CHECKSUM = "sha256"
# Distinguishes a file that lost its checksum from a file of a version without checksums.
_FORMAT, _VERSION = "format", 2
_STATUSES = ("running", "finished", "failed", "stopped")
_MOST_SECONDS = 1e11
_LARGEST_INTEGER = 2**63
# Limits the recursion of readers, which process settings recursively.
_DEEPEST = 50


class RecordError(InputError):
    """A file of the ledger can't be used.

    Args:
        path: path of the file.
        reason: what is wrong with it, such as "is not valid JSON".
        remedy: what to do, as a part of a sentence.
        damaged: whether its content was read and is wrong; False if it can't be read.
    """

    def __init__(self, path: Path | str, reason: str, remedy: str, *, damaged: bool) -> None:
        super().__init__(f"{printable(path)}: {printable(reason)}; {remedy}")
        self.path, self.reason, self.damaged = path, reason, damaged


def without_outcome(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a trial's record has before the trial ends: identity and settings."""
    return {name: record[name] for name in (*_RECORD, "start") if name in record}


def rank(record: Mapping[str, Any], mode: str) -> tuple[float, int]:
    """Return the key by which the best finished trial of a study is the largest.

    If metrics are equal, the trial with the lower number is better, regardless of which ended first.

    Args:
        record: of a finished trial.
        mode: whether `max` or `min` of the search metric is best.
    """
    return (-record["metric"] if mode == "min" else record["metric"], -record["number"])


def trial_from_path(path: Path) -> str | None:
    """Return the trial whose record has this file name; None for other files, such as copies.

    Example:
        >>> trial_from_path(Path("a.0-b.1-r0-0123abcd-n7.json"))
        'a.0-b.1-r0-0123abcd-n7'
        >>> trial_from_path(Path("a.0-b.1-r0-0123abcd-n7.sync-conflict-20250102-030405-ABCDEFG.json"))
    """
    name, dot, suffix = path.name.rpartition(".")
    return name if dot and suffix == "json" and _ID.fullmatch(name) else None


def seal(content: Mapping[str, Any]) -> bytes:
    """Encode content as JSON with a checksum of all other fields.

    Raises:
        ValueError: a number is NaN or infinite, which JSON can't represent.
    """
    plain = {**content, _FORMAT: _VERSION}
    plain.pop(_CHECKSUM, None)
    # Convert to the form that readers get: tuples become lists, and keys become strings.
    plain = json.loads(json.dumps(plain, allow_nan=False))
    return (json.dumps({**plain, _CHECKSUM: _digest(plain)}, indent=1) + "\n").encode()


def unseal_record(data: bytes, path: Path | str, trial: str) -> dict[str, Any]:
    """Decode and verify a trial's record.

    Args:
        data: content of the file.
        path: name of the file in messages.
        trial: the trial's id, from the file name.

    Raises:
        RecordError: it is damaged, or not the record of this trial.
    """
    return _unseal(data, path, _BAD_RECORD, lambda content: _check_record(content, trial))


def unseal_description(data: bytes, path: Path | str) -> dict[str, Any]:
    """Decode and verify the content of `sweep.json`.

    Raises:
        RecordError: it is damaged, or not a sweep's description.
    """
    return _unseal(data, path, _BAD_DESCRIPTION, _check_description)


def read_record(path: Path, trial: str) -> dict[str, Any] | None:
    """Read a trial's record; None without a file.

    Raises:
        RecordError: see `unseal_record`; or the file is not regular, too large, or can't be read.
    """
    data = _read(path)
    return None if data is None else unseal_record(data, path, trial)


def read_description(path: Path) -> dict[str, Any] | None:
    """Read a sweep's description from `sweep.json`; None without a file.

    Raises:
        RecordError: see `unseal_description`; or the file is not regular, too large, or can't be read.
    """
    data = _read(path)
    return None if data is None else unseal_description(data, path)


_BAD_RECORD = (
    "`stitch-sweep sweep CONFIG --resume` moves it to ledger/set_aside and runs its trial again"
)
_BAD_DESCRIPTION = (
    "without it the sweep can't be resumed: restore the file from a backup or from the sweep's "
    "mirror, or start the sweep in another folder"
)
_UNREADABLE = "make it readable, or move it away"


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, LARGEST_JSON)
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        raise RecordError(path, error.reason, _UNREADABLE, damaged=False) from None


def _unseal(
    data: bytes, path: Path | str, remedy: str, check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    try:
        content = parse_json(data, path)
        _verify(content)
        content.pop(_CHECKSUM, None)
        content.pop(_FORMAT, None)
        check(content)
    except UnreadableFileError as error:
        raise RecordError(path, f"is damaged ({error.reason})", remedy, damaged=True) from None
    except ValueError as error:
        raise RecordError(path, f"is damaged: {error}", remedy, damaged=True) from None
    return content


def _verify(content: dict[str, Any]) -> None:
    checksum = content.pop(_CHECKSUM, None)
    if checksum is None and _FORMAT not in content:
        return  # a file of an earlier version
    try:
        digest = _digest(content)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if checksum != digest:
        raise ValueError("its content doesn't match its stored checksum")


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_record(content: Mapping[str, Any], trial: str) -> None:
    """Validate all fields that the package reads.

    Raises:
        ValueError: a field is missing or not valid; the message names the first.
    """
    for name, is_valid in _RECORD.items():
        _check(name, content.get(name), is_valid)
    if not content["trial"] == f"{content['study']}-n{content['number']}" == trial:
        raise ValueError(f"it is the record of another trial, {content['trial']!r}")
    if content["status"] != "running":
        for name, is_valid in _ENDED.items():
            _check(name, content.get(name), is_valid)
    if content["status"] == "running" and content.get("paused_at") is not None:
        for name in ("trajectory", "seconds"):
            _check(name, content.get(name), _ENDED[name])
    if content["status"] == "finished":
        _check("metric", content["metric"], _is_number)
    if content["status"] == "stopped":
        _check_stopped(content)
    for name, is_valid in _OPTIONAL.items():
        if content.get(name) is not None:
            _check(name, content[name], is_valid)
    original = content.get("copied_from")
    # The id becomes a file name.
    if original is not None and not (
        original.rpartition("-n")[0] == content["study"] and _ID.fullmatch(original)
    ):
        raise ValueError(f"it is copied from {original!r}, which is not a trial of its study")


def _check_stopped(content: Mapping[str, Any]) -> None:
    """Validate what distinguishes a trial that a scheduler stopped: it was never evaluated."""
    _check("stopped_at", content.get("stopped_at"), lambda value: _is_count(value) and value > 0)
    _check("metric", content["metric"], _is_number)
    _check("metrics", content["metrics"], lambda value: not value)
    for name in ("predictions", "stitch"):
        if content.get(name) is not None:
            raise ValueError(f"a stopped trial has no {name}")
    epochs = {row.get("epoch") for row in content["trajectory"] if row["split"] == "validation"}
    if content["stopped_at"] not in epochs:
        raise ValueError("its trajectory doesn't reach the epoch after which it was stopped")


def _check_description(content: Mapping[str, Any]) -> None:
    _check("id", content.get("id"), _is_id)
    for name, is_valid in _DESCRIPTION.items():
        if name in content:
            _check(name, content[name], is_valid)


def _check(name: str, value: Any, is_valid: Callable[[Any], bool]) -> None:
    if not is_valid(value):
        raise ValueError(f"its field {name!r} is missing or not valid")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and _is_shallow(value, _DEEPEST)


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_INTEGER


def _is_layer(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**31


def _is_number(value: Any) -> bool:
    # JSON's 1e999 is infinite, and integers may be larger than any float.
    if type(value) is int:
        return -_LARGEST_INTEGER <= value < _LARGEST_INTEGER
    return type(value) is float and math.isfinite(value)


def _is_score(value: Any) -> bool:
    if type(value) is float:  # first, because most values of a record are floats
        return math.isfinite(value)
    return value is None or _is_bool(value) or _is_number(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MOST_SECONDS


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_settings(value: Any) -> bool:
    if not (isinstance(value, dict) and _is_mapping(value.get("training", {}))):
        return False
    stitch, loss = value.get("stitch"), value.get("loss")
    return isinstance(stitch, dict) and _is_name(stitch.get("name")) and _is_mapping(loss)


def _is_trajectory(value: Any) -> bool:
    return isinstance(value, list) and all(_is_row(row) for row in value)


def _is_row(row: Any) -> bool:
    if not (isinstance(row, dict) and row.get("split") in ("train", "validation")):
        return False
    return (
        _is_count(row.get("step"))
        and _is_time(row.get("time"))
        and all(key == "split" or _is_score(value) for key, value in row.items())
    )


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_score(score) for score in value.values())


def _is_predictions(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("zlib"), str)):
        return False
    return value.get("dtype") in ("uint8", "uint16", "uint32", "uint64")


def _is_stitch(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_digest(value.get("sha256"))
        and _is_count(value.get("bytes"))
    )


def _is_start(value: Any) -> bool:
    # The id becomes a file name.
    return (
        isinstance(value, dict)
        and isinstance(value.get("trial"), str)
        and _ID.fullmatch(value["trial"]) is not None
        and _is_digest(value.get("sha256"))
    )


_RECORD: dict[str, Callable[[Any], bool]] = {
    "trial": _is_text,
    "study": _is_text,
    "number": _is_count,
    "status": lambda value: value in _STATUSES,
    "sender": _is_name,
    "sender_layer": _is_layer,
    "receiver": _is_name,
    "receiver_layer": _is_layer,
    "repeat": _is_count,
    "factors": _is_mapping,
    "params": _is_mapping,
    "settings": _is_settings,
}
_ENDED: dict[str, Callable[[Any], bool]] = {
    "metric": lambda value: value is None or _is_number(value),
    "metrics": _is_scores,
    "trajectory": _is_trajectory,
    "seconds": _is_time,
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "predictions": _is_predictions,
    "stitch": _is_stitch,
    "started": _is_time,
    "worker": _is_text,
    "copied_from": _is_text,
    "error": _is_text,
    "traceback": _is_text,
    "out_of_memory": _is_bool,
    "paused_at": _is_count,
    "start": _is_start,
}
_DESCRIPTION: dict[str, Callable[[Any], bool]] = {
    "trials": _is_count,
    "left_out": lambda value: _is_mapping(value) and all(map(_is_count, value.values())),
    "decides": lambda value: _is_mapping(value) and _is_mapping(value.get("networks", {})),
    "config": _is_mapping,
    "networks": lambda value: _is_mapping(value) and all(map(_is_text, value.values())),
}
