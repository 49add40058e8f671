"""Plain values out of text that anybody may have written: YAML and JSON, bounded and without surprises.

What comes out is made of mappings with text keys, lists, texts, finite whole numbers and numbers, true, false and null,
nested a few levels deep. YAML is read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema):
``010`` is ten, ``1e-6`` a number, and ``no``, ``on``, ``1_000``, ``12:30`` and a date are the texts that they are
written as. Of what YAML 1.1 has more, ``<<`` merges mappings. Refused are a key that stands twice in a mapping, a value
inside itself, aliases that grow without bound, control characters and half characters in texts, NaN in JSON, and
everything that is no plain value.
Deliberately absent: what the values should be (``clrft/config/records.py``, ``clrft/config/typed.py``).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from task_streams.config import WrittenFloat, WrittenInt, as_written
from task_streams.errors import PLAIN, RepeatedKeys, UserError, brief, checked_yaml, open_file

SECTIONS = ("stream", "method", "model", "train", "evaluate", "run")  # of a configuration
DEEPEST = 40  # levels of nesting
MOST = 1_000_000  # values in one text, those behind aliases counted each time
_HALF = re.compile(r"[\ud800-\udfff]")  # of a character: it can't be written
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # also what no setting has; an answer may
_OPENING, _CLOSING = frozenset("[{"), frozenset("]}")


_TAG = "tag:yaml.org,2002:"
# Which words are no texts: kind, pattern, and the characters that such a word begins with; the first that fits.
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)


class PlainLoader(yaml.SafeLoader):
    """YAML's plain values."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, where PyYAML was built with it; its nesting is limited by nothing but the stack."""


class PlainDumper(yaml.SafeDumper):
    """Writes in quotes what YAML 1.1 or 1.2 would not read as a text."""


def _whole(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return as_written(WrittenInt(int(text[2:] if base != 10 else text, base)), text)


def _number(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node)
    return as_written(WrittenFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan")), text)


for _reader in (PlainLoader, _FastLoader):
    _reader.yaml_implicit_resolvers = {}  # none of YAML 1.1
    _reader.add_constructor(f"{_TAG}int", _whole)
    _reader.add_constructor(f"{_TAG}float", _number)
for _class in (PlainLoader, _FastLoader, PlainDumper):
    for _kind, _pattern, _first in _CORE:
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


def from_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: says what in it is no plain value.
    """
    # a text cannot be nested deep, by its signs alone: few brackets, nothing referred to, small indents
    is_shallow = len(text) <= 100_000 and text.count("[") + text.count("{") <= DEEPEST and not set("&*!") & set(text)
    if is_shallow:
        is_shallow = all(len(line) - len(line.lstrip(" \t-?:")) <= DEEPEST for line in text.splitlines())
    try:
        value = checked_yaml((_FastLoader if is_shallow else PlainLoader)(text))
    except RepeatedKeys:
        raise
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("it is nested too deep, or holds itself") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a wrong tag
        raise ValueError(f"a value is not what its tag says ({brief(str(error))})") from error
    check_plain(value, _CONTROL)
    return value


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that ``from_yaml`` reads to the same."""
    return yaml.dump(values, Dumper=PlainDumper, sort_keys=False, allow_unicode=True)


def from_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or says what in it is no plain value.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    check_plain(value, _HALF)
    return value


def check_plain(value: Any, unfit: re.Pattern[str]) -> None:
    """Refuse what is no plain value, and texts with characters that do not fit, by a ``ValueError``."""
    waiting: list[tuple[Sequence[Any], int]] = [([value], 0)]  # values side by side, and how deep they lie
    count = 0
    while waiting:
        parts, depth = waiting.pop()
        count += len(parts)
        if parts and depth > DEEPEST:
            raise ValueError("it is nested too deep, or holds itself")
        if count > MOST:
            raise ValueError(f"it holds more than {MOST} values")
        for one in parts:
            if isinstance(one, str):
                if found := unfit.search(one):
                    raise ValueError(f"{brief(one)} has the character {found[0]!r}")
            elif isinstance(one, dict):
                keys = [key for key in one if not isinstance(key, str)]
                if keys:
                    raise ValueError(f"the key {brief(keys[0])} is no text; put it in quotes")
                waiting.append(((*one, *one.values()), depth + 1))
            elif isinstance(one, list):
                waiting.append((one, depth + 1))
            elif not isinstance(one, PLAIN):
                raise ValueError(f"{brief(one)} is no plain value")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as nested plain values.

    Raises:
        UserError: the file is missing, no YAML of plain values, or not a mapping.
    """
    try:
        with open_file(path) as file:
            values = from_yaml(file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no config file {str(path)!r}.") from error
    except OSError as error:
        raise UserError(f"cannot read config file {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:  # bad UTF-8 among them
        raise UserError(f"cannot read config file {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"config file {str(path)!r}: expected sections ({', '.join(SECTIONS)}), got {brief(values)}.")
    return values


def section_of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One section of a configuration, copied; empty where there is none.

    Raises:
        UserError: it is no mapping.
    """
    found = values.get(name)
    if found is not None and not isinstance(found, Mapping):
        raise UserError(f"{name}: got {brief(found)}, expected settings by name (e.g. {name}: {{…}}).")
    return dict(found or {})


def sections_of(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All ``SECTIONS`` of a configuration; every one that is no mapping is refused."""
    sections: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name in SECTIONS:
        try:
            sections[name] = section_of(values, name)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return sections


def plugins_of(values: Mapping[str, Any]) -> list[str]:
    """The plugin files that a configuration names.

    Raises:
        UserError: they are no list of texts.
    """
    files = section_of(values, "run").get("plugins")
    if files is not None and not (isinstance(files, list | tuple) and all(isinstance(one, str) for one in files)):
        raise UserError(f"run.plugins: got {brief(files)}, expected a list of Python files.")
    return list(files or ())
