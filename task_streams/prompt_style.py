"""Prompt styles: the words in which a stream asks, one small YAML file each; a user's own has the same form.

The tags ``<think>`` and ``<answer>`` are deliberately no part of a style: completions are read where there is none,
such as the stored predictions of a run or the replies to a probe set. A wording that asks for other tags is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from task_streams.errors import UserError, checked_yaml, open_file, unknown_name
from task_streams.labels import normalise_label

FOLDER = Path(__file__).with_name("prompt_styles")
LABEL_ORDERS = ("sorted", "appearance")
# What a wording must have in braces, and what it may have, by kind of question.
BLANKS = {"classification": ("labels", "media"), "detection": ("labels",), "question": ("question",)}
CHOICES = {"labels": ("as_named", "normalised"), "label_order": LABEL_ORDERS, "media": ("first",)}
SECTIONS = ("think", "answer_only")
KEYS = (*CHOICES, "placeholders", *SECTIONS)
_BLANK = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a stream asks.

    Attributes:
        name: ``suite``, or the name of another file without its ending.
        think: prompts ask for a thought before the answer.
        wordings: text by kind of question, with ``{labels}``, ``{media}`` or ``{question}`` where these are filled in.
        normalised: classes are listed as answers are compared (``normalise_label``), else as they are named.
        label_order: of the classes in a prompt where ``stream.label_order`` says nothing: sorted or appearance.
        media_first: images and clips stand before the text; else where ``model.media`` has them.
        placeholders: words of a prompt's example; a thought that holds them is a copy and no thought.
    """

    name: str
    think: bool
    wordings: Mapping[str, str] = field(hash=False)
    normalised: bool = False
    label_order: str = "sorted"
    media_first: bool = False
    placeholders: tuple[str, ...] = ()

    def listed(self, label: str) -> str:
        """A class name as prompts list it and right answers repeat it."""
        return normalise_label(label) if self.normalised else label

    def ask(self, kind: str, labels: Sequence[str], media: str = "image") -> str:
        """Text of the question which of the classes an image or clip shows, or where in an image they are.

        Names stand in quotes where one of them holds a comma or a quote.

        Args:
            kind: ``classification`` or ``detection``.
            labels: candidate classes, in the order in which they are listed.
            media: what is shown, in a word.
        """
        names = [self.listed(label) for label in labels]
        if any("," in name or '"' in name for name in names):  # else no list could be told apart
            names = [json.dumps(name, ensure_ascii=False) for name in names]
        return self.wording(kind).replace("{media}", media).replace("{labels}", ", ".join(names))

    def ask_own(self, question: str) -> str:
        """Text of an example's own question."""
        return self.wording("question").replace("{question}", question.strip())

    def is_thought(self, text: str) -> bool:
        """Whether what stands in a think block is a thought: not empty, and no copy of the prompt's example."""
        words = normalise_label(text)
        return bool(text.strip()) and not any(normalise_label(copied) in words for copied in self.placeholders)

    def wording(self, kind: str) -> str:
        """Text of one kind of question, nothing filled in; a ``UserError`` where the style has none."""
        if kind not in self.wordings:
            known, think = ", ".join(self.wordings), str(self.think).lower()
            raise UserError(
                f"stream.prompt: the style {self.name!r} has no wording for {kind}; it has {known} "
                f"(stream.think={think}). Expected a style that has it, such as suite."
            )
        return self.wordings[kind]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that the style says, its name aside."""
        content = {name: value for name, value in asdict(self).items() if name != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def prompt_style(name: str, think: bool = True) -> PromptStyle:
    """The style of a name, or of a user's own file, whose name ends in ``.yaml`` or ``.yml``.

    Raises:
        UserError: no such style, or everything that is wrong with the file.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name), think)
    known = built_in_styles()
    if name not in known:
        raise UserError(f"{unknown_name('prompt style', name, known)} A path that ends in .yaml is taken as a file.")
    return _built_in(known[name], think)


def built_in_styles() -> dict[str, Path]:
    """The files of the styles that go by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def _read(path: Path, think: bool) -> PromptStyle:
    where = f"prompt style {str(path)!r}"
    try:
        with open_file(path) as file:
            values = checked_yaml(yaml.BaseLoader(file.read().decode("utf-8")))  # every scalar is a text
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{where}: no YAML ({' '.join(str(error).split())}).") from error
    section = SECTIONS[not think]
    if problems := _problems(values, section):
        raise UserError(*(f"{where}: {problem}" for problem in problems))
    return PromptStyle(
        name=path.stem,
        think=think,
        wordings=values[section],
        normalised=values["labels"] == "normalised",
        label_order=values["label_order"],
        media_first="media" in values,
        placeholders=tuple(values.get("placeholders", ())),
    )


_built_in = cache(_read)  # a file of one's own may change, one of the suite's does not


def _problems(values: Any, section: str) -> list[str]:
    """Sentences about a style file; ``section``: the wordings that are asked for."""
    if not isinstance(values, dict):
        return [f"expected the keys {', '.join(KEYS)}."]
    problems = [unknown_name("key", key, KEYS) for key in values if key not in KEYS]
    problems += [f"{key} is missing." for key in ("labels", "label_order") if key not in values]
    if section not in values:
        problems.append(f"{section} is missing; stream.think={str(section == 'think').lower()} takes its wordings.")
    problems += [
        f"{key} is {values[key]!r}, expected {' or '.join(allowed)}."
        for key, allowed in CHOICES.items()
        if key in values and values[key] not in allowed
    ]
    copied = values.get("placeholders", [])
    if not isinstance(copied, list) or not all(isinstance(one, str) and normalise_label(one) for one in copied):
        problems.append(f"placeholders is {copied!r}, expected a list of texts.")
    texts: dict[tuple[str, str], Any] = {}
    for name in (name for name in SECTIONS if name in values):
        wordings = values[name]
        if not isinstance(wordings, dict) or not wordings:
            problems.append(f"{name}: expected a text for {', '.join(BLANKS)}, or for some of them.")
        else:
            texts |= {(name, kind): text for kind, text in wordings.items()}
    for (name, kind), text in texts.items():
        where = f"{name}.{kind}"
        if kind not in BLANKS:
            problems.append(unknown_name("key", where, [f"{name}.{one}" for one in BLANKS]))
        elif not isinstance(text, str):
            problems.append(f"{where}: expected a text.")
        else:
            problems += [f"{where}: {problem}" for problem in _wording_problems(text, BLANKS[kind], name == "think")]
    return problems


def _wording_problems(text: str, names: Sequence[str], think: bool) -> list[str]:
    """Sentences about a text with blanks of these names, of which the first must be there."""
    blanks = [f"{{{name}}}" for name in names]
    found = dict.fromkeys(f"{{{name}}}" for name in _BLANK.findall(text))
    problems = [unknown_name("placeholder", one, blanks) for one in found if one not in blanks]
    problems += [] if blanks[0] in found else [f"{blanks[0]} is missing."]
    if "<answer>" not in text or ("<think>" in text) != think:
        asked = "<think> and <answer>" if think else "<answer> and no <think>"
        problems.append(f"expected a text that asks for {asked}, as replies are read.")
    return problems


SUITE = prompt_style("suite")
