import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from task_streams import STREAMS, build_stream
from task_streams.config import typed_section
from task_streams.datasets.questions import CoinConfig, QuestionsConfig, UcitConfig
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Workspace
from task_streams.types import Question, TaskStream
from tests.task_streams.streams import problems_of

Rows = list[dict[str, Any]]
SUFFIX = "Answer the question using a single word or phrase."


def draw_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (number % 256, number // 256, 90)).save(path)


def talk(identity: Any, image: str | None, asked: str, answer: str, **changes: Any) -> dict[str, Any]:
    """A row as LLaVA trains on it."""
    turns = [{"from": "human", "value": f"<image>\n{asked}\n{SUFFIX}"}, {"from": "gpt", "value": answer}]
    row = {"id": identity, "image": image, "conversations": turns} | changes
    return {name: value for name, value in row.items() if value is not None}


def flat(identity: Any, image: str, asked: str, answer: Any) -> dict[str, Any]:
    """A row as the benchmarks test on it."""
    return {"question_id": identity, "image": image, "text": f"{asked}\n{SUFFIX}", "answer": answer}


def write_rows(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_task(root: Path, name: str, count: int = 6, train: Rows | None = None, test: Rows | None = None) -> None:
    """A task with ``count`` items in each split, every one with an image of its own."""
    base = int(hashlib.sha256(name.encode()).hexdigest()[:2], 16) * 100
    for split, rows, offset, row in (("train", train, 0, talk), ("test", test, 50, flat)):
        made = []
        for i in range(count):
            draw_image(root / f"images/{name}/{split}/{i}.png", base + offset + i)
            made.append(row(str(i), f"./{name}/{split}/{i}.png", f"What is item {i} of {name}?", f"thing {i}"))
        write_rows(root / name / f"{split}.json", made if rows is None else rows)


def config(root: Path, *tasks: str, **changes: Any) -> QuestionsConfig:
    settings: dict[str, Any] = {"shots": 3, "test_per_class": 2, "images": "images"} | changes
    return QuestionsConfig(root=str(root), tasks=tasks or ("GQA", "VQA"), **settings)


def build(settings: QuestionsConfig, seed: int = 0) -> TaskStream:
    return build_stream("questions_til", settings, seed)


def problems(settings: QuestionsConfig, name: str = "questions_til") -> str:
    return "\n".join(problems_of(lambda: build_stream(name, settings, 0)))


def test_every_folder_becomes_a_task_in_the_order_given(tmp_path: Path) -> None:
    for name in ("GQA", "VQA"):
        write_task(tmp_path, name)
    stream = build(config(tmp_path, "VQA", "GQA"))
    found = [(task.index, task.name, len(task.train), len(task.test)) for task in stream.tasks]
    assert found == [(1, "VQA", 3, 2), (2, "GQA", 3, 2)]
    assert (stream.scenario, stream.labels, check_stream(stream)) == ("til", (), [])
    assert {(task.kind, task.classes, task.seen) for task in stream.tasks} == {("question", (), ())}
    example = stream.tasks[0].test[0]
    number = example.key.removeprefix("VQA/test/")
    assert example.target == Question(f"What is item {number} of VQA?\n{SUFFIX}", (f"thing {number}",), "exact")
    assert example.domain == "VQA"
    text = request(example, stream.labels).messages[0]["content"][1]["text"]
    assert text.startswith(f"What is item {number} of VQA?\n{SUFFIX} Reply as <think>")


def test_the_draw_depends_on_the_task_and_the_draw_seed_alone(tmp_path: Path) -> None:
    for name in ("GQA", "VQA", "A"):
        write_task(tmp_path, name, 20)

    def drawn(*tasks: str, order_seed: int = 0, **changes: Any) -> list[str]:
        stream = build(config(tmp_path, *tasks, **changes), order_seed)
        return [e.key for task in stream.tasks if task.name == "GQA" for e in (*task.train, *task.test)]

    first = drawn("GQA", "VQA")
    assert drawn("VQA", "GQA") == drawn("GQA") == drawn("VQA", "GQA", order_seed=5, task_order="seeded") == first
    assert drawn("GQA", draw_seed=1) != first
    assert drawn("GQA", shots=7)[-2:] == first[-2:]  # more shots keep the test items
    # a seeded order is over the sorted names: np.random.RandomState(0).permutation(3) is [2, 1, 0]
    seeded = build(config(tmp_path, "GQA", "A", "VQA", task_order="seeded"))
    assert [task.name for task in seeded.tasks] == ["VQA", "GQA", "A"]


def test_files_of_other_names_are_named_in_the_task_and_questions_of_a_list_by_key(tmp_path: Path) -> None:
    write_task(tmp_path, "GQA")
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"key": "GQA/train/4"}\n{"key": "GQA/train/1"}\n')
    stream = build(config(tmp_path, "GQA", shots_list=str(listed)))
    assert {e.key for e in stream.tasks[0].train} == {"GQA/train/1", "GQA/train/4"}
    listed.write_text('{"class_name": "GQA", "file_name": "4.png"}\n')
    said = problems(config(tmp_path, "GQA", shots_list=str(listed)))
    assert 'row 1: the items have no classes; expected rows such as {"key": "GQA/train/0"}' in said
    write_task(tmp_path, "GQA")
    for name, other in (("train.json", "train_4w.json"), ("test.json", "test_3000.json")):
        (tmp_path / "GQA" / name).rename(tmp_path / "GQA" / other)
    said = problems(config(tmp_path, "GQA"))
    assert "train.json; found test_3000.json, train_4w.json. Name others as GQA=TRAIN:TEST" in said
    stream = build(config(tmp_path, "GQA=train_4w.json:test_3000.json"))
    assert stream.tasks[0].train[0].key.startswith("GQA/train/")


def test_the_rule_is_the_one_asked_for(tmp_path: Path) -> None:
    rows = [flat(i, "GQA/train/0.png", f"{i}?", answer) for i, answer in enumerate(["1,200", "12%", "red"])]
    write_task(tmp_path, "GQA", train=rows)
    for rule, rules in (
        ("exact", ["exact"] * 3),
        ("relaxed_number", ["exact", "relaxed_number", "relaxed_number"]),  # whole numbers stay exact
        ("relaxed_all", ["relaxed_number"] * 3),
        ("auto", ["exact", "relaxed_number", "exact"]),
    ):
        train = build(config(tmp_path, "GQA", rule=rule)).tasks[0].train
        assert [e.target.rule for e in sorted(train, key=lambda e: e.key)] == rules  # type: ignore[union-attr]


def test_ids_of_several_rows_are_refused_or_told_apart_by_content(tmp_path: Path) -> None:
    rows = [talk("5", "GQA/train/0.png", "Who?", "me"), talk("5", "GQA/train/1.png", "Who?", "you")]
    write_task(tmp_path, "GQA", train=[*rows, rows[0], talk("6", "GQA/train/2.png", "Who?", "she")])
    said = problems(config(tmp_path, "GQA"))
    assert "GQA/train.json: 1 ids name several rows; give each row its own, or set repeated_ids=tell_apart" in said
    assert said.endswith("5 (3 rows)")
    stream = build(config(tmp_path, "GQA", repeated_ids="tell_apart"))
    *told_apart, other = sorted(e.key for e in stream.tasks[0].train)
    assert [key[:12] for key in told_apart] == ["GQA/train/5-"] * 2 and other == "GQA/train/6"
    note = "GQA/train.json: 1 ids name several rows, told apart by their content, 1 equal rows left out"
    assert note in stream.notes


def test_rows_of_one_fault_are_named_together_and_all_files_are_reported_at_once(tmp_path: Path) -> None:
    empty = [flat(f"q{i}", "GQA/train/0.png", "Who?", "") for i in range(7)]
    write_task(tmp_path, "GQA", train=empty)
    write_task(tmp_path, "VQA")
    (tmp_path / "VQA" / "test.json").write_text('[{"id": 1, ')
    (tmp_path / "VQA" / "train.json").write_text('{"rows": []}')
    said = problems(config(tmp_path, "GQA", "VQA")).split("\n")
    assert said[0] == (
        "GQA/train.json: an empty answer: row 1 (id 'q0'), 2 (id 'q1'), 3 (id 'q2'), 4 (id 'q3'), 5 (id 'q4') "
        "and 2 more"
    )
    assert said[1] == "VQA/train.json: expected a JSON list of rows, found dict"
    assert said[2].startswith("VQA/test.json: damaged, or no JSON (")
    assert len(said) == 3


def test_images_that_are_drawn_but_missing_damaged_or_lead_out_are_named_and_others_not_read(tmp_path: Path) -> None:
    write_task(tmp_path, "GQA", 3)
    (tmp_path / "images/GQA/train/1.png").unlink()
    (tmp_path / "images/GQA/test/2.png").write_bytes(b"<html>")
    said = problems(config(tmp_path, "GQA", shots=3, test_per_class=3))
    for told in ("2 items cannot be decoded", "GQA/train/1 (No such file or directory)", "GQA/test/2 ("):
        assert told in said
    skipped = build(config(tmp_path, "GQA", shots=3, test_per_class=3, on_damaged="skip"))
    assert {e.key for e in skipped.tasks[0].train} == {"GQA/train/0", "GQA/train/2"}
    seen: list[int] = []
    build_stream("questions_til", config(tmp_path, "GQA", on_damaged="skip"), 0, Workspace(advance=seen.append))
    assert 5 <= sum(seen) <= 6  # 3 + 2 are drawn of 6, and one in the place of what is damaged
    write_task(tmp_path / "data", "GQA", 2)
    outside = tmp_path / "secret.png"
    draw_image(outside, 7)
    link = tmp_path / "data/images/GQA/train/1.png"
    link.unlink()
    link.symlink_to(outside)
    said = problems(config(tmp_path / "data", "GQA"))
    assert "GQA/train/1 (a link that leads out of " in said


def test_missing_folders_say_what_was_expected_what_was_found_and_where_the_data_are(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    said = problems(UcitConfig(root=str(tmp_path)), "ucit_til")
    assert f"no folder {tmp_path}/instructions, {tmp_path}/datasets: " in said
    assert "ucit_til expects instructions/<task>/*.json and images in datasets/; found stuff in" in said
    assert "huggingface.co/datasets/HaiyangGuo/UCIT" in said
    said = problems(CoinConfig(root=str(tmp_path / "none")), "coin_til")
    assert f"no folder {tmp_path}/none: coin_til expects Instructions_Original/<task>/*.json" in said
    assert "huggingface.co/datasets/Zacks-Chen/CoIN" in said


def test_settings_out_of_range_are_reported_together(tmp_path: Path) -> None:
    wrong = {"shots": 0, "task_order": "random", "rule": "fuzzy", "repeated_ids": "keep"}
    said = "\n".join(problems_of(lambda: config(tmp_path, "a", "a=x:y", **wrong)))
    for part in (*(f"{name}: got {value!r}" for name, value in wrong.items()), "task 'a' is listed more"):
        assert part in said
    with pytest.raises(UserError, match="tasks is empty"):
        QuestionsConfig(root=str(tmp_path))
    for entry in ("", "a/b", "..", "a=", "a=x.json", "a=x.json:", "a=../x.json:y.json", "=x:y"):
        told = f"task {entry!r}: expected the name of a folder, or NAME=TRAIN:TEST with two names of files in it"
        assert problems_of(lambda entry=entry: config(tmp_path, "b", entry)) == (told,)


def test_the_named_benchmarks_read_their_layout_and_leave_out_what_has_no_exact_match(tmp_path: Path) -> None:
    for name, order, unscored in (
        ("coin_til", ["ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "VQAv2", "OCRVQA"], ["Grounding"]),
        ("ucit_til", ["ImageNet-R", "ArxivQA", "IconQA", "CLEVR"], ["VizWiz", "Flickr30k"]),
    ):
        root = tmp_path / name
        settings: Any = STREAMS[name].config(root=str(root), shots=3, test_per_class=2)  # type: ignore[call-arg]
        for entry in settings.tasks:
            task, _, files = entry.partition("=")
            train, _, test = (files or "train.json:test.json").partition(":")
            write_task(root, task, 3)
            for split, file in (("train", train), ("test", test)):
                path = root / settings.questions / task / file
                path.parent.mkdir(parents=True, exist_ok=True)
                (root / task / f"{split}.json").rename(path)
        (root / "images").rename(root / settings.images)
        stream = build_stream(name, settings, 1993)
        assert [task.name for task in stream.tasks] == order
        assert [note.partition(" ")[0] for note in stream.notes if "is left out" in note] == unscored
        assert check_stream(stream) == []
        named = STREAMS[name].config(root=str(root), tasks=(unscored[0],))  # type: ignore[call-arg]
        assert f"task '{unscored[0]}' has no score in {name}: " in problems(named, name)  # type: ignore[arg-type]


def test_a_question_that_two_tasks_ask_is_reported_or_kept_in_one(tmp_path: Path) -> None:
    for name in ("GQA", "VQA"):
        write_task(tmp_path, name, 3)
    rows = json.loads((tmp_path / "VQA" / "train.json").read_text())
    rows.append(talk("copy", "GQA/train/1.png", "What is item 1 of GQA?", "thing 1"))
    write_rows(tmp_path / "VQA" / "train.json", rows)
    pair = "VQA/train/copy (VQA train) = GQA/train/1 (GQA train)"
    settings: dict[str, Any] = {"shots": None, "task_order": "seeded"}
    # RandomState(1).permutation(2) is [0 1]: GQA comes first; with seed 0 VQA does
    assert check_stream(build(config(tmp_path, **settings), 1)) == [f"1 items are trained on in two tasks: {pair}"]
    for order_seed in (0, 1):
        stream = build(config(tmp_path, on_copies="skip", **settings), order_seed)
        assert check_stream(stream) == []
        assert "VQA: 1 questions left out, asked about the same image before: VQA/train/copy" in stream.notes


def test_rows_of_every_form_are_read_and_each_pair_of_turns_is_an_item(tmp_path: Path) -> None:
    turns = [
        {"from": "user", "value": "Picture 1: <img>./cl_dataset/GQA/0.png</img>\nWho?"},
        {"from": "assistant", "value": "me"},
    ]
    pairs = talk("9", "GQA/train/1.png", "Who?", "me")
    pairs["conversations"] += [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "here"}]
    rows = [
        flat(7, "GQA/train/0.png", "How many?", [3, "three", "3", 3.5]),
        {"id": "8", "image": "GQA/train/0.png", "conversations": turns},
        pairs,
        {"id": 10, "text": "Why?", "answer": "so"},
        {"id": 11, "images": ["GQA/train/2.png"], "messages": [
            {"role": "user", "content": "<image>Is it?"}, {"role": "assistant", "content": "yes"}]},
    ]  # fmt: skip
    write_task(tmp_path, "GQA", train=rows)
    write_rows(tmp_path / "GQA" / "test.json", [talk(7, "GQA/test/1.png", "Who?", "you")])
    stream = build(config(tmp_path, "GQA", shots=6))
    (task,) = stream.tasks
    assert {e.key: e.target for e in (*task.train, *task.test)} == {
        "GQA/train/7": Question(f"How many?\n{SUFFIX}", ("3", "three", "3.5")),
        "GQA/train/8": Question("Who?", ("me",)),
        "GQA/train/9/1": Question(f"Who?\n{SUFFIX}", ("me",)),
        "GQA/train/9/2": Question("Where?", ("here",)),
        "GQA/train/11": Question("Is it?", ("yes",)),
        "GQA/test/7": Question(f"Who?\n{SUFFIX}", ("you",)),
    }
    assert len({e.content for e in task.train}) == 5
    assert "GQA/train.json: 1 rows without an image left out" in stream.notes
    assert "GQA: 5 train questions, fewer than 6" in stream.notes
    write_rows(tmp_path / "GQA" / "train.json", rows[::-1])
    assert fingerprints(build(config(tmp_path, "GQA", shots=6))) == fingerprints(stream)
    (tmp_path / "GQA" / "train.json").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert fingerprints(build(config(tmp_path, "GQA", shots=6))) == fingerprints(stream)  # a row a line
    without = [{name: value for name, value in row.items() if not name.endswith("id")} for row in (rows[0], rows[1])]
    write_rows(tmp_path / "GQA" / "train.json", without)
    stream = build(config(tmp_path, "GQA", shots=6))
    assert {e.key for e in stream.tasks[0].train} == {"GQA/train/1", "GQA/train/2"}
    assert "GQA/train.json: no row has an id; each is known by its number" in stream.notes
    write_rows(tmp_path / "GQA" / "train.json", rows[3:4])
    assert problems(config(tmp_path, "GQA")) == "task GQA: no training questions; add rows, or leave the task out"


def test_a_test_question_about_an_image_that_is_trained_on_is_counted_and_a_copy_found(tmp_path: Path) -> None:
    write_task(tmp_path, "GQA", 3)
    path = tmp_path / "GQA" / "test.json"
    write_rows(path, [flat("other", "GQA/train/0.png", "Another?", "yes")])
    stream = build(config(tmp_path, "GQA", test_per_class=1))
    assert check_stream(stream) == []
    assert "test questions about images that are trained on with another question: GQA 1" in stream.notes
    write_rows(path, [flat("leak", "GQA/train/1.png", "What is item 1 of GQA?", "thing 1")])
    leaking = build(config(tmp_path, "GQA", test_per_class=1))
    told = "1 test items are trained on: GQA/test/leak (GQA test) = GQA/train/1 (GQA train)"
    assert check_stream(leaking) == [told]
    assert not [note for note in leaking.notes if "another question" in note]
    clean = build(config(tmp_path, "GQA", test_per_class=1, on_copies="skip"))
    assert check_stream(clean) == []
    assert {e.key for e in clean.tasks[0].train} == {"GQA/train/0", "GQA/train/2"}
    assert "GQA: 1 questions left out, asked about the same image before: GQA/train/1" in clean.notes


BAD_ROWS: list[tuple[Any, str]] = [
    (["a list"], "expected an object, found list"),
    ({"image": "x.png", "text": "Who?", "answer": "me"}, "no 'id' or 'question_id' that is a text or a whole number"),
    ({"id": 1, "image": "x.png", "answer": "me"}, "neither 'conversations' nor 'messages' nor 'text'"),
    ({"id": 2, "image": "x.png", "text": "Who?"}, "no 'answer'"),
    (flat(3, "x.png", "Who?", ""), "an empty answer"),
    (flat(4, "x.png", "Who?", []), "an empty answer"),
    (flat(5, "x.png", "Who?", float("nan")), "an answer that is no finite number"),
    (flat(6, "x.png", "How many?", [1, float("inf")]), "an answer that is no finite number"),
    (flat(8, "x.png", "Who?", None), "an answer that is neither text nor a number"),
    ({"id": 9, "image": "x.png", "text": " <image>\n", "answer": "me"}, "an empty question"),
    (talk(10, "x.png", "Who?", "me", conversations=[]), "'conversations' is no list of turns"),
    (talk(11, "x.png", "", "", conversations=[{"from": "gpt", "value": "hi"}]), "'conversations' is no list of turns"),
    (talk(12, "x.png", "", "", conversations=[{"from": "human", "value": "a"}]), "'conversations' is no list of turns"),
    (flat(13, "../x.png", "Who?", "me"), "'image' leads out of its folder: '../x.png'"),
    (flat(14, "/etc/passwd", "Who?", "me"), "'image' leads out of its folder: '/etc/passwd'"),
    ({"id": 15, "image": ["x.png", "y.png"], "text": "Who?", "answer": "me"}, "'image' is no path of one image"),
    (flat(16, "x.png", "Who \ud83d?", "me"), "a question with half of a surrogate pair, which is no text"),
    (flat(17, "x.png", "Who?", ["me", "\udc00"]), "an answer with half of a surrogate pair, which is no text"),
    (flat(18, "x\ud83d.png", "Who?", "me"), "'image' is no path of one image"),
    (flat("\ud83d", "x.png", "Who?", "me"), "no 'id' or 'question_id' that is a text or a whole number"),
    (talk(19, None, "Who?", "me"), "a question with '<image>', but neither 'image' nor 'images' names one"),
    ({"id": 20, "images": ["x.png", "y.png"], "text": "Who?", "answer": "me"}, "'images' is no list of one image"),
    (flat(21, "x.png", "Who?", "me") | {"text": ["Who?"]}, "a question that is no text"),
    (
        {"id": 22, "image_path": "x.png", "text": "Who?", "answer": "me"},
        "neither 'image' nor 'images', but 'image_path'",
    ),
]
ALTERNATION = ", {'from', 'value'}, by human and gpt in alternation"


def test_every_bad_row_is_named_with_its_number_and_fault(tmp_path: Path) -> None:
    write_task(tmp_path, "GQA")
    rows = [talk("good", "GQA/train/0.png", "Who?", "me"), *(row for row, _ in BAD_ROWS)]
    (tmp_path / "GQA" / "train.json").write_text(json.dumps(rows))  # with halves as escapes, which JSON allows
    said = problems(config(tmp_path, "GQA")).split("\n")
    expected: dict[str, list[str]] = {}
    for number, (row, fault) in enumerate(BAD_ROWS, start=2):
        identity = row.get("id", row.get("question_id")) if isinstance(row, dict) else None
        named = f"{number} (id '{identity}')" if isinstance(identity, int) else str(number)
        expected.setdefault(fault + ALTERNATION * ("turns" in fault), []).append(named)
    assert said == [f"GQA/train.json: {fault}: row {', '.join(rows)}" for fault, rows in expected.items()]


def test_an_unknown_task_folder_gets_the_nearest_name_and_one_like_yes_quotes(tmp_path: Path) -> None:
    for name in ("ScienceQA", "Yes"):
        write_task(tmp_path, name)
    assert "unknown task folder 'SciencQA'. Did you mean 'ScienceQA'?" in problems(config(tmp_path, "SciencQA"))
    with pytest.raises(UserError, match="put such names in quotes"):
        typed_section("stream", QuestionsConfig, yaml.safe_load("tasks: [Yes]\nroot: x\n"))
    with pytest.raises(UserError) as caught:
        typed_section("stream", QuestionsConfig, yaml.safe_load("tasks: 5\nroot: x\n"))
    assert "quotes" not in str(caught.value)


def test_questions_and_answers_are_shown_with_their_accents_within_letters(tmp_path: Path) -> None:
    rows = [flat(i, f"GQA/train/{i}.png", "Ou\u0300 ?", ["the\u0301", "thé"]) for i in range(3)]
    write_task(tmp_path, "GQA", train=rows)
    target = build(config(tmp_path, "GQA")).tasks[0].train[0].target
    assert isinstance(target, Question) and target.text.startswith("Où ?") and target.answers == ("thé",)
