"""Settings as frozen dataclasses: pydantic holds every value to the annotation of its field.

Constraints and one-line descriptions stand at the field (``Field(title=…)`` where the words for a constraint should be
others); what fields say of each other stands in ``problems``. All that is wrong is raised at once. Then: the settings
that streams share. ``int | None`` means: ``null`` takes everything there is.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.json_schema import GenerateJsonSchema

from task_streams.errors import UserError, brief, unknown_name
from task_streams.prompt_style import PromptStyle, prompt_style

CONFIG = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True, use_attribute_docstrings=True)
LARGEST = 2**63  # no setting is as large; NaN is not below it either
MAX_SEED = 2**32 - 1  # what numpy.random.RandomState takes
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "and below"}
TYPES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
TYPES |= {"array": "a list", "object": "an object"}

# What YAML reads as something else than a text; older readers do so with yes, no, on and off too.
QUOTES = " true, false, null and numbers are no text (in YAML 1.1 nor yes, no, on and off): put such names in quotes."

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
PartialShare = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class WrittenInt(int):
    """A whole number that knows how it was written, for it may be meant as a text: a class that is called 007."""

    written: str


class WrittenFloat(float):
    """Likewise, of any number."""

    written: str


def as_written(number: WrittenInt | WrittenFloat, text: str) -> int | float:
    """A number that was written as a text; a plain one where it is always written so."""
    number.written = text
    return plain_number(number) if str(number) == text else number


def plain_number(number: float) -> int | float:
    """A number that knows nothing but its value."""
    return int(number) if isinstance(number, int) else float(number)


def as_type(given: Any, made: Any) -> Any:
    """What pydantic made of a value, but a number that became a text as it was written, and else a plain one."""
    if isinstance(made, list | tuple) and isinstance(given, list | tuple):
        return type(made)(map(as_type, given, made))
    if isinstance(made, dict) and isinstance(given, dict):
        return {key: as_type(given.get(key), one) for key, one in made.items()}
    if isinstance(given, WrittenInt | WrittenFloat) and isinstance(made, str):
        return given.written
    return plain_number(made) if isinstance(made, WrittenInt | WrittenFloat) else made


def as_meant(given: Any, convert: ValidatorFunctionWrapHandler) -> Any:
    """A value as its type; refused is what pydantic would convert although nobody can have meant it."""
    made = as_type(given, convert(given))
    pairs = zip(given, made, strict=True) if isinstance(made, list | tuple) else [(given, made)]
    for before, after in pairs:
        match after:
            case bool():
                meant = not isinstance(before, float)
            case int():
                meant = isinstance(before, int) and not isinstance(before, bool) and abs(after) < LARGEST
            case float():
                meant = not isinstance(before, bool) and abs(after) < LARGEST
            case str():
                meant = "${" not in after and after != "???"  # stands for another value
            case _:
                meant = True
        if not meant:
            raise ValueError
    return made


_adapter = cache(partial(TypeAdapter[Any], config=CONFIG))  # most fields share theirs with others


@cache
def validators(schema: type) -> Mapping[str, TypeAdapter[Any]]:
    """What validates each field of a dataclass."""
    hints = get_type_hints(schema, include_extras=True)
    names = [field.name for field in dataclasses.fields(schema)]
    return {name: _adapter(Annotated[hints[name], WrapValidator(as_meant)]) for name in names}


class JsonSchema(GenerateJsonSchema):
    """JSON schemas of all types, also of those that no JSON has."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def expected(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "title" in schema:
        return str(schema["title"])
    if "anyOf" in schema:
        return ", or ".join(map(expected, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        names = list(map(str, schema.get("enum", [schema.get("const")])))
        return f"one of {', '.join(names)}" if len(names) > 2 else " or ".join(names)
    kind = TYPES.get(schema.get("type", ""), str(schema.get("type", "another value")))
    for keys, values in schema.get("patternProperties", {}).items():
        return f"{kind}, each key {keys}, each value {expected(values)}"
    values = schema.get("items") or schema.get("additionalProperties")
    if isinstance(values, dict) and values:
        return f"{kind}, each {expected(values)}"
    return " ".join([kind, *(f"{words} {schema[key]}" for key, words in BOUNDS.items() if key in schema)])


def refusal(name: str, given: Any, adapter: TypeAdapter[Any], error: ValidationError) -> str:
    """What to say of a value that is refused: a validator's own words, or the field's, and the nearest choice."""
    schema = adapter.json_schema(schema_generator=JsonSchema)
    own = [str(one["ctx"]["error"]) for one in error.errors(include_url=False) if one["type"] == "value_error"]
    words = "".join(own) or expected(schema)
    choices = [choice for one in (schema, *schema.get("anyOf", ())) for choice in one.get("enum", ())]
    nearest = get_close_matches(given, choices, n=1, cutoff=0.7) if isinstance(given, str) else []
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    if isinstance(given, list | bool):
        hint = hint or quotes_hint(given, words)
    return f"{name}: got {brief(given)}, expected {words}.{hint}"


def quotes_hint(given: Any, words: str) -> str:
    """What to say of a value, or those in a list, that YAML does not read as the text that was expected."""
    values = given if isinstance(given, list) else [given]
    return QUOTES if "text" in words and any(one is None or isinstance(one, float | int) for one in values) else ""


def converted(schema: type, values: Mapping[str, Any], section: str = "") -> tuple[dict[str, Any], list[str]]:
    """Values as the types of a dataclass's fields, and a sentence for each that is unknown or not possible."""
    accepted: dict[str, Any] = {}
    problems: list[str] = []
    known = validators(schema)
    for name, value in values.items():
        if name not in known:
            problems.append(unknown_name("key", f"{section}{name}", [f"{section}{one}" for one in known]))
            continue
        try:
            accepted[name] = known[name].validate_python(value)
        except ValidationError as error:
            problems.append(refusal(f"{section}{name}", value, known[name], error))
            continue
        if accepted[name] == "" and takes_nothing(known[name]):  # as a variable of a shell that is not set leaves it
            problems.append(f"{section}{name}: got an empty text, expected {expected(known[name].json_schema())}.")
            del accepted[name]
    return accepted, problems


def takes_nothing(adapter: TypeAdapter[Any]) -> bool:
    """Whether a field may be null."""
    try:
        adapter.validate_python(None)
    except ValidationError:
        return False
    return True


def typed_section(section: str, schema: type, values: Mapping[str, Any]) -> Any:
    """One section's values as its dataclass.

    Raises:
        UserError: unknown keys, wrong types or impossible values, all of them.
    """
    within = f"{section}." if section else ""
    fields = dataclasses.fields(schema)
    needed = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
    values = {name: value for name, value in values.items() if name not in needed or value not in (None, "")}
    accepted, problems = converted(schema, values, within)
    # of fields that are refused, or misspelt, what else may be said would mislead
    refused = {one.name for one in fields if one.name in values and one.name not in accepted}
    refused |= {one.name for one in fields if any(f"Did you mean {within + one.name!r}?" in said for said in problems)}
    problems += [f"{within}{name}: a value is needed." for name in needed if name not in values]
    if all(name in accepted for name in needed):
        try:
            made = schema(**accepted)
        except UserError as error:
            for problem in error.problems:
                named = problem.partition(":")[0] in validators(schema)
                if not named and refused & set(re.findall(r"\w+", problem)):
                    continue
                placed = not section or problem.startswith(within)
                problems.append(problem if placed else f"{section}{'.' if named else ': '}{problem}")
        except (ValueError, TypeError, AssertionError, SystemExit) as error:  # of settings of a user's own
            problems.append(
                f"{section or schema.__name__}: these settings are refused ({type(error).__name__}: {error})."
            )
    if problems:
        raise UserError(*problems)
    return made


def values_of(config: Any) -> dict[str, Any]:
    """A config's values by field."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def field_docs(schema: type) -> dict[str, str]:
    """The one-line docstring of every field of a config dataclass, inherited fields included."""
    docs = {field.name: "" for field in dataclasses.fields(schema)}
    for base in filter(dataclasses.is_dataclass, reversed(schema.__mro__)):
        adapter = TypeAdapter(list[base], config=CONFIG)  # type: ignore[valid-type]
        told = adapter.json_schema(schema_generator=JsonSchema)["$defs"][base.__name__]["properties"]
        docs |= {name: one["description"] for name, one in told.items() if "description" in one}
    return docs


class Settings:
    """Base of settings, which are frozen dataclasses.

    Raises:
        UserError: with every value that its field does not allow, and every problem between the others.
    """

    def __post_init__(self) -> None:
        values = values_of(self)
        if converted(type(self), values)[1]:
            typed_section("", type(self), values)  # says what is wrong with fields, and between the others
        if problems := self.problems():
            raise UserError(*problems)

    def problems(self) -> list[str]:
        """One sentence for each field, or several together, whose values are possible alone but do not go together."""
        return []


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Settings):
    """What every stream can be asked for."""

    shots: Count | None = 24
    """Training examples per class and task, >= 1; null = all that are not held out for testing."""
    test_per_class: Count | None = 40
    """Held-out test examples per class and task, >= 1; null = the whole test split (or one fifth)."""
    draw_seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 42
    """Seed of the draw of training and test examples, 0 to 2**32-1; the same for every class order."""
    prompt: str = "suite"
    """Words of the prompt: suite, rapo_paper, rapo_released, or the path of a style of your own (.yaml)."""
    label_order: Literal["sorted", "appearance"] | None = None
    """Order of classes in a prompt: sorted, appearance (position tells which are new); null = as the style has it."""
    think: bool = True
    """Whether the prompt asks for a <think> block before the <answer> block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_order is None:
            object.__setattr__(self, "label_order", self.style.label_order)  # so that it is on record

    def problems(self) -> list[str]:
        try:
            prompt_style(self.prompt, self.think)
        except UserError as error:
            return list(error.problems)
        return []

    @property
    def style(self) -> PromptStyle:
        """The words of the prompt."""
        return prompt_style(self.prompt, self.think)

    @property
    def draw_settings(self) -> dict[str, Any]:
        """Keyword arguments for ``build_cil`` and ``build_dil``."""
        names = ("shots", "test_per_class", "draw_seed", "label_order")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class CilConfig(StreamConfig):
    """A class-incremental stream: every task brings new classes."""

    tasks: Count = 5
    """Number of tasks, >= 1; tasks x classes_per_task classes must exist."""
    classes_per_task: Count = 2
    """New classes in each task, >= 1."""
    first_classes: Count | None = None
    """Classes of the first task, >= 1; null = classes_per_task."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of new classes of each task."""
        first = self.classes_per_task if self.first_classes is None else self.first_classes
        return (first, *(self.classes_per_task,) * (self.tasks - 1))


@dataclass(frozen=True, kw_only=True)
class DilConfig(StreamConfig):
    """A domain-incremental stream: every task brings the same classes in a new domain."""

    domain_order: Literal["seeded", "given"] = "seeded"
    """Order of the domains: seeded (from the order seed) or given (as the list of domains stands)."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig(StreamConfig):
    """What every stream of the user's own copy of some data can be asked for."""

    on_damaged: Literal["error", "skip"] = "error"
    """An item that cannot be decoded: error (stop before training) or skip (leave it out and record it)."""
    on_copies: Literal["error", "skip"] = "error"
    """Items of equal content in two splits, tasks or classes: error, or skip (keep one, tests first, note the rest)."""
    links: Literal["inside", "anywhere"] = "inside"
    """Symbolic links that are followed: inside (of the root), or anywhere, as hub caches have theirs (blobs/)."""
    shots_list: str | None = None
    """Exact training items as a JSONL file, one item a row, instead of a draw; null = draw ``shots`` per class."""


@dataclass(frozen=True, kw_only=True)
class NamedConfig(SourceConfig):
    """What every stream of one's own folders of images or clips can be asked for."""

    class_names: Annotated[dict[str, str], Field(title='new names by present ones, e.g. {"4": four}')] = (
        dataclasses.field(default_factory=dict, hash=False)
    )
    """Names for classes in place of their present ones, e.g. {"4": four}; those left out keep theirs."""


@dataclass(frozen=True, kw_only=True)
class SourceCilConfig(SourceConfig, CilConfig):
    """A class-incremental stream of the user's own copy of some data."""


@dataclass(frozen=True, kw_only=True)
class SourceDilConfig(SourceConfig, DilConfig):
    """A domain-incremental stream of the user's own copy of some data."""

    domains: tuple[str, ...] = ()
    """Names of the domains to use; empty = all there are, sorted by name."""
    published: ClassVar[tuple[str, ...]] = ()  # the domains of a published dataset

    def problems(self) -> list[str]:
        problems = [*super().problems(), *listed_twice("domain", self.domains)]
        unknown = [name for name in self.domains if self.published and name not in self.published]
        return problems + [unknown_name("domain", name, self.published) for name in unknown]


def repeated(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, sorted, each named once."""
    return sorted(value for value, times in Counter(values).items() if times > 1)


def listed_twice(kind: str, names: Iterable[str]) -> list[str]:
    """Sentences about names in a setting that occur more than once."""
    return [f"{kind} {name!r} is listed more than once" for name in repeated(names)]
