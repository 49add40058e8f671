"""Box AP of new classes: scripted policies on images that hold classes of several tasks, beside COCO's own judge."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from clrft.analysis.compare import compare
from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.planning.calibration import cut
from clrft.planning.stage_work import Cell, Lengths
from clrft.runs.layout import EVALUATE
from clrft.runs.read import RunRecord, read_run
from clrft.tracking.runs import cell_facts, task_facts
from clrft.utils.progress import Silent
from eval.detection import parse_boxes
from eval.parse import parse_completion
from task_streams.datasets.coco import CocoCilConfig, coco_cil
from task_streams.errors import UserError
from task_streams.prompt import target_text, visible
from task_streams.scenarios.fingerprint import check_stream
from task_streams.sources.records import Workspace
from task_streams.types import Box, Example, Task, TaskStream
from tests.coco_judge import coco_stats
from tests.scripted import Script, perfect, run_of
from tests.task_streams.detection_trees import Boxes, write_coco

TASKS, NEW = 5, 2
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
SEEDS = (136, 377, 639)


def images(seed: int) -> list[Boxes]:
    """An image of each class alone, and 20 with one to five boxes of any; whole pixels are whole thousandths."""
    random = np.random.RandomState(seed)
    many = [[str(name) for name in random.choice(CLASSES, random.randint(1, 6))] for _ in range(20)]
    corners = [
        [(name, *random.randint((0, 0, 20, 10), (120, 60, 80, 40)).tolist()) for name in names] for names in many
    ]
    return [*([(name, 10, 10, 100, 50)] for name in CLASSES), *corners]


def stream_of(root: Path, seed: int) -> TaskStream:
    some = images(seed)
    write_coco(root, {"train2017": some, "val2017": some}, {name: i for i, name in enumerate(CLASSES, start=1)})
    config = CocoCilConfig(root=str(root), tasks=TASKS, classes_per_task=NEW, shots=2)
    return coco_cil(config, seed, Workspace())


def items_of(stream: TaskStream) -> dict[str, Example]:
    return {example.key: example for task in stream.tasks for example in task.test}


def boxes_of(example: Example) -> tuple[Box, ...]:
    assert isinstance(example.target, tuple)
    return example.target


def stage_classes_only(stream: TaskStream, example: Example, listed: Sequence[str], stage: int) -> str:
    """All that is right of the classes that the stage taught, and nothing of an older one."""
    return target_text(visible(boxes_of(example), stream.tasks[stage - 1].classes), labels=listed)


def newest_in_image_only(stream: TaskStream, example: Example, listed: Sequence[str], stage: int) -> str:
    """All that is right of the newest task in the image: what a test on images by their newest class takes for all."""
    shown = visible(boxes_of(example), listed)
    newest = max((stream.task_of(box.category) for box in shown), default=0)
    return target_text(tuple(box for box in shown if stream.task_of(box.category) == newest), labels=listed)


def shaken(stream: TaskStream, example: Example, listed: Sequence[str], stage: int) -> str:
    """Boxes that are off, some of them missing or of another class, worse from stage to stage."""
    random = np.random.RandomState([stage, int(Path(example.key).stem)])
    rows = []
    for box in visible(boxes_of(example), listed):
        off = box.corners + random.randint(-10 * stage, 10 * stage, 4)
        x1, y1, x2, y2 = np.clip(off, 0, 1000).tolist()
        if random.rand() > 0.1 * stage and x1 < x2 and y1 < y2:
            name = box.category if random.rand() > 0.1 * stage else str(random.choice(listed))
            rows.append(Box(name, (x1, y1, x2, y2)))
    return target_text(tuple(rows), labels=listed)


def by_coco(stream: TaskStream, script: Script, stage: int, classes: Sequence[str]) -> list[float]:
    """AP, and AP at IoU 0.50 alone, over some classes and every image with one of them, by COCO's judge.

    Prompts are those of a stage.
    """
    listed = stream.tasks[stage - 1].seen
    held = [item for _, item in sorted(items_of(stream).items()) if visible(boxes_of(item), classes)]
    answers = [parse_completion(script(item, listed, stage)).answer or "[]" for item in held]
    right, found = (
        [[(box.category, box.corners) for box in boxes] for boxes in images]
        for images in (map(boxes_of, held), [parse_boxes(answer) or [] for answer in answers])
    )
    return coco_stats(right, found, list(classes))[:2]


def pooled_by_coco(stream: TaskStream, script: Script) -> list[float]:
    """AP over the classes of every stage."""
    return [by_coco(stream, script, task.index, task.seen)[0] for task in stream.tasks]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", [stage_classes_only, newest_in_image_only, shaken])
def test_cells_and_pooled_ap_are_those_of_cocos_judge(tmp_path: Path, policy: Any, seed: int) -> None:
    stream = stream_of(tmp_path / "coco", seed)
    assert check_stream(stream) == []
    script = partial(policy, stream)
    run = run_of(script, stream, tmp_path)
    for stage in range(1, TASKS + 1):
        cells = [by_coco(stream, script, stage, task.classes) for task in stream.tasks[:stage]]
        also = run.task_metrics(stage)["also"]
        at_half = [also[str(task.index)]["average_precision_50"] for task in stream.tasks[:stage]]
        found = [list(pair) for pair in zip(run.matrix.value[stage - 1, :stage].tolist(), at_half, strict=True)]
        assert np.array(found) == pytest.approx(np.array(cells), abs=1e-9)
    pooled = pooled_by_coco(stream, script)
    assert run.matrix.pooled.tolist() == pytest.approx(pooled, abs=1e-9)
    assert run.metrics["last_acc"].value == pytest.approx(pooled[-1], abs=1e-9)
    assert run.metrics["avg_incremental_acc_micro"].value == pytest.approx(np.mean(pooled), abs=1e-9)
    assert (run.metrics["forgetting"].value or 0) > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_policy_that_forgets_every_old_class_has_what_is_derived_by_hand(tmp_path: Path, seed: int) -> None:
    stream = stream_of(tmp_path / "coco", seed)
    run = run_of(partial(stage_classes_only, stream), stream, tmp_path)
    # Right is every box of the 2 newest of 2 i classes, each of them in some image: A_i = 1/i, and nothing of the old.
    cells = [[float(j == i) if j <= i else np.nan for j in range(TASKS)] for i in range(TASKS)]
    np.testing.assert_allclose(run.matrix.value, cells, rtol=0, atol=1e-12)
    assert run.matrix.pooled.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], abs=1e-12)
    expected = {"last_acc": 0.2, "mean_final_acc": 0.2, "forgetting": 1.0, "learning_acc": 1.0}
    expected["avg_incremental_acc_micro"] = (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5
    assert {key: run.metrics[key].value for key in expected} == pytest.approx(expected)


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    both = (Box("cat", (0, 0, 400, 400)), Box("dog", (500, 500, 900, 900)))
    test = (Example("1", both, lambda: Image.new("RGB", (8, 8)), "1"),)
    first = Task(1, "cat", ("cat",), ("cat",), (), test, "detection")
    stream = TaskStream("two", "cil", 0, (first, Task(2, "dog", ("dog",), ("cat", "dog"), (), test, "detection")))
    run = run_of(partial(stage_classes_only, stream), stream, tmp_path)
    assert run.matrix.value.ravel().tolist() == pytest.approx([1.0, np.nan, 0.0, 1.0], nan_ok=True)
    assert run.matrix.pooled.tolist() == pytest.approx([1.0, 0.5])  # the mean of cat 0 and dog 1
    assert (run.metrics["last_acc"].value, run.metrics["forgetting"].value) == pytest.approx((0.5, 1.0))


def test_the_perfect_policy_has_an_ap_of_one_and_a_pooled_ap_that_its_stage_does_not_tell_is_refused(
    tmp_path: Path,
) -> None:
    run = run_of(perfect, stream_of(tmp_path / "coco", 136), tmp_path)
    assert run.matrix.pooled.tolist() == pytest.approx([1.0] * TASKS)
    assert (run.metrics["last_acc"].value, run.metrics["forgetting"].value) == pytest.approx((1.0, 0.0))
    change(run.folder / "task_04" / "metrics.json", lambda body: (body.pop("pooled"), body.pop("digest")))
    with pytest.raises(UserError, match=r"task_04/metrics\.json has the results .*, but matrix\.json .*'pooled': 1\.0"):
        read_run(run.folder)


class Counting(Silent):
    """Units that were announced, and those that were done."""

    announced: ClassVar[list[int]] = []
    done: ClassVar[list[int]] = []

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.announced.append(total or 0)
        self.done.append(0)

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.done[-1] += units


@pytest.mark.parametrize("future", [False, True])
def test_an_image_is_asked_once_a_stage_and_list_and_answers_for_every_task_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, future: bool
) -> None:
    stream = stream_of(tmp_path / "coco", 136)
    asked: Counter[tuple[int, tuple[str, ...], str]] = Counter()
    policy = partial(newest_in_image_only, stream)

    def script(example: Example, listed: Sequence[str], stage: int) -> str:
        asked[stage, tuple(listed), example.key] += 1
        return policy(example, listed, stage)

    monkeypatch.setattr("tests.scripted.Silent", Counting)
    monkeypatch.setattr(Counting, "announced", [])
    monkeypatch.setattr(Counting, "done", [])
    run = run_of(script, stream, tmp_path, future=future, final_list=False)
    assert set(asked.values()) == {1}
    assert Counting.announced == Counting.done
    assert sum(Counting.done) == len(asked)
    for stage in range(1, TASKS + 1):
        rows = list(run.predictions(stage))
        shown = stream.tasks if future else stream.tasks[:stage]
        assert [(row.task, row.key) for row in rows] == [(task.index, e.key) for task in shown for e in task.test]
        learned = [row for row in rows if row.task <= stage]
        assert (len({row.key for row in learned}) < len(learned)) == (stage > 1)  # some are in several tasks
        assert len({(row.key, row.completion) for row in learned}) == len({row.key for row in learned})
    assert run.matrix.pooled.tolist() == pytest.approx(pooled_by_coco(stream, policy), abs=1e-9)
    assert np.isnan(run.matrix.value[0, 1]) != future
    assert (run.metrics["fwt"].value is not None) == future
    # and the tracking store gets the pooled AP of every stage
    points = [(step, value) for name, value, step, _ in cell_facts(run.folder).points if name == "accuracy/pooled"]
    assert points == list(enumerate(run.matrix.pooled.tolist(), start=1))
    (last,) = [p[1] for p in task_facts(run.folder / "task_05").points if p[0] == "accuracy/pooled"]
    assert last == run.matrix.pooled[-1]


def test_domains_have_no_pooled_ap(tmp_path: Path) -> None:
    target = (Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000)))
    tasks = []
    for index, name in enumerate(("photo", "comic"), start=1):
        item = Example(f"{name}/1", target, lambda: Image.new("RGB", (8, 8)), name, name)
        tasks.append(Task(index, name, ("cat", "dog"), ("cat", "dog"), (), (item,), "detection"))
    domains = TaskStream("voc_dil", "dil", 0, tuple(tasks))

    def cats_only(example: Example, listed: Sequence[str], stage: int) -> str:
        return target_text(visible(boxes_of(example), listed[: 3 - stage]), labels=listed)

    run = run_of(cats_only, domains, tmp_path)  # both classes after the first domain, then one of the two
    assert run.matrix.value.ravel().tolist() == pytest.approx([1.0, np.nan, 0.5, 0.5], nan_ok=True)
    assert np.isnan(run.matrix.pooled).all() and run.metrics["last_acc"].value is None
    assert run.manifest["measure"] == "box AP"
    assert run.metrics["mean_final_acc"].value == pytest.approx(0.5)  # the mean over domains
    (group,) = compare([run]).groups
    assert (group.final_metric, group.measure_so_far) == ("mean_final_acc", "mean box AP")


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))


def as_an_older_version_left_it(run: RunRecord) -> RunRecord:
    """A run from before AP was pooled: nothing is, no measure is named, and test images were others."""

    def unpooled(body: dict[str, Any]) -> None:
        for key in ("last_acc", "avg_incremental_acc_micro"):
            body["metrics"][key] = {"value": None, "reason": "values without counts"}

    data = {"task_01/test": "0" * 64}
    change(run.folder / "manifest.json", lambda body: (body.pop("measure"), body["data"].update(data)))
    change(run.folder / "matrix.json", lambda body: body.pop("pooled"))
    change(run.folder / "metrics.json", unpooled)
    for path in run.folder.glob("task_*/metrics.json"):
        change(path, lambda body: (body.pop("pooled"), body.pop("digest")))
    return read_run(run.folder)


def test_a_run_from_before_is_read_and_not_compared_with_one_from_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = stream_of(tmp_path / "coco", 136)
    script = partial(newest_in_image_only, stream)
    new = run_of(script, stream, tmp_path / "new", seed=1)
    old = as_an_older_version_left_it(run_of(script, stream, tmp_path / "old", seed=2))
    assert old.metrics["last_acc"].value is None and old.metrics["mean_final_acc"].value is not None
    with pytest.raises(UserError) as caught:
        compare([new, old])
    told, remedy = caught.value.problems
    assert f"manifest.measure is pooled box AP in {new.folder} and box AP in {old.folder}" in told
    assert "--mix measure" in remedy
    (before,), (group,) = compare([old]).groups, compare([new]).groups
    assert before.final_metric == "mean_final_acc"
    assert (group.final_metric, group.measure, group.measure_so_far) == ("last_acc", "box AP", "pooled box AP")
    for run in (new, old):
        assert main(["compare", str(run.folder.parent)]) == 0
        assert main(["report", str(run.folder.parent)]) == 0
    assert "last accuracy" in capsys.readouterr().out


def test_a_plan_counts_every_image_once_a_stage(tmp_path: Path) -> None:
    stream = stream_of(tmp_path / "coco", 136)
    given = {"root": str(tmp_path / "coco"), "tasks": TASKS, "classes_per_task": NEW, "shots": 2}
    sections: dict[str, Any] = {"stream": given, "evaluate": {"probe": 0}, "run": {"output": str(tmp_path)}}
    config = build_config("coco_cil", "zero_shot", "tiny", 136, sections)
    cell = Cell(config, torch.device("cpu"), Lengths(10, 10, 1.3))
    assert [task.test for task in cell.statistics.tasks] == [len(task.test) for task in stream.tasks]
    for stage in range(1, TASKS + 1):
        images = len({example.key for task in stream.tasks[:stage] for example in task.test})
        again = len(stream.tasks[stage - 1].test) if stage < TASKS else 0  # under the final list
        assert cell.work().loc[(stage, EVALUATE), "test_items"] == images + again
    first, second = cut(stream, 4).tasks
    assert (len(first.test), len(second.test)) == (4, 4)
    assert not {e.key for e in first.test} & {e.key for e in second.test}
