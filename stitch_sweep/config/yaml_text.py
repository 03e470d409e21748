"""YAML text to plain values and back: YAML 1.2's numbers and booleans, of bounded size."""

from __future__ import annotations

import re
from typing import Any

import yaml

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import show

LARGEST_FILE = 4 * 2**20
"""Bytes of a YAML file."""
MOST_VALUES = 200_000
"""Values of a YAML text, keys included, each alias counted with all that it stands for."""
DEEPEST = 50
"""Levels of lists and mappings inside one another."""
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
    """Plain values (mappings, lists, text, numbers, booleans, None) that a YAML text holds.

    Numbers and booleans are those of YAML 1.2's core schema. What YAML 1.1 reads as another number or
    as a boolean (`010`, `1:30`, `1_000`, `0b11`, `yes`, `off`) is refused, because both versions are in
    use. A key given twice is an error.

    Raises:
        yaml.YAMLError: not valid YAML.
        InputError: valid, but no plain values, ambiguous, too large or nested too deeply.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return _unshared(loader.construct_document(node))
    except RecursionError:
        raise InputError(f"is nested more than {DEEPEST} levels deep") from None


def dump(tree: Any) -> str:
    """YAML text that `parse`, and readers of YAML 1.1, read as these plain values."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text


def _unshared(value: Any) -> Any:
    """A copy in which no two places are one object, so that one can be changed without the other."""
    if isinstance(value, dict):
        return {key: _unshared(child) for key, child in value.items()}
    return [_unshared(child) for child in value] if isinstance(value, list) else value


def _check_size(root: yaml.Node) -> None:
    """Count values with aliases written out, without writing them out.

    Raises:
        InputError: too many values, too many levels, an alias inside of itself, or no plain values.
    """
    known: dict[int, tuple[int, int]] = {}  # node -> values, levels
    unfinished: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) in known:
            return known[id(node)]
        if id(node) in unfinished:
            raise InputError(f"is not YAML of plain values: Circular{_at(node)}")
        unfinished.add(id(node))
        _check_scalar(node)
        values, levels = 1, 0
        for child in _children(node):
            found = measure(child)
            values, levels = values + found[0], max(levels, 1 + found[1])
        if values > MOST_VALUES:
            raise InputError(
                f"holds more than {MOST_VALUES} values, each alias (*name) counted with all that it "
                "stands for"
            )
        if levels > DEEPEST:
            raise InputError(f"is nested more than {DEEPEST} levels deep")
        unfinished.remove(id(node))
        known[id(node)] = values, levels
        return values, levels

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.Node) -> None:
    """Refuse what is no plain value, or has two meanings.

    Raises:
        InputError: it is so.
    """
    if node.tag in _UNUSUAL:
        kind = node.tag.removeprefix(_TAG)
        raise InputError(f"is not YAML of plain values: !!{kind}{_at(node)}")
    if not isinstance(node, yaml.ScalarNode):
        return
    if node.tag == _AMBIGUOUS:
        raise InputError(f"{_ambiguity(node.value)}{_at(node)}")
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise InputError(f"holds half of a character (a lone surrogate){_at(node)}") from None


def _ambiguity(text: str) -> str:
    if leading := _LEADING_0.fullmatch(text):
        decimal = f"{leading[1]}{leading[2]}"
        octal = (
            f", {leading[1]}0o{leading[2]} for octal" if set(leading[2]) <= set("01234567") else ""
        )
        return (
            f"{show(text)} has a leading 0, which means octal in YAML 1.1 and nothing in YAML 1.2; "
            f"write {_cut(decimal)}{_cut(octal)}, or quotes for text"
        )
    meant = yaml.safe_load(text) if len(text) <= _LONGEST_NUMBER else "a number"
    value = meant if isinstance(meant, str) else show(meant)
    return f"{show(text)} is {value} in YAML 1.1 and text in YAML 1.2; write {value}, or quotes for text"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else "the number"


def _at(node: yaml.Node) -> str:
    mark = node.start_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})"


class _Loader(yaml.SafeLoader):
    """YAML of bounded size, with YAML 1.2's numbers and booleans, and without a key given twice."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own attribute)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._left = MOST_VALUES

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InputError(f"holds more than {MOST_VALUES} values")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in {_TAG + "str", _TAG + "merge"}:
                shown = show(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                problem = f"the key {shown} is not text; quotes make it text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {show(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number that YAML 1.2 has, whether it stands by itself or after `!!int` or `!!float`."""
        text = self.construct_scalar(node)
        if len(text) > _LONGEST_NUMBER:
            raise self._wrong(node, f"a number of at most {_LONGEST_NUMBER} characters")
        if _INT.fullmatch(text):
            whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            return whole if node.tag.endswith("int") else float(whole)
        if node.tag.endswith("float") and _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        raise self._wrong(node, "a whole number" if node.tag.endswith("int") else "a number")

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """A boolean that YAML 1.2 has."""
        text = self.construct_scalar(node)
        if not _BOOL.fullmatch(text):
            raise self._wrong(node, "true or false")
        return text.lower() == "true"

    def _wrong(self, node: yaml.ScalarNode, wanted: str) -> yaml.YAMLError:
        problem = f"{show(node.value)} is not {wanted}"
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML reads as something else."""


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
