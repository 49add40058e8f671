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
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from methods.advantage import zero_variance_share
from methods.base import Rollouts, Whose
from methods.compose import shaped_rewards
from methods.costs.meter import meter_of
from methods.distributed import ranks
from methods.distributed.batch_sharding import own_part
from methods.distributed.sharding import is_sharded, split_of, whole
from methods.generation.group_passes import FrozenPrefixes, GroupBatch, GroupPasses, encoded, regrouped, showing
from methods.generation.rollout import Sampling
from methods.generation.shared_prefix import SUPPORTED, obstacle
from methods.generation.static_decode import StaticSteps
from methods.generation.vllm import never_drawn
from methods.guard import members_of
from methods.inputs.clip_batches import rows_have_clips
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.model.snapshots import FullSnapshot, Snapshot
from methods.training.trainers import HookedTrainer
from methods.training.views import StepViews
from task_streams.errors import UserError

# What TRL's log-probability function takes: of its scored batch those are fields of images.
LOGP_FIELDS = tuple(signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)


@dataclass(slots=True)
class Generation:
    """The rollouts that were generated last: what TRL's calls about them do not hand from one override to the next."""

    rows: Tensor  # which rollouts the rows at hand are, [n]: all, and in the loss those of a micro-batch
    batch: Any = None  # the ``GroupBatch`` of all rollouts; None where TRL carries their images
    own: slice = field(default_factory=lambda: slice(0, 0))  # rollouts that this process samples and scores
    own_batch: Any = None  # the ``GroupBatch`` of these
    images: list[list[Any] | None] | None = None  # of all rollouts, for vLLM
    rewards: Tensor = field(default_factory=lambda: torch.empty(0, 0))  # unshaped, [B*G, components]
    texts: tuple[str, ...] = ()  # of all completions


