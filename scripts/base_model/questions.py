"""Pretraining questions: random candidate lists in the suite's own prompt, and completions, as tensors.

Text comes from ``task_streams`` alone, so the base answers exactly the prompts that streams send.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from scripts.base_model.architecture import IMAGE_TOKENS
from scripts.base_model.tokenizer import END_OF_TEXT, IMAGE_PAD, TURN_END, special_id
from task_streams.probes.glyphs import DIGITS, LETTERS
from task_streams.prompt import THOUGHTS, prompt_messages, target_text
from task_streams.prompt_style import prompt_style

LABELS = DIGITS + LETTERS
DIGIT_SHARE = 0.65  # of the shown glyphs; letters share the rest
DIGITS_ONLY_SHARE = 0.7  # of the questions about a digit: all candidates are digits
LETTERS_ONLY_SHARE = 0.5  # of the questions about a letter: all candidates are letters
LONG_SHARE = 0.1  # of the batches: 11 to 24 candidates; else 2 to 10
SILENT_SHARE = 0.15  # of the questions: answer without a thought
LABEL_WEIGHT = 4.0  # loss weight of the completion's label tokens, against 1 of the others


@dataclass(frozen=True, slots=True)
class Question:
    """One training text: which glyph is shown, what is asked, what is to be said."""

    label: str
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Tokens of a batch, padded on the right.

    Attributes:
        ids: [B, L] token ids, the prompt with its 16 image tokens, then the completion and the end of turn.
        weights: [B, L] loss weight of each token as a target; 0 in prompt and padding.
        image_start: column of the first image token, the same in every row.
    """

    ids: Tensor
    weights: Tensor
    image_start: int


def draw_questions(count: int, tokenizer: Qwen2Tokenizer, rng: np.random.Generator) -> list[Question]:
    """Questions with one length of candidate list, so that little is padded."""
    length = int(rng.integers(11, 25) if rng.random() < LONG_SHARE else rng.integers(2, 11))
    return [_draw_question(length, tokenizer, rng) for _ in range(count)]


def _draw_question(length: int, tokenizer: Qwen2Tokenizer, rng: np.random.Generator) -> Question:
    is_digit = rng.random() < DIGIT_SHARE
    kind, kind_share = (DIGITS, DIGITS_ONLY_SHARE) if is_digit else (LETTERS, LETTERS_ONLY_SHARE)
    label = str(rng.choice(kind))
    one_kind = length <= len(kind) and rng.random() < kind_share
    others = [other for other in (kind if one_kind else LABELS) if other != label]
    candidates = [label, *map(str, rng.choice(others, size=length - 1, replace=False))]
    rng.shuffle(candidates)
    if rng.random() < 0.5:
        candidates.sort()
    style = prompt_style("suite", think=rng.random() >= SILENT_SHARE)
    messages = prompt_messages(candidates, style)
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    thought = THOUGHTS[int(rng.integers(len(THOUGHTS)))]
    return Question(label, str(prompt), target_text(label, thought, style))


def encode(questions: list[Question], tokenizer: Qwen2Tokenizer) -> TextBatch:
    """Tokens and loss weights of a batch of questions."""
    prompts = [question.prompt.replace(IMAGE_PAD, IMAGE_PAD * IMAGE_TOKENS) for question in questions]
    prompt_ids = tokenizer(prompts).input_ids
    texts = [question.completion + TURN_END for question in questions]
    completions = tokenizer(texts, return_offsets_mapping=True)
    length = max(len(a) + len(b) for a, b in zip(prompt_ids, completions.input_ids, strict=True))
    ids = torch.full((len(questions), length), special_id(tokenizer, END_OF_TEXT))
    weights = torch.zeros(len(questions), length)
    for row, (question, start) in enumerate(zip(questions, map(len, prompt_ids), strict=True)):
        target = completions.input_ids[row]
        ids[row, : start + len(target)] = torch.tensor(prompt_ids[row] + target)
        spans = completions.offset_mapping[row]
        weights[row, start : start + len(target)] = torch.tensor(_token_weights(question, spans))
    image_start = prompt_ids[0].index(special_id(tokenizer, IMAGE_PAD))
    return TextBatch(ids, weights, image_start)


def _token_weights(question: Question, spans: list[tuple[int, int]]) -> list[float]:
    """Weight of each completion token: more where it spells the label, which is all the image decides."""
    inside = [False] * (len(question.completion) + 64)
    start = question.completion.find(question.label)
    while start >= 0:
        end = start + len(question.label)
        inside[start:end] = [True] * len(question.label)
        start = question.completion.find(question.label, end)
    return [LABEL_WEIGHT if any(inside[a:b]) else 1.0 for a, b in spans]
