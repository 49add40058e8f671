"""What `clrft data check` passes with a run's settings, the run takes; what it refuses, the run refuses alike."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from transformers import AutoTokenizer

from clrft.base_model import default_model_path
from clrft.cli.main import main
from clrft.config.run_config import build_config, parse_overrides
from clrft.runner.prepare import looked_at, prepare
from clrft.utils.progress import Silent
from methods.inputs.admission import Admission
from methods.model.config import ModelConfig
from methods.model.policy import load_processor
from task_streams.errors import UserError
from task_streams.sources.records import Workspace
from task_streams.types import Example, Question, Task, TaskStream
from tests.task_streams.probe_files import ROWS, write_probes
from tests.task_streams.streams import black, built, write_tree

Check = Callable[..., tuple[int, str, str]]
TREE = [f"{split}/{name}" for split in ("train", "test") for name in ("ant", "bee")]


@pytest.fixture(scope="module")
def admission() -> Admission:
    """The rules of the embedded model."""
    return Admission(load_processor(ModelConfig(), str(default_model_path())))


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """`clrft data check` of a YAML file: its code, output and errors."""

    def checked(file: Path, *words: str) -> tuple[int, str, str]:
        code = main(["data", "check", str(file), f"run.output={tmp_path / 'out'}", *words])
        printed = capsys.readouterr()
        return code, " ".join(printed.out.split()), " ".join(printed.err.split())

    return checked


def refusals(file: Path, output: Path, *words: str) -> str:
    """What a run of a YAML file is refused for."""
    own = {"run": {"output": str(output), "mlflow": False}, "evaluate": {"probe": 0}}
    with pytest.raises(UserError) as caught:
        prepare(build_config(str(file), "sft", "tiny", 1993, own, parse_overrides(words)), Silent())
    return " ".join(" ".join(caught.value.problems).split())


def folder_yaml(root: Path, **settings: int | str | None) -> Path:
    """Two tasks of one class each."""
    own = {"name": "folder_cil", "root": str(root), "tasks": 2, "classes_per_task": 1, "shots": 2, **settings}
    file = root.parent / "own.yaml"
    file.write_text(json.dumps({"stream": own, "train": {"prompts_per_update": 2, "max_completion_tokens": 64}}))
    return file


def question_yaml(root: Path, rows: list[tuple[str, str]]) -> Path:
    """One task of these questions and answers, in training and in testing, each about an image of its own."""
    for place, split in enumerate(("train", "test")):
        made = []
        for number, (text, answer) in enumerate(rows):
            Image.new("RGB", (8, 8), (number, place, 9)).save(root / f"{split}{number}.png")
            made.append({"id": str(number), "image": f"{split}{number}.png", "text": text, "answer": answer})
        (root / "one").mkdir(exist_ok=True)
        (root / f"one/{split}.json").write_text(json.dumps(made))
    own = {"name": "questions_til", "root": str(root), "tasks": ["one"], "shots": None, "test_per_class": None}
    file = root / "own.yaml"
    file.write_text(json.dumps({"stream": own, "train": {"prompts_per_update": 2, "max_completion_tokens": 64}}))
    return file


def test_one_thin_image_that_is_tested_last_is_named_by_the_check_and_by_the_run(tmp_path: Path, check: Check) -> None:
    write_tree(tmp_path / "images", TREE, 3)
    thin = "test/bee/002.png"
    Image.new("RGB", (1, 400), "red").save(tmp_path / "images" / thin)
    file = folder_yaml(tmp_path / "images")
    assert check(file)[0] == 0  # which model will see it is not known
    code, _, errors = check(file, "model=tiny")
    assert code == 2 and "1 items cannot go into the model" in errors and f"{thin} (1 x 400 pixels" in errors
    refused = refusals(file, tmp_path / "out")
    assert "1 items cannot go into the model; change or remove them, or set on_damaged=skip" in refused
    assert f"{thin} (1 x 400 pixels" in refused
    code, out, _ = check(file, "model=tiny", "stream.on_damaged=skip")
    assert code == 0 and f"1 items skipped that cannot go into the model: {thin} (1 x 400" in out


def test_shapes_are_upright_and_kept_in_the_index(tmp_path: Path) -> None:
    write_tree(tmp_path / "images", TREE, 1)
    turned = Image.new("RGB", (8, 6), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "images/train/ant/000.jpg", exif=exif)
    (tmp_path / "images/train/ant/000.png").unlink()
    for _ in range(2):  # decoded, and of the index
        stream = built(
            "folder_cil", tmp_path / "images", workspace=Workspace(tmp_path / "cache"), tasks=1, classes_per_task=2
        )
        shapes = {item.key: item.shape for item in (*stream.tasks[0].train, *stream.tasks[0].test)}
        assert shapes["train/ant/000.jpg"] == (6, 8, 1) and shapes["test/bee/000.png"] == (8, 8, 1)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|im_end|>"])
def test_a_models_own_token_is_named_in_a_question_and_in_an_answer(token: str, tmp_path: Path, check: Check) -> None:
    fine = [(f"How many{'?' * count}", str(count)) for count in range(1, 4)]
    file = question_yaml(tmp_path, [*fine, (f"What is {token} for?", "4")])
    code, _, errors = check(file, "model=tiny")
    assert code == 2 and f"one/train/3 (its question holds {token}" in errors and "one/test/3" in errors
    code, out, _ = check(file, "model=tiny", "stream.on_damaged=skip")
    assert code == 0 and "2 items skipped that cannot go into the model: one/test/3" in out
    file = question_yaml(tmp_path, [*fine, ("Which token is it?", f"x {token}")])
    code, _, errors = check(file, "model=tiny")
    assert code == 2 and f"'x {token}' of one/train/3 (the model's tokenizer gives it back as" in errors


def test_the_longest_prompt_is_found_among_all_items_and_held_against_limits(
    tmp_path: Path, check: Check, admission: Admission
) -> None:
    # the most tokens, not the most letters: none of the tokenizer's own are Chinese, so each is three bytes
    questions = [f"{'a' * (1 + number)}" for number in range(9)] + ["漢字漢字"]
    items = tuple(Example(str(n), Question(text, ("x",)), black, str(n)) for n, text in enumerate(questions))
    task = Task(1, "one", (), (), items, items[:1], kind="question")
    assert next(looked_at(TaskStream("own", "til", 0, (task,)), admission)).key == "9"
    file = question_yaml(tmp_path, [("Which?", "a"), ("How?", "b"), ("x" * 3000, "c")])
    sentence = r"one/train/2 \(its prompt has (\d+) tokens, train.max_prompt_tokens is 2048\)"
    code, _, errors = check(file, "model=tiny")
    told = re.search(sentence, errors)
    assert code == 2 and told and re.search(sentence, refusals(file, tmp_path / "out"))
    tokens = int(told[1])
    code, out, _ = check(file, "model=tiny", "stream.on_damaged=skip")
    assert code == 0 and re.search(sentence, out)
    assert check(file, "model=tiny", f"train.max_prompt_tokens={tokens - 1}")[0] == 2
    assert check(file, "model=tiny", f"train.max_prompt_tokens={tokens}")[0] == 0  # as the model counts them
    code, _, errors = check(file, "model=tiny", "train.max_prompt_tokens=9000", "train.max_completion_tokens=1500")
    assert code == 2 and "its context has 4096 tokens, but the longest prompt has" in errors


def test_settings_of_a_training_are_refused_by_the_check_in_the_words_of_the_run(tmp_path: Path, check: Check) -> None:
    write_tree(tmp_path / "images", TREE, 3)
    file = folder_yaml(tmp_path / "images")
    words = ("train.prompts_per_update=3", "train.max_completion_tokens=4", "train.accumulation=2")
    code, _, errors = check(file, "model=tiny", "method=sft", *words)
    sentences = (
        "train.prompts_per_update: got 3, but task 'ant' has 2 training examples; expected at most that many.",
        "train.prompts_per_update: got 3, but task 'bee' has 2 training examples; expected at most that many.",
        "train.accumulation: got 2, expected a divisor of the 3 rows of one update.",
        "train.max_completion_tokens: got 4, but 2 of 2 right answers are longer",
    )
    refused = refusals(file, tmp_path / "out", *words)
    assert code == 2
    for sentence in sentences:
        assert sentence in errors and sentence in refused
    code, _, errors = check(file, *words)  # no model: what needs none
    assert code == 2 and all(sentence in errors for sentence in sentences[:3])
    assert check(file, "method=zero_shot", "train.prompts_per_update=3")[0] == 0  # trains nothing


def test_a_class_that_is_left_empty_is_told_with_what_was_left_out_of_it(tmp_path: Path, check: Check) -> None:
    write_tree(tmp_path / "images", TREE, 2)
    images = tmp_path / "images"
    for number in range(2):
        (images / f"test/ant/00{number}.png").write_bytes(b"")
        (images / f"train/bee/00{number}.png").write_bytes((images / f"test/bee/00{number}.png").read_bytes())
    code, _, errors = check(folder_yaml(images, on_damaged="skip", on_copies="skip"))
    assert code == 2
    assert "no training examples for 1 classes: bee (left out: 2 copies of others); add items, or use others" in errors
    assert "no test examples for 1 classes: ant (left out: 2 damaged or not taken by the model)" in errors


def test_probe_sets_are_held_against_the_model(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question": "What is <|image_pad|>?"}, *ROWS[1:]]
    file = write_probes(tmp_path / "set", rows)
    Image.new("RGB", (900, 2)).save(next((tmp_path / "set").rglob("*.png")))
    write_tree(tmp_path / "images", TREE, 2)
    refused = refusals(folder_yaml(tmp_path / "images"), tmp_path / "out", f"evaluate.probes=[{file}]")
    assert "the question 'c1' holds <|image_pad|>" in refused and "has an image of 900 x 2 pixels" in refused


def test_a_chat_template_that_cuts_thoughts_is_told(admission: Admission) -> None:
    assert admission.learns("<think>a</think><answer>b</answer>")
    tokenizer = AutoTokenizer.from_pretrained(default_model_path())
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn['content'][0]['text'].split('</think>')[-1] }}{% endfor %}"
    )
    cutting = Admission(SimpleNamespace(apply_chat_template=tokenizer.apply_chat_template))
    assert not cutting.learns("<think>a</think><answer>b</answer>")


def test_images_of_a_processor_without_arithmetic_are_tried_once_for_each_size() -> None:
    asked = []

    class Images:
        def __call__(self, images: list[Image.Image], return_tensors: str) -> None:
            asked.append(images[0].size)
            if images[0].width == 3:
                raise ValueError("too narrow")

    one = Admission(SimpleNamespace(image_processor=Images()))
    assert [one.refused("x", shape) for shape in ((3, 5, 1), (4, 5, 1), (4, 5, 2))] == [
        "3 x 5 pixels, which Images refuses: too narrow",
        "",
        "",
    ]
    assert asked == [(3, 5), (4, 5)]
