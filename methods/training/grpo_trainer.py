"""Where TRL's private methods are touched, with ``trainers.py``; TRL is pinned, a contract test guards the seam.

``HookedGRPOTrainer`` runs a method's hooks where TRL has none: shaped rewards and advantages after TRL's own
scoring, extra loss terms inside its loss. Prompts with their images and clips are carried past TRL and computed once
(``group_passes.py``); where a model does not allow that, completions and log-probabilities come from TRL's own
functions. TRL calls the overrides below one after the other with arguments of its own; what one of them must know of
those before it is in one object, ``self.generation``.
Deliberately absent: TRL's reference model (it is loaded by the *policy's* config name, which silently becomes the
previous task's policy), so the reference is set here.

Of several processes (``ranks.py``) each has all rows of a batch, as TRL makes it, and samples, scores and learns its
own: ``batch_sharding.py`` selects them and weighs their loss so that the sum over processes is the loss of the batch.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from methods.advantage import zero_variance_share
from methods.base import Method, Rollouts, Whose
from methods.compose import checked, shaped_rewards
from methods.costs.meter import meter_of
from methods.distributed import ranks
from methods.distributed.batch_sharding import loss_weight, own_part
from methods.distributed.sharding import inside, is_sharded, whole
from methods.generation.group_passes import (
    FrozenPrefixes,
    GroupBatch,
    GroupPasses,
    Shown,
    encoded,
    in_parts,
    no_parts,
    regrouped,
)
from methods.generation.rollout import Sampling
from methods.generation.shared_prefix import SUPPORTED, obstacle
from methods.generation.static_decode import StaticSteps
from methods.generation.vllm import never_drawn, pictures
from methods.inputs.clip_batches import rows_have_clips
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.model.snapshots import FullSnapshot, Snapshot
from methods.training.trainers import HookedTrainer
from methods.training.views import StepViews
from task_streams.errors import UserError
from task_streams.types import Task

# Image fields of TRL's scored batch that its log-probability function takes.
IMAGE_FIELDS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "num_tiles",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)


@dataclass(slots=True)
class Generation:
    """The rollouts that were generated last: what TRL's calls about them do not hand from one override to the next."""

    rows: Tensor  # which rollouts the rows at hand are, [n]: all, and in the loss those of a micro-batch
    batch: GroupBatch | None = None  # of all rollouts; None where TRL carries their images
    own: slice = field(default_factory=lambda: slice(0, 0))  # rollouts that this process samples and scores
    own_batch: GroupBatch | None = None  # of these
    images: list[list[Any] | None] | None = None  # of all rollouts, for vLLM
    rewards: Tensor | None = None  # unshaped, [B*G, components]
    texts: tuple[str, ...] = ()  # of all completions

    def carried(self) -> tuple[GroupBatch, GroupBatch]:
        """The batch of all rollouts, and that of this process's own, which are carried past TRL."""
        if self.batch is None or self.own_batch is None:
            raise RuntimeError("no batch of rollouts is at hand")
        return self.batch, self.own_batch


