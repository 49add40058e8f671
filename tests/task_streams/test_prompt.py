from task_streams.prompt import Request, prompt_messages, request, target_text
from task_streams.prompt_style import SUITE, prompt_style
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.split import build_cil
from tests.task_streams.streams import make_examples

SILENT = prompt_style("suite", think=False)


def test_the_question_lists_the_labels_and_the_reply_format() -> None:
    assert SUITE.ask("classification", ("one", "two")) == (
        "What does the image show? Choose from: one, two. "
        "Reply as <think>your reasoning</think><answer>your choice</answer>"
    )
    assert SILENT.ask("classification", ("one",)) == (
        "What does the image show? Choose from: one. Reply as <answer>your choice</answer>"
    )


def test_prompts_of_a_stream_never_name_a_future_class() -> None:
    names = ("apple", "bread", "cheese", "dates")
    pool = Pool(make_examples(names, 4))
    stream = build_cil("s", pool, sizes=(1, 1, 1, 1), order_seed=1, shots=1, test_per_class=1)
    for task in stream.tasks:
        future = {label for later in stream.tasks[task.index :] for label in later.classes}
        text = SUITE.ask("classification", task.seen)
        assert all(label in text for label in task.seen)
        assert not any(label in text for label in future)


def test_a_target_has_the_form_that_the_prompt_asks_for() -> None:
    assert target_text("two") == "<think>it looks like two</think><answer>two</answer>"
    assert target_text("two", "I see {label} here") == "<think>I see two here</think><answer>two</answer>"
    assert target_text("two", style=SILENT) == "<answer>two</answer>"


def test_images_stand_before_the_text_or_behind_it() -> None:
    image, text, clip = ({"type": name} for name in ("image", "text", "video"))
    asked = Request("key", [{"role": "user", "content": [image, text, clip]}], ())
    assert asked.arranged("last").messages == [{"role": "user", "content": [text, image, clip]}]
    assert asked.arranged("first").messages == [{"role": "user", "content": [image, clip, text]}]
    assert asked.arranged("last").arranged("first").messages == asked.arranged("first").messages


def test_a_request_is_one_user_turn_with_the_image_first_and_carries_it_decoded() -> None:
    (example,) = make_examples("a", 1)
    asked = request(example, ("a", "b"), SILENT)
    assert asked.key == "item/a/000"
    assert asked.messages == prompt_messages(("a", "b"), SILENT)
    (message,) = asked.messages
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"] == SILENT.ask("classification", ("a", "b"))
    assert [image.size for image in asked.images] == [(4, 4)]
