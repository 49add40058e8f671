"""Clips on their way into the model: as several images, and as its own kind of video, in answers and in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.algorithms.rapo import Rapo, RapoConfig
from methods.algorithms.sft import Sft, SftConfig
from methods.generation.answers import Session
from methods.generation.shared_prefix import positions_of
from methods.generation.static_decode import StaticSteps
from methods.inputs.clip_batches import ClipCollator, rows_have_clips
from methods.inputs.media import Patches, clip_arguments, model_fields, preferred_feed, video_obstacle, with_media
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.training.dataset import target_dataset
from task_streams.datasets.clip_folders import CIL, ClipCilConfig
from task_streams.errors import UserError
from task_streams.prompt import Request, request
from task_streams.sources.records import Workspace
from task_streams.types import Clip, Feed, Task, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.trainers import own_logps, prompt_length, scored, trainer_of
from tests.methods.two_tasks import fresh_policy
from tests.shared_data import shared

FEEDS: tuple[Feed, ...] = ("images", "video")
THOUGHT = "it looks like {label}"


def asked_about(task: Task) -> list[Request]:
    return [request(example, task.seen) for example in task.test]


def test_images_clips_and_clips_as_images_may_share_a_batch(policy: Policy, stream: TaskStream) -> None:
    task = stream.tasks[1]
    kinds = (about_clips(task, "video", (4, 2, 3)), task, about_clips(task, "images", (3, 1)))
    asked = [asked_about(kinds[place % 3])[place] for place in range(6)]
    together = policy.generate(asked, Decoding(24))
    assert together == [policy.generate([one], Decoding(24))[0] for one in asked]
    assert all(text.startswith("<think>") for text in together)


def test_the_frames_decide_the_answer(policy: Policy, stream: TaskStream) -> None:
    """What the model gets is the clip of each request and not, say, the first one's."""
    asked = asked_about(about_clips(stream.tasks[1], "video", (4,)))
    encoded = policy.encode(asked)
    patches = Patches(encoded["pixel_values_videos"], encoded["video_grid_thw"], (1,) * len(encoded["input_ids"]))
    for row, alone in enumerate(asked):
        assert torch.equal(patches.select([row]).values, policy.encode([alone])["pixel_values_videos"])


@pytest.mark.parametrize(
    ("feed", "frames", "tokens", "saved"),
    [("images", 1, 16, 12), ("images", 3, 48, 36), ("video", 4, 32, 24), ("video", 3, 32, 24)],
)
def test_a_prompt_counts_the_tokens_of_its_media(
    feed: Feed, frames: int, tokens: int, saved: int, policy: Policy, stream: TaskStream
) -> None:
    # 64 x 64 pixels have, by patches of 8 merged two by two, 4 x 4 = 16 tokens; a video takes frames in pairs: 4, or 3
    # and one repeated, have 2 x 16; each placeholder stood for one of them
    asked = asked_about(about_clips(stream.tasks[1], feed, (frames,)))[0]
    text = policy.processor.apply_chat_template(asked.messages, add_generation_prompt=True, tokenize=False)
    words = len(policy.processor.tokenizer(text)["input_ids"])
    assert prompt_length(policy, asked) == words + tokens - (frames if feed == "images" else 1)
    # 32 x 32 pixels have 2 x 2 = 4 tokens instead of 16: an image saves 12, a pair of frames too
    small = fresh_policy(min_pixels=32 * 32, max_pixels=32 * 32)
    assert prompt_length(policy, asked) - prompt_length(small, asked) == saved


def test_the_frame_rate_is_told_and_no_frame_is_left_out(policy: Policy, stream: TaskStream) -> None:
    told = clip_arguments(policy.processor, asked_about(about_clips(stream.tasks[1], "video", (6,)))[0].clips)
    assert told["do_sample_frames"] is False
    assert told["video_metadata"] == [{"total_num_frames": 6, "fps": 2.0, "frames_indices": [0, 1, 2, 3, 4, 5]}]


