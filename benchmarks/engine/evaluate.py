"""An evaluation: greedy answers to a task's test items; a plain loop over ``generate``, and the evaluator.

The plain loop is what one writes by hand: images decoded, the processor, ``generate``, ``batch_decode``, batch after
batch. The evaluator also scores every answer.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.engine.memory import module_tensors
from benchmarks.engine.models import load
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case, Contender, Turn
from benchmarks.engine.rollout import sampled_turn, until_end
from benchmarks.engine.trainers import SEED
from benchmarks.engine.workload import Workload, workload
from eval.evaluate import evaluate
from methods import build_method
from methods.algorithms.sft import SftConfig
from methods.base import TaskContext
from methods.inputs.fit_image import image_fit
from methods.inputs.media import with_media
from methods.model.config import Decoding
from methods.model.policy import Policy, generation_arguments
from methods.model.weights import clear_rope_state
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit
from task_streams.prompt import request
from task_streams.types import Example

NAMES = ("plain", "ours")


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """The one case that the options describe."""
    asked = [name for name in NAMES if not options.only or name in options.only]
    stock, policy = load(options, stock=True), load(options)
    work = workload(options, policy.processor)
    if options.learned:
        learn(policy, work, options.learned, scratch)
        stock.model.load_state_dict(policy.model.state_dict())
    plain = by_hand(stock, work, options)
    contenders = [
        Contender("plain", plain, stock, lambda: module_tensors(stock.model)),
        Contender("ours", by_evaluator(policy, work, options, plain()), policy, lambda: module_tensors(policy.model)),
    ]
    where = {
        "items": len(work.task.test),
        "batch": options.batch,
        "prompt_tokens": work.prompt_tokens,
        "media": options.media,
        "completion_tokens": options.completion_tokens or "natural",
    }
    yield Case("evaluation", where, asked[0], [one for one in contenders if one.name in asked])


def learn(policy: Policy, work: Workload, updates: int, scratch: Path) -> None:
    """Train the policy on its task with supervised updates, at their default settings."""
    settings = FitSettings(TrainConfig(updates=updates), scratch / "learned")
    fit(build_method("sft", SftConfig()), TaskContext(work.task, policy, None, seed=SEED), None, settings)


def by_hand(policy: Policy, work: Workload, options: Options) -> Callable[[], Turn]:
    """A plain loop; each batch's completions are those of transformers' ``generate``."""
    policy.model.eval()
    decoding = Decoding(options.completion_limit)
    arguments = generation_arguments(decoding, policy.model.config)
    ends = torch.tensor(policy.ends, device=policy.device)

    def answered(examples: Sequence[Example]) -> list[list[int]]:
        asked = [request(one, work.task.seen, work.task.style).arranged(options.media) for one in examples]
        inputs = policy.processor.apply_chat_template(
            [with_media(one.messages, one.media) for one in asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(policy.device)
        clear_rope_state(policy.model)
        with torch.no_grad():
            tokens = policy.model.generate(**inputs, **arguments)
        clear_rope_state(policy.model)
        completions = tokens[:, inputs["input_ids"].shape[1] :]
        policy.processor.batch_decode(completions, skip_special_tokens=True)
        return until_end(completions, ends)

    def take() -> Turn:
        items, size = work.task.test, options.batch
        batches = [answered(items[start : start + size]) for start in range(0, len(items), size)]
        return dataclasses.replace(sampled_turn(*batches), items=len(items))

    return take


def by_evaluator(policy: Policy, work: Workload, options: Options, same: Turn) -> Callable[[], Turn]:
    """Ours: the evaluator over ``Policy.generate``; ``same`` is what the greedy answers come to, by hand."""
    decoding = Decoding(options.completion_limit)
    fit = image_fit(policy.processor)

    def take() -> Turn:
        session = policy.session()  # an evaluation begins without anything
        evaluate(
            lambda requests: policy.generate(requests, decoding, session),
            work.task,
            work.task.seen,
            stage=work.task.index,
            task_of=dict.fromkeys(work.task.seen, work.task.index),
            batch_size=options.batch,
            fit=fit,
        )
        return same

    return take
