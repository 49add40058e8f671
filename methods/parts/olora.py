"""O-LoRA: every task learns in low-rank directions of its own, held orthogonal to those of the tasks before.

Loss: ``+ lambda sum_{i<t} |A_t A_i^T|_1``, absolute entries summed over all adapted layers. Sources: arXiv 2310.14152
and its released code (r = 8 for each task, lambda = 0.5), which sums absolute values where the paper writes squares.

A new adapter of rank r for each task, past ones frozen, is one adapter of which each task trains its own block, since
``sum_t B_t A_t = B A``: of the run's adapter (``model.adapter=lora``, rank R) task t trains rows (t-1)r to tr of each
A [R, in] and these columns of each B [out, R]. All else stands still, bit by bit. Blocks of tasks to come add nothing:
PEFT begins with B = 0 (of an embedding, A = 0). PEFT scales what the adapter adds by ``model.lora_alpha / R``, R being
the rank of all blocks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pydantic import NonNegativeFloat

from methods.base import LossContext, Method, TaskContext
from methods.lazy import Tensor, nn, no_grad, torch
from methods.model.weights import trained_weights
from task_streams.config import Count, Settings
from task_streams.types import Task

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from methods.model.policy import Policy

# The adapter's matrices by what PEFT calls them, and the dimension along which their rank runs.
RANK_DIMENSION = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}

# Hooks on gradients by model: a step that failed leaves its own, and the next task takes them off, whoever learns it.
_MASKS: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()


@dataclass(frozen=True)
class OloraConfig(Settings):
    """Settings of O-LoRA."""

    strength: NonNegativeFloat = 0.5
    """Coefficient lambda of the overlap with earlier tasks (0 or more)."""
    rank: Count = 8
    """Rank of each task's own adapter (at least 1); model.lora_rank must be this times the number of tasks."""


@dataclass(frozen=True, slots=True)
class Block:
    """What is one task's of one matrix of the adapter: rows of A, columns of B."""

    weight: nn.Parameter  # the matrix, A [R, in] or B [out, R]
    dimension: int  # along which its rank runs
    start: int  # first row or column
    size: int  # rows or columns
    before: Tensor  # the matrix as the task found it

    def own(self, values: Tensor) -> Tensor:
        """The task's own among values of the matrix's shape, as a view."""
        return values.narrow(self.dimension, self.start, self.size)

    def alone(self, gradient: Tensor) -> Tensor:
        """A gradient of the matrix, 0 outside the block."""
        masked = torch.zeros_like(gradient)
        self.own(masked).copy_(self.own(gradient))
        return masked


class Olora(Method):
    """A low-rank block for each task, the others frozen, and a penalty on its overlap with earlier ones."""

    name, family = "olora", "part"
    Config = OloraConfig
    needs_first_task = "each task has a block of the adapter to itself"
    source = "arXiv 2310.14152"

    config: OloraConfig
    model: nn.Module
    blocks: tuple[Block, ...] = ()

    def problems(self, policy: Policy, tasks: Sequence[Task]) -> list[str]:
        needed, rank = self.config.rank * len(tasks), policy.config.lora_rank
        each = f"part {self.name!r} gives each of {len(tasks)} tasks a rank of its own ({self.config.rank})"
        if not policy.has_adapter:
            return [f"{each} in a LoRA adapter; expected model.adapter=lora and model.lora_rank={needed}."]
        if rank < needed:
            return [f"model.lora_rank: got {rank}, but {each}; expected at least {needed}."]
        return []

    def before_task(self, context: TaskContext) -> None:
        self.model = context.policy.model
        unmask(self.model)
        start, blocks = (context.task.index - 1) * self.config.rank, []
        for name, weight in trained_weights(self.model):
            dimension = next((RANK_DIMENSION[part] for part in name.split(".") if part in RANK_DIMENSION), None)
            if dimension is not None:
                blocks.append(Block(weight, dimension, start, self.config.rank, weight.detach().clone()))
        self.blocks = tuple(blocks)

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        mask(self.model, self.blocks)
        if context.task_index == 1:
            return {}
        overlaps = []  # sum_{i<t} |A_t A_i^T|_1 of each A, in float32
        for block in self.blocks:
            if block.dimension == 0:
                own, earlier = block.own(block.weight), block.before[: block.start]
                overlaps.append((own.flatten(1).float() @ earlier.flatten(1).float().T).abs().sum())
        return {"olora_penalty": self.config.strength * torch.stack(overlaps).sum()}

    @no_grad
    def after_step(self, task_index: int, step: int) -> None:
        """Undo what the optimizer did to the other tasks' blocks: weight decay, and moments of earlier tasks."""
        unmask(self.model)
        for block in self.blocks:
            learned = block.own(block.weight).clone()
            block.weight.copy_(block.before)
            block.own(block.weight).copy_(learned)

    def after_task(self, context: TaskContext) -> None:
        self.blocks = ()


def mask(model: nn.Module, blocks: Sequence[Block]) -> None:
    """Until ``unmask``, gradients are 0 outside the blocks: clipping sees the norm of the blocks alone."""
    if model not in _MASKS:
        _MASKS[model] = [block.weight.register_hook(block.alone) for block in blocks]  # type: ignore[no-untyped-call]


def unmask(model: nn.Module) -> None:
    """Take off what ``mask`` put on a model's weights, if anything."""
    for handle in _MASKS.pop(model, []):
        handle.remove()
