"""Prompts, targets and prompt styles: exact words, listed classes, fingerprints, and faults of a user's own style."""

from pathlib import Path
from typing import Any

import pytest

from task_streams import STREAMS, build_stream
from task_streams.errors import UserError
from task_streams.prompt import Request, in_style, prompt_messages, request, target_text
from task_streams.prompt_style import SUITE, built_in_styles, prompt_style
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.fingerprint import prompt_fingerprints
from task_streams.scenarios.split import build_cil
from task_streams.types import Box, Clip, Example, Kind, Question, Target, Task, TaskStream
from tests.task_streams.streams import black, built, make_examples, problems_of, write_tree

SILENT = prompt_style("suite", think=False)


def test_the_question_lists_the_labels_and_the_reply_format_and_a_target_has_that_form() -> None:
    assert SUITE.ask("classification", ("one", "two")) == (
        "What does the image show? Choose from: one, two. "
        "Reply as <think>your reasoning</think><answer>your choice</answer>"
    )
    assert SILENT.ask("classification", ("one",)) == (
        "What does the image show? Choose from: one. Reply as <answer>your choice</answer>"
    )
    assert target_text("two") == "<think>it looks like two</think><answer>two</answer>"
    assert target_text("two", "I see {label} here") == "<think>I see two here</think><answer>two</answer>"
    assert target_text("two", style=SILENT) == "<answer>two</answer>"


def test_a_request_is_one_user_turn_with_the_images_first_or_last_and_carries_them_decoded() -> None:
    image, text, clip = ({"type": name} for name in ("image", "text", "video"))
    asked = Request("key", [{"role": "user", "content": [image, text, clip]}], ())
    assert asked.arranged("last").messages == [{"role": "user", "content": [text, image, clip]}]
    assert asked.arranged("first").messages == [{"role": "user", "content": [image, clip, text]}]
    assert asked.arranged("last").arranged("first").messages == asked.arranged("first").messages
    (example,) = make_examples("a", 1)
    asked = request(example, ("a", "b"), SILENT)
    assert asked.key == "item/a/000"
    assert asked.messages == prompt_messages(("a", "b"), SILENT)
    (message,) = asked.messages
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"] == SILENT.ask("classification", ("a", "b"))
    assert [image.size for image in asked.images] == [(4, 4)]


def test_prompts_name_no_future_class() -> None:
    pool = Pool(make_examples(("apple", "bread", "cheese", "dates"), 4))
    stream = build_cil("s", pool, sizes=(1,) * 4, order_seed=1, shots=1, test_per_class=1)
    taught: set[str] = set()
    for task in stream.tasks:
        taught.update(task.classes)
        for example, labels in ((task.train[0], task.trained), (task.test[0], task.seen)):
            text = request(example, labels, task.style).messages[0]["content"][-1]["text"]
            assert {label for label in stream.labels if label in text} == taught


NAMES = ("Great_White", "x.Ray-fish", "cat")  # listed by RaPO's styles as: great white, x ray fish, cat

