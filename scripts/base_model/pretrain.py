"""Pretraining of the embedded model on printed glyphs, in two stages of fixed step counts.

First the vision tower alone under a throw-away classifier head, then the whole model on question and answer,
with the head's loss kept as an auxiliary term. No handwriting is ever shown: the model is meant to be
mediocre on it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformers import Qwen2Tokenizer

from scripts.base_model.architecture import IMAGE_TOKENS, image_tokens
from scripts.base_model.augment import Distortion, distort, glyph_pool
from scripts.base_model.questions import LABELS, TextBatch, draw_questions, encode


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, not seconds, so that a seed gives one result whatever else the machine does.

    Attributes:
        vision_steps: updates of the vision tower with the classifier head.
        model_steps: updates of the whole model.
        vision_batch: glyphs per update of the first stage.
        model_batch: questions per update of the second stage.
        vision_rate: peak learning rate of the first stage.
        model_rate: peak learning rate of the second stage.
        warmup: steps over which either rate rises; then it falls along a cosine to 0.
        auxiliary: weight of the classifier's loss in the second stage.
    """

    vision_steps: int = 800
    model_steps: int = 700
    vision_batch: int = 64
    model_batch: int = 64
    vision_rate: float = 2e-3
    model_rate: float = 2e-3
    warmup: int = 50
    auxiliary: float = 0.2
    distortion: Distortion = field(default_factory=Distortion)


Report = Callable[[str, int, int, float], None]  # stage, steps done, steps in all, loss


def pretrain(model: Any, tokenizer: Qwen2Tokenizer, seed: int, schedule: Schedule, report: Report) -> None:
    """Train ``model``, a ``Qwen2VLForConditionalGeneration`` in float32, in place."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = glyph_pool(LABELS)
    head = _head(model.config.text_config.hidden_size, generator)
    model.train()
    losses = _vision_losses(model, head, pool, schedule, generator)
    _descend(losses, [*model.model.visual.parameters(), *head.parameters()], schedule, "vision tower", report)
    losses = _model_losses(model, head, pool, tokenizer, schedule, rng, generator)
    _descend(losses, [*model.parameters(), *head.parameters()], schedule, "whole model", report)
    model.eval()


def _head(width: int, generator: Generator) -> nn.Linear:
    """Classifier over all image tokens, thrown away after pretraining."""
    head = nn.Linear(width * IMAGE_TOKENS, len(LABELS))
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=generator)
        head.bias.zero_()
    return head


def _vision_losses(
    model: Any, head: nn.Linear, pool: Tensor, schedule: Schedule, generator: Generator
) -> Iterable[Tensor]:
    for _ in range(schedule.vision_steps):
        classes = torch.randint(len(LABELS), (schedule.vision_batch,), generator=generator)
        images = distort(_pick(pool, classes, generator), schedule.distortion, generator)
        tokens = image_tokens(model.model.visual, images)
        yield functional.cross_entropy(head(tokens.flatten(1)), classes)


def _model_losses(
    model: Any,
    head: nn.Linear,
    pool: Tensor,
    tokenizer: Qwen2Tokenizer,
    schedule: Schedule,
    rng: np.random.Generator,
    generator: Generator,
) -> Iterable[Tensor]:
    for _ in range(schedule.model_steps):
        questions = draw_questions(schedule.model_batch, tokenizer, rng)
        classes = torch.tensor([LABELS.index(question.label) for question in questions])
        images = distort(_pick(pool, classes, generator), schedule.distortion, generator)
        tokens = image_tokens(model.model.visual, images)
        auxiliary = functional.cross_entropy(head(tokens.flatten(1)), classes)
        yield completion_loss(model, tokens, encode(questions, tokenizer)) + schedule.auxiliary * auxiliary


def _pick(pool: Tensor, classes: Tensor, generator: Generator) -> Tensor:
    """A glyph of each class in a random font: [B] -> [B, 64, 64]."""
    return pool[classes, torch.randint(pool.shape[1], classes.shape, generator=generator)]


def completion_loss(model: Any, tokens: Tensor, batch: TextBatch) -> Tensor:
    """Weighted cross-entropy of the completions; ``tokens`` are the image tokens, [B, 16, 128]."""
    start, end = batch.image_start, batch.image_start + tokens.shape[1]
    embedded = model.get_input_embeddings()(batch.ids)
    embedded = torch.cat([embedded[:, :start], tokens, embedded[:, end:]], dim=1)
    positions = rope_positions(start, batch.ids.shape[1]).unsqueeze(1).expand(-1, len(batch.ids), -1)
    hidden = model.model.language_model(inputs_embeds=embedded, position_ids=positions, use_cache=False)[0]
    weights = batch.weights[:, 1:]
    wanted = weights > 0
    logits = model.lm_head(hidden[:, :-1][wanted])
    losses = functional.cross_entropy(logits, batch.ids[:, 1:][wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights.sum()


def rope_positions(image_start: int, length: int) -> Tensor:
    """Positions in time, height and width of a row with one image: [3, L]. Right padding needs no care."""
    side = round(IMAGE_TOKENS**0.5)
    row = torch.arange(IMAGE_TOKENS) // side
    column = torch.arange(IMAGE_TOKENS) % side
    image = torch.stack([torch.zeros_like(row), row, column]) + image_start
    after = torch.arange(length - image_start - IMAGE_TOKENS) + image_start + side
    before = torch.arange(image_start)
    return torch.cat([before.expand(3, -1), image, after.expand(3, -1)], dim=1)


def _descend(
    losses: Iterable[Tensor], parameters: list[nn.Parameter], schedule: Schedule, stage: str, report: Report
) -> None:
    """One AdamW update per loss, with warm-up and a cosine."""
    vision = stage == "vision tower"
    steps = schedule.vision_steps if vision else schedule.model_steps
    rate = schedule.vision_rate if vision else schedule.model_rate
    unique = list({id(parameter): parameter for parameter in parameters}.values())
    optimizer = torch.optim.AdamW(unique, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, schedule.warmup))
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(unique, 1.0)
        optimizer.step()
        cosine.step()
        report(stage, step, steps, loss.item())


def _rate(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear rise, then a cosine to 0."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * 0.5 * (1 + float(np.cos(np.pi * min(step / max(steps, 1), 1.0))))
