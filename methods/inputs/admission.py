"""What a model takes: images of which sizes, texts without its own tokens, answers that its tokenizer gives back.

Asked about every item before any work, so no image is decoded here, and the processor is asked once for each size.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from PIL import Image

from methods.inputs.encoding import KNOWN
from methods.inputs.media import never_sampled
from task_streams.prompt import user_turn
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Question, Shape, Target

CHUNK = 4096  # texts that are tokenised at once
PIXELS_A_TOKEN = 28 * 28


@dataclass(frozen=True, eq=False)
class Admission:
    """The rules of one model.

    Attributes:
        processor: the model's.
        limit: most tokens of a prompt; None = any.
        style: the words in which is asked.
    """

    processor: Any
    limit: int | None = None
    style: PromptStyle = SUITE

    def refused(self, target: Target, shape: Shape) -> str:
        """Why the model takes no item with this target and shape, empty where it does."""
        reason = self.size(*shape[:2])[1]
        if reason or not isinstance(target, Question):
            return reason
        if held := self.own_tokens(target.text):
            return f"its question holds {', '.join(held)}, which stands for something else to the model"
        asked = self.style.ask_own(target.text)
        # a token is a byte at least, so few questions need be counted
        if self.limit is None or not self._known or self._most(asked, shape) <= self.limit:
            return ""
        tokens = self._prompt_tokens(asked) + self.image_tokens(shape)
        return f"its prompt has {tokens} tokens, train.max_prompt_tokens is {self.limit}" if tokens > self.limit else ""

    @cached_property
    def size(self) -> Callable[[int, int], tuple[int, str]]:
        """Tokens of an image of some width and height in pixels, and why its processor refuses it, if it does.

        Processors of other families than Qwen2-VL's don't tell tokens by sizes: these try a black image of each size,
        and the tokens only order images.
        """
        images = self.processor.image_processor

        def asked(width: int, height: int) -> tuple[int, str]:
            try:
                if self._known:
                    return images.get_number_of_image_patches(height, width, {}) // images.merge_size**2, ""
                images(images=[Image.new("RGB", (width, height))], return_tensors="pt")
            except (ValueError, RuntimeError, ArithmeticError) as error:
                return 0, f"{width} x {height} pixels, which {type(images).__name__} refuses: {error}"
            return width * height // PIXELS_A_TOKEN, ""

        return cache(asked)

    def image_tokens(self, shape: Shape) -> int:
        """Tokens of an image or clip in a prompt, as ``size`` knows them."""
        return self.size(*shape[:2])[0] * shape[2]

    def text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self._tokens(texts)]

    def own_tokens(self, text: str) -> list[str]:
        """Tokens in a text that are the model's own signs: ends of turns, placeholders of images."""
        return list(dict.fromkeys(self._own.findall(text)))

    def read(self, texts: Sequence[str]) -> list[str]:
        """Texts as an evaluation reads them when the model writes them: without its own tokens."""
        read: list[str] = []
        for start in range(0, len(texts), CHUNK):
            rows = [[one for one in row if one not in self._never] for row in self._tokens(texts[start:][:CHUNK])]
            read += self.processor.batch_decode(rows, skip_special_tokens=True)
        return read

    def learns(self, text: str) -> bool:
        """Whether the model's chat template leaves a reply as it is; some cut thoughts out of turns that are over."""
        turns = [
            {"role": role, "content": [{"type": "text", "text": said}]}
            for role, said in (("user", "?"), ("assistant", text))
        ]
        return text in self.processor.apply_chat_template(turns, tokenize=False)

    def _most(self, asked: str, shape: Shape) -> int:
        """Most tokens that the prompt of a question may have."""
        return len(asked.encode()) + self._around + self.image_tokens(shape)

    @cached_property
    def _around(self) -> int:
        """Tokens of a prompt around its question, and some more where these could be split otherwise."""
        return self._prompt_tokens("?") + 8

    def _prompt_tokens(self, asked: str) -> int:
        """Tokens of the prompt of a question about an image, without those of the image."""
        turns = user_turn(asked, (Image.new("RGB", (1, 1)),))
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return len(self.processor.tokenizer(text)["input_ids"]) - 1

    @property
    def _known(self) -> bool:
        """Whether the processor tells the tokens of an image by its size."""
        return type(self.processor).__name__ in KNOWN

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    @cached_property
    def _never(self) -> frozenset[int]:
        return frozenset(never_sampled(self.processor))

    @cached_property
    def _own(self) -> re.Pattern[str]:
        tokenizer = self.processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        own = {*added, *tokenizer.all_special_tokens, *map(tokenizer.convert_ids_to_tokens, self._never)}
        return re.compile("|".join(re.escape(token) for token in sorted(own, key=len, reverse=True)) or "(?!)")
