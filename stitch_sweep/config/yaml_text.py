"""In files and in `--set`, numbers and booleans follow YAML 1.2.

- `1e-3` is a number, `0o10` is 8, and dates are text. A number in quotes is text.
- Values that YAML 1.1 reads differently, as another number or as a boolean (`010`, `1:30`, `1_000`,
  `0b11`, `yes`, `off`), are refused. Write the number, `true` or `false`, or put text in quotes.
- A key can't be given twice.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import show

LARGEST_FILE = 4 * 2**20
"""Largest YAML file, in bytes."""
MOST_VALUES = 200_000
"""Largest number of values of a YAML text, including keys, with aliases expanded."""
DEEPEST = 50
"""Largest nesting depth of lists and mappings."""
_LONGEST_NUMBER = 100

_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "tag:stitch-sweep:ambiguous"
_PLAIN = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_UNUSUAL = {_TAG + kind for kind in ("binary", "omap", "pairs", "set", "timestamp")}

# The core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#1032-tag-resolution), and the merge key.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    re.ASCII,
)
_LEADING_0 = re.compile(r"([-+]?)0+([0-9]+)", re.ASCII)


def parse(text: str) -> Any:
    """Parse YAML text into plain values: mappings, lists, text, numbers, booleans, None.

    Numbers and booleans are those of YAML 1.2's core schema. Values that YAML 1.1 reads as a different
    number or as a boolean (`010`, `1:30`, `1_000`, `0b11`, `yes`, `off`) are refused, because both
    versions are in use. Repeated keys are errors.

    Raises:
        yaml.YAMLError: not valid YAML.
        InputError: valid YAML, but ambiguous, too large, nested too deeply, or with values that are not
            plain data.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return _copy(loader.construct_document(node))
    except RecursionError:
        raise InputError(f"is nested more than {DEEPEST} levels deep") from None


def dump(tree: Any) -> str:
    """Return plain values as YAML text, which `parse` and readers of YAML 1.1 read equally."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text


def dump_flow(value: Any) -> str:
    """Return a plain value as YAML text on one line, such as `{name: digits, image_size: 16}`."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf
    )
    return text.removesuffix("\n").removesuffix("...").strip()


def _copy(value: Any) -> Any:
    """Return a copy without shared objects, so that a change in one place does not affect another."""
    if isinstance(value, dict):
        return {key: _copy(child) for key, child in value.items()}
    return [_copy(child) for child in value] if isinstance(value, list) else value


def _check_size(root: yaml.Node) -> None:
    """Check the number of values and levels with aliases expanded, without expanding them.

    Raises:
        InputError: too many values, too many levels, an alias inside of itself, or not plain values.
    """
    measured: dict[int, tuple[int, int]] = {}  # node -> values, levels
    unfinished: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) in measured:
            return measured[id(node)]
        if id(node) in unfinished:
            raise InputError(f"is not YAML of plain values: Circular{_at(node)}")
        unfinished.add(id(node))
        _check_scalar(node)
        values, levels = 1, 0
        for child in _children(node):
            child_values, child_levels = measure(child)
            values, levels = values + child_values, max(levels, 1 + child_levels)
        if values > MOST_VALUES:
            raise InputError(
                f"contains more than {MOST_VALUES} values, with each alias (*name) expanded"
            )
        if levels > DEEPEST:
            raise InputError(f"is nested more than {DEEPEST} levels deep")
        unfinished.remove(id(node))
        measured[id(node)] = values, levels
        return values, levels

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.Node) -> None:
    """Refuse a scalar that is not a plain value, or that YAML 1.1 and 1.2 read differently.

    Raises:
        InputError: the scalar is refused.
    """
    if node.tag in _UNUSUAL:
        kind = node.tag.removeprefix(_TAG)
        raise InputError(f"is not YAML of plain values: !!{kind}{_at(node)}")
    if not isinstance(node, yaml.ScalarNode):
        return
    if node.tag == _AMBIGUOUS:
        raise InputError(f"{_explain_ambiguity(node.value)}{_at(node)}")
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise InputError(f"contains half of a character (a lone surrogate){_at(node)}") from None


def _explain_ambiguity(text: str) -> str:
    if leading := _LEADING_0.fullmatch(text):
        decimal = f"{leading[1]}{leading[2]}"
        octal = (
            f", {leading[1]}0o{leading[2]} for octal" if set(leading[2]) <= set("01234567") else ""
        )
        return (
            f"{show(text)} has a leading 0, which means octal in YAML 1.1 and nothing in YAML 1.2; "
            f"write {_shorten(decimal)}{_shorten(octal)}, or quotes for text"
        )
    old_value = yaml.safe_load(text) if len(text) <= _LONGEST_NUMBER else "a number"
    value = old_value if isinstance(old_value, str) else show(old_value)
    return f"{show(text)} is {value} in YAML 1.1 and text in YAML 1.2; write {value}, or quotes for text"


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else "the number"


def _at(node: yaml.Node) -> str:
    mark = node.start_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})"


class _Loader(yaml.SafeLoader):
    """Loader with a size limit, the numbers and booleans of YAML 1.2, and errors for repeated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own attribute)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._remaining = MOST_VALUES

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._remaining -= 1
        if self._remaining < 0:
            raise InputError(f"contains more than {MOST_VALUES} values")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if key.tag not in {_TAG + "str", _TAG + "merge"}:
                shown = show(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                problem = f"the key {shown} is not text; quotes make it text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in keys:
                problem = f"the key {show(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            keys.add(key.value)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct a number of YAML 1.2, with or without a tag `!!int` or `!!float`."""
        text = self.construct_scalar(node)
        if len(text) > _LONGEST_NUMBER:
            raise self._error(node, f"a number of at most {_LONGEST_NUMBER} characters")
        if _INT.fullmatch(text):
            whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            return whole if node.tag.endswith("int") else float(whole)
        if node.tag.endswith("float") and _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        raise self._error(node, "a whole number" if node.tag.endswith("int") else "a number")

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """Construct a boolean of YAML 1.2."""
        text = self.construct_scalar(node)
        if not _BOOL.fullmatch(text):
            raise self._error(node, "true or false")
        return text.lower() == "true"

    def _error(self, node: yaml.ScalarNode, expected: str) -> yaml.YAMLError:
        problem = f"{show(node.value)} is not {expected}"
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text if one of the two versions of YAML would not read it as text."""


def _add_rules() -> None:
    signs = list("-+.0123456789")
    for kind, pattern, first in (
        ("null", _NULL, ["~", "n", "N", ""]),
        ("bool", _BOOL, list("tTfF")),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, signs),
        ("merge", re.compile("<<"), ["<"]),
    ):
        whole = re.compile(rf"(?:{pattern.pattern})\Z", re.ASCII)
        _Loader.add_implicit_resolver(_TAG + kind, whole, first)
        _Dumper.add_implicit_resolver(_TAG + kind, whole, first)
    leading = re.compile(rf"{_LEADING_0.pattern}\Z", re.ASCII)
    _Loader.add_implicit_resolver(_AMBIGUOUS, leading, list("-+0"))
    _Dumper.add_implicit_resolver(_AMBIGUOUS, leading, list("-+0"))
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
        for tag, pattern in rules:
            if tag in {_TAG + "int", _TAG + "float", _TAG + "bool"}:
                _Loader.add_implicit_resolver(_AMBIGUOUS, pattern, [first])
    _Loader.add_constructor(_TAG + "int", _Loader.construct_number)
    _Loader.add_constructor(_TAG + "float", _Loader.construct_number)
    _Loader.add_constructor(_TAG + "bool", _Loader.construct_bool)


_add_rules()
