from task_streams.draw import Pool
from task_streams.prompt import Request, prompt_messages, question, request, target_text
from task_streams.split import build_cil
from tests.task_streams.streams import make_examples


def test_the_question_lists_the_labels_and_the_reply_format() -> None:
    assert question(("one", "two")) == (
        "What does the image show? Choose from: one, two. "
        "Reply as <think>your reasoning</think><answer>your choice</answer>"
    )
    assert question(("one",), think=False) == (
        "What does the image show? Choose from: one. Reply as <answer>your choice</answer>"
    )


def test_a_prompt_is_one_user_turn_with_the_image_first() -> None:
    (message,) = prompt_messages(("one", "two"))
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"] == question(("one", "two"))


def test_a_request_carries_key_and_decoded_image() -> None:
    (example,) = make_examples("a", 1)
    asked = request(example, ("a", "b"), think=False)
    assert asked.key == "item/a/000"
    assert asked.messages == prompt_messages(("a", "b"), think=False)
    assert [image.size for image in asked.images] == [(4, 4)]


def test_prompts_of_a_stream_never_name_a_future_class() -> None:
    names = ("apple", "bread", "cheese", "dates")
    pool = Pool(make_examples(names, 4))
    stream = build_cil("s", pool, sizes=(1, 1, 1, 1), order_seed=1, shots=1, test_per_class=1)
    for task in stream.tasks:
        future = {label for later in stream.tasks[task.index :] for label in later.classes}
        text = question(task.seen)
        assert all(label in text for label in task.seen)
        assert not any(label in text for label in future)


def test_a_target_has_the_form_that_the_prompt_asks_for() -> None:
    assert target_text("two") == "<think>it looks like two</think><answer>two</answer>"
    assert target_text("two", "I see {label} here") == "<think>I see two here</think><answer>two</answer>"
    assert target_text("two", think=False) == "<answer>two</answer>"


def test_images_stand_before_the_text_or_behind_it() -> None:
    image, text, clip = ({"type": name} for name in ("image", "text", "video"))
    asked = Request("key", [{"role": "user", "content": [image, text, clip]}], ())
    assert asked.arranged("last").messages == [{"role": "user", "content": [text, image, clip]}]
    assert asked.arranged("first").messages == [{"role": "user", "content": [image, clip, text]}]
    assert asked.arranged("last").arranged("first").messages == asked.arranged("first").messages