PAPER_CLASSES = (
    "\nPerform image/video classification on the given visual input.\n"
    "You MUST choose exactly one class name from this list:\n"
    "great white, x ray fish, cat\n"
    "Output the reasoning process in <think> </think>\n"
    "and final answer in <answer> </answer>.\n"
    "Your answer MUST be one class name from the list,\n"
    "character-for-character. No extra words.\n"
    "<think> reasoning process </think>\n"
    "<answer> one class name </answer>"
)
PAPER_BOXES = (
    "\nDetect all objects in the image that belong to:\n"
    "great white, x ray fish, cat\n"
    "For each detected object, provide its class name\n"
    'in the "category" field and its bounding box\n'
    "as [x1, y1, x2, y2],\n"
    "with coordinates normalized to 0-1000.\n"
    "Output reasoning in <think> </think>\n"
    "and detection results in <answer> </answer>.\n"
    "<think> reasoning process </think>\n"
    "<answer>[\n"
    '{"category": "cat_name", "bbox": [x1, y1, x2, y2]}, ...\n'
    "]</answer>\n"
    "Use <answer>[]</answer> if no listed category is detected."
)
RELEASED_IMAGE = (
    "\nPerform image classification on the given image. You MUST choose exactly one label from this list:\n"
    "great white, x ray fish, cat\n"
    "Output the reasoning process in <think> </think> and final answer in <answer> </answer>. \n"
    "The output format should be as follows:\n"
    "<think> step-by-step reasoning here </think> <answer> one label from the list </answer>\n"
    "You MUST strictly follow the format. \n"
    "Your answer MUST be one label from the list, character-for-character.\n"
    "No extra words, no punctuation, no explanations."
)
RELEASED_VIDEO = RELEASED_IMAGE.replace(
    "Perform image classification on the given image", "Perform video classification on the given video"
)
RELEASED_BOXES = (
    "\nDetect all objects in the image that belong to the following categories:\n"
    "great white, x ray fish, cat\n"
    "For each detected object, provide its category name and bounding box as [x1, y1, x2, y2] with coordinates "
    "normalized to 0-1000.\n"
    "Output the reasoning process in <think> </think> and detection results in <answer> </answer>.\n"
    "The output format should be:\n"
    "<think> step-by-step reasoning here </think>\n"
    '<answer>[{"category": "cat_name", "bbox": [x1, y1, x2, y2]}, ...]</answer>\n'
    "If no objects from the list are detected, output:\n"
    "<answer>[]</answer>\n"
    "You MUST strictly follow the JSON format inside <answer> tags.\n"
    "Each bbox must have exactly 4 integer coordinates in [0, 1000]."
)
SUITE_CLASSES = (
    "What does the {} show? Choose from: Great_White, x.Ray-fish, cat. "
    "Reply as <think>your reasoning</think><answer>your choice</answer>"
)
SUITE_BOXES = (
    "Find every object of these categories: Great_White, x.Ray-fish, cat. Give the corners of each box in thousandths "
    "of the image's width and height; give [] if there is none. Reply as <think>your reasoning</think>"
    '<answer>[{"category": "…", "bbox": [x1, y1, x2, y2]}, …]</answer>'
)
STYLES = {  # of an image, a clip, boxes
    "suite": (SUITE_CLASSES.format("image"), SUITE_CLASSES.format("video"), SUITE_BOXES),
    "rapo_paper": (PAPER_CLASSES, PAPER_CLASSES, PAPER_BOXES),
    "rapo_released": (RELEASED_IMAGE, RELEASED_VIDEO, RELEASED_BOXES),
}
SHOWN = ("image", "clip", "boxes")
TEXTS = {(style, shown): text for style, texts in STYLES.items() for shown, text in zip(SHOWN, texts, strict=True)}

OWN = """\
labels: normalised
label_order: appearance
placeholders: [because]
think: {classification: "Which {media}? {labels} <think>because</think><answer>it</answer>"}
answer_only: {classification: "Which {media}? {labels} <answer>it</answer>"}
"""


def clip() -> Clip:
    return Clip((black(), black()), fps=2.0)


def asked(style: str, shown: str, think: bool = True) -> list[Any]:
    """The parts of the one turn that asks about an image, a clip of two frames, or boxes."""
    target: Target = (Box("cat", (0, 0, 10, 10)),) if shown == "boxes" else "cat"
    example = Example("key", target, clip if shown == "clip" else black, "")
    (turn,) = request(example, NAMES, prompt_style(style, think)).messages
    parts: list[Any] = turn["content"]
    return parts


