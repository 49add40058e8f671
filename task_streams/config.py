"""Settings that streams share: frozen dataclasses that OmegaConf reads as structured configs.

A stream's own dataclass extends ``CilConfig`` or ``DilConfig`` and adds to ``problems``; all problems of a
config are raised at once when it is made. ``int | None`` means: ``null`` takes everything there is.
"""

from dataclasses import dataclass
from typing import Any

from task_streams.errors import UserError, unknown_name
from task_streams.prompt_style import LABEL_ORDERS, PromptStyle, prompt_style

DOMAIN_ORDERS = ("seeded", "given")
ON_PROBLEM = ("error", "skip")
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What every stream can be asked for.

    Raises:
        UserError: with every value that is out of range.
    """

    shots: int | None = 24
    """Training examples per class and task, >= 1; null = all that are not held out for testing."""
    test_per_class: int | None = 40
    """Held-out test examples per class and task, >= 1; null = the whole test split (or one fifth)."""
    draw_seed: int = 42
    """Seed of the draw of training and test examples, 0 to 2**32-1; the same for every class order."""
    prompt: str = "suite"
    """Words of the prompt: suite, rapo_paper, rapo_released, or the path of a style of your own (.yaml)."""
    label_order: str | None = None
    """Order of classes in a prompt: sorted, appearance (position tells which are new); null = as the style has it."""
    think: bool = True
    """Whether the prompt asks for a <think> block before the <answer> block."""

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise UserError(*problems)
        if self.label_order is None:
            object.__setattr__(self, "label_order", self.style.label_order)  # so that it is on record

    def problems(self) -> list[str]:
        """One sentence for each value that is out of range; streams add their own."""
        found = [
            *at_least_one("shots", self.shots),
            *at_least_one("test_per_class", self.test_per_class),
            *seed_problems("draw_seed", self.draw_seed),
            *([] if self.label_order is None else choice_problems("label_order", self.label_order, LABEL_ORDERS)),
        ]
        try:
            prompt_style(self.prompt, self.think)
        except UserError as error:
            found += error.problems
        return found

    @property
    def style(self) -> PromptStyle:
        """The words of the prompt."""
        return prompt_style(self.prompt, self.think)

    @property
    def draw_settings(self) -> dict[str, Any]:
        """Keyword arguments for ``build_cil`` and ``build_dil``."""
        return {
            "shots": self.shots,
            "test_per_class": self.test_per_class,
            "draw_seed": self.draw_seed,
            "label_order": self.label_order,
        }


@dataclass(frozen=True, kw_only=True)
class CilConfig(StreamConfig):
    """A class-incremental stream: every task brings new classes."""

    tasks: int = 5
    """Number of tasks, >= 1; tasks x classes_per_task classes must exist."""
    classes_per_task: int = 2
    """New classes in each task, >= 1."""
    first_classes: int | None = None
    """Classes of the first task, >= 1; null = classes_per_task."""

    def problems(self) -> list[str]:
        return [
            *super().problems(),
            *at_least_one("tasks", self.tasks),
            *at_least_one("classes_per_task", self.classes_per_task),
            *at_least_one("first_classes", self.first_classes),
        ]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of new classes of each task."""
        first = self.classes_per_task if self.first_classes is None else self.first_classes
        return (first, *(self.classes_per_task,) * (self.tasks - 1))


@dataclass(frozen=True, kw_only=True)
class DilConfig(StreamConfig):
    """A domain-incremental stream: every task brings the same classes in a new domain."""

    domain_order: str = "seeded"
    """Order of the domains: seeded (from the order seed) or given (as the list of domains stands)."""

    def problems(self) -> list[str]:
        return super().problems() + choice_problems("domain_order", self.domain_order, DOMAIN_ORDERS)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(StreamConfig):
    """What every stream of the user's own copy of some data can be asked for."""

    on_damaged: str = "error"
    """An item that cannot be decoded: error (stop before training) or skip (leave it out and record it)."""
    on_copies: str = "error"
    """Items of equal content in two splits, tasks or classes: error, or skip (keep one, tests first, note the rest)."""
    shots_list: str | None = None
    """Exact training items as a JSONL file, one item a row, instead of a draw; null = draw ``shots`` per class."""

    def problems(self) -> list[str]:
        return [
            *super().problems(),
            *choice_problems("on_damaged", self.on_damaged, ON_PROBLEM),
            *choice_problems("on_copies", self.on_copies, ON_PROBLEM),
        ]


@dataclass(frozen=True, kw_only=True)
class SourceCilConfig(SourceConfig, CilConfig):
    """A class-incremental stream of the user's own copy of some data."""


@dataclass(frozen=True, kw_only=True)
class SourceDilConfig(SourceConfig, DilConfig):
    """A domain-incremental stream of the user's own copy of some data."""

    domains: tuple[str, ...] = ()
    """Names of the domains to use; empty = all there are, sorted by name."""

    def problems(self) -> list[str]:
        twice = repeated(tuple(self.domains))
        return super().problems() + [f"domain {name!r} is listed more than once" for name in twice]


def at_least_one(name: str, value: int | None) -> list[str]:
    """Problem of a count that must be 1 or more, or null where the field allows it."""
    return [f"{name} is {value}; expected 1 or more"] if value is not None and value < 1 else []


def seed_problems(name: str, value: int) -> list[str]:
    """Problem of a seed outside of what ``numpy.random.RandomState`` takes."""
    return [] if 0 <= value <= MAX_SEED else [f"{name} is {value}; expected 0 to {MAX_SEED}"]


def choice_problems(name: str, value: str, choices: tuple[str, ...]) -> list[str]:
    """Problem of a value that is none of the choices."""
    return [] if value in choices else [unknown_name(name, value, choices)]


def repeated(values: tuple[str, ...]) -> list[str]:
    """Values that occur more than once, each named once."""
    return sorted({value for value in values if values.count(value) > 1})
