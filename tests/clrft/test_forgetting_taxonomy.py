"""Kinds of forgetting through the runner's own stages and files: policies that forget in one known way each."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from clrft.analysis.compare import Study, compare
from clrft.analysis.render import to_markdown
from clrft.analysis.study_figures import OUTCOME_LOOKS, confusion_figure, forgetting_figure, taxonomy_figures
from clrft.analysis.taxonomy import GroupTaxonomy, taxonomy_parts, taxonomy_report, taxonomy_to_csv
from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.runner.run import run
from clrft.runs.read import RunRecord, read_run
from clrft.utils.progress import Silent
from eval.judgement import Failure
from eval.taxonomy import KINDS, OUTCOMES
from task_streams.prompt import target_text
from task_streams.types import Example, TaskStream
from tests.clrft.run_folders import csv_row, terminal
from tests.clrft.test_families import boxes, digits, questions, stream_of
from tests.scripted import Script, never_parses, perfect, run_of

Orders = list[RunRecord]
CLASSES = (("ant", "bee"), ("cat", "dog"), ("eel", "fox"))
ITEMS = 8  # of each task, its two classes in turn
TASKS = len(CLASSES)


def animals() -> TaskStream:
    """Three tasks of two classes; item n of task j has the key ``j/n``."""
    return stream_of("classification", [pair * (ITEMS // 2) for pair in CLASSES], CLASSES)


def place(example: Example) -> list[int]:
    """Task and number of an item."""
    return [int(word) for word in example.key.split("/")]


def other_of(example: Example) -> str:
    """The other class of the item's own task."""
    (other,) = {*CLASSES[place(example)[0] - 1]} - {example.label}
    return other


def says(name: str, thought: str = "it is hard to say") -> str:
    return target_text(name, thought)


def of(record: RunRecord) -> GroupTaxonomy:
    ((one,),) = taxonomy_report(compare([record])).streams.values()
    return one


def values(record: RunRecord, *keys: str) -> list[float | None]:
    """Metrics of a run, the same in its own results and in the report."""
    found = of(record).metrics
    assert [found[key].mean for key in keys] == [record.metrics[key].value for key in keys]
    return [found[key].mean for key in keys]


def cell(record: RunRecord, stage: int, task: int) -> dict[Failure, float | None]:
    """Shares above 0 of one cell."""
    return {outcome: summary.mean for outcome, summary in of(record).cells[stage, task].items() if summary.mean != 0}


CAUSES = ("forgetting_diag", "forgetting_vocabulary", "forgetting_weights")
LOSSES = ("forgetting_superficial", "forgetting_essential", "gained", "lost_to_newest")


def long_list_confuses(example: Example, listed: Sequence[str], stage: int) -> str:
    """Right on every item while at most four classes are listed, on every second one beyond, whatever was trained."""
    return says(other_of(example) if len(listed) > 4 and place(example)[1] % 2 else example.label)


def newest_only(example: Example, listed: Sequence[str], stage: int) -> str:
    """Right on the newest task; every other item is answered with the newest task's first class."""
    return says(CLASSES[stage - 1][0] if place(example)[0] < stage else example.label)


def mixture(example: Example, listed: Sequence[str], stage: int) -> str:
    """In each old task, after the last: two items right, one of them learned late, and six lost, each in its way."""
    task, number = place(example)
    if stage < TASKS or task == TASKS:
        return says(other_of(example) if number == 7 else example.label)
    older = CLASSES[2 - task][0]  # of the other old task
    lost = [f"a {example.label}", says(f"a {example.label}")]  # no answer, outside of the list
    lost += [says("eel", f"is it a {example.label}?"), says("fox")]  # the newest task's, once the right one named
    lost += [says(older), says(other_of(example))]
    return lost[number - 1] if 1 <= number <= 6 else says(example.label)


MIXED = {"none": 2, "same_task": 1, "other_task": 1, "newest_task": 2, "outside_list": 1, "format": 1}


