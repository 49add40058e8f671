"""Accuracies of a saved base model: what it knows (print), what it is mediocre at (handwriting), its format.

Measured through the model's folder with the stock processor and ``generate``, in float32, after the weights
were saved in bfloat16 and loaded again.
Deliberately absent: rollouts and batching for speed; ``methods`` has those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.judgement import Score
from eval.score import score
from task_streams.datasets.digits import digits
from task_streams.probes.glyphs import DIGITS, LETTERS, glyph_examples
from task_streams.prompt import prompt_messages, request
from task_streams.prompt_style import SUITE, PromptStyle, prompt_style
from task_streams.types import Example

GLYPH_SEED = 1000  # of the printed sample
GLYPH_COUNT = 34 * 15  # printed sample: every digit and letter 15 times, in unseen fonts
DIGIT_COUNT = 1797  # handwritten digits: all there are
BATCH = 64
GROUP = 8  # sampled answers per digit
SAMPLED_EVERY = 6  # every sixth handwritten digit is also asked with sampling


@dataclass(frozen=True, slots=True)
class Measures:
    """What the base model can do; each value from 0 to 1, of greedy answers if not said otherwise.

    Attributes:
        format: well-formed replies to the handwritten digits.
        printed: right answers about printed glyphs in fonts held out from pretraining; a digit is asked
            among the ten digits, a letter among the 24 letters.
        handwriting: right answers about the handwritten digits, ten candidates.
        silent: the same, asked to answer without a thought.
        mixed_groups: groups of 8 answers to one digit, drawn at temperature 1, in which some are right and
            some wrong: the groups that teach a policy gradient something.
        right_groups: groups that are all right.
        per_digit: ``handwriting`` by digit.
    """

    format: float
    printed: float
    handwriting: float
    silent: float
    mixed_groups: float
    right_groups: float
    per_digit: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)


class Answerer:
    """A model folder, loaded in float32, that answers questions about single images."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model.requires_grad_(False)

    def answers(
        self, examples: Sequence[Example], labels: Sequence[str], style: PromptStyle = SUITE, samples: int = 0
    ) -> Iterator[list[Score]]:
        """Scores of each example: one greedy answer, or ``samples`` drawn at temperature 1."""
        count = max(samples, 1)
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            texts = self._generate(batch, labels, style, samples)
            for index, example in enumerate(batch):
                replies = texts[index * count : (index + 1) * count]
                yield [score(text, example.label, labels, style) for text in replies]

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Example], labels: Sequence[str], style: PromptStyle, samples: int) -> list[str]:
        prompt = self.processor.apply_chat_template(
            prompt_messages(labels, style), tokenize=False, add_generation_prompt=True
        )
        images = [list(request(example, labels, style).images) for example in batch]
        inputs = self.processor(text=[prompt] * len(batch), images=images, return_tensors="pt")
        sampling: dict[str, Any] = {"do_sample": False}
        if samples:
            sampling = {"do_sample": True, "num_return_sequences": samples, "top_k": 0}
        tokens = self.model.generate(**inputs, max_new_tokens=32, **sampling)
        written = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.batch_decode(written, skip_special_tokens=True)
        return texts


def share(flags: Sequence[bool]) -> float:
    """Share of true values.

    Raises:
        ValueError: no values.
    """
    if not flags:
        raise ValueError("share of nothing")
    return sum(flags) / len(flags)


def measure(folder: Path, digit_count: int = DIGIT_COUNT, glyph_count: int = GLYPH_COUNT) -> Measures:
    """All accuracies of the model in ``folder``; about a minute on 2 cores with the default counts."""
    answerer = Answerer(folder)
    written = digits()[:digit_count]
    greedy = [scores[0] for scores in answerer.answers(written, DIGITS)]
    silent = [scores[0].correct for scores in answerer.answers(written, DIGITS, prompt_style("suite", think=False))]
    rights = _right_answers(answerer, written[::SAMPLED_EVERY])
    correct = [score.correct for score in greedy]
    return Measures(
        format=share([score.format_ok for score in greedy]),
        printed=printed_accuracy(answerer, glyph_count),
        handwriting=share(correct),
        silent=share(silent),
        mixed_groups=share([0 < right < GROUP for right in rights]),
        right_groups=share([right == GROUP for right in rights]),
        per_digit=_per_label(written, correct),
    )


def printed_accuracy(answerer: Answerer, count: int = GLYPH_COUNT) -> float:
    """Accuracy on printed glyphs in fonts that pretraining never showed."""
    examples = glyph_examples(count, GLYPH_SEED)
    right: list[bool] = []
    for labels in (DIGITS, LETTERS):
        asked = [example for example in examples if example.label in labels]
        right += [scores[0].correct for scores in answerer.answers(asked, labels)]
    return share(right)


def _right_answers(answerer: Answerer, examples: Sequence[Example]) -> list[int]:
    """Right answers in each group of 8 sampled ones; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        groups = list(answerer.answers(examples, DIGITS, samples=GROUP))
    return [sum(score.correct for score in group) for group in groups]


def _per_label(examples: Sequence[Example], correct: Sequence[bool]) -> dict[str, float]:
    pairs = list(zip(examples, correct, strict=True))
    labels = sorted({example.label for example in examples}, key=DIGITS.index)
    return {label: share([right for example, right in pairs if example.label == label]) for label in labels}
