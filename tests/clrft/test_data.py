"""``clrft data check`` and ``show`` on small trees with and without mistakes, and runs on real data.

What stands on the pages that a person looks through is counted by the colours of its bars.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from clrft.cli.contact_sheet import OTHER_BOX, OWN_BOX, PAGE_HEIGHT, TEST_BAR, TRAIN_BAR, _font, _wrapped, sheets
from clrft.cli.main import main
from clrft.runs.read import read_run
from clrft.utils import fonts
from clrft.utils.fonts import font_file, font_note
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints
from task_streams.sources.records import Damaged
from task_streams.types import Box, Clip, Example, Kind, Question, Target, Task, TaskStream
from tests.shared_data import shared
from tests.task_streams.streams import built, write_tree

CLASSES = ("ant", "bee", "cat", "dog")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """A data command on the images of a folder: its code, output and errors."""
    settings = ["stream.tasks=2", "stream.classes_per_task=2", "stream.shots=3", "stream.test_per_class=2"]
    images = [f"stream.root={tmp_path / 'images'}", f"run.output={tmp_path / 'runs'}", *settings]

    def called(action: str, *words: str, stream: str = "folder_cil") -> tuple[int, str, str]:
        code = main(["data", action, stream, *(images if stream == "folder_cil" else []), *words])
        printed = capsys.readouterr()
        return code, printed.out, " ".join(printed.err.split())

    return called


def row(text: str, name: str) -> list[str]:
    """Cells of the first table row that has the name in it."""
    line = next(line for line in text.splitlines() if name in line and "│" in line)
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_damage_is_counted_where_it_is_and_reported_with_leakage_at_once(tmp_path: Path, call: Call) -> None:
    images = tmp_path / "images"
    write_tree(images, [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 3)
    (images / "train/bee/000.png").write_bytes(b"<html>")
    (images / "train/bee/001.png").write_bytes(b"")
    for name in ("000.png", "001.png"):
        (images / "test/dog" / name).write_bytes((images / "train/dog" / name).read_bytes())
    (images / "test/dog/002.png").unlink()  # so that both are drawn
    code, out, errors = call("check")
    assert code == 2 and "no problems" not in out
    told = ("2 items cannot be decoded", "bee/000.png", "bee/001.png", "2 test items are trained on: ")
    assert all(words in errors for words in (*told, "test/dog/000.png"))
    assert row(out, "bee")[4:6] == ["1", "2"]
    assert row(out, "total")[5] == "2"


def test_questions_are_checked_and_shown(tmp_path: Path, call: Call) -> None:
    for split in ("train", "test"):
        rows = []
        for i in range(3):
            name = f"{split}{i}.png"
            Image.new("RGB", (40, 30), (80 * i, 90, 200 if split == "test" else 20)).save(tmp_path / name)
            rows.append({"question_id": i, "image": name, "text": f"How [many] are {i}?", "answer": str(i)})
        (tmp_path / "Count").mkdir(exist_ok=True)
        (tmp_path / "Count" / f"{split}.json").write_text(json.dumps(rows))
    given = [f"stream.root={tmp_path}", "stream.tasks=[Count]", f"run.output={tmp_path / 'runs'}"]
    code, out, _ = call("check", *given, stream="questions_til")
    # no classes; the one task has fewer than the 200 items asked for
    assert code == 0 and row(out, "Count")[1:5] == ["0", "3", "3", "1"]
    assert call("show", *given, stream="questions_til")[0] == 0
    assert (tmp_path / "runs/data/questions_til/task_01.png").is_file()


def test_positives_of_the_real_detection_sample_are_tabled(tmp_path: Path, call: Call) -> None:
    given = [f"stream.root={shared('coco_mini')}", "stream.tasks=2", "stream.classes_per_task=3", "seed=1993"]
    given += [f"run.output={tmp_path}", "stream.allow_empty_classes=true"]
    code, out, _ = call("check", *given, stream="coco_cil")
    assert code == 0 and "positives" in out
    assert row(out[out.index("positives") :], "toilet")[1] == "toilet"
    assert call("show", *given, "--per-class", "1", stream="coco_cil")[0] == 0
    assert (tmp_path / "data/coco_cil/task_02.png").is_file()


def test_a_stream_is_tabled_with_counts_and_fingerprints_and_what_is_short_or_skipped(
    tmp_path: Path, call: Call
) -> None:
    write_tree(tmp_path / "images", CLASSES, 6)
    code, out, errors = call("check")
    assert (code, errors) == (0, "")
    stream = built("folder_cil", tmp_path / "images", 1993, tasks=2, classes_per_task=2, shots=3, test_per_class=2)
    # 2 classes of 3 training and 2 test images; 4 classes in all
    expected = ["2", "6", "4", "0", "0", fingerprints(stream)["task_01/train"][:12]]
    assert row(out, stream.tasks[0].name) == [f"1 {stream.tasks[0].name}", *expected]
    assert row(out, "total")[:6] == ["total", "4", "12", "8", "0", "0"]
    assert fingerprints(stream)["task_02/test"][:12] in out
    assert "folder_cil: no problems found" in out
    code, other, _ = call("check", "seed=0")
    assert code == 0 and row(other, "1 ")[0] != row(out, "1 ")[0]  # another order of the classes
    for i in range(2):  # 2 of the 4 that stay are held out, so 2 of 3 are left to train on
        (tmp_path / f"images/dog/00{i}.png").unlink()
    code, out, _ = call("check")
    assert code == 0 and row(out, "total")[4] == "1"
    (tmp_path / "images/ant/000.png").write_bytes(b"")
    code, out, _ = call("check", "stream.on_damaged=skip", "stream.shots=null")
    assert code == 0 and "note: 1 damaged items skipped: ant/000.png" in out
    assert row(out, "total")[5] == "1"


def test_a_stream_that_cannot_be_built_has_problems_but_no_table(tmp_path: Path, call: Call) -> None:
    write_tree(tmp_path / "images", ("ice_bear", "Ice-Bear"), 2)
    code, out, errors = call("check")
    assert code == 2 and "│" not in out
    assert "all read 'ice bear'" in errors and "4 classes asked" in errors


@pytest.mark.parametrize("action", ["check", "show"])
def test_names_keys_and_the_output_folder_are_checked_as_in_a_run(action: str, tmp_path: Path, call: Call) -> None:
    output, blocker = f"run.output={tmp_path}", tmp_path / "file"
    blocker.write_text("")
    for stream, word, sentence in (
        ("digits_cli", output, "unknown stream 'digits_cli'. Did you mean 'digits_cil'?"),
        ("digits_cil", "stream.task=3", "Did you mean 'stream.tasks'?"),
        ("digits_cil", "data.epochs=1", "data: expected seed=, stream.KEY= or run.output= here"),
        ("digits_cil", "seed=-1", "seed: got -1"),
        ("folder_cil", f"stream.root={tmp_path / 'none'}", "found nothing there"),
        ("none.yaml", output, "no config file 'none.yaml'"),
        ("digits_cil", f"run.output={blocker}", "can't write to the folder"),
    ):
        code, _, errors = call(action, output, word, stream=stream)
        assert code == 2 and sentence in errors


def test_show_takes_no_settings_of_a_training(tmp_path: Path, call: Call) -> None:
    for word in ("method=rapo", "train.epochs=1"):
        code, _, errors = call("show", f"run.output={tmp_path}", word, stream="digits_cil")
        assert code == 2 and "expected seed=, stream.KEY= or run.output= here; nothing else" in errors


def test_show_draws_sheets_and_removes_those_of_earlier_settings_from_its_own_folder_only(
    tmp_path: Path, call: Call
) -> None:
    write_tree(tmp_path / "images", CLASSES, 6)
    own, told = tmp_path / "runs" / "data" / "folder_cil", tmp_path / "told"
    for folder in (own, told):
        folder.mkdir(parents=True)
        (folder / "task_09.png").write_bytes(b"old")
        (folder / "mine.png").write_bytes(b"mine")
    code, out, _ = call("show", "--per-class", "2")
    paths = [own / "task_01.png", own / "task_02.png"]
    assert code == 0 and out.splitlines()[-2:] == [str(path) for path in paths]
    assert sorted(own.iterdir()) == [own / "mine.png", *paths]
    with Image.open(paths[0]) as page:
        page.load()
        assert page.mode == "RGB"
    assert call("show", "-o", str(told))[0] == 0
    assert sorted(path.name for path in told.iterdir()) == ["mine.png", "task_01.png", "task_02.png", "task_09.png"]
    code, _, errors = call("show", "--per-class", "13", stream="digits_cil")
    assert code == 2 and "--per-class: got 13, expected a whole number from 1 to 12" in errors


def example(number: int, target: Target, media: Callable[[], Image.Image | Clip] | None = None) -> Example:
    return Example(f"k/{number}", target, media or partial(Image.new, "RGB", (60, 40), (9, 9, 9)), str(number))


def pages(
    train: list[Example], test: list[Example], classes: tuple[str, ...], kind: Kind, per_class: int = 2, **more: Any
) -> list[Image.Image]:
    """The pages of a task; ``more``: what else it has."""
    whole = {"seen": classes, "index": 1} | more
    task = Task(name="only", classes=classes, train=tuple(train), test=tuple(test), kind=kind, **whole)
    return list(sheets(TaskStream("made", "cil", 7, (task,)), task, per_class))


def colours(page: Image.Image) -> set[Any]:
    return {colour for _, colour in page.getcolors(2**20) or []}


def bars(page: Image.Image, colour: tuple[int, int, int]) -> int:
    """Number of bars of a colour below pictures; the legend's own is not counted."""
    mask = (np.asarray(page)[70:] == colour).all(axis=2)  # [H, W]
    begins = mask.copy()
    begins[:, 1:] &= ~mask[:, :-1]
    begins[1:] &= ~mask[:-1]
    return int(begins.sum())


