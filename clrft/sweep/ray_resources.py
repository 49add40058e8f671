"""What a cell asks of the node that runs it: CPUs, GPUs and memory, by the estimate of its settings.

Deliberately absent: the memory of a GPU, which a cell is refused for on its node, before it trains
(``clrft/runner/resource_checks.py``), and the machine's memory of a cell on a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig
from clrft.memory.estimate import estimate
from clrft.memory.model_sizes import model_sizes
from clrft.memory.phases import Longest, gib
from clrft.runner.prepare import cache_folder, looked_at
from clrft.runner.resource_checks import longest_among
from clrft.sweep.ray_cluster import Node
from clrft.utils.files import digest
from methods.inputs.admission import Admission
from methods.inputs.encoding import encoded_turns
from methods.inputs.media import preferred_feed
from methods.model.policy import check_checkpoint, load_processor
from task_streams import Workspace, build_stream
from task_streams.errors import UserError
from task_streams.prompt import request

COUNTED = ("CPU", "GPU", "memory")  # as Ray names what a node has
LIBRARIES = 2**29  # bytes of a process that holds Python, torch and the rest, and no model


@dataclass(frozen=True, slots=True)
class CellResources:
    """What a cell asks for."""

    cpus: int  # cores, one for each of its threads
    gpus: int  # 0 or 1
    memory: int  # of the machine, bytes; 0 where no estimate tells it

    def __str__(self) -> str:
        memory = f", {gib(self.memory)} GiB of memory" if self.memory else ""
        return f"CPUs: {self.cpus}, GPUs: {self.gpus}{memory}"

    def fits(self, resources: dict[str, Any]) -> bool:
        """Whether a node that has nothing else to do can run it; by the node's resources as Ray counts them."""
        has = (resources.get(name, 0.0) for name in COUNTED)
        return all(asked <= there for asked, there in zip((self.cpus, self.gpus, self.memory), has, strict=True))


def check_room(nodes: Sequence[Node], demands: Mapping[str, CellResources]) -> None:
    """Refuse cells that no node could run, had it nothing else to do.

    Raises:
        UserError: each demand that is too much, one of its cells, and what the nodes have.
    """
    there = (CellResources(*(int(node.resources.get(name, 0)) for name in COUNTED)) for node in nodes)
    has = "; ".join(dict.fromkeys(map(str, there)))
    problems = {
        demand: f"{cell}: asks for {demand}; no node has as much ({has}). Lower --threads or the cell's settings, or "
        "add such a node."
        for cell, demand in demands.items()
        if not any(demand.fits(node.resources) for node in nodes)
    }
    if problems:
        raise UserError(*problems.values())


def demands_of(cells: Sequence[RunConfig], threads: int, gpus: bool) -> dict[str, CellResources]:
    """What each cell asks for, by its name; ``gpus``: there are some to be had, which ``model.device=auto`` takes.

    Prompts are as long as those of the first class order that is met of a stream.

    Raises:
        UserError: a stream or a processor cannot be read on this machine.
    """
    lengths: dict[str, Longest] = {}
    demands: dict[str, CellResources] = {}
    for cell in cells:
        on_gpu = cell.model.device == "cuda" or (cell.model.device == "auto" and gpus)
        memory = 0 if on_gpu or not cell.run.check_memory else memory_of(cell, lengths)
        demands[cell.cell] = CellResources(threads, int(on_gpu), memory)
    return demands


def memory_of(cell: RunConfig, lengths: dict[str, Longest]) -> int:
    """Bytes that a cell's process needs on a CPU; 0 for a model of a family that is not known."""
    path = cell.model.path or str(default_model_path())
    check_checkpoint(path)
    try:
        sizes = model_sizes(cell.model)
    except OSError as error:
        raise UserError(f"{cell.cell}: the checkpoint {path} has no config on this machine ({error}).") from error
    if sizes is None:
        return 0
    values = cell.to_dict()
    same = digest([values["stream"], values["model"], values["evaluate"]])
    if same not in lengths:
        lengths[same] = longest_prompts(cell, path)
    return estimate(cell, lengths[same], torch.device("cpu")).peak.total + LIBRARIES


def longest_prompts(cell: RunConfig, path: str) -> Longest:
    """The longest of what a cell's prompts have; its model is not loaded."""
    processor = load_processor(cell.model, path)
    admission = Admission(processor, cell.train.max_prompt_tokens, cell.stream.style)
    workspace = Workspace(cache_folder(cell), feed=preferred_feed(processor), refused=admission.refused)
    stream = build_stream(cell.stream_name, cell.stream, cell.seed, workspace)
    asked = [request(example, stream.labels, cell.stream.style) for example in looked_at(stream, admission)]
    batches = [encoded_turns(processor, [(one.messages, one.media)]) for one in asked]
    # a set of questions in a file may be longer than the stream: as many as the settings allow are tested together
    items = None if cell.evaluate.probes else max([*(len(task.test) for task in stream.tasks), cell.evaluate.probe])
    return replace(longest_among(batches, processor), items=items)