@pytest.mark.parametrize(
    ("script", "causes", "losses", "last", "confusion"),
    [
        # Tasks 1 and 2 are learned with two and four classes listed: R11 = R22 = 1. Under all six: V = R3j = 1/2.
        (
            *(long_list_confuses, [0.5, 0.5, 0.0], [0.0, 0.5, 0.0, 0.0], {"none": 4, "same_task": 4}),
            [[8, 0, 0, 0, 0], [0, 8, 0, 0, 0], [0, 0, 8, 0, 0]],
        ),
        (newest_only, [1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], {"newest_task": 8}, [[0, 0, 8, 0, 0]] * TASKS),
        # Of 8 items 7 are right at first, 2 in the end (number 0 stays, 7 is gained): lost 6/8, gained 1/8, whole 5/8.
        # Superficial: 1, 2, 3; essential: 4, 5, 6; to the newest: 3 and 4, of 6. The list alone changes nothing.
        # Own task: 2 right and 1 of its other class; the other old task: 1; the newest: 2; outside; no answer.
        (
            *(mixture, [5 / 8, 0.0, 5 / 8], [3 / 8, 3 / 8, 1 / 8, pytest.approx(1 / 3)], MIXED),
            [[3, 1, 2, 1, 1], [1, 3, 2, 1, 1], [0, 0, 8, 0, 0]],
        ),
    ],
)
def test_forgetting_is_taken_apart_to_the_last_bit_in_two_ways_that_add_up_to_the_whole(
    script: Script, causes: Any, losses: Any, last: Mapping[Failure, int], confusion: Any, tmp_path: Path
) -> None:
    record = run_of(script, animals(), tmp_path)
    assert values(record, *CAUSES) == causes and causes[1] + causes[2] == causes[0]
    assert values(record, *LOSSES) == losses and losses[0] + losses[1] - losses[2] == causes[0]
    assert cell(record, TASKS, 1) == {outcome: count / ITEMS for outcome, count in last.items()}
    one = of(record)
    counts = one.runs[1993].confusion
    assert counts is not None and counts.tolist() == confusion
    whole = [sum(summary.mean or 0.0 for summary in shares.values()) for shares in one.cells.values()]
    assert whole == pytest.approx([1.0] * len(whole), abs=1e-12)


def test_the_frozen_base_forgets_nothing_by_its_weights(tmp_path: Path) -> None:
    small = {
        "stream": {"tasks": 3, "classes_per_task": 2, "shots": 2, "test_per_class": 4},
        "evaluate": {"probe": 0, "drift_prompts": 0},
        "run": {"output": str(tmp_path), "mlflow": False},
    }
    record = read_run(run(build_config("digits_cil", "zero_shot", "tiny", 1993, small), Silent()))
    whole, by_list, by_weights = values(record, *CAUSES)
    assert by_weights == 0.0 and by_list == whole
    assert whole is not None and whole > 0  # longer lists do confuse it, so that the split has something to split
    superficial, essential, gained = (value or 0.0 for value in values(record, *LOSSES[:3]))
    assert superficial + essential - gained == pytest.approx(whole, abs=1e-12)


def half_unparsed(example: Example, listed: Sequence[str], stage: int) -> str:
    """Old tasks' even items without an answer, all else right."""
    task, number = place(example)
    return (never_parses if task < stage and number % 2 == 0 else perfect)(example, listed, stage)


def test_boxes_and_questions_are_told_by_outcome_and_confused_with_no_task(tmp_path: Path) -> None:
    record = run_of(half_unparsed, questions(), tmp_path / "questions")
    assert cell(record, 2, 1) == {"none": 0.5, "format": 0.5}
    assert values(record, *LOSSES[:3]) == [0.5, 0.0, 0.0]  # one of task 1's two questions
    assert record.metrics["lost_to_newest"].reason == "answers to questions of their own are no classes"
    record = run_of(half_unparsed, boxes(), tmp_path / "boxes")
    one = of(record)
    assert cell(record, 2, 1) == {"none": 0.5, "format": 0.5} and cell(record, 2, 2) == {"none": 1.0}
    assert {one.metrics[key].reason for key in KINDS} == {"box AP is no share of right answers"}
    assert (one.confusion, one.undivided) == (None, "an answer is boxes of several classes, not one class")
    assert one.metrics["forgetting_vocabulary"].mean == 0.0 and one.metrics["forgetting_weights"].mean is not None