def test_a_model_without_video_prefers_images_and_refuses_videos(policy: Policy, stream: TaskStream) -> None:
    assert preferred_feed(policy.processor) == "video"
    policy.processor.video_processor.model_input_names = ["pixel_values_videos"]
    assert video_obstacle(policy.processor) == "Qwen2VLVideoProcessor gives no video_grid_thw"
    policy.processor.video_processor = None
    assert preferred_feed(policy.processor) == "images"
    with pytest.raises(UserError, match=r"got video, but Qwen2VLProcessor takes no video; expected auto or images"):
        policy.generate(asked_about(about_clips(stream.tasks[1], "video")), Decoding(4))
    assert policy.generate(asked_about(about_clips(stream.tasks[1], "images")), Decoding(4))


def test_placeholders_are_filled_in_their_order(stream: TaskStream) -> None:
    image, (clip,) = stream.tasks[0].train[0].media(), asked_about(about_clips(stream.tasks[1], "video", (2,)))[0].clips
    parts = [{"type": "video"}, {"type": "text", "text": "and"}, {"type": "image"}]
    filled = with_media([{"role": "user", "content": parts}], [clip, image])[0]["content"]
    assert filled[0]["video"] == list(clip.frames)
    assert filled[2]["image"] is image
    assert parts == [{"type": "video"}, {"type": "text", "text": "and"}, {"type": "image"}]


def test_rows_are_selected_with_their_own_images_or_none() -> None:
    # rows with 2, 0 and 1 clips, of 1, 2 and 1 patches
    grids = torch.tensor([[1, 1, 1], [1, 1, 2], [1, 1, 1]])
    patches = Patches(torch.arange(4.0)[:, None], grids, (2, 0, 1), pace=torch.tensor([1.0, 2.0, 3.0]))
    rows = torch.tensor([[7], [8], [9]])
    chosen = Prompts(rows, rows, rows, None, patches).select(torch.tensor([2, 1, 0, 2]))
    assert chosen.ids.flatten().tolist() == [9, 8, 7, 9]
    assert chosen.clips is not None and chosen.clips.pace is not None
    assert chosen.clips.values.flatten().tolist() == [3, 0, 1, 2, 3]
    assert chosen.clips.grids[:, 2].tolist() == [1, 1, 2, 1]
    assert chosen.clips.counts == (1, 0, 2, 1)
    assert chosen.clips.pace.tolist() == [3, 1, 2, 3]
    assert model_fields(patches.select([1]), None) == {}


# Kind of model, place of the clip, frames: the steps in time of 28 frames go beyond the places of the text behind them.
CASES = [("policy", "first", (4, 2)), ("policy", "last", (28, 3)), ("qwen2_5_policy", "last", (28, 3))]


@pytest.mark.parametrize("kind", ["policy", "qwen2_5_policy"])
def test_answers_about_videos_are_those_of_generate(
    kind: str, request: pytest.FixtureRequest, stream: TaskStream
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    asked = asked_about(about_clips(stream.tasks[1], "video", (4, 9)))[:4]
    policy.share_prefix = False
    expected = policy.generate(asked, Decoding(16))
    policy.share_prefix = True
    guesses = policy.session()
    for session in (None, guesses, guesses, Session(steps=StaticSteps(recorded=False))):
        assert policy.generate(asked, Decoding(16), session) == expected


def test_positions_follow_the_clock_of_a_clip(qwen2_5_policy: Policy, stream: TaskStream) -> None:
    # Qwen2.5-VL: two positions to a second. Three pairs of frames at 2 a second are a second apart: 0, 2, 4; at 0.5
    # a second, four seconds apart: 0, 8, 16. Each has 16 tokens.
    asked, *_ = asked_about(about_clips(stream.tasks[1], "video", (6,)))
    for fps, steps in ((2.0, [0, 2, 4]), (0.5, [0, 8, 16])):
        prompts = qwen2_5_policy.prompts([replace(asked, media=(replace(asked.clips[0], fps=fps),))])
        time = positions_of(qwen2_5_policy.model.model, prompts)[0, 0][prompts.token_types[0] == 2]
        assert (time - time[0]).tolist() == [step for step in steps for _ in range(16)]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("kind", "media", "counts"), CASES)
