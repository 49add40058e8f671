"""The vision towers of Qwen2-VL and its kin over a batch of images at once: transformers loops over them.

Images (or windows) of equal size attend in one call; the first convolution, whose patches do not overlap, is the matrix
product that it is. The same weights, the same numbers; what FlashAttention runs stays as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.utils.generic import is_flash_attention_requested

Positions = tuple[Tensor, Tensor]  # cosines and sines of every patch, [S, head size] each


class _Batched(nn.Module):
    """Attention of each image's patches to each other, images of one length together."""

    qkv: Any
    proj: Any
    config: Any
    num_heads: int
    scaling: float

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: Positions | None = None,
        max_seqlen: int | None = None,
        **more: Any,
    ) -> Tensor:
        """[S, width] to [S, width]; patches of one image are those between two of ``cu_seqlens``."""
        if is_flash_attention_requested(self.config) or position_embeddings is None:
            return super().forward(  # type: ignore[no-any-return]
                hidden_states,
                cu_seqlens=cu_seqlens,
                position_embeddings=position_embeddings,
                max_seqlen=max_seqlen,
                **more,
            )
        heads = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.unbind(1)  # [S, heads, head size] each
        query, key = qwen2_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        lengths = cu_seqlens.diff().tolist()
        if len(set(lengths)) == 1:
            return self.proj(self._attend(query, key, value, lengths[0]))  # type: ignore[no-any-return]
        parts = [torch.split(one, lengths) for one in (query, key, value)]
        found: list[Any] = [None] * len(lengths)
        for length in dict.fromkeys(lengths):
            places = [place for place, other in enumerate(lengths) if other == length]
            query, key, value = (torch.cat([part[place] for place in places]) for part in parts)
            mixed = self._attend(query, key, value, length)
            for place, image in zip(places, torch.split(mixed, length), strict=True):
                found[place] = image
        return self.proj(torch.cat(found))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
        """Images of one length, [n * length, heads, head size] each, to [n * length, width]."""
        apart = (one.view(-1, length, *one.shape[1:]).transpose(1, 2) for one in (query, key, value))
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, qwen2_vl.eager_attention_forward
        )
        mixed, _ = attention(self, *apart, attention_mask=None, scaling=self.scaling, is_causal=False)
        return mixed.flatten(2).flatten(0, 1)  # type: ignore[no-any-return]


class _Embedded(nn.Module):
    """Patches to vectors: a convolution whose stride is its kernel is a product with a matrix."""

    proj: Any

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[S, values of a patch] to [S, width]."""
        weight = self.proj.weight
        return functional.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


# transformers' modules, and what stands in for them: the same weights with another way to run
BATCHED: dict[type, type] = {
    module: type(f"Batched{module.__name__}", (way, module), {})
    for way, modules in (
        (_Batched, (qwen2_vl.VisionAttention, qwen2_5_vl.Qwen2_5_VLVisionAttention)),
        (_Embedded, (qwen2_vl.PatchEmbed, qwen2_5_vl.Qwen2_5_VisionPatchEmbed)),
    )
    for module in modules
}


def batch_images(model: nn.Module) -> None:
    """Let a model's vision tower take its images at once, where it is of a known family; weights stay as they are."""
    for module in model.modules():
        if type(module) in BATCHED:
            module.__class__ = BATCHED[type(module)]
