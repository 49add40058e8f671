"""``clrft data check`` and ``show`` as a user types them, on small trees with and without mistakes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from clrft.cli.main import main
from task_streams import build_stream
from task_streams.datasets.folder import FolderCilConfig
from task_streams.scenarios.fingerprint import fingerprints
from tests.shared_data import shared
from tests.task_streams.streams import write_tree

CLASSES = ("ant", "bee", "cat", "dog")


def words(action: str, root: Path, *more: str) -> list[str]:
    places = [f"stream.root={root / 'images'}", f"run.output={root / 'runs'}"]
    settings = ["stream.tasks=2", "stream.classes_per_task=2", "stream.shots=3", "stream.test_per_class=2"]
    return ["data", action, "folder_cil", *places, *settings, *more]


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    printed = capsys.readouterr()
    return printed.out, " ".join(printed.err.split())


def row(text: str, name: str) -> list[str]:
    """Cells of the first table row that has the name in it."""
    line = next(line for line in text.splitlines() if name in line and "│" in line)
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_damage_is_counted_where_it_is_and_reported_with_leakage_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    write_tree(images, [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 3)
    (images / "train/bee/000.png").write_bytes(b"<html>")
    (images / "train/bee/001.png").write_bytes(b"")
    leak = (images / "test/dog/000.png", images / "test/dog/001.png")
    for place, name in zip(leak, ("000.png", "001.png"), strict=True):
        place.write_bytes((images / "train/dog" / name).read_bytes())
    (images / "test/dog/002.png").unlink()  # so that both are drawn
    assert main(words("check", tmp_path)) == 2
    out, errors = said(capsys)
    assert "2 items cannot be decoded" in errors
    assert "train/bee/000.png" in errors and "train/bee/001.png" in errors
    assert "2 test items are trained on: " in errors
    assert "test/dog/000.png" in errors
    task = next(line for line in out.splitlines() if "bee" in line and "│" in line)
    assert row(task, "bee")[4:6] == ["1", "2"]
    assert row(out, "total")[5] == "2"
    assert "no problems" not in out


def test_a_yaml_file_of_the_users_own_is_a_stream_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stream: {name: digits_cil, tasks: 1, classes_per_task: 3}\n")
    for name in (str(path), f"stream={path}"):
        assert main(["data", "check", name, f"run.output={tmp_path}"]) == 0
        assert "mine: no problems found" in said(capsys)[0]


def test_questions_are_checked_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        rows = []
        for i in range(3):
            name = f"{split}{i}.png"
            Image.new("RGB", (40, 30), (80 * i, 90, 200 if split == "test" else 20)).save(tmp_path / name)
            rows.append({"question_id": i, "image": name, "text": f"How [many] are {i}?", "answer": str(i)})
        (tmp_path / "Count").mkdir(exist_ok=True)
        (tmp_path / "Count" / f"{split}.json").write_text(json.dumps(rows))
    given = ["questions_til", f"stream.root={tmp_path}", "stream.tasks=[Count]", f"run.output={tmp_path / 'runs'}"]
    assert main(["data", "check", *given]) == 0
    # no classes; the one task has fewer than the 200 items asked for
    assert row(said(capsys)[0], "Count")[1:5] == ["0", "3", "3", "1"]
    assert main(["data", "show", *given]) == 0
    assert (tmp_path / "runs/data/questions_til/task_01.png").is_file()


def test_positives_of_the_real_detection_sample_are_tabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared("coco_mini")
    given = ["coco_cil", f"stream.root={root}", "stream.tasks=2", "stream.classes_per_task=3", "seed=1993"]
    given += [f"run.output={tmp_path}", "stream.allow_empty_classes=true"]
    assert main(["data", "check", *given]) == 0
    out, _ = said(capsys)
    assert "positives" in out
    assert row(out, "toilet")[1] == "toilet" or row(out[out.index("positives") :], "toilet")[1] == "toilet"
    assert main(["data", "show", *given, "--per-class", "1"]) == 0
    assert (tmp_path / "data/coco_cil/task_02.png").is_file()


def test_a_sound_stream_is_tabled_with_counts_and_fingerprints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "images", CLASSES, 6)
    assert main(words("check", tmp_path)) == 0
    out, errors = said(capsys)
    assert errors == ""
    root = str(tmp_path / "images")
    config = FolderCilConfig(root=root, tasks=2, classes_per_task=2, shots=3, test_per_class=2)
    stream = build_stream("folder_cil", config, 1993)
    # 2 classes of 3 training and 2 test images; 4 classes in all
    expected = ["2", "6", "4", "0", "0", fingerprints(stream)["task_01/train"][:12]]
    assert row(out, stream.tasks[0].name) == [f"1 {stream.tasks[0].name}", *expected]
    assert row(out, "total")[:6] == ["total", "4", "12", "8", "0", "0"]
    assert fingerprints(stream)["task_02/test"][:12] in out
    assert "folder_cil: no problems found" in out
    assert main(words("check", tmp_path, "seed=0")) == 0
    assert row(said(capsys)[0], "1 ")[0] != row(out, "1 ")[0]  # another order of the classes


def test_short_classes_and_damage_that_is_skipped_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "images", CLASSES, 6)
    for i in range(2):  # 2 of the 4 that stay are held out, so 2 of 3 are left to train on
        (tmp_path / f"images/dog/00{i}.png").unlink()
    assert main(words("check", tmp_path)) == 0
    assert row(said(capsys)[0], "total")[4] == "1"
    (tmp_path / "images/ant/000.png").write_bytes(b"")
    assert main(words("check", tmp_path, "stream.on_damaged=skip", "stream.shots=null")) == 0
    out, _ = said(capsys)
    assert "note: 1 damaged items skipped: ant/000.png" in out
    assert row(out, "total")[5] == "1"


def test_a_stream_that_cannot_be_built_has_problems_but_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "images", ("ice_bear", "Ice-Bear"), 2)
    assert main(words("check", tmp_path)) == 2
    out, errors = said(capsys)
    assert "all read 'ice bear'" in errors and "4 classes asked" in errors
    assert "│" not in out


@pytest.mark.parametrize("action", ["check", "show"])
def test_names_keys_and_the_output_folder_are_checked_as_in_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    output, blocker = f"run.output={tmp_path}", tmp_path / "file"
    blocker.write_text("")
    for given, sentence in (
        (["digits_cli", output], "unknown stream 'digits_cli'. Did you mean 'digits_cil'?"),
        (["digits_cil", "stream.task=3", output], "Did you mean 'stream.tasks'?"),
        (["digits_cil", "method=rapo", output], "method: expected seed=, stream.KEY= or run.output= here"),
        (["digits_cil", "train.epochs=1", output], "train: expected seed=, stream.KEY= or run.output= here"),
        (["digits_cil", "seed=-1", output], "seed: got -1"),
        (["folder_cil", f"stream.root={tmp_path / 'none'}", output], "found nothing there"),
        (["none.yaml", output], "no config file 'none.yaml'"),
        (["digits_cil", f"run.output={blocker}"], "can't write to the folder"),
    ):
        assert main(["data", action, *given]) == 2
        assert sentence in said(capsys)[1]


def test_show_draws_a_sheet_for_each_task_and_removes_those_of_earlier_settings_from_its_own_folder_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "images", CLASSES, 6)
    own, told = tmp_path / "runs" / "data" / "folder_cil", tmp_path / "told"
    for folder in (own, told):
        folder.mkdir(parents=True)
        (folder / "task_09.png").write_bytes(b"old")
        (folder / "mine.png").write_bytes(b"mine")
    assert main(words("show", tmp_path, "--per-class", "2")) == 0
    paths = [own / "task_01.png", own / "task_02.png"]
    assert said(capsys)[0].splitlines()[-2:] == [str(path) for path in paths]
    assert sorted(own.iterdir()) == [own / "mine.png", *paths]
    with Image.open(paths[0]) as page:
        page.load()
        assert page.mode == "RGB"
    assert main(words("show", tmp_path, "-o", str(told))) == 0
    assert sorted(path.name for path in told.iterdir()) == ["mine.png", "task_01.png", "task_02.png", "task_09.png"]
    for count in ("0", "13"):
        assert main(["data", "show", "digits_cil", "--per-class", count]) == 2
        assert f"--per-class: got {count}, expected a whole number from 1 to 12" in said(capsys)[1]
