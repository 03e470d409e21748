from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitch_sweep.core.untrusted import (
    UnreadableFileError,
    parse_json,
    printable,
    read_file,
    read_json,
    spreadsheet_cell,
)


def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", tmp_path):
        with pytest.raises(UnreadableFileError, match=r"not a regular file|is a folder"):
            read_file(path, 10)


def test_a_file_is_read_up_to_the_limit_and_refused_beyond_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert read_file(path, 10) == b"x" * 10
    with pytest.raises(UnreadableFileError, match="larger than 9 bytes"):
        read_file(path, 9)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing", 10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": -Infinity}', "not valid JSON"),
        ("[]", "not an object"),
        ("1", "not an object"),
        ("[" * 100_000, r"nested too deeply|not valid JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_one_sentence(tmp_path, text, reason):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=reason) as error:
        read_json(path)
    assert len(error.value.problems) == 1
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_no_json():
    with pytest.raises(UnreadableFileError, match="not valid JSON"):
        parse_json(b'{"a": "\xff\xfe"}', "somewhere")


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), max_size=5))
def test_an_object_comes_back_as_it_was(content):
    assert parse_json(json.dumps(content).encode(), "x") == content


@given(st.text())
def test_printable_text_has_nothing_that_controls_a_terminal(text):
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)


def test_printable_leaves_ordinary_text_alone():
    assert printable("Zürich, α → β, 猫.png") == "Zürich, α → β, 猫.png"
    assert printable("\x1b]0;title\x07\u202egnp.exe") == "\\x1b]0;title\\x07\\u202egnp.exe"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_text_that_a_spreadsheet_would_run_gets_a_quote(text):
    assert spreadsheet_cell(text) == f"'{text}"


def test_numbers_and_ordinary_text_stay():
    assert [spreadsheet_cell(value) for value in (-1, -0.5, None, "a=b", "")] == [
        -1,
        -0.5,
        None,
        "a=b",
        "",
    ]
