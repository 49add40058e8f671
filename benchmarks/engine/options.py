"""What is measured, on what, how often: the command line of the harness."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from methods.settings import KAHAN, PLAIN, WIDE
from task_streams.prompt import PLACES

BENCHES = ("rollout", "logprobs", "step", "evaluate", "boundary", "scaling", "short", "all")
MODELS = ("tiny", "qwen2_vl_2b_random")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Options:
    """One call of the harness.

    Attributes:
        bench: what is measured.
        model: the embedded model, or the shape of Qwen2-VL-2B-Instruct with random weights.
        device: auto, cpu or cuda.
        dtype: what is computed in; auto is bfloat16 on a GPU, else float32.
        optimizer: how weights are held and moved; TRL's own trainer has weights in float32 with ``adamw_float32``
            (its ``bf16=True``), else in the dtype, moved by torch's AdamW.
        prompts: different prompts in a batch.
        group: completions of each prompt, G.
        prompt_tokens: length of every prompt, its image included; None = the task's own.
        completion_tokens: length of every completion; None = until the end of sequence, at most ``limit``.
        limit: longest completion where none is given.
        kept_prefixes: MiB of what prompts leave behind in frozen models that a training keeps; None = its default.
        accumulation: micro-batches of an update.
        own_accumulation: those of ours, where prompts are shared; None = as many.
        media: where images stand in a prompt.
        checkpointing: compute activations again in the backward pass.
        graphs: decode with a recorded step, where there is a GPU.
        items: test items of an evaluation.
        batch: test items answered together.
        learned: supervised updates before an evaluation, so that the model answers in the form that is asked for.
        only: contenders that run; empty = all.
        groups, lengths, batches: what ``scaling`` varies, one after the other: G, prompt tokens, prompts.
        rounds: counted turns of each contender.
        warmup: turns before counting.
        threads: torch threads; None = torch's own.
        memory: measure memory, in one more turn.
        layers: fewer layers of the 2B shape, for tests; None = all.
        output: JSON file for everything measured.
    """

    bench: str
    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    optimizer: str = PLAIN
    prompts: int = 8
    group: int = 8
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    limit: int = 24
    kept_prefixes: int | None = None
    accumulation: int = 1
    own_accumulation: int | None = None
    media: str = "first"
    checkpointing: bool = False
    graphs: bool = True
    items: int = 128
    batch: int = 64
    learned: int = 0
    only: tuple[str, ...] = ()
    groups: tuple[int, ...] = (2, 4, 8, 16)
    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    batches: tuple[int, ...] = (2, 4, 8, 16)
    rounds: int = 9
    warmup: int = 2
    threads: int | None = None
    memory: bool = True
    layers: int | None = None
    output: Path | None = None

    @property
    def completion_limit(self) -> int:
        """Longest completion."""
        return self.completion_tokens or self.limit

    def to_json(self) -> dict[str, Any]:
        """The options as plain values, without the output's path."""
        return {name: value for name, value in asdict(self).items() if name != "output"}


def options_of(words: Sequence[str] | None = None) -> Options:
    """The options that a command line stands for."""
    given: dict[str, Any] = vars(parser().parse_args(words))
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in given.items()}
    return Options(**values)


def parser() -> argparse.ArgumentParser:
    """The command line; every default is that of ``Options``."""
    made = argparse.ArgumentParser("python -m benchmarks.engine", argument_default=argparse.SUPPRESS)
    made.add_argument("bench", choices=BENCHES)
    made.add_argument("--model", choices=MODELS, help="default tiny; the other needs no download either")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"))
    made.add_argument("--dtype", choices=DTYPES)
    made.add_argument("--optimizer", choices=(WIDE, KAHAN, PLAIN), help="as train.optimizer (adamw)")
    add_workload(made)
    add_measuring(made)
    return made


def add_workload(made: argparse.ArgumentParser) -> None:
    """Options of what the contenders work on."""
    made.add_argument("--prompts", type=int, help="different prompts in a batch (8)")
    made.add_argument("--group", type=int, help="completions of each prompt, G (8)")
    made.add_argument("--prompt-tokens", type=int, help="length of every prompt (the task's own)")
    made.add_argument("--completion-tokens", type=int, help="length of every completion (until it ends by itself)")
    made.add_argument("--limit", type=int, help="longest completion where its length is not given (24)")
    made.add_argument("--kept-prefixes", type=int, help="train.kept_prefixes, MiB (its default)")
    made.add_argument("--accumulation", type=int, help="micro-batches of an update (1)")
    made.add_argument("--own-accumulation", type=int, help="those of ours, which needs less memory (as many)")
    made.add_argument("--media", choices=PLACES, help="where images stand in a prompt (first)")
    made.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    made.add_argument("--no-graphs", dest="graphs", action="store_false", help="no recorded decoding steps on a GPU")
    made.add_argument("--items", type=int, help="test items of an evaluation (128)")
    made.add_argument("--batch", type=int, help="test items answered together (64)")
    made.add_argument("--learned", type=int, help="supervised updates before an evaluation (0)")
    made.add_argument("--groups", type=int, nargs="*", help="scaling, short: values of G (2 4 8 16)")
    made.add_argument("--lengths", type=int, nargs="*", help="scaling: prompt tokens (256 512 1024 2048)")
    made.add_argument("--batches", type=int, nargs="*", help="scaling: prompts in a batch (2 4 8 16)")


def add_measuring(made: argparse.ArgumentParser) -> None:
    """Options of how it is measured."""
    made.add_argument("--only", nargs="+", help="contenders that run (all)")
    made.add_argument("--rounds", type=int, help="counted turns of each contender (9)")
    made.add_argument("--warmup", type=int, help="turns before counting (2)")
    made.add_argument("--threads", type=int, help="torch threads (torch's own)")
    made.add_argument("--no-memory", dest="memory", action="store_false", help="leave memory out: it takes a turn more")
    made.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    made.add_argument("--output", type=Path, help="JSON file for everything measured")