def test_logps_about_clips_are_the_models_own(
    kind: str, media: str, counts: Any, share: bool, request: pytest.FixtureRequest, stream: TaskStream, tmp_path: Path
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    policy.config = replace(policy.config, media=media)
    task = about_clips(stream.tasks[1], "video", counts)
    method, anchor = Rapo(RapoConfig(group_size=4)), policy.snapshot()
    trainer = trainer_of(method, policy, task, tmp_path, anchor, share_prefix=share)
    output = scored(trainer)
    found = [trainer._asked(whose, output) for whose in ("policy", "anchor")]
    expected, real = own_logps(policy.model, trainer, output), output["completion_mask"].bool()
    for logps in (*found, output["ref_per_token_logps"]):
        assert torch.allclose(logps[real], expected[real], atol=1e-5)


@pytest.mark.parametrize("feed", FEEDS)
def test_updates_on_clips_do_not_depend_on_parts(feed: Feed, stream: TaskStream, tmp_path: Path) -> None:
    ends = []
    for accumulation, share in ((1, False), (2, True)):
        policy = fresh_policy()
        before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
        task = about_clips(stream.tasks[1], feed, (4, 2, 3))
        budget = {"updates": 2, "accumulation": accumulation, "share_prefix": share, "warmup": 0}
        method, anchor = Rapo(RapoConfig(group_size=4)), policy.snapshot()
        trainer_of(method, policy, task, tmp_path, anchor, **budget).train()
        ends.append(dict(policy.model.named_parameters()))
        assert any(not torch.equal(before[name], weight) for name, weight in ends[-1].items() if "visual" in name)
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=1e-4), name


def test_adapters_and_gradient_checkpointing_take_clips_too(stream: TaskStream, tmp_path: Path) -> None:
    policy = fresh_policy("lora", gradient_checkpointing=True)
    task = about_clips(stream.tasks[1], "video", (4, 2))
    trainer = trainer_of(Rapo(RapoConfig(group_size=4)), policy, task, tmp_path, policy.snapshot())
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


def test_supervised_batches_learn_the_completion_alone(policy: Policy, stream: TaskStream) -> None:
    task = about_clips(stream.tasks[1], "video", (4, 2, 3))
    dataset = target_dataset(task, THOUGHT)
    rows = [dataset[i] for i in range(5)]
    batch = ClipCollator(policy.processor)(rows)
    tokenizer = policy.processor.tokenizer
    for i, row in enumerate(rows):
        learned = batch["labels"][i][batch["labels"][i] != -100]
        answer = row["completion"][0]["content"][0]["text"]
        assert tokenizer.decode(learned).strip().removesuffix("<|im_end|>") == answer
        alone = policy.encode([request(task.train[i], task.trained)])
        length = alone["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][i, :length], alone["input_ids"][0])
        assert torch.equal(batch["mm_token_type_ids"][i, :length], alone["mm_token_type_ids"][0])
        assert batch["attention_mask"][i].sum() == length + len(learned)


@pytest.mark.parametrize(("feed", "counts"), [("images", (1, 3, 2)), ("video", (4, 2, 3))])
def test_supervised_training_lowers_the_loss(
    feed: Feed, counts: tuple[int, ...], policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    task, method = about_clips(stream.tasks[1], feed, counts), Sft(SftConfig(thought=THOUGHT))
    trainer = trainer_of(method, policy, task, tmp_path, updates=8, warmup=0, learning_rate=1e-3)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 8
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_clips_and_images_in_one_batch_are_refused() -> None:
    assert not rows_have_clips([{"images": [1]}, {"images": [1], "clips": []}])
    assert rows_have_clips([{"images": [], "clips": [1]}])
    with pytest.raises(ValueError, match="rows with clips and rows with images in one batch"):
        rows_have_clips([{"images": [], "clips": [1]}, {"images": [1], "clips": []}])


@pytest.mark.parametrize("feed", FEEDS)
def test_real_clips_are_answered(feed: Feed, policy: Policy) -> None:
    config = ClipCilConfig(
        root=str(shared("clips_mini")), tasks=2, classes_per_task=2, shots=2, test_per_class=2, feed=feed, fps=6
    )
    task = CIL.build(config, 1993, Workspace()).tasks[0]
    clip = task.test[0].media()
    assert isinstance(clip, Clip)
    assert len(clip.frames) in (4, 5)  # 16 frames at 24 to 30 a second are 0.53 to 0.67 s
    answers = policy.generate(asked_about(task), Decoding(24))
    assert len(answers) == 4
    assert all(answers)
