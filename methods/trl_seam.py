"""The only file that touches TRL's private methods; TRL is pinned, and a contract test guards the seam.

``HookedGRPOTrainer`` runs a method's hooks where TRL has none: shaped rewards and advantages after TRL's own
scoring, extra loss terms inside its loss. Log-probabilities of actor and anchor come from TRL's own function.
TRL knows images only: clips that a model takes as its own kind of video are carried past it (``clip_batches.py``).
Deliberately absent: TRL's reference model (it is loaded by the *policy's* config name, which silently becomes the
previous task's policy), so the reference is set here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from methods.advantage import zero_variance_share
from methods.base import LossContext, Method, Rollouts
from methods.clip_batches import ClipCollator, WithClips, encoded_prompts, rows_have_clips
from methods.compose import shaped_rewards
from methods.media import Patches, image_patches, model_fields, never_sampled, token_types
from methods.meter import IGNORED, meter_of
from methods.policy import FullSnapshot, Snapshot
from methods.resumable import ResumableTrainer
from methods.rollout import Sampling, left_padded, sample_completions
from methods.shaping import checked
from methods.shared_prefix import Prompts, completion_logps, obstacle, prompts_of, sources
from methods.views import StepViews
from task_streams.types import Clip, Task

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


class HookedGRPOTrainer(ResumableTrainer, GRPOTrainer):
    """TRL's GRPO trainer with a method's hooks, a given KL reference and a given anchor.

    Args:
        method: whose hooks are called.
        task: what is learned, with every example that a row can ask about.
        think: prompts ask for a thought.
        anchor: the previous task's snapshot, or None.
        reference: snapshot of the base for the KL term; None with an adapter (the base is then the model without
            it) or without a KL term.
        kl: coefficient of the KL term.
        share_prefix: compute a group's prompt once where the model allows it.
    """

    def __init__(
        self,
        *,
        method: Method,
        task: Task,
        think: bool,
        anchor: Snapshot | None,
        reference: Snapshot | None,
        kl: float,
        share_prefix: bool = True,
        **arguments: Any,
    ) -> None:
        if arguments["args"].beta != 0:
            raise ValueError("pass beta=0 and the coefficient as kl: TRL would load its own reference model")
        self._model_config = arguments["model"].config
        arguments["args"].generation_kwargs = {"suppress_tokens": list(never_sampled(self._model_config))}
        super().__init__(**arguments)
        self.method = method
        self.task_index = task.index
        self.labels = task.trained
        self.targets = {example.key: example.target for example in task.train}
        self.think = think
        self.anchor = anchor
        self.beta = kl
        self.kl_to_anchor = kl > 0 and anchor is not None and method.kl_target == "anchor"
        self.share_prefix = share_prefix
        self._sources: Tensor | None = None  # which rows of the batch at hand share a prompt
        self._asked: list[list[Clip]] | None = None  # clips that the rows of the batch at hand ask about
        self._clips: list[Patches] | None = None  # and what the model gets of them
        self._place_reference(reference)
        if isinstance(anchor, FullSnapshot):
            self._give_fused_head(anchor.model)

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

    def _place_reference(self, reference: Snapshot | None) -> None:
        if not isinstance(reference, FullSnapshot):
            return
        self._give_fused_head(reference.model)
        self.ref_model = self.accelerator.prepare_model(reference.model.to(reference.device), evaluation_mode=True)

    def _give_fused_head(self, model: Any) -> None:
        """Let a frozen model answer TRL's log-probability calls, at the sampling temperature."""
        model.__dict__.pop("forward", None)
        add_fused_lm_head(model, temperature=self.temperature)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        self._raw_rewards = rewards  # gathered over processes, [B*G, components]
        self._texts = [completion[0]["content"] for completion in completions]
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._sources = torch.tensor(sources([example["key"] for example in inputs]), device=self.accelerator.device)
        self._asked = [example["clips"] for example in inputs] if rows_have_clips(inputs) else None
        self._clips = None
        output = self._scored_by_trl(inputs)
        output["sources"] = self._sources
        if self._asked is not None:
            output["clips"] = self._clips  # one entry a row, so TRL shuffles and splits them with the rest
        rollouts = self._rollouts(inputs, output)
        rewards = shaped_rewards(self.method, rollouts)
        self._log_step("reward_shaped", rewards.mean().item())
        self._log_step("zero_variance_groups", zero_variance_share(rewards, rollouts.group_size))
        advantages = self.method.normalize_advantages(rewards, rollouts)
        advantages = checked(advantages, rollouts, self.method, "normalize_advantages")
        start = self.accelerator.process_index * len(inputs)
        output["advantages"] = advantages[start : start + len(inputs)]
        return output

    def _scored_by_trl(self, inputs: Any) -> dict[str, Any]:
        """TRL's own scoring; no reference is asked where the anchor stands in for it."""
        kl = self.beta
        try:
            self.beta = 0.0 if self.kl_to_anchor else kl
            return super()._generate_and_score_completions(inputs)
        finally:
            self.beta = kl

    def _rollouts(self, inputs: Any, output: dict[str, Any]) -> Rollouts:
        """The scored batch of all processes as the record that hooks receive."""
        actor, anchor = self._logps(output) if self.anchor is not None else (None, None)
        if self.kl_to_anchor:
            output["ref_per_token_logps"] = anchor
        return Rollouts(
            task_index=self.task_index,
            group_size=int(self.num_generations or 0),
            components=dict(zip(self.reward_func_names, self._raw_rewards.unbind(dim=1), strict=True)),
            mask=self._everywhere(sampled_mask(output)),
            actor_logps=None if actor is None else self._everywhere(actor),
            anchor_logps=None if anchor is None else self._everywhere(anchor),
            keys=tuple(gather_object([example["key"] for example in inputs])),
            log=self._log_step,
            completions=tuple(gather_object(self._texts)),
            targets=tuple(gather_object([self.targets[example["key"]] for example in inputs])),
            labels=self.labels,
            think=self.think,
            views=StepViews(output, self.model, self.anchor, self._completion_logps, self._encoded),
        )

    @torch.no_grad()
    def _logps(self, output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of this process's completions under the policy and under the anchor, [b*G, L] each."""
        if self.anchor is None:
            raise RuntimeError("no anchor: its log-probabilities are undefined")
        actor = self._completion_logps(self.model, output)
        with self.anchor.active() as module:
            return actor, self._completion_logps(module, output)

    def _completion_logps(self, model: Any, output: Mapping[str, Any]) -> Tensor:
        completion_ids = output["completion_ids"]
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([output["prompt_ids"], completion_ids], dim=1),
            torch.cat([output["prompt_mask"], sampled_mask(output)], dim=1),
            completion_ids.size(1),
            batch_size=self.args.per_device_train_batch_size,
            **{field: output[field] for field in IMAGE_FIELDS if field in output},
        )
        return logps

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def _everywhere(self, rows: Tensor) -> Tensor:
        """Rows [n, L] of all processes, padded with zeros to one length."""
        padded = self.accelerator.pad_across_processes(rows, dim=1)
        return self.accelerator.gather(padded)  # type: ignore[no-any-return]

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """TRL's tokenisation, also of prompts about clips."""
        if self._asked is None:
            return super()._tokenize_prompts(prompts)  # type: ignore[no-any-return]
        rows = self._sources.tolist()  # type: ignore[union-attr]
        prompt_ids, self._clips = encoded_prompts(self.processing_class, prompts, self._asked, rows)
        return prompt_ids, None, model_fields(None, Patches.joined(self._clips))

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], None]:
        """TRL's generation with each group's prompt computed once, where that is possible."""
        model = self.accelerator.unwrap_model(self.model)
        device = self.accelerator.device
        ids = left_padded(prompt_ids, self._tokenizer.pad_token_id, device)
        if self._clips is not None:
            multimodal_fields["mm_token_type_ids"] = token_types(ids, self._model_config)
        if self.use_vllm or self.use_transformers_continuous_batching or not self._can_share(model, multimodal_fields):
            completions, more = super()._generate_single_turn(  # type: ignore[no-untyped-call]
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            meter_of(model).generated(sum(map(len, completions)))
            return completions, more
        shown = image_patches(multimodal_fields, None if images is None else [len(one or ()) for one in images])
        prompts = Prompts(
            ids=ids,
            mask=left_padded([[1] * len(row) for row in prompt_ids], 0, device),
            token_types=token_types(ids, self._model_config),
            images=None if shown is None else shown.to(device),
            clips=self._clips_at_hand(device),
            source=self._sources,  # type: ignore[arg-type]
        )
        sampling = Sampling(
            int(self.max_completion_length or 0),
            self.temperature,
            self.top_p,
            tuple(self.eos_token_ids),
            never_sampled(self._model_config),
        )
        with self.accelerator.autocast():
            return sample_completions(model, prompts, sampling), None

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
        """TRL's log-probabilities, also of answers about clips; each group's prompt is computed once where possible."""
        clips = self._clips_at_hand(input_ids.device)
        if clips is not None:
            fields["mm_token_type_ids"] = token_types(input_ids, self._model_config)
        if not self._can_share(model, fields):
            shown = model if clips is None else WithClips(model, clips)
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                shown, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **fields
            )
        length = input_ids.shape[1] - logits_to_keep
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, **fields}
        prompts = prompts_of(batch, length, self._sources, clips)  # type: ignore[arg-type]
        parts = []
        for rows in torch.split(torch.arange(len(input_ids)), batch_size or len(input_ids)):
            part = prompts if len(rows) == len(input_ids) else prompts.select(rows)
            completions, mask = input_ids[rows, length:], attention_mask[rows, length:]
            with self.accelerator.autocast():
                parts.append(completion_logps(model, part, completions, mask, self.temperature))
        logps, entropies = (torch.cat(values) for values in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _can_share(self, model: Any, fields: Mapping[str, Any]) -> bool:
        """Whether a model is a plain one of a supported family, asked about images or clips."""
        return (
            self.share_prefix
            and self._sources is not None
            and self.accelerator.num_processes == 1
            and (fields.get("pixel_values") is not None or self._clips is not None)
            and obstacle(model) is None
        )

    def _clips_at_hand(self, device: torch.device) -> Patches | None:
        """The clips of all rows of the batch at hand."""
        return None if self._clips is None else Patches.joined(self._clips).to(device)

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self._sources, self._clips = inputs["sources"], inputs.get("clips")
        meter_of(model).trained(inputs["completion_mask"].sum())
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        terms = extra_loss(self.method, LossContext(model, inputs, self.task_index, self.anchor, self._log_step))
        return loss if terms is None else loss + terms / self.current_gradient_accumulation_steps

    def _log_step(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)


class HookedSFTTrainer(ResumableTrainer, SFTTrainer):
    """TRL's supervised trainer with a method's extra loss terms."""

    def __init__(self, *, method: Method, task_index: int, anchor: Snapshot | None = None, **arguments: Any) -> None:
        if rows_have_clips([arguments["train_dataset"][0]]):
            arguments["data_collator"] = ClipCollator(arguments["processing_class"])
        super().__init__(**arguments)
        self.method = method
        self.task_index = task_index
        self.anchor = anchor

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs:
            raise ValueError("outputs are not returned during training")
        context = LossContext(model, dict(inputs), self.task_index, self.anchor, self._log_step)
        meter_of(model).trained((inputs["labels"][:, 1:] != IGNORED).sum())
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[no-untyped-call]
        terms = extra_loss(self.method, context)
        if terms is None:
            return loss
        # with a count of items Trainer leaves the division by the accumulation steps to the loss
        return loss + (terms / self.current_gradient_accumulation_steps if num_items_in_batch is not None else terms)

    def _log_step(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)


def extra_loss(method: Method, context: LossContext) -> Tensor | None:
    """Sum of a method's loss terms, each logged by its name; None if it has none."""
    terms = method.loss_terms(context)
    for name, term in terms.items():
        context.log(name, term.item())
    return torch.stack(list(terms.values())).sum() if terms else None


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