def test_every_class_has_its_items_and_no_more_than_asked_and_many_are_spread_over_pages() -> None:
    items = [example(i, "ab"[i % 2]) for i in range(10)]
    (page,) = pages(items, items[:2], ("a", "b"), "classification", 3)
    # 2 classes: 3 of 5 training items each, and their only test item each
    assert (bars(page, TRAIN_BAR), bars(page, TEST_BAR)) == (6, 2)
    names = tuple(f"c{i:03d}" for i in range(70))
    items = [example(i, names[i % 70]) for i in range(280)]
    found = pages(items, items, names, "classification", 4)
    # 8 pictures of 96 + 4 pixels a class: two classes a row, 35 rows of 131 pixels, 15 rows a page
    for bar in (TRAIN_BAR, TEST_BAR):
        assert [bars(page, bar) for page in found] == [120, 120, 40]
    assert all(page.height <= PAGE_HEIGHT + 100 for page in found)


def test_boxes_are_drawn_for_every_class_trained_on_and_in_tests_for_all() -> None:
    both = (Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000)))
    (page,) = pages([example(0, both), example(1, both[:1])], [], ("cat", "dog"), "detection")
    assert bars(page, TRAIN_BAR) == 3  # two images with a cat, one with a dog
    (bare,) = pages([example(0, "cat")], [], ("cat", "dog"), "classification")
    assert OWN_BOX in colours(page) and OWN_BOX not in colours(bare)
    only_new: dict[str, Any] = {"index": 2, "seen": ("cat", "dog"), "annotation": "new_only"}
    for train, test, shown in (([example(0, both)], [], {OWN_BOX}), ([], [example(0, both)], {OWN_BOX, OTHER_BOX})):
        (page,) = pages(train, test, ("cat",), "detection", **only_new)
        assert colours(page) & {OWN_BOX, OTHER_BOX} == shown


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_clip_is_shown_by_up_to_four_of_its_frames(count: int) -> None:
    frames = tuple(Image.new("RGB", (88, 66), (10 * i, 200, 0)) for i in range(count))
    (page,) = pages([example(0, "run", lambda: Clip(frames, 2.0))], [], ("run",), "classification")
    shown = {colour[0] for colour in colours(page) if colour[1:] == (200, 0)}
    # of 9 frames the places 0, 8/3, 16/3, 8, rounded
    assert shown == {1: {0}, 2: {0, 10}, 9: {0, 30, 50, 80}}[count]