def test_domains_share_their_classes_so_no_task_is_the_newest(tmp_path: Path) -> None:
    record = run_of(lambda *asked: says("seven"), digits("digits_dil"), tmp_path)
    one = of(record)
    assert cell(record, 2, 1) == {"none": pytest.approx(0.1), "same_task": pytest.approx(0.9)}
    assert one.confusion is None and str(one.undivided).startswith("several tasks teach the same classes, e.g. ")
    assert values(record, *CAUSES, *LOSSES[:3]) == [0.0] * 6
    assert one.metrics["lost_to_newest"].reason == one.undivided
    text = to_markdown(taxonomy_parts(taxonomy_report(compare([record]))))
    assert "| method | after task | right | another class | format |" in text and "newest task's class" not in text


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Orders:
    """The mixture in one order, and in another the bias towards the newest task."""
    folder = tmp_path_factory.mktemp("orders")
    return [run_of(mixture, animals(), folder, 1), run_of(newest_only, animals(), folder, 2)]


@pytest.fixture(scope="module")
def report(orders: Orders) -> Study[list[GroupTaxonomy]]:
    return taxonomy_report(compare(orders))


def test_means_over_class_orders_stand_beside_those_of_every_order(report: Study[list[GroupTaxonomy]]) -> None:
    text = taxonomy_to_csv(report)
    essential = csv_row(text, figure="forgetting", name="forgetting_essential")
    assert [float(essential[key]) for key in ("n", "mean", "order_1", "order_2")] == [2, 0.6875, 0.375, 1.0]
    newest = csv_row(text, figure="answers", stage="3", task="1", name="newest_task")
    assert [float(newest[key]) for key in ("mean", "order_1", "order_2")] == [0.625, 0.25, 1.0]
    assert csv_row(text, figure="old", stage="3", name="right")["mean"] == "0.125"  # (2/8 + 0) / 2
    confused = csv_row(text, figure="confusion", task="2", name="3")
    assert (confused["order_1"], confused["order_2"], confused["mean"]) == ("2", "8", "")
    for name, count in {"format": "1", "named": "1", "essential": "3", "newest": "2"}.items():
        assert csv_row(text, figure="lost", task="1", name=name)["order_1"] == count
    ((one,),) = report.streams.values()
    # (3/8 + 0)/2, (1/8 + 0)/2, (2/8 + 1)/2, (1/8 + 0)/2, likewise
    assert one.confusion is not None and one.confusion[0].tolist() == [0.1875, 0.0625, 0.625, 0.0625, 0.0625]


def test_the_tables_show_percent_and_fit_a_terminal(report: Study[list[GroupTaxonomy]]) -> None:
    parts = taxonomy_parts(report)
    # 5/8 and 1; 0; 5/8 and 1; 3/8 and 0; 3/8 and 1; 1/8 and 0; 1/3 and 1: means, and differences by the root of 2
    causes = ["81.2 ± 26.5", "0.0 ± 0.0", "81.2 ± 26.5"]
    losses = ["18.8 ± 26.5", "68.8 ± 44.2", "6.2 ± 8.8", "66.7 ± 47.1"]
    # right 2/8 and 0, same task 1/8 and 0, other old 1/8 and 0, newest 2/8 and 1, outside and format 1/8 and 0
    old = ["12.5 ± 17.7", "6.2 ± 8.8", "6.2 ± 8.8", "62.5 ± 53.0", "6.2 ± 8.8", "6.2 ± 8.8"]
    text = to_markdown(parts)
    assert "| zero_shot (floor) | 1 | 18.8 | 6.2 | 62.5 | 6.2 | 6.2 |" in text
    assert f"| zero_shot (floor) | 2 | {' | '.join(causes + losses)} |" in text
    rows = [" ".join(line.split()[2:]) for line in terminal(parts).splitlines() if "zero_shot (floor)" in line]
    assert rows[:3] == [" ".join(words) for words in (["2", *causes], ["2", *losses], old)]


def test_pictures_show_the_numbers(report: Study[list[GroupTaxonomy]]) -> None:
    (groups,) = report.streams.values()
    (one,) = groups
    bars, heat = forgetting_figure(groups, "s"), confusion_figure(groups, "s")
    assert bars is not None and heat is not None and one.confusion is not None
    widths = [[bar.get_width() for bar in axis.patches] for axis in bars.axes]  # type: ignore[attr-defined]
    assert widths == [[0.0, 81.25], [18.75, 68.75, -6.25]]  # gained goes the other way
    marks = [np.asarray(line.get_xdata()) for axis in bars.axes for line in axis.lines if line.get_marker() == "|"]
    assert [mark.tolist() for mark in marks] == [[81.25], [81.25]]  # the whole
    shown = np.delete(np.asarray(heat.axes[0].images[0].get_array()), TASKS, axis=1)
    assert np.allclose(shown, 100 * one.confusion)
    figures = taxonomy_figures(groups, "s")
    assert list(figures) == ["kinds_answers", "kinds_tasks", "kinds_forgetting"]
    areas = figures["kinds_answers"].axes[0].collections
    tops = [np.asarray(area.get_paths()[0].vertices)[:, 1].max() for area in areas]
    # right at stage 2: 7/8 in one order, nothing in the other; the shares of every stage fill the panel
    assert (tops[0], tops[-1]) == pytest.approx((43.75, 100))