class HookedGRPOTrainer(HookedTrainer, GRPOTrainer):
    """TRL's GRPO trainer with a method's hooks, a given KL reference, with its coefficient, and a given anchor.

    The task has every example that a row can ask about. ``kept_prefixes``: bytes of what its prompts leave behind in
    frozen models that are kept while it is learned. ``graphs``: decode with a step that is recorded as a CUDA graph.
    """

    def __init__(
        self,
        *,
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
        self.targets = {example.key: example.target for example in self.task.train}
        self.reference = reference
        self.beta = kl
        self.kl_to_anchor = kl > 0 and self.anchor is not None and self.method.kl_target == "anchor"
        self.share_prefix = share_prefix
        args: Any = self.args
        # each batch of rollouts is learned from once, and in one go
        self.once = bool(self.num_iterations == args.gradient_accumulation_steps == args.steps_per_generation == 1)
        self.size = int(args.per_device_train_batch_size)  # rollouts in a micro-batch
        sharded = is_sharded(arguments["model"])
        self.passes = GroupPasses(
            self.temperature,
            self._frozen(0 if sharded else kept_prefixes),
            self.once and not sharded,
            self.size if sharded else math.ceil(self.size / ranks.world_size()),
            StaticSteps() if graphs else None,
        )
        self.generation = Generation(torch.arange(0))
        for frozen in (self.anchor, reference):
            if isinstance(frozen, FullSnapshot):  # lets it answer TRL's log-probability calls
                frozen.model.__dict__.pop("forward", None)
                add_fused_lm_head(frozen.model, temperature=self.temperature)

    def _frozen(self, limit: int) -> FrozenPrefixes:
        """What the task's prompts leave behind in frozen models; computed ahead where each is asked for twice or so."""
        data: Any = self.train_dataset
        length, size = len(data), max(1, self.size // int(self.num_generations or 1))
        batches = self.args.max_steps if self.args.max_steps > 0 else self.args.num_train_epochs * length / size
        often = batches * size >= 2 * length * self.num_iterations

        def parts() -> Iterator[tuple[tuple[str, ...], Prompts]]:
            for start in range(0, length if often and limit else 0, size):
                rows = [data[place] for place in range(start, min(start + size, length))]
                prompts = encoded(rows, self.processing_class, self._model_config, self.accelerator.device)
                yield tuple(row["key"] for row in rows), prompts

        return FrozenPrefixes(parts, limit)

    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        """TRL's, which forgets where in its batch of rollouts it is, and that every pass draws an order."""
        passes, batches = super()._init_training_state(*arguments)
        self.passes.frozen.again = self.start is not None
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
        if self.generation.batch is None or not fresh or self.once:
            return inputs
        groups: Any = regrouped(micro_batches)
        self._buffered_inputs = groups
        return groups[self._step % len(groups)]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        device = self.accelerator.device
        rows = torch.arange(len(inputs), device=device)
        self.generation = Generation(rows)
        if rows_have_clips(inputs) or self._model_config.model_type in SUPPORTED:  # then they are carried past TRL
            batch = GroupBatch.of(inputs, self.processing_class, self._model_config, device)
            own = ranks.share(len(inputs), int(self.num_generations or 1))
            images = [list(row.get("images") or ()) or None for row in inputs]
            self.generation = Generation(rows, batch, own, batch.part(own), images if any(images) else None)
            inputs = [{name: value for name, value in row.items() if name != "images"} for row in inputs]
        kl = self.beta
        try:
            self.beta = 0.0  # TRL would ask a reference of its own
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = kl
        output["rollout"] = self.generation.rows  # TRL shuffles and splits it with the rest
        rollouts = self._rollouts(inputs, output)
        rewards = shaped_rewards(members_of(self.method), rollouts.task_reward, rollouts)
        self._log_step("reward_shaped", rewards.mean().item())
        self._log_step("zero_variance_groups", zero_variance_share(rewards, rollouts.group_size))
        output["advantages"] = self.method.normalize_advantages(rewards, rollouts)
        return output

    def _rollouts(self, inputs: Any, output: dict[str, Any]) -> Rollouts:
        """The scored batch as the record that hooks receive, the same in every process."""
        actor = anchor = None
        if self.anchor is not None:
            actor = self._asked("policy", output, self.passes.scored)
            anchor = self._asked("anchor", output)
        if self.beta > 0:
            with_anchor = self.kl_to_anchor or (self.anchor is not None and self.anchor is self.reference)
            output["ref_per_token_logps"] = anchor if with_anchor else self._asked("reference", output)
        components = self.generation.rewards.unbind(dim=1)
        return Rollouts(
            task_index=self.task.index,
            group_size=int(self.num_generations or 0),
            components=dict(zip(self.reward_func_names, components, strict=True)),
            mask=sampled_mask(output),
            actor_logps=actor,
            anchor_logps=anchor,
            keys=tuple(example["key"] for example in inputs),
            log=self._log_step,
            completions=self.generation.texts,
            targets=tuple(self.targets[example["key"]] for example in inputs),
            labels=self.task.trained,
            style=self.task.style,
            views=StepViews(
                output,
                output["completion_ids"],
                self.model,
                self._states,
                partial(self._asked, "policy"),
                self._tokenizer,
            ),
        )

    @torch.no_grad()
    def _asked(self, whose: str, output: Mapping[str, Any], ask: Callable[..., Tensor] | None = None) -> Tensor:
        """What the ``policy``, the ``anchor`` or the ``reference`` says about completions of all rollouts' prompts.

        ``ask`` is one of ``passes``, where these are possible; None: their log-probabilities, [B*G, L].
        """
        frozen = {"anchor": self.anchor, "reference": self.reference}.get(whose)
        if frozen is None and whose != "policy":
            raise RuntimeError(f"no {whose}: what it says is undefined")
        completions, mask = output["completion_ids"], sampled_mask(output)
        with nullcontext(self.model) if frozen is None else frozen.active() as model, self.accelerator.autocast():
            if self._shares(model):
                return self._shared(model, ask or partial(self.passes.told, whose), completions, mask)
            logps, _, _ = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([output["prompt_ids"], completions], dim=1),
                torch.cat([output["prompt_mask"], mask], dim=1),
                completions.size(1),
                batch_size=self.size,
                **{name: output[name] for name in LOGP_FIELDS if name in output},
            )
            return logps

    def _shared(self, model: Any, ask: Callable[..., Tensor], completions: Tensor, mask: Tensor) -> Tensor:
        """What a model that is in force says about all completions, each process about its own rollouts'."""
        own, batch = self.generation.own, self.generation.own_batch
        found = split_of(model).inside(lambda: ask(model, batch, completions[own], mask[own]))
        return ranks.all_gather_rows(found)

    def _states(self, whose: Whose, output: Mapping[str, Any]) -> Tensor:
        """The hidden states that predict the rollouts' tokens, [B*G, L, H].

        Raises:
            UserError: the model's pass cannot be watched.
        """
        if not self._shares(self.model):
            raise UserError(
                "hidden states of rollouts cannot be read from this model; expected a model of Qwen2-VL's family, "
                "and train.share_prefix=true."
            )
        return self._asked(whose, output, partial(self.passes.told, whose, states=True))

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """TRL's tokenisation; the batch at hand was encoded before."""
        batch = self.generation.batch
        if batch is None:
            return super()._tokenize_prompts(prompts)  # type: ignore[no-any-return]
        pairs = zip(batch.prompts.ids, batch.prompts.mask, strict=True)
        each = [ids[mask.bool()].tolist() for ids, mask in pairs]  # without padding
        return [list(each[place]) for place in batch.rows.tolist()], None, {}

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        """TRL's generation with each group's prompt computed once, where that is possible; or vLLM's."""
        model = self.accelerator.unwrap_model(self.model)
        engine = self.use_vllm or self.use_transformers_continuous_batching
        if self._shares(model):
            with self.accelerator.autocast(), whole(model):
                batch = self.generation.own_batch
                if engine:
                    self.passes.begin(model, batch)
                else:
                    sampling = Sampling(
                        int(self.max_completion_length or 0),
                        self.temperature,
                        self.top_p,
                        tuple(self.eos_token_ids),
                        never_sampled(self._model_config),
                        (len(prompt_ids), self.generation.own),
                    )
                    return ranks.all_gather(self.passes.sample(model, batch, sampling)), None
        if self.use_vllm:
            images = images or self.generation.images
        elif self.generation.batch is not None:
            multimodal_fields = self.generation.batch.repeated(self.generation.rows)
        completions, more = super()._generate_single_turn(  # type: ignore[no-untyped-call]
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        meter_of(model).add("tokens_generated", sum(map(len, completions)))
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
                    return self._shared(model, self.passes.scored, completions, mask), None, None
                batch, rollouts = self.generation.batch, self.generation.rows
                if self.once:  # of its own rollouts alone
                    batch, rollouts = self.generation.own_batch, rollouts - self.generation.own.start
                logps, entropies = split_of(model).inside(
                    lambda: self.passes.learned(model, batch, rollouts, completions, mask)
                )
            return logps, entropies if compute_entropy else None, None
        if self.generation.batch is not None:
            model = showing(model, self.generation.batch, self.generation.rows)
        return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **fields
        )

    def _shares(self, model: Any) -> bool:
        """Whether prompts are computed once: the batch at hand is carried here, and the model allows it."""
        return self.share_prefix and self.generation.batch is not None and obstacle(model) is None

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        own, share, weight = own_part(inputs, self.generation.own if self.once else None, self.loss_type)
        self.generation.rows = own["rollout"]
        meter_of(model).add("tokens_trained", own["completion_mask"].sum())
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