def test_questions_classes_without_items_and_empty_tasks_make_a_page_too() -> None:
    asked = Question("How many?\nAnswer with a number.", ("two", "2"))
    (page,) = pages([example(i, asked) for i in range(3)], [example(9, asked)], (), "question")
    assert (bars(page, TRAIN_BAR), bars(page, TEST_BAR)) == (2, 1)
    (page,) = pages([example(0, "a")], [], ("a", "b"), "classification")
    assert bars(page, TRAIN_BAR) == 1
    (empty,) = pages([], [], (), "question")
    assert bars(empty, TRAIN_BAR) == 0


def test_an_item_that_was_damaged_meanwhile_is_named_and_long_texts_are_wrapped_and_cut() -> None:
    with pytest.raises(UserError, match=r"k/3 cannot be decoded any more \(cut off\)"):
        pages([example(3, "a", Mock(side_effect=Damaged("cut off")))], [], ("a",), "classification")
    lines = _wrapped("word " * 200 + "x" * 500, _font(13, "word"), 100, 3)
    assert len(lines) == 3
    assert all(_font(13, "word").getlength(line) <= 100 for line in lines)
    assert lines[-1].endswith("…")


SMALL = (
    *("stream.shots=2", "stream.test_per_class=2", "train.updates=2", "train.prompts_per_update=2"),
    *("evaluate.probe=0", "evaluate.drift_prompts=0", "run.mlflow=false"),
)

