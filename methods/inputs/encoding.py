"""Questions to a model's inputs: by the model's processor, or, for Qwen2-VL's kin and images, by its parts.

The questions about a task's images differ in their images alone, so each text is tokenised once, and the placeholder of
an image is repeated for its tokens afterwards: what the processor does with text, done with tokens. The result is the
same, which a test holds.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from methods.inputs.media import CLIP_PATCHES, IMAGE_PATCHES, clip_arguments, patches_in, token_types, with_media
from methods.inputs.prompts import Prompts
from task_streams.errors import UserError
from task_streams.prompt import Message, Request
from task_streams.types import Clip, Media

KNOWN = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")  # processors that put a placeholder for every token of an image

Turn = tuple[Sequence[Message], Sequence[Media]]  # chat messages with placeholders, and what fills them


def encoded_requests(
    processor: Any, requests: Sequence[Request], place: str = "first", limit: int | None = None
) -> Any:
    """Requests as one left-padded batch on the CPU; ``place``: of images and clips in a turn (``model.media``).

    Raises:
        UserError: a clip is to be fed as a video, and the model takes none; or a prompt has more tokens than ``limit``.
    """
    arranged = [one.arranged(place) for one in requests]
    batch = encoded_turns(processor, [(one.messages, one.media) for one in arranged])
    lengths: list[int] = batch["attention_mask"].sum(dim=1).tolist()
    longest = max(range(len(requests)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] > limit:
        raise UserError(
            f"train.max_prompt_tokens: got {limit}, but the prompt of {requests[longest].key!r}, with its classes and "
            f"images, has {lengths[longest]} tokens; expected a limit of at least {lengths[longest]}, fewer classes, "
            "or a lower model.max_pixels. Prompts are never cut."
        )
    return batch


def encoded_turns(processor: Any, turns: Sequence[Turn]) -> Any:
    """Questions as one left-padded batch on the CPU.

    Raises:
        UserError: a clip is to be fed as a video, and the model takes none.
    """
    media = [item for _, shown in turns for item in shown]
    clips = [item for item in media if isinstance(item, Clip)]
    if type(processor).__name__ in KNOWN and media and not clips:
        return BatchFeature(by_parts(processor, turns))
    return processor.apply_chat_template(
        [with_media(messages, shown) for messages, shown in turns],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", **clip_arguments(processor, clips)},
    )


def prompts_in(batch: Mapping[str, Any], images: Sequence[int], clips: Sequence[int], model_config: Any) -> Prompts:
    """An encoded, left-padded batch as prompts; ``images`` and ``clips``: how many each row has."""
    ids, types = batch["input_ids"], batch.get("mm_token_type_ids")
    return Prompts(
        ids=ids,
        mask=batch["attention_mask"],
        token_types=token_types(ids, model_config) if types is None else types,
        images=patches_in(batch, IMAGE_PATCHES, images),
        clips=patches_in(batch, CLIP_PATCHES, clips),
    )


def by_parts(processor: Any, turns: Sequence[Turn]) -> dict[str, Tensor]:
    """The same of images, text by text."""
    images = processor.image_processor(images=[item for _, shown in turns for item in shown], return_tensors="pt")
    lengths = iter((images["image_grid_thw"].prod(dim=1) // processor.image_processor.merge_size**2).tolist())
    template = partial(processor.apply_chat_template, add_generation_prompt=True, tokenize=False)
    texts = [template(list(messages)) for messages, _ in turns]
    known = list(dict.fromkeys(texts))
    tokens: Mapping[str, list[int]] = dict(zip(known, processor.tokenizer(known)["input_ids"], strict=True))
    rows = [
        expanded(tokens[text], processor.image_token_id, [next(lengths) for _ in shown])
        for text, (_, shown) in zip(texts, turns, strict=True)
    ]
    padding = processor.tokenizer.pad_token_id
    ids = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left")
    real = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    types = (ids == processor.image_token_id).to(ids.dtype)
    return {"input_ids": ids, "attention_mask": real, "mm_token_type_ids": types, **images}


def expanded(ids: Sequence[int], placeholder: int, lengths: Sequence[int]) -> Tensor:
    """Tokens with each placeholder as often as its image has tokens.

    Raises:
        RuntimeError: there are not as many placeholders as images.
    """
    tokens = torch.tensor(ids)
    here = tokens == placeholder
    if (found := int(here.sum())) != len(lengths):
        raise RuntimeError(f"a prompt has {'more' if found > len(lengths) else 'fewer'} image placeholders than images")
    counts = torch.ones_like(tokens).masked_scatter(here, torch.tensor(lengths, dtype=tokens.dtype))
    return torch.repeat_interleave(tokens, counts)
