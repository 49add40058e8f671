"""Probe sets: run a policy over one, and score replies in a model's own form or in the suite's.

The reply that is scored is the text inside the first ``<answer>`` block; without such a block it is the completion
without a ``<think>`` block at its start. Then, by the style of the question:

- choice: the reply is an option's letter (``B``, ``(b)``, ``B. two cats``), or an option's text; else the letter that
  the last "answer is" or "answer:" names; else the only letter that stands in it as ``(B)``, ``B.``, ``B)`` or ``B:``.
- yes_no: the first ``yes`` or ``no`` among its words. POPE itself counts as yes whatever holds no "no" or "not".
- open: as answers to questions are compared (``eval/score.py``).
- instruction: every check passes (``eval/checks.py``).

A reply that no rule reads has no answer and is wrong. Deliberately absent: partial credit, and a model as the judge.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.checks import failed_checks
from eval.evaluate import Generate, Spread, completions_by_place
from eval.parse import ANSWER, THOUGHT
from eval.score import matches
from task_streams.answers import normalise_answer, option_letter
from task_streams.probes.sets import Probe, ProbeSet, Style, probe_request
from task_streams.prompt import Fit, Request

_NAMED = re.compile(r"answer(?:\s+is|\s*:)\s*:?\s*\*{0,2}\(?([A-Za-z])\b", re.IGNORECASE)
_MENTIONED = re.compile(r"\(([A-Z])\)|(?<![\w'])([A-Z])[.):](?=\s|$)")
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One question of a probe set, answered once: a row of ``probe_<name>.jsonl``."""

    stage: int  # task (from 1) after which was asked; 0 for the base
    key: str  # the item
    style: Style  # how it was asked and scored
    truth: str  # what is right, as text; the names of the checks for an instruction
    completion: str  # what the policy wrote
    answer: str | None  # what was read out of it; None where nothing could be
    correct: bool  # it is right
    failed: tuple[str, ...] = ()  # checks of an instruction that it does not pass

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {**asdict(self), "failed": list(self.failed)}


def ask(
    generate: Generate,
    asked: ProbeSet,
    *,
    stage: int,
    batch_size: int = 64,
    fit: Fit | None = None,
    on_batch: Callable[[int], None] | None = None,
    spread: Spread | None = None,
) -> list[ProbeAnswer]:
    """Answers to all questions of a probe set, in their order.

    Questions with images and those without come in batches of their own.

    Args:
        generate: the policy.
        asked: the set.
        stage: task (from 1) after which is asked; 0 for the base.
        batch_size: questions per call of ``generate``.
        fit: brings an image to the size in which the model sees it.
        on_batch: called after each batch with the number of questions in it.
        spread: other processes that answer some of the batches; None: all are answered here.
    """
    with_images = [place for place, probe in enumerate(asked.probes) if probe.images]
    without = [place for place, probe in enumerate(asked.probes) if not probe.images]

    def prepare(place: int) -> Request:
        question = probe_request(asked.probes[place])
        return question.fitted(fit) if fit else question

    parts = [
        some[start : start + batch_size] for some in (with_images, without) for start in range(0, len(some), batch_size)
    ]
    completions = completions_by_place(generate, [(part, map(prepare, part)) for part in parts], on_batch, spread)
    return [answered(probe, completions[place], stage) for place, probe in enumerate(asked.probes)]


def answered(probe: Probe, completion: str, stage: int) -> ProbeAnswer:
    """A completion, scored."""
    reply = reply_of(completion)
    if probe.style == "instruction":
        failed = failed_checks(reply, probe.checks)
        truth = ", ".join(check.name for check in probe.checks)
        return ProbeAnswer(stage, probe.key, probe.style, truth, completion, reply or None, not failed, failed)
    answer, correct = scored(probe, reply)
    return ProbeAnswer(stage, probe.key, probe.style, probe.answers[0], completion, answer, correct)


def reply_of(completion: str) -> str:
    """What of a completion is scored."""
    if block := ANSWER.search(completion):
        return block.group(1).strip()
    said = completion.lstrip()
    thought = THOUGHT.match(said)
    return said[thought.end() if thought else 0 :].strip()


def scored(probe: Probe, reply: str) -> tuple[str | None, bool]:
    """The answer that a reply gives, None where no rule reads one, and whether it is right."""
    if probe.style == "choice":
        letter = chosen_letter(reply, probe.options)
        return letter, letter == probe.answers[0]
    if probe.style == "yes_no":
        words = _WORD.findall(reply.lower())
        answer = next((word for word in words if word in ("yes", "no")), None)
        return answer, answer == probe.answers[0]
    return reply or None, bool(reply) and any(matches(reply, truth, probe.rule) for truth in probe.answers)


def chosen_letter(reply: str, options: Sequence[str]) -> str | None:
    """The option that a reply to a choice names, None where it names none or several."""
    letters = [chr(ord("A") + place) for place in range(len(options))]
    whole = option_letter(reply, with_text=True)
    if whole in letters:
        return whole
    given = normalise_answer(reply)
    texts = [letter for letter, text in zip(letters, options, strict=True) if normalise_answer(text) == given]
    if len(texts) == 1:
        return texts[0]
    named: list[str] = [letter.upper() for letter in _NAMED.findall(reply) if letter.upper() in letters]
    if named:
        return named[-1]
    mentioned = {one or other for one, other in _MENTIONED.findall(reply)} & set(letters)
    return mentioned.pop() if len(mentioned) == 1 else None
