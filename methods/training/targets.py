"""Requests with given completions as one batch of model inputs: for penalties and measures that need a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from methods.costs.meter import IGNORED, meter_of
from methods.lazy import Tensor, torch
from methods.model.weights import clear_rope_state
from task_streams.prompt import Request

if TYPE_CHECKING:
    from methods.model.policy import Policy


def target_inputs(policy: Policy, requests: Sequence[Request], texts: Sequence[str]) -> dict[str, Any]:
    """Arguments of the model's forward call, ``labels`` among them; prompts padded left, completions right.

    Every completion ends with the end of sequence; prompt and padding have the label -100.
    """
    tokenizer = policy.processor.tokenizer
    batch = dict(policy.encode(requests))
    ends = [text + tokenizer.eos_token for text in texts]
    added = tokenizer(ends, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt")
    ids, mask = added["input_ids"].to(policy.device), added["attention_mask"].to(policy.device)  # [B, L]
    prompt = batch["input_ids"]  # [B, P]
    batch["input_ids"] = torch.cat([prompt, ids], dim=1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], mask], dim=1)
    if "mm_token_type_ids" in batch:
        batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], dim=1)
    labels = ids.masked_fill(mask == 0, IGNORED)
    batch["labels"] = torch.cat([torch.full_like(prompt, IGNORED), labels], dim=1)
    return batch


def completion_logits(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits and labels of the completions' tokens, [N, V] and [N]; each logit row predicts its label."""
    clear_rope_state(model)
    arguments = {name: value for name, value in inputs.items() if name != "labels"}
    logits = model(**(arguments | {"use_cache": False})).logits[:, :-1]
    labels = inputs["labels"][:, 1:]
    learned = labels != IGNORED
    meter_of(model).completions(learned.sum())
    return logits[learned], labels[learned]


def log_likelihood(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Sum of the log-probabilities of all completions' tokens, a scalar with gradients."""
    logits, labels = completion_logits(model, inputs)
    return -torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def mean_over_completions(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of each completion's mean, a scalar: the same however a batch is split into micro-batches of one size.

    Values are one for each learned token, in the order of ``completion_logits``, [N]; labels are -100 where nothing is
    learned, [B, L].
    """
    learned = labels[:, 1:] != IGNORED
    rows = learned.nonzero()[:, 0]  # [N]
    return (values / learned.sum(dim=1)[rows]).sum() / len(labels)
