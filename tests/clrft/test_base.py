import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration

from clrft.base_model import default_model_path
from scripts.base_model.__main__ import main as script
from scripts.base_model.architecture import image_tokens, patches, tiny_model, tiny_processor
from scripts.base_model.build import TOLERANCES, build_base, check_base, recorded_measures
from scripts.base_model.measure import Answerer, printed_accuracy
from scripts.base_model.pretrain import Schedule, completion_loss, pretrain, rope_positions
from scripts.base_model.questions import Question, draw_questions, encode
from scripts.base_model.tokenizer import TAGS, train_tokenizer
from task_streams.errors import UserError
from task_streams.probes.glyphs import DIGITS, LETTERS, glyph_examples
from task_streams.prompt import prompt_messages, target_text
from task_streams.prompt_style import SUITE


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer, seed=0)


@pytest.fixture(scope="module")
def shipped():
    return Answerer(default_model_path())


def test_the_model_is_a_real_qwen2_vl_with_the_counted_parameters(model) -> None:
    # vision: patches 96*384 = 36,864; a block 2*192 + (96*288+288) + (96*96+96) + (96*384+384) + (384*96+96)
    #   = 111,840, three of them 335,520; merger 192 + (384*384+384) + (384*128+128) = 197,312
    # text: 407 tokens * 128 = 52,096; a layer (128*128+128) + 2*(128*64+64) + 128*128 + 3*128*384 + 2*128
    #   = 197,120, four of them 788,480; last norm 128; the head is tied to the embedding
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    assert sum(parameter.numel() for parameter in model.parameters()) == 569_696 + 840_704


def test_text_and_tags_survive_decoding_and_labels_take_few_tokens(tokenizer) -> None:
    for text in (SUITE.ask("classification", DIGITS + LETTERS), target_text("letter q"), "naïve – 42 kg\n"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert all(len(tokenizer.tokenize(tag)) == 1 for tag in TAGS)
    assert all(len(tokenizer.tokenize(label)) == 1 for label in DIGITS)
    assert all(len(tokenizer.tokenize(label)) == 2 for label in LETTERS)  # "letter", " q"


def test_the_batched_vision_tower_equals_the_stock_one(model, tokenizer) -> None:
    images = [example.media() for example in glyph_examples(3, 0)]
    grey = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image in images]).float() / 255
    inputs = tiny_processor(tokenizer).image_processor(images=images, return_tensors="pt")
    assert torch.allclose(patches(grey).flatten(0, 1), inputs["pixel_values"], atol=1e-6)
    with torch.no_grad():
        stock = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        assert torch.allclose(image_tokens(model.model.visual, grey), torch.stack(stock), atol=1e-5)


def test_the_pretraining_loss_equals_the_stock_forward_on_the_processors_batch(model, tokenizer) -> None:
    example, labels = glyph_examples(1, 3, labels=["four"])[0], ("four", "nine")
    processor = tiny_processor(tokenizer)
    prompt = processor.apply_chat_template(prompt_messages(labels), tokenize=False, add_generation_prompt=True)
    asked = Question("four", prompt, target_text("four"))
    texts = [prompt + asked.completion + "<|im_end|>"]
    inputs = processor(text=texts, images=[[example.media()]], return_tensors="pt")
    batch = encode([asked], tokenizer)
    assert torch.equal(batch.ids, inputs["input_ids"])
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
        grey = torch.from_numpy(np.array(example.media().convert("L"))).float()[None] / 255
        ours = completion_loss(model, image_tokens(model.model.visual, grey), batch)
    losses = functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    weights = batch.weights[:, 1:]
    assert ours.item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-5)
    # <think> it looks like four </think> <answer> four </answer> <|im_end|>: the two "four" weigh 4, 8 others 1
    assert weights[weights > 0].tolist() == [1, 1, 1, 1, 4, 1, 1, 4, 1, 1]


def test_rope_positions_equal_the_models_own(model) -> None:
    kinds = torch.tensor([[0] * 4 + [1] * 16 + [0] * 7])
    grid = torch.tensor([[1, 8, 8]])
    stock, _ = model.model.get_rope_index(torch.zeros_like(kinds), kinds, image_grid_thw=grid)
    assert torch.equal(rope_positions(4, 27), stock[:, 0])


