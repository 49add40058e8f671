"""Settings are what their fields' annotations say, and each value that is not is named with what is expected."""

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, asdict, dataclass, fields
from pathlib import PurePath
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import AfterValidator, Field

from task_streams import STREAMS
from task_streams.config import QUOTES, WrittenFloat, WrittenInt, as_written, field_docs, typed_section
from task_streams.datasets.digits import DigitsDilConfig
from task_streams.errors import UserError
from tests.task_streams.streams import problems_of

# What a stream's settings must say although each of them has a default.
NEEDED: dict[str, dict[str, Any]] = {
    "questions_til": {"tasks": ["one", "two"]},
    "table_cil": {"train": "x.parquet"},
    "table_dil": {"hub": "owner/name"},
}


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_every_stream_config_goes_through_yaml_and_back(name: str) -> None:
    cls: Any = STREAMS[name].config
    required = dict.fromkeys((f.name for f in fields(cls) if f.default is f.default_factory is MISSING), "some/folder")
    config = typed_section("stream", cls, required | NEEDED.get(name, {}))
    assert isinstance(hash(config), int)  # plans remember what they know of a stream by its settings
    values = json.loads(json.dumps(asdict(config)))  # tuples to lists
    assert typed_section("stream", cls, yaml.safe_load(yaml.safe_dump(values))) == config


def from_text(text: str) -> int | float:
    """A number as what reads YAML makes it."""
    return as_written(WrittenInt(text) if text.isdigit() else WrittenFloat(text), text)


def as_even(number: int) -> int:
    if number % 2:
        raise ValueError("an even number")
    return number


@dataclass(frozen=True)
class Every:
    """A field of each type, in a dataclass as others write it."""

    whole: int = 1
    """A number."""
    number: Annotated[float, Field(gt=0)] = 1.0
    """Another."""
    choice: Literal["first", "second", "third"] | None = None
    """One of three."""
    truth: bool = True
    """Whether."""
    text: str = ""
    """A text."""
    texts: tuple[str, ...] = ()
    """Texts."""
    even: Annotated[int, AfterValidator(as_even)] = 2
    """A number whose own function looks at it."""
    path: PurePath | None = None
    """A path."""
    call: Callable[[], None] | None = None
    """What no file can say."""


@pytest.mark.parametrize(
    ("field", "given", "made"),
    [
        ("number", 3, 3.0), ("number", "1e-4", 1e-4),  # YAML 1.1 reads the second as text
        ("truth", 1, True), ("truth", "no", False), ("text", 7, "7"), ("texts", [1, "a"], ("1", "a")),
        ("text", from_text("007"), "007"), ("texts", [from_text("1e3"), "no"], ("1e3", "no")),
        ("whole", from_text("010"), 10), ("number", from_text("1e-6"), 1e-6),
        ("choice", "first", "first"), ("choice", None, None), ("path", "a/b", PurePath("a/b")),
    ],
)  # fmt: skip
def test_a_value_becomes_one_of_its_fields_type(field: str, given: Any, made: Any) -> None:
    found = getattr(typed_section("x", Every, {field: given}), field)
    assert (found, type(found)) == (made, type(made))


REFUSED: list[tuple[str, list[Any], str]] = [
    ("whole", [True, 1.0, "many", None, 10**30], "a whole number."),
    ("number", [0, True, math.nan, math.inf, 10**400], "a number above 0."),
    ("choice", ["secnd"], "one of first, second, third, or null. Did you mean 'second'?"),
    ("truth", [0.0, "maybe"], "true or false."),
    ("text", ["${oc.env:HOME}", "???", ["a"]], "text."),
    ("text", [True], f"text.{QUOTES}"),
    ("texts", [["a", None], [1, True]], f"a list, each text.{QUOTES}"),
    ("texts", ["a", {"a": 1}], "a list, each text."),
    ("even", [3], "an even number."),
    ("even", ["x"], "a whole number."),
    ("call", [3], "another value, or null."),
]


@pytest.mark.parametrize(("field", "values", "expected"), REFUSED)
def test_a_value_that_a_field_does_not_allow_is_refused(field: str, values: list[Any], expected: str) -> None:
    for given in values:
        (problem,) = problems_of(lambda given=given: typed_section("x", Every, {field: given}))
        assert problem.startswith(f"x.{field}: got ") and problem.endswith(f", expected {expected}")


def test_the_line_below_each_field_is_read_and_that_of_its_base() -> None:
    @dataclass(frozen=True)
    class More(Every):
        whole: int = 2
        more: float = 1.0
        """More."""

    docs = field_docs(More)
    assert list(docs) == [one.name for one in fields(More)]
    assert [docs[name] for name in ("whole", "choice", "more")] == ["A number.", "One of three.", "More."]


def test_values_become_what_their_fields_are_and_keys_that_are_not_known_or_missing_are_named() -> None:
    given = {"domains": ["clean", "noisy"], "shots": None, "prompt": "suite"}
    config = typed_section("stream", DigitsDilConfig, given)
    assert isinstance(config, DigitsDilConfig)
    assert (config.domains, config.shots) == (("clean", "noisy"), None)
    with pytest.raises(FrozenInstanceError):
        config.shots = 3  # type: ignore[misc]
    with pytest.raises(UserError, match=r"x.wole.*Did you mean 'x.whole'"):
        typed_section("x", Every, {"wole": 1})
    with pytest.raises(UserError, match=r"stream.root: a value is needed"):
        typed_section("stream", STREAMS["folder_cil"].config, {"tasks": 2})
