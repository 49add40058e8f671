"""The policies that a drift probe compares with: a snapshot that is there anyway, or weights on disk.

At most one model more than there are is in memory at a time. With an adapter the others cost none: the base is the
model without it, and an earlier adapter is put beside the one that is trained, and taken away again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from methods.costs.flops import TRAINED_ADAPTER
from methods.drift.rollouts import Party
from methods.generation.low_precision import lower
from methods.inputs.vision import batch_images
from methods.model.policy import SAFE, Policy
from methods.model.snapshots import AdapterSnapshot, Snapshot
from methods.training.grpo_trainer import release

PROBE_ADAPTER = "probe"


def party(policy: Policy, model: Any, name: str) -> Party:
    """A model of a policy's kind, computing as it does; the policy's own, or another."""

    @contextmanager
    def use() -> Iterator[Any]:
        with policy.computing():
            yield model

    return Party(name, use)


@contextmanager
def held(policy: Policy, snapshot: Snapshot, name: str) -> Iterator[Party]:
    """A snapshot of the policy that somebody else holds."""
    if isinstance(snapshot, AdapterSnapshot):
        yield Party(name, snapshot.active)
        return
    with snapshot.active() as model:
        release(model)  # a trainer's patch; the next trainer makes its own
        yield party(policy, model, name)


@contextmanager
def base_of(policy: Policy, path: str) -> Iterator[Party]:
    """The base: the model without its adapter, or loaded from a folder or hub id."""
    if policy.has_adapter:
        yield Party("base", AdapterSnapshot(policy.model).active)
        return
    with loaded(policy, path, "base", policy.config.revision) as base:
        yield base


@contextmanager
def saved(policy: Policy, folder: Path, name: str) -> Iterator[Party]:
    """What ``Policy.save`` wrote of an earlier policy of the same settings."""
    if not policy.has_adapter:
        with loaded(policy, str(folder), name) as earlier:
            yield earlier
        return
    model = policy.model
    try:
        model.add_adapter(PROBE_ADAPTER, model.peft_config[TRAINED_ADAPTER])
        weights = load_file(folder / "adapter_model.safetensors")
        set_peft_model_state_dict(model, weights, adapter_name=PROBE_ADAPTER)
        yield Party(name, AdapterSnapshot(model, PROBE_ADAPTER).active)
    finally:
        model.delete_adapter(PROBE_ADAPTER)


@contextmanager
def loaded(policy: Policy, path: str, name: str, revision: str | None = None) -> Iterator[Party]:
    """Full weights from a folder, or a hub id's revision, as the policy's own were loaded; gone after the block."""
    model: Any = AutoModelForImageTextToText.from_pretrained(
        path, revision=revision, dtype=policy.model.dtype, attn_implementation=policy.attention, **SAFE
    )
    batch_images(model)
    policy.meter.watch_too(model)
    model.requires_grad_(False)
    if policy.numerics.autocasts:
        lower(model, policy.numerics.compute)
    model.to(policy.device)
    model.eval()
    yield party(policy, model, name)


@contextmanager
def untouched(policy: Policy, seed: int) -> Iterator[None]:
    """The policy as in an evaluation, from a random state of its own; all of it is as before after the block."""
    model = policy.model
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    was_training = model.training
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
            for name, weight in model.named_parameters():
                weight.requires_grad_(trained[name])
