"""Clips as a model's own kind of video, past TRL: its trainers carry images only.

Rows have a column ``clips`` beside ``images``; a batch is of clips or of images, never of both. Batches of supervised
updates are made here, in the layout of TRL's own collator for prompts and completions; those of rollouts, with images
or clips, in ``group_passes.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.data_utils import apply_chat_template
from trl.trainer.utils import flush_left

from methods.costs.meter import IGNORED
from methods.inputs.media import CLIP_PATCHES, clip_arguments, model_fields, patches_in


def rows_have_clips(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether rows of a dataset ask about clips as the model's own video.

    Raises:
        ValueError: some rows do, and some ask about images.
    """
    clips = [bool(row.get("clips")) for row in rows]
    if any(clips) and (not all(clips) or any(row.get("images") for row in rows)):
        raise ValueError("rows with clips and rows with images in one batch; expected one kind")
    return any(clips)


@dataclass(frozen=True, slots=True)
class ClipCollator:
    """Rows of prompt, completion and clips to one batch of a supervised update; only completions are learned."""

    processor: Any  # the model's

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows flush left, [N, L] each; the clips as the model takes them."""
        turns = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
        texts = [apply_chat_template(turn, self.processor) for turn in turns]
        clips = [list(row["clips"]) for row in rows]
        prompts = self.processor(
            text=[text["prompt"] for text in texts],
            videos=[[list(clip.frames) for clip in row] for row in clips],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=False,
            **clip_arguments(self.processor, [clip for row in clips for clip in row]),
        )
        completions = self.processor.tokenizer(
            [text["completion"] for text in texts],
            padding=True,
            padding_side="right",
            return_tensors="pt",
            add_special_tokens=False,
        )
        nothing = torch.zeros_like
        mask, ids, learned, types = flush_left(
            torch.cat([prompts["attention_mask"], completions["attention_mask"]], dim=1),
            torch.cat([prompts["input_ids"], completions["input_ids"]], dim=1),
            torch.cat([nothing(prompts["attention_mask"]), completions["attention_mask"]], dim=1),
            torch.cat([prompts["mm_token_type_ids"], nothing(completions["input_ids"])], dim=1),
        )
        labels = ids.masked_fill(learned == 0, IGNORED)
        rest = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, "labels": labels}
        return model_fields(None, patches_in(prompts, CLIP_PATCHES, [len(row) for row in clips])) | rest
