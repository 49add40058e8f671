"""The outline of a cell's stream.

Where the data are on this machine the stream is built as a run builds it, and prompts of some of its items are encoded.
Elsewhere ``unavailable_data.py`` makes the outline, which says so.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from clrft.config.run_config import RunConfig
from clrft.memory.checkpoint_shape import checkpoint_of
from clrft.memory.estimate import Longest
from clrft.planning.stream_statistics import Outline, TaskOutline, joined
from clrft.planning.token_lengths import Looked, Ruler
from clrft.planning.unavailable_data import absent, declared_outline
from clrft.runner.prepare import cache_folder
from clrft.runner.stage import glyph_probe
from methods.model.config import ModelConfig
from task_streams import Workspace, build_stream
from task_streams.config import StreamConfig
from task_streams.prompt import THOUGHTS, request, target_text
from task_streams.prompt_style import PromptStyle
from task_streams.scenarios.draw import shuffled
from task_streams.scenarios.split import joint_task
from task_streams.types import Example, Task, TaskStream, new_test_items

LOOKED_AT = 8  # items of each split of a task that are encoded
ITEM_SEED = 0  # of their draw


def outline_of(config: RunConfig) -> Outline:
    """The outline of a cell's stream.

    Raises:
        UserError: data that are here are not as the stream expects; or nothing tells how large those are that are not.
    """
    thought = getattr(config.method, "thought", THOUGHTS[0])
    asked = (config.stream_name, config.stream, config.seed, config.model, thought, cache_folder(config))
    return _outline(*asked)


@cache
def _outline(name: str, config: StreamConfig, seed: int, model: ModelConfig, thought: str, folder: Path) -> Outline:
    ruler = Ruler(checkpoint_of(model), model)
    if absent(config):
        return declared_outline(name, config, ruler, thought)
    stream = build_stream(name, config, seed, Workspace(folder, feed=ruler.feed))
    return counted_outline(stream, ruler, thought)


def counted_outline(stream: TaskStream, ruler: Ruler, thought: str) -> Outline:
    """The outline of a stream that was built."""
    tests = [looked_at(ruler, task.test, task.seen, task.style) for task in stream.tasks]
    trains = [looked_at(ruler, task.train, task.trained, task.style) for task in stream.tasks]
    lists = [ruler.text(list_text(task)) for task in stream.tasks]
    behind = ruler.media == "last"  # images: the class list is among what all prompts begin with
    tasks = [
        TaskOutline(
            train=len(task.train),
            test=len(task.test),
            new=len(new),
            prompt=train.tokens,
            prompts=tuple(test.tokens + length - lists[place] for length in lists),
            target=target_tokens(ruler, task, thought),
            shown=test.shown,
            lists_all=task.seen == stream.labels,
            lead=train.lead,
            leads=tuple(test.lead + behind * (length - lists[place]) for length in lists),
        )
        for place, (task, new, test, train) in enumerate(
            zip(stream.tasks, new_test_items(stream.tasks), tests, trains, strict=True)
        )
    ]
    whole = joint_task(stream)
    joint = looked_at(ruler, whole.train, whole.trained, whole.style)
    longer = max(lists) - min(lists)
    both = [*tests, *trains]
    longest = Longest(
        tokens=max(one.longest for one in both) + longer,
        patches=max(one.patches for one in both),
        images=max(one.images for one in both),
        pixels=max(one.patches // max(one.images, 1) for one in both) * ruler.patch**2,
        examples=max(len(task.train) for task in stream.tasks),
        items=max(len(task.test) for task in stream.tasks),
    )
    return Outline(
        tasks=tuple(tasks),
        joint=joined(tasks, joint.tokens, joint.lead),
        kind=whole.kind,
        longest=longest,
        here=True,
        exact=ruler.processor is not None,
    )


def looked_at(ruler: Ruler, items: Sequence[Example], labels: tuple[str, ...], style: PromptStyle) -> Looked:
    """The prompts of some of a split's items."""
    chosen = shuffled(items, ITEM_SEED, "plan")[:LOOKED_AT]
    return ruler.look([request(item, labels, style) for item in chosen])


def list_text(task: Task) -> str:
    """What of a task's prompts a class list decides; nothing for questions."""
    return "" if task.kind == "question" else task.style.ask(task.kind, task.seen)


def target_tokens(ruler: Ruler, task: Task, thought: str) -> float:
    """Mean length of what supervised methods train towards, end of sequence included."""
    texts = [target_text(item.target, thought, task.style, task.trained) for item in task.train]
    known = {text: ruler.text(text) + 1 for text in dict.fromkeys(texts)}
    return fmean(known[text] for text in texts)


def probe_of(config: RunConfig) -> Looked:
    """A prompt of a cell's built-in probe, which lists the classes of the items that are asked."""
    return _probe(config.model, config.stream.style, max(1, config.evaluate.probe))


@cache
def _probe(model: ModelConfig, style: PromptStyle, items: int) -> Looked:
    task = glyph_probe(items, style)
    return Ruler(checkpoint_of(model), model).look([request(task.test[0], task.seen, style)])
