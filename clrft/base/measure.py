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

from eval.score import Score, score_classification
from task_streams.digits import digits
from task_streams.glyphs import DIGITS, LETTERS, glyph_examples
from task_streams.prompt import prompt_messages
from task_streams.types import Example

GLYPH_SEED = 1000  # of the printed sample
GLYPHS = 34 * 15  # printed sample: every digit and letter 15 times, in unseen fonts
BATCH = 64


@dataclass(frozen=True, slots=True)
class Measures:
    """Accuracies of greedy answers, each from 0 to 1.

    Attributes:
        format: well-formed replies to the handwritten digits.
        printed: right answers about printed glyphs in fonts held out from pretraining; a digit is asked
            among the ten digits, a letter among the 24 letters.
        handwriting: right answers about the handwritten digits, ten candidates.
        silent: the same, asked to answer without a thought.
    """

    format: float
    printed: float
    handwriting: float
    silent: float

    def to_json(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


class Answerer:
    """A model folder, loaded in float32, that answers questions about single images."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model.requires_grad_(False)

    def answers(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        think: bool = True,
        samples: int = 0,
    ) -> Iterator[list[Score]]:
        """Scores of each example: one greedy answer, or ``samples`` drawn at temperature 1."""
        count = max(samples, 1)
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            texts = self._generate(batch, labels, think, samples)
            for index, example in enumerate(batch):
                replies = texts[index * count : (index + 1) * count]
                yield [score_classification(text, example.label, labels, think) for text in replies]

    @torch.inference_mode()
    def _generate(
        self, batch: Sequence[Example], labels: Sequence[str], think: bool, samples: int
    ) -> list[str]:
        prompt = self.processor.apply_chat_template(
            prompt_messages(labels, think), tokenize=False, add_generation_prompt=True
        )
        images = [[example.image()] for example in batch]
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


def measure(folder: Path, handwritten: Sequence[Example] | None = None, glyphs: int = GLYPHS) -> Measures:
    """All accuracies of the model in ``folder``; about half a minute on 2 cores."""
    answerer = Answerer(folder)
    written = digits() if handwritten is None else handwritten
    greedy = [scores[0] for scores in answerer.answers(written, DIGITS)]
    silent = [scores[0].correct for scores in answerer.answers(written, DIGITS, think=False)]
    return Measures(
        format=share([score.format_ok for score in greedy]),
        printed=printed_accuracy(answerer, glyphs),
        handwriting=share([score.correct for score in greedy]),
        silent=share(silent),
    )


def printed_accuracy(answerer: Answerer, count: int = GLYPHS) -> float:
    """Accuracy on printed glyphs in fonts that pretraining never showed."""
    examples = glyph_examples(count, GLYPH_SEED)
    right: list[bool] = []
    for labels in (DIGITS, LETTERS):
        asked = [example for example in examples if example.label in labels]
        right += [scores[0].correct for scores in answerer.answers(asked, labels)]
    return share(right)