def own(folder: Path, text: str = OWN, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(("style", "shown"), TEXTS)
def test_every_style_asks_in_its_own_words_behind_the_image_or_clip_and_mentions_thinking_only_where_it_is_asked(
    style: str, shown: str
) -> None:
    *media, part = asked(style, shown)
    assert part["text"] == TEXTS[style, shown]
    assert [part["type"] for part in media] == ["image"] * (2 if shown == "clip" else 1)
    text = asked(style, shown, think=False)[-1]["text"]
    assert "think>" not in text and "reasoning" not in text and "<answer>" in text
    kept = [line for line in TEXTS[style, shown].split("\n") if "think>" not in line and "<answer>" not in line]
    assert [line for line in kept if line not in text] == []


# Of the code before there were styles.
BEFORE = {
    True: {
        "task_01": "e3a7bf2659eb556b0965516c752afb270c42f803ebc8d768fb0704d6e71b5b65",
        "task_02": "05a197607110ad6a7112d7149c549ea3772753854f108de8940e2520f8262393",
    },
    False: {
        "task_01": "e2e7f14fcc3cf9c0f60214d23c053eaf1166d9e6862adeaf11a26ed3494976cb",
        "task_02": "b33944e60d14dc9099f933806d3d637e3fd5990d7a3eb3ade4bafb0f67030d44",
    },
}


def digits(prompt: str, think: bool = True, label_order: str | None = "sorted") -> TaskStream:
    settings = STREAMS["digits_cil"].config(
        tasks=2, shots=2, test_per_class=2, prompt=prompt, think=think, label_order=label_order
    )
    return build_stream("digits_cil", settings, 1993)


def test_the_suites_fingerprints_are_those_of_runs_before_there_were_styles() -> None:
    for think, expected in BEFORE.items():
        found = prompt_fingerprints(digits("suite", think))
        assert {name: value for name, value in found.items() if name != "style"} == expected


def test_every_style_has_fingerprints_of_its_own_of_all_that_it_says(tmp_path: Path) -> None:
    names = [*built_in_styles(), own(tmp_path)]
    found = [prompt_fingerprints(digits(name, think)) for name in names for think in (True, False)]
    for part in ("style", "task_01", "task_02"):
        assert len({one[part] for one in found}) == len(found)
    style = prompt_style(own(tmp_path))
    assert prompt_style(own(tmp_path, name="other.yaml")).digest == style.digest
    for old, new in (("[because]", "[hence]"), ("normalised", "as_named"), ("appearance", "sorted"), ("it<", "so<")):
        assert prompt_style(own(tmp_path, OWN.replace(old, new))).digest != style.digest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (OWN, "just words", "expected the keys labels, label_order, media, placeholders, think, answer_only."),
        (OWN, "{", "no YAML ("),
        ("labels: normalised\n", "labels: normalised\nlabels: as_named\n", "the key 'labels' is given 2 times"),
        ("labels: normalised\n", "", "labels is missing."),
        ("label_order: appearance\n", "", "label_order is missing."),
        ("think:", "thinks:", "unknown key 'thinks'. Did you mean 'think'?"),
        ("think:", "thinks:", "think is missing; stream.think=true takes its wordings."),
        ("normalised", "lower", "labels is 'lower', expected as_named or normalised."),
        ("labels: normalised", "labels: []", "labels is [], expected as_named or normalised."),
        ("think: {classification", "media: last\nthink: {classification", "media is 'last', expected first."),
        ("[because]", "because", "placeholders is 'because', expected a list of texts."),
        ("[because]", "['-']", "placeholders is ['-'], expected a list of texts."),
        ("think: {classification", "think: {clasification", "unknown key 'think.clasification'. Did you mean"),
        ("think: {classification", "think: {question", "think.question: unknown placeholder '{media}'."),
        ('think: {classification: "Which {media}? ', 'think: {classification: "{medium} ', "Did you mean '{media}'?"),
        ("{labels} <think>", "<think>", "think.classification: {labels} is missing."),
        ("<think>because</think>", "", "think.classification: expected a text that asks for <think> and <answer>"),
        ("{labels} <answer>", "{labels} <think><answer>", "answer_only.classification: expected a text that asks for"),
        (OWN.split("\n")[4], "answer_only: []", "answer_only: expected a text for classification, detection, question"),
        (OWN.split("\n")[4], "answer_only: {detection: []}", "answer_only.detection: expected a text."),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in OWN
    path = own(tmp_path, OWN.replace(old, new, 1))
    problems = problems_of(lambda: STREAMS["digits_cil"].config(prompt=path))
    assert any(expected in problem for problem in problems), problems
    assert all(problem.startswith(f"prompt style '{path}': ") for problem in problems)


def test_classes_are_listed_as_the_style_has_them_in_the_order_in_which_the_stream_brings_them(tmp_path: Path) -> None:
    write_tree(tmp_path, ("Ant_Lion", "Bee", "Cat-fish", "Dog"), 4)

    def lists(prompt: str) -> tuple[TaskStream, list[str]]:
        stream = built("folder_cil", tmp_path, 1, tasks=2, classes_per_task=2, shots=2, test_per_class=1, prompt=prompt)
        asked = [
            request(item, labels, task.style).messages[0]["content"][-1]["text"]
            for task in stream.tasks
            for labels, item in ((task.trained, task.train[0]), (task.seen, task.test[0]))
        ]
        return stream, asked

    # RandomState(1).permutation(4) = [3, 2, 0, 1] over the sorted names: Dog, Cat-fish, Ant_Lion, Bee
    stream, texts = lists("rapo_released")
    assert [text.split("\n")[2] for text in texts] == ["dog, cat fish"] * 2 + ["dog, cat fish, ant lion, bee"] * 2
    assert target_text("Cat-fish", style=stream.tasks[0].style).endswith("<answer>cat fish</answer>")
    assert stream.tasks[0].classes == ("Dog", "Cat-fish")  # data, and what is written down, keep their names
    assert "Choose from: Ant_Lion, Bee, Cat-fish, Dog. Reply" in lists("suite")[1][-1]
    kind = STREAMS["digits_cil"].config
    assert [kind(prompt=name).label_order for name in ("suite", "rapo_paper")] == ["sorted", "appearance"]
    assert kind(prompt="rapo_paper", label_order="sorted").label_order == "sorted"  # a setting wins over the style's


def test_a_style_without_words_for_what_a_stream_asks_is_refused(tmp_path: Path) -> None:
    def stream(kind: Kind, target: Target) -> TaskStream:
        example = Example("key", target, black, "")
        return TaskStream("s", "til", 0, (Task(1, "t", (), (), (example,), (example,), kind),))

    asks = stream("question", Question("How many?", ("2",)))
    with pytest.raises(UserError, match=r"'rapo_paper' has no wording for question; it has classification, detection"):
        in_style(asks, prompt_style("rapo_paper"))
    assert request(asks.tasks[0].test[0], ()).messages[0]["content"][-1]["text"].startswith("How many? Reply as ")
    boxes = stream("detection", (Box("cat", (0, 0, 9, 9)),))
    with pytest.raises(UserError, match=r"'mine' has no wording for detection; it has classification"):
        in_style(boxes, prompt_style(own(tmp_path)))
    only_boxes = OWN.replace("classification", "detection").replace("{media}", "image")
    with pytest.raises(UserError, match="no wording for classification; it has detection"):
        digits(own(tmp_path, only_boxes))


def test_a_style_goes_by_its_name_or_is_a_users_own_file_of_the_form_in_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    path = own(tmp_path, text.partition("```yaml\n")[2].partition("```")[0])
    assert list(prompt_style(path).wordings) == ["classification", "detection", "question"]
    assert not prompt_style(path).is_thought("My reasons")
    assert list(prompt_style(path, think=False).wordings) == ["classification"]
    (task, _) = digits(own(tmp_path), label_order=None).tasks
    text = request(task.test[0], ("Two_b", "a"), task.style).messages[0]["content"][-1]["text"]
    assert text == "Which image? two b, a <think>because</think><answer>it</answer>"
    assert problems_of(lambda: STREAMS["digits_cil"].config(prompt="rapo_papr")) == (
        "unknown prompt style 'rapo_papr'. Did you mean 'rapo_paper'? Known: rapo_paper, rapo_released, suite. "
        "A path that ends in .yaml is taken as a file.",
    )
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "absent.yaml", tmp_path / "folder.yaml"):
        (problem,) = problems_of(lambda path=path: prompt_style(str(path)))
        assert problem.startswith(f"prompt style '{path}': cannot be read (")
    path = own(tmp_path, "\n".join(OWN.split("\n")[:4]))
    assert prompt_style(path).think
    (problem,) = problems_of(lambda: prompt_style(path, think=False))
    assert problem.endswith("answer_only is missing; stream.think=false takes its wordings.")
    path = own(tmp_path, OWN.replace("normalised", "lower").replace("{labels} <", "<").replace("[because]", "{}"))
    assert len(problems_of(lambda: prompt_style(path))) == 4  # labels, placeholders, and {labels} in two wordings
