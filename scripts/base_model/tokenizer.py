"""The embedded model's own tokenizer: byte-level BPE over the suite's prompts and completions; chat template.

The class is Qwen2-VL's own (``Qwen2Tokenizer``), only vocabulary and merges differ. Any other text still
encodes, byte by byte. The think and answer tags are single *ordinary* tokens: special ones vanish when a
completion is decoded with ``skip_special_tokens``.
"""

import json
from itertools import combinations
from typing import Any

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from task_streams.probes.glyphs import DIGITS, LETTERS
from task_streams.prompt import THOUGHTS, target_text
from task_streams.prompt_style import SUITE, prompt_style

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
BPE_LIMIT = 512  # never reached: the corpus runs out of merges at 396, with every word of it one token

# ChatML as Qwen2-VL has it, without its default system prompt. The line break stands before a turn, not
# after, so that a supervised completion ends with the end-of-turn token, as a generated one does.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if not loop.first %}{{ '\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}{{ part['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"""


def _corpus() -> list[str]:
    """Texts whose words become tokens: every label in every position it can take."""
    silent = prompt_style("suite", think=False)
    pairs = combinations(DIGITS + LETTERS, 2)
    texts = [style.ask("classification", pair) for pair in pairs for style in (SUITE, silent)]
    for label in DIGITS + LETTERS:
        texts += [target_text(label, thought) for thought in THOUGHTS] + [target_text(label, style=silent)]
    texts += ["user\n", "assistant\n", "system\n"] * 50
    for tag in TAGS:
        texts = [text.replace(tag, "\n") for text in texts]  # tags never reach the merges
    return [line for text in texts for line in text.split("\n")] + ["user\n", "assistant\n"]


def train_tokenizer() -> Qwen2Tokenizer:
    """Tokenizer trained on the suite's own prompts and completions; takes under a second, no randomness."""
    blank = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    blank.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=BPE_LIMIT, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(blank.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]  # pairs, though annotated as strings
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        unk_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        padding_side="left",
        model_max_length=4096,
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def special_id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    """Id of one special token."""
    index = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(index, int):
        raise ValueError(f"{token!r} is not one token")
    return index
