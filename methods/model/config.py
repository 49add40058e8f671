"""Settings of the model, and what ``auto`` stands for on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from methods.lazy import torch
from task_streams.config import Count, Settings
from task_streams.errors import UserError

# All that a checkpoint's generation defaults are taken for: where a sequence begins and ends.
SEQUENCE_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How completions are drawn in an evaluation: greedy at temperature 0, else sampled."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Which checkpoint is trained, how it is held in memory, and what of it is trained."""

    path: str | None = None
    """Checkpoint folder or hub id of any AutoModelForImageTextToText; null for the embedded tiny model."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null for its main branch, whose commit is recorded."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type to compute in: float32, bfloat16, float16, or auto (bfloat16 on a GPU, float32 on a CPU)."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """auto (FlashAttention-2 if it can run, else SDPA; recorded), flash_attention_2, sdpa or eager."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto (a GPU if there is one), cpu or cuda."""
    adapter: Literal["none", "lora"] = "none"
    """none (full fine-tuning, vision tower included) or lora."""
    lora_rank: Count = 16
    """Rank of the adapter (at least 1)."""
    lora_alpha: Count = 32
    """Scale of the adapter (at least 1)."""
    lora_targets: str = "all-linear"
    """Modules that get an adapter: all-linear, or a regular expression over module names."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    min_pixels: Count | None = None
    """Images are enlarged to at least this many pixels; null keeps the checkpoint's own limit."""
    max_pixels: Count | None = None
    """Images are shrunk to at most this many pixels; null keeps the checkpoint's own limit."""
    media: Literal["first", "last"] = "first"
    """Where images and clips stand in a prompt: first, or last, behind a class list that is then computed once."""
    anchor_memory: Literal["device", "cpu"] = "device"
    """Where full-weight anchor and reference rest between uses: device or cpu."""

    def problems(self) -> list[str]:
        problems = []
        if self.revision is not None and self.path is None:
            problems.append(f"revision: got {self.revision!r}, but model.path names no hub id; expected null.")
        low, high = self.min_pixels, self.max_pixels
        if low is not None and high is not None and low > high:
            problems.append(f"max_pixels: got {high}, expected a whole number not below model.min_pixels, or null.")
        return problems


def choose_device(config: ModelConfig) -> torch.device:
    """The device that the setting stands for.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: got 'cuda', but torch finds no GPU; expected cpu or auto.")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The type that the setting stands for: what is computed in, and what weights that are not trained are held in."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.dtype)  # type: ignore[no-any-return]


def choose_attention(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """The attention implementation that the setting stands for.

    Raises:
        UserError: FlashAttention-2 is asked for where it cannot run.
    """
    obstacle = None  # to FlashAttention-2
    if find_spec("flash_attn") is None:
        obstacle = "the package flash-attn is not installed (pip install 'clrft[flash]')"
    elif device.type != "cuda":
        obstacle = "there is no GPU"
    elif dtype not in (torch.bfloat16, torch.float16):
        obstacle = f"it needs bfloat16 or float16, not {dtype}"
    if config.attention == "flash_attention_2" and obstacle:
        raise UserError(f"model.attention: got 'flash_attention_2', but {obstacle}; expected auto, sdpa or eager.")
    if config.attention != "auto":
        return config.attention
    return "sdpa" if obstacle else "flash_attention_2"


def describe_model(policy: Any) -> dict[str, Any]:
    """What was loaded, for the manifest: model type, parameters, dtype, attention, device, recorded decoding.

    ``generation_defaults``: what the checkpoint asks of ``generate`` besides its own tokens; none of it is followed.
    """
    defaults = policy.generation_defaults
    found = {} if defaults is None else defaults.to_diff_dict()
    of_tokens = (*SEQUENCE_TOKENS, "transformers_version")
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    return {
        "model_type": policy.model.config.model_type,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
        **policy.numerics.describe(),
        "attention": policy.attention,
        "device": policy.device.type,
        "recorded": policy.recorded,
        "generation_defaults": {key: value for key, value in found.items() if key not in of_tokens and key[0] != "_"},
    }