def test_every_question_lists_the_shown_label_once(tokenizer) -> None:
    rng = np.random.default_rng(0)
    for asked in [asked for _ in range(20) for asked in draw_questions(4, tokenizer, rng)]:
        candidates = asked.prompt.split("Choose from: ")[1].split(". Reply")[0].split(", ")
        assert candidates.count(asked.label) == 1
        assert len(set(candidates)) == len(candidates) >= 2
        assert f"<answer>{asked.label}</answer>" in asked.completion


def test_the_shipped_model_reaches_its_recorded_accuracy_on_print(shipped) -> None:
    recorded = recorded_measures()["printed"]
    # 68 glyphs: at an accuracy of 0.9 the standard deviation is sqrt(0.9 * 0.1 / 68) = 0.036; four of them, 0.146
    assert printed_accuracy(shipped, 68) == pytest.approx(recorded, abs=0.146)


def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(shipped) -> None:
    examples = glyph_examples(3, 5, labels=["two", "letter k", "seven"])
    labels = ("letter k", "seven", "two")
    together = [scores[0].answer for scores in shipped.answers(examples, labels)]
    alone = [next(shipped.answers([example], labels))[0].answer for example in examples]
    assert together == alone


def test_left_padding_keeps_completions_and_generation_stops_at_the_end_of_turn(shipped) -> None:
    conversations = []
    for example, labels in zip(glyph_examples(2, 5, labels=["two", "seven"]), (("two", "seven"), DIGITS), strict=True):
        text = {"type": "text", "text": SUITE.ask("classification", labels)}
        conversations.append([{"role": "user", "content": [{"type": "image", "image": example.media()}, text]}])
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    batch = shipped.processor.apply_chat_template(conversations, processor_kwargs={"padding": True}, **kwargs)
    single = shipped.processor.apply_chat_template(conversations[:1], **kwargs)
    assert batch["attention_mask"][0, 0] == 0  # the shorter prompt is padded on the left
    padded, plain = (
        shipped.model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
        for inputs in (batch, single)
    )
    assert plain[-1] == shipped.processor.tokenizer.eos_token_id
    assert padded[: len(plain)].tolist() == plain.tolist()


def test_an_assistant_turn_continues_the_generation_prompt_and_ends_with_the_end_of_turn(tokenizer) -> None:
    processor = tiny_processor(tokenizer)
    user = prompt_messages(("two", "seven"))
    asked = processor.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    reply = {"role": "assistant", "content": [{"type": "text", "text": target_text("two")}]}
    assert processor.apply_chat_template([*user, reply], tokenize=False) == asked + target_text("two") + "<|im_end|>"


SHORT = Schedule(vision_steps=1, model_steps=2, vision_batch=4, model_batch=4)


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(tokenizer) -> None:
    trained = []
    for seed in (3, 3, 4):
        fresh = tiny_model(tokenizer, seed)
        pretrain(fresh, tokenizer, seed, SHORT, lambda *_: None)
        trained.append(torch.cat([parameter.flatten() for parameter in fresh.parameters()]))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_build_ends_in_a_whole_hub_checkpoint_with_its_record(tmp_path: Path) -> None:
    record = build_base(tmp_path / "made", 3, SHORT, progress=False, measured_digits=2, measured_glyphs=12)
    made = {path.name: path for path in (tmp_path / "made").iterdir()}
    assert set(made) == {path.name for path in default_model_path().iterdir()}
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o644}
    assert {tensor.dtype for tensor in load_file(made["model.safetensors"]).values()} == {torch.bfloat16}
    assert json.loads(made["recorded.json"].read_text()) == json.loads(json.dumps(record))
    assert (record["seed"], record["schedule"]["model_steps"]) == (3, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_check_names_an_accuracy_beyond_its_tolerance() -> None:
    recorded = dict.fromkeys(TOLERANCES, 0.6)
    assert all(difference.ok for difference in check_base(recorded, recorded))
    rebuilt = recorded | {"handwriting": 0.6 - TOLERANCES["handwriting"] - 0.01}
    assert [difference.name for difference in check_base(recorded, rebuilt) if not difference.ok] == ["handwriting"]
    with pytest.raises(UserError, match="'printed' is missing"):
        check_base(recorded, {name: 0.6 for name in TOLERANCES if name != "printed"})


def test_the_script_refuses_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    assert script(["check", "--out", str(tmp_path)]) == 2
    assert script(["build", "--out", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "kept.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"recorded\.json is missing"):
        recorded_measures(tmp_path)
