"""How near the shared prefix comes to the plain path in a dtype, beside how near the plain path comes to itself.

    python -m benchmarks.equality --model qwen2_vl_2b_random --device cuda --prompt-tokens 256 --completion-tokens 64

Log-probabilities of given completions and the gradients of their mean: each prompt once; TRL's own function, all rows
at once; TRL's again with rows in smaller batches, and behind more padding, as they stand beside a longer prompt (its
spread); TRL's in float32 with the same weights (what is right).
Then completions sampled with the same noise: by ``generate``, with the growing cache, with steps in static buffers,
recorded where there is a GPU.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.engine.logprobs import by_ours, by_trl, some_tokens
from benchmarks.engine.models import load, model_config
from benchmarks.engine.options import Options, options_of
from benchmarks.engine.trainers import fit_settings, without_reference
from benchmarks.engine.workload import grouped_prompts, workload
from clrft.runs.provenance import code_identity, hardware, versions
from clrft.utils.files import write_json_atomic
from clrft.utils.quiet import quiet_environment, quiet_libraries
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import prefill
from methods.generation.static_decode import StaticSteps, sample_static
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding, choose_device, choose_dtype
from methods.model.policy import Policy, generation_arguments
from methods.model.weights import clear_rope_state

LENGTH = 17  # tokens of a completion where the command line names none
SMALLER = 4  # as many batches
PADDING = 24  # tokens
SEED = 11

Found = tuple[Tensor, list[Tensor]]  # log-probabilities [N, L], gradients


def main(words: list[str] | None = None) -> int:
    """Measure, print, and write the JSON file that ``--output`` names."""
    quiet_environment()
    quiet_libraries()
    options = options_of(["logprobs", *(sys.argv[1:] if words is None else words)])
    figures = {"scores": scores(options), "tokens": tokens(options)}
    for part, rows in figures.items():
        for name, row in rows.items():
            print(part, name, {key: f"{value:.3g}" for key, value in row.items()}, flush=True)
    if options.output:
        device = choose_device(model_config(options))
        about = {"dtype": str(choose_dtype(model_config(options), device)).removeprefix("torch.")}
        about |= {"options": options.to_json(), "versions": versions(), "hardware": hardware(), "code": code_identity()}
        write_json_atomic(options.output, {"schema": 1, **figures, **about})
    return 0


def scores(options: Options) -> dict[str, dict[str, float]]:
    """Distances of log-probabilities (nats) and gradients (norm of the difference over the norm), by pair."""
    policy = load(options)
    work = workload(options, policy.processor)
    prompts, rows = grouped_prompts(policy, work, options)
    completions = some_tokens(policy, len(rows), options.completion_tokens or LENGTH)
    with tempfile.TemporaryDirectory(prefix="clrft-equality-") as scratch:
        trainer = without_reference(policy, work, options, fit_settings(options, work, Path(scratch), False))
        plain = by_trl(trainer, prompts.select(rows), completions)
        few = -(-len(rows) // SMALLER)
        found = {
            "shared": of(policy, by_ours(policy, prompts, rows, completions)),
            "plain": of(policy, plain),
            "plain in smaller batches": of(policy, plain, trainer, few),
            "plain behind padding": of(
                policy, by_trl(trainer, padded(prompts.select(rows)), completions), trainer, few
            ),
        }
        policy.model.float()
        exact = of(policy, plain, trainer, few)
    pairs = {f"{name} from float32": (one, exact) for name, one in found.items()}
    pairs["shared from plain"] = found["shared"], found["plain"]
    for other in ("in smaller batches", "behind padding"):
        pairs[f"plain from itself {other}"] = found[f"plain {other}"], found["plain"]
    return {name: distances(*pair) for name, pair in pairs.items()}


def padded(prompts: Prompts) -> Prompts:
    """The prompts behind some tokens of padding."""
    more = (PADDING, 0)
    return replace(
        prompts, ids=pad(prompts.ids, more), mask=pad(prompts.mask, more), token_types=pad(prompts.token_types, more)
    )


def of(policy: Policy, score: Callable[[], Tensor], trainer: Any = None, batch: int | None = None) -> Found:
    """Log-probabilities, and the gradients of their mean; the trainer scores so many rows at once."""
    if trainer is not None:
        trainer.args.per_device_train_batch_size = batch
    policy.model.zero_grad(set_to_none=True)
    logps = score()
    logps.mean().backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in policy.model.parameters() if weight.grad is not None]
    policy.model.zero_grad(set_to_none=True)
    return logps.detach().float(), gradients


def distances(mine: Found, theirs: Found) -> dict[str, float]:
    """How far two are apart."""
    away = (mine[0] - theirs[0]).abs()
    squares = sum((a.float() - b.float()).square().sum() for a, b in zip(mine[1], theirs[1], strict=True))
    norm = sum(b.float().square().sum() for b in theirs[1])
    return {
        "logps_mean": away.mean().item(),
        "logps_largest": away.max().item(),
        "gradients": (squares / norm).sqrt().item(),  # type: ignore[union-attr]
    }


def tokens(options: Options) -> dict[str, dict[str, float]]:
    """Share of the tokens, and of whole completions, that are those of ``generate`` for the same noise."""
    policy = load(options)
    policy.model.eval()
    work = workload(options, policy.processor)
    prompts, rows = grouped_prompts(policy, work, options)
    never = never_sampled(policy.model.config)
    sampling = Sampling(options.completion_limit, 1.0, 1.0, tuple(policy.ends), never)
    with torch.no_grad():
        prefix = prefill(policy.model, prompts)
    steps = policy.session().steps or StaticSteps(recorded=False)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "generate": lambda: generated(policy, prompts.select(rows), options),
        "growing cache": lambda: sample_after(policy.model, prefix.repeated(rows), sampling),
        "static buffers": lambda: sample_static(steps, policy.model, prefix, rows, sampling),
        "static buffers again": lambda: sample_static(steps, policy.model, prefix, rows, sampling),
    }
    drawn = {}
    for name, way in ways.items():
        torch.manual_seed(SEED)
        drawn[name] = way()
    first = drawn.pop("generate")
    return {name: alike(one, first) for name, one in drawn.items()}


def generated(policy: Policy, prompts: Prompts, options: Options) -> list[list[int]]:
    """Transformers' own completions; their length is given."""
    inputs = {"input_ids": prompts.ids, "attention_mask": prompts.mask, "mm_token_type_ids": prompts.token_types}
    arguments = generation_arguments(Decoding(options.completion_limit, temperature=1.0), policy.model.config)
    clear_rope_state(policy.model)
    with torch.no_grad():
        found = policy.model.generate(**inputs, **prompts.fields, **arguments)
    clear_rope_state(policy.model)
    return found[:, prompts.ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def alike(mine: list[list[int]], theirs: list[list[int]]) -> dict[str, float]:
    """Shares of equal tokens and of equal completions."""
    equal = [a == b for one, other in zip(mine, theirs, strict=True) for a, b in zip(one, other, strict=False)]
    same = [one == other[: len(one)] for one, other in zip(mine, theirs, strict=True)]
    return {"tokens": sum(equal) / len(equal), "completions": sum(same) / len(same)}


if __name__ == "__main__":
    sys.exit(main())