class HookedGRPOTrainer(HookedTrainer, GRPOTrainer):
    """TRL's GRPO trainer with a method's hooks, a given KL reference and a given anchor.

    Args:
        method: whose hooks are called.
        task: what is learned, with every example that a row can ask about.
        anchor: the previous task's snapshot, or None.
        reference: snapshot of the base for the KL term; None without one.
        kl: coefficient of the KL term.
        share_prefix: compute a group's prompt once where the model allows it.
        kept_prefixes: bytes of what prompts leave behind in frozen models that are kept while the task is learned.
        graphs: decode with a step that is recorded as a CUDA graph.
    """

    def __init__(
        self,
        *,
        method: Method,
        task: Task,
        anchor: Snapshot | None,
        reference: Snapshot | None,
        kl: float,
        share_prefix: bool = True,
        kept_prefixes: int = 0,
        graphs: bool = False,
        **arguments: Any,
    ) -> None:
        if arguments["args"].beta != 0:
            raise ValueError("pass beta=0 and the coefficient as kl: TRL would load its own reference model")
        self._model_config = arguments["model"].config
        never = never_drawn(never_sampled(self._model_config), arguments["args"].use_vllm)
        arguments["args"].generation_kwargs = never
        super().__init__(**arguments)
        self.method = method
        self.task_index = task.index
        self.labels = task.trained
        self.targets = {example.key: example.target for example in task.train}
        self.style = task.style
        self.anchor = anchor
        self.reference = reference
        self.beta = kl
        self.kl_to_anchor = kl > 0 and anchor is not None and method.kl_target == "anchor"
        self.share_prefix = share_prefix
        self.passes = GroupPasses(
            self.temperature,
            self._frozen(0 if is_sharded(arguments["model"]) else kept_prefixes),
            self._learns_once() and not is_sharded(arguments["model"]),
            self._size() if is_sharded(arguments["model"]) else math.ceil(self._size() / ranks.world_size()),
            StaticSteps() if graphs else None,
        )
        self.generation = Generation(torch.arange(0))
        for frozen in (anchor, reference):
            if isinstance(frozen, FullSnapshot):  # lets it answer TRL's log-probability calls
                frozen.model.__dict__.pop("forward", None)
                add_fused_lm_head(frozen.model, temperature=self.temperature)

    def go_on(self, scratch: Path) -> None:
        """As a resumable trainer."""
        self.passes.frozen.again = self.start is not None
        super().go_on(scratch)

    def _learns_once(self) -> bool:
        """Whether each batch of rollouts is learned from once, and in one go."""
        args: Any = self.args
        return bool(self.num_iterations == args.gradient_accumulation_steps == args.steps_per_generation == 1)

    def _size(self) -> int:
        return int(self.args.per_device_train_batch_size)

    def _frozen(self, limit: int) -> FrozenPrefixes:
        """What the task's prompts leave behind in frozen models; computed ahead where each is asked for twice or so."""
        data: Any = self.train_dataset
        length, size = len(data), max(1, self._size() // int(self.num_generations or 1))
        batches = self.args.max_steps if self.args.max_steps > 0 else self.args.num_train_epochs * length / size
        often = batches * size >= 2 * length * self.num_iterations

        def part(places: range) -> tuple[tuple[str, ...], Prompts]:
            rows = [data[place] for place in places]
            device = self.accelerator.device
            return tuple(row["key"] for row in rows), encoded(rows, self.processing_class, self._model_config, device)

        return FrozenPrefixes(in_parts(length, size, part) if often and limit else no_parts, limit)

    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        """TRL's, which forgets where in its batch of rollouts it is, and that every pass draws an order."""
        passes, batches = super()._init_training_state(*arguments)
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        for _ in range(passes):
            next(iter(self._order), None)
        return passes, batches

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._order = super()._get_train_sampler(dataset)
        return self._order

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        self.generation.rewards = rewards
        self.generation.texts = tuple(completion[0]["content"] for completion in completions)
        return rewards

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, which shuffles rollouts into micro-batches; all are of one update, so groups are put back together."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        micro_batches: Any = self._buffered_inputs
        fresh = micro_batches is not before and micro_batches is not None
        if self.generation.batch is None or not fresh or self._learns_once():
            return inputs
        groups: Any = regrouped(micro_batches)
        self._buffered_inputs = groups
        return groups[self._step % len(groups)]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self.generation = self._begun(inputs)
        if self.generation.batch is not None:
            inputs = [{name: value for name, value in row.items() if name != "images"} for row in inputs]
        kl = self.beta
        try:
            self.beta = 0.0  # TRL would ask a reference of its own
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = kl
        output["rollout"] = self.generation.rows  # TRL shuffles and splits it with the rest
        rollouts = self._rollouts(inputs, output)
        rewards = shaped_rewards(self.method, rollouts)
        self._log_step("reward_shaped", rewards.mean().item())
        self._log_step("zero_variance_groups", zero_variance_share(rewards, rollouts.group_size))
        advantages = self.method.normalize_advantages(rewards, rollouts)
        output["advantages"] = checked(advantages, rollouts, self.method, "normalize_advantages")
        return output

    def _begun(self, inputs: Any) -> Generation:
        """A generation for rows of the dataset; where the model allows it they are carried past TRL."""
        device = self.accelerator.device
        rows = torch.arange(len(inputs), device=device)
        if not rows_have_clips(inputs) and self._model_config.model_type not in SUPPORTED:
            return Generation(rows)
        batch = GroupBatch.of(inputs, self.processing_class, self._model_config, device)
        own = ranks.share(len(inputs), int(self.num_generations or 1))
        return Generation(rows, batch, own, batch.part(own), pictures(inputs) if self.use_vllm else None)

    def _rollouts(self, inputs: Any, output: dict[str, Any]) -> Rollouts:
        """The scored batch as the record that hooks receive, the same in every process."""
        actor, anchor = self._logps(output) if self.anchor is not None else (None, None)
        if self.beta > 0:
            if self.kl_to_anchor or (self.anchor is not None and self.anchor is self.reference):
                output["ref_per_token_logps"] = anchor
            elif self.reference is None:
                raise RuntimeError("no reference: the KL term is undefined")
            else:
                output["ref_per_token_logps"] = self._frozen_logps("reference", self.reference, output)
        if self.generation.rewards is None:
            raise RuntimeError("TRL has not scored the rollouts")
        components = self.generation.rewards.unbind(dim=1)
        return Rollouts(
            task_index=self.task_index,
            group_size=int(self.num_generations or 0),
            components=dict(zip(self.reward_func_names, components, strict=True)),
            mask=sampled_mask(output),
            actor_logps=actor,
            anchor_logps=anchor,
            keys=tuple(example["key"] for example in inputs),
            log=self._log_step,
            completions=self.generation.texts,
            targets=tuple(self.targets[example["key"]] for example in inputs),
            labels=self.labels,
            style=self.style,
            views=StepViews(output, self.model, self._states, self._anew, self._tokenizer),
        )

    @torch.no_grad()
    def _logps(self, output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all completions under the policy and under the anchor, [B*G, L] each."""
        if self.anchor is None:
            raise RuntimeError("no anchor: its log-probabilities are undefined")
        completions, mask = output["completion_ids"], sampled_mask(output)
        if self._shares(self.model):
            with self.accelerator.autocast():
                actor = self._scored(completions, mask)
        else:
            actor = self._plain_logps(self.model, output)
        return actor, self._frozen_logps("anchor", self.anchor, output)

    @torch.no_grad()
    def _frozen_logps(self, name: str, frozen: Snapshot, output: Mapping[str, Any]) -> Tensor:
        with frozen.active() as model, self.accelerator.autocast():
            if not self._shares(model):
                return self._plain_logps(model, output)
            batch, completions, mask = self._own_rollouts(output["completion_ids"], sampled_mask(output))
            own = inside(model, lambda: self.passes.frozen_scored(name, model, batch, completions, mask))
            return ranks.all_gather_rows(own)

    def _own_rollouts(self, completions: Tensor, mask: Tensor) -> tuple[GroupBatch, Tensor, Tensor]:
        """Prompts, completions and mask of the rollouts that this process scores."""
        _, batch = self.generation.carried()
        return batch, completions[self.generation.own], mask[self.generation.own]

    def _scored(self, completions: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all completions under the policy, each process those that it sampled, [B*G, L]."""
        batch, completions, mask = self._own_rollouts(completions, mask)
        own = inside(self.model, lambda: self.passes.scored(self.model, batch, completions, mask))
        return ranks.all_gather_rows(own)

    @torch.no_grad()
    def _anew(self, output: Mapping[str, Any]) -> Tensor:
        """Log-probabilities of other completions of the rollouts' prompts under the policy, [B*G, L]."""
        if not self._shares(self.model):
            return self._plain_logps(self.model, output)
        batch, completions, mask = self._own_rollouts(output["completion_ids"], output["completion_mask"])
        with self.accelerator.autocast():
            own = inside(self.model, lambda: self.passes.anew(self.model, batch, completions, mask))
            return ranks.all_gather_rows(own)

    @torch.no_grad()
    def _states(self, whose: Whose, output: Mapping[str, Any]) -> Tensor:
        """The hidden states that predict the rollouts' tokens, [B*G, L, H].

        Raises:
            UserError: the model's pass cannot be watched.
        """
        if whose == "anchor" and self.anchor is None:
            raise RuntimeError("no anchor: its hidden states are undefined")
        owner = nullcontext(self.model) if whose == "policy" or self.anchor is None else self.anchor.active()
        with owner as model, self.accelerator.autocast():
            if not self._shares(model):
                raise UserError(
                    "hidden states of rollouts cannot be read from this model; expected a model of Qwen2-VL's family, "
                    "and train.share_prefix=true."
                )
            batch, completions, mask = self._own_rollouts(output["completion_ids"], sampled_mask(output))

            def states() -> Tensor:
                if whose == "policy":
                    prefix = self.passes.sampled(batch)
                else:
                    prefix = self.passes.frozen.of("anchor", model, batch.keys, batch.prompts)
                return self.passes.states(model, prefix, batch, completions, mask)

            return ranks.all_gather_rows(inside(model, states))

    def _plain_logps(self, model: Any, output: Mapping[str, Any]) -> Tensor:
        completions = output["completion_ids"]
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([output["prompt_ids"], completions], dim=1),
            torch.cat([output["prompt_mask"], sampled_mask(output)], dim=1),
            completions.size(1),
            batch_size=self._size(),
            **{field: output[field] for field in IMAGE_FIELDS if field in output},
        )
        return logps

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """TRL's tokenisation; the batch at hand was encoded before."""
        batch = self.generation.batch
        return super()._tokenize_prompts(prompts) if batch is None else (batch.ids(), None, {})

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        """TRL's generation with each group's prompt computed once, where that is possible; or vLLM's."""
        model = self.accelerator.unwrap_model(self.model)
        engine = self.use_vllm or self.use_transformers_continuous_batching
        if self._shares(model):
            with self.accelerator.autocast(), whole(model):
                _, batch = self.generation.carried()
                self.passes.begin(model, batch)
                if not engine:
                    sampling = Sampling(
                        int(self.max_completion_length or 0),
                        self.temperature,
                        self.top_p,
                        tuple(self.eos_token_ids),
                        never_sampled(self._model_config),
                        (len(prompt_ids), self.generation.own),
                    )
                    drawn = self.passes.sample(model, batch, sampling)
                    return ranks.all_gather(drawn), None
        if self.use_vllm:
            images = images or self.generation.images
        elif self.generation.batch is not None:
            multimodal_fields = self.generation.batch.repeated(self.generation.rows)
        completions, more = super()._generate_single_turn(  # type: ignore[no-untyped-call]
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        meter_of(model).generated(sum(map(len, completions)))
        return completions, more

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's log-probabilities, also of answers about clips; the policy's by way of ``passes`` where possible."""
        if model is self.model and self._shares(model):
            completions, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            with self.accelerator.autocast():
                if not torch.is_grad_enabled():
                    return self._scored(completions, mask), None, None
                (everyones, own), rows = self.generation.carried(), self.generation.rows
                batch, rollouts = everyones, rows
                if self._learns_once():  # of its own rollouts alone
                    batch, rollouts = own, rows - self.generation.own.start
                logps, entropies = inside(model, lambda: self.passes.learned(model, batch, rollouts, completions, mask))
            return logps, entropies if compute_entropy else None, None
        if self.generation.batch is not None:
            model = Shown(model, self.generation.batch, self.generation.rows)
        return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **fields
        )

    def _shares(self, model: Any) -> bool:
        """Whether prompts are computed once: the batch at hand is carried here, and the model allows it."""
        return self.share_prefix and self.generation.batch is not None and obstacle(model) is None

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        own = own_part(inputs, self.generation.own if self._learns_once() else None)
        share, weight = loss_weight(own, inputs, self.loss_type)
        self.generation.rows = own["rollout"]
        meter_of(model).trained(own["completion_mask"].sum())
        with ranks.gathering(self.accelerator):
            loss: Tensor = super()._compute_loss(model, own)  # type: ignore[no-untyped-call]
        terms = self.extra_loss(model, own, share)
        return loss * weight if terms is None else loss * weight + terms / self.current_gradient_accumulation_steps


def sampled_mask(output: Mapping[str, Any]) -> Tensor:
    """1 for every token that was sampled, [b*G, L]: also for cut-off completions, whose rows TRL may have emptied.

    A cut-off completion has no padding: it is as long as completions can be.
    """
    mask: Tensor = output["completion_mask"]
    return torch.where(mask.any(dim=1, keepdim=True), mask, torch.ones_like(mask))


def release(model: Any) -> None:
    """Take a trainer's patches off a model, so that the next trainer starts from the model's own forward."""
    for module in (model, getattr(model, "base_model", None), getattr(model, "get_base_model", lambda: None)()):
        if module is not None:
            module.__dict__.pop("forward", None)