def test_outcomes_are_told_apart_without_colours() -> None:
    shown = [look for outcome, look in OUTCOME_LOOKS.items() if outcome != "wrong"]  # never beside same_task
    hatches = [hatch for _, hatch in shown if hatch]
    light, dark = (sum(to_rgb(color)) / 3 for color, hatch in shown if not hatch)  # right, format
    assert len(set(hatches)) == len(hatches) == len(shown) - 2 and light - dark > 0.5
    assert set(OUTCOME_LOOKS) == set(OUTCOMES)


def test_a_joint_run_shows_its_last_stage_and_has_nothing_to_forget(tmp_path: Path) -> None:
    renamed = run_of(perfect, animals(), tmp_path).folder.rename(tmp_path / "digits_cil-joint_sft-1993")
    for stage in (0, 1, 2):
        shutil.rmtree(renamed / f"task_{stage:02d}")
    empty = [None] * TASKS
    last = {name: [empty, empty, [value] * TASKS] for name, value in {"correct": 8, "total": 8, "value": 1.0}.items()}
    _edit(renamed / "matrix.json", lambda matrix: {**matrix, **last, "base": empty, "final_list": empty})
    _edit(renamed / "manifest.json", lambda manifest: {**manifest, "method": "joint_sft"})
    _edit(renamed / "metrics.json", lambda metrics: {**metrics, "metrics": {}})
    config = renamed / "config.yaml"
    config.write_text(config.read_text().replace("label: zero_shot", "label: joint_sft"))
    one = of(read_run(renamed))
    assert list(one.old) == [TASKS] and set(one.cells) == {(TASKS, j) for j in range(1, TASKS + 1)}
    assert all(summary.mean is None for summary in one.metrics.values())
    assert list(taxonomy_figures([one], "s")) == ["kinds_answers", "kinds_tasks"]


def _edit(path: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text.replace('true, "failure": "none"', 'true, "failure": "odd"', 1), "odd"),
        (lambda text: text.replace('"stage": 3', '"stage": 2', 1), "made after task 2; expected those after task 3"),
        (lambda text: "\n".join(text.splitlines()[1:]) + "\n", "the matrix says 2 of 8"),
        (lambda text: text.replace('"label": "ant"', '"label": 7', 1), "label"),
        (lambda text: text[: len(text) // 2], "cannot read"),
    ],
)
def test_a_run_with_damaged_predictions_is_named_and_left_out(
    damage: Callable[[str], str], reason: str, tmp_path: Path, orders: Orders, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = (read_run(shutil.copytree(one.folder, tmp_path / one.folder.name)) for one in orders)
    stage = bad.folder / "task_03"
    (stage / "predictions.jsonl").write_text(damage((stage / "predictions.jsonl").read_text()))
    report = taxonomy_report(compare([good, bad]))
    ((one,),) = report.streams.values()
    assert [run.seed for run in one.group.runs] == [good.seed]
    assert one.metrics["forgetting_essential"].mean == 1.0
    (sentence,) = report.without
    assert str(bad.folder) in sentence and reason in sentence
    for told in ("predictions.jsonl was changed", reason):
        assert main(["analyze", "kinds", str(bad.folder)]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
        # as a version wrote a stage's results that stated no checksums
        _edit(stage / "metrics.json", lambda found: {k: v for k, v in found.items() if k not in ("files", "digest")})


def test_the_command_writes_beside_the_comparison(orders: Orders, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = orders[0].folder.parent
    assert main(["analyze", "kinds", str(sweep)]) == 0
    out = sweep / "comparison"
    names = {"kinds.md", "kinds.csv", "kinds_answers.png", "kinds_tasks.png", "kinds_forgetting.png"}
    assert {path.name for path in out.iterdir()} == names
    assert str(out / "kinds.csv") in capsys.readouterr().out
    with Image.open(out / "kinds_answers.png") as image:
        assert image.width > 500