TABLE = "name: {}, train: {{root}}/train.parquet, test: {{root}}/test.parquet, {}"
FAMILIES = {  # trained, tested, written, printed: sample, stream section, method, words
    "CIFAR-10 from parquet, new classes": (
        "cifar10",
        TABLE.format("table_cil", "tasks: 2, classes_per_task: 2"),
        "sft train.max_completion_tokens=40 train.workers=1",
    ),
    "PACS from parquet, new domains": (
        "pacs",
        TABLE.format("table_dil", "domain_column: domain, domains: [photo, sketch]"),
        "grpo train.max_completion_tokens=32",
    ),
    "COCO, boxes of new categories": (
        "coco_mini",
        "name: coco_cil, root: {root}, tasks: 2, classes_per_task: 40, allow_empty_classes: true",
        "sft train.max_completion_tokens=64 train.allow_cut_answers=true stream.test_per_class=1 stream.shots=1",
    ),
    "clips, new classes": (
        "clips_mini",
        "name: clips_cil, root: {root}, tasks: 2, classes_per_task: 2, fps: 8, max_frames: 2",
        "rapo train.max_completion_tokens=48",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_real_data_ends_with_its_matrix(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, section, words = FAMILIES[family]
    (tmp_path / "mine.yaml").write_text("stream: {" + section.format(root=shared(sample)) + "}\n")
    output = tmp_path / "runs"
    given = [*SMALL, *f"method={words}".split(), f"run.output={output}"]  # the later word of a key wins
    assert main(["run", f"stream={tmp_path / 'mine.yaml'}", *given]) == 0
    said = capsys.readouterr().out
    record = read_run(next((output / "single").glob("mine-*")))
    assert len(record.matrix) == 2
    assert np.isnan(record.matrix.value[0, 1]) and not np.isnan(record.matrix.value[1]).any()
    assert record.matrix.measure == ("box AP" if sample == "coco_mini" else "accuracy")
    assert ("Box AP (%)" if sample == "coco_mini" else "Accuracy (%)") in said
    assert sorted(path.name for path in output.iterdir()) == [".cache", "single"]  # nothing else is written


def test_letters_that_no_installed_font_has_are_told_and_others_are_drawn_by_one_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert font_note(["Ärger", "naïve", "Привет", "a b"]) == ""  # the shipped font has them
    assert font_file("Ärger").name == "DejaVuSans.ttf" and font_file("x", bold=True).name == "DejaVuSans-Bold.ttf"
    only_latin, wide = frozenset(map(ord, "cat")), frozenset(map(ord, "cat猫"))
    monkeypatch.setattr(fonts, "_glyphs", lambda path: wide if path.name == "Wide.ttf" else only_latin)
    monkeypatch.setattr(fonts, "_installed", lambda letters: Path("Wide.ttf") if letters <= wide else None)
    assert font_file("cat 猫") == Path("Wide.ttf") and font_note(["cat 猫"]) == ""
    assert font_note(["cat 猫", "犬"]).startswith("no installed font has 犬: contact sheets and pictures show empty")
