"""Policies whose answers are known in advance, run through the real evaluation: their scores follow by hand."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from clrft.config.run_config import build_config
from clrft.runner.run import write_results
from clrft.runner.stage import learn_stage
from clrft.runner.state import Run
from clrft.runs.layout import stage_folder
from clrft.runs.manifest import run_manifest, write_config
from clrft.runs.read import RunRecord, read_run
from clrft.utils.files import write_json_atomic
from clrft.utils.progress import Silent
from eval.matrix import AccuracyMatrix
from eval.metrics import METRICS
from methods.algorithms.frozen import ZeroShot
from methods.base import Method
from methods.costs.meter import Meter
from methods.generation.answers import Session
from methods.model.config import Decoding
from task_streams.prompt import Request, target_text
from task_streams.types import Example, TaskStream

LISTED = re.compile(r"(?:Choose from|of these categories): (.*?)\. (?:Reply|Give)")

# (what is asked about, classes the prompt lists, stage) to a completion
Script = Callable[[Example, Sequence[str], int], str]


@dataclass
class ScriptedPolicy:
    """Answers by a script; knows the truth by the item's key and, from the runner, the stage."""

    script: Script
    examples: Mapping[str, Example]
    stage: int = 0
    meter: Meter = field(default_factory=Meter)
    model: Any = None  # it has no weights
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    session: type[Session] = Session  # what answers leave to those after them; a script needs nothing

    @property
    def processor(self) -> Any:
        """Nothing that resizes."""
        return SimpleNamespace(image_processor=None)

    def generate(self, requests: Sequence[Request], decoding: Decoding, session: object = None) -> list[str]:
        return [self.script(self.examples[one.key], listed(one), self.stage) for one in requests]


def listed(request: Request) -> tuple[str, ...]:
    """The classes that a prompt lists, read out of its text."""
    found = LISTED.search(request.messages[0]["content"][-1]["text"])
    return tuple(found.group(1).split(", ")) if found else ()


def matrix_of(script: Script, stream: TaskStream, folder: Path) -> AccuracyMatrix:
    """The accuracy matrix that a script ends with, through the runner's own stages, files and results."""
    state = tested(script, stream, folder)
    matrix, _ = write_results(state.folder, [task.name for task in stream.tasks], state.stages, ["forgetting"])
    return matrix


def run_of(script: Script, stream: TaskStream, folder: Path, seed: int = 1993, **evaluate: Any) -> RunRecord:
    """The complete run that a script ends with, every metric among its results, read back from its files."""
    state = tested(script, stream, folder, seed, **evaluate)
    write_config(state.config, state.folder)
    write_json_atomic(state.folder / "manifest.json", run_manifest(state.config, stream, {}, state.method))
    write_results(state.folder, [task.name for task in stream.tasks], state.stages, METRICS)
    return read_run(state.folder)


def tested(script: Script, stream: TaskStream, folder: Path, seed: int = 1993, **evaluate: Any) -> Run:
    """A run whose every stage was tested with a script's answers; ``evaluate``: settings of its section."""
    examples = {example.key: example for task in stream.tasks for example in task.test}
    words: dict[str, Any] = {"evaluate": {"probe": 0, **evaluate}, "run": {"output": str(folder), "mlflow": False}}
    config = build_config("digits_cil", "zero_shot", "tiny", seed, words)
    policy = ScriptedPolicy(script, examples)
    method: Method = ZeroShot(config.method)
    state = Run(config, stream, policy, method, Silent())  # type: ignore[arg-type]
    state.folder.mkdir(parents=True)
    for stage in state.stages:
        policy.stage = stage
        learn_stage(state, stage, lambda row: None)
        assert (stage_folder(state.folder, stage) / "predictions.jsonl").is_file()
    return state


def perfect(example: Example, listed: Sequence[str], stage: int) -> str:
    """The right answer."""
    return target_text(example.target, labels=listed)


def never_parses(example: Example, listed: Sequence[str], stage: int) -> str:
    """No answer block."""
    return "it is hard to say"
