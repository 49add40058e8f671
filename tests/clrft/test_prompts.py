"""What a run asks and how clips go in: all of its parts do it alike, and it stays as it began."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from clrft.analysis.compare import compare
from clrft.analysis.published_results import protocol, published_rows
from clrft.base_model import default_model_path
from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config
from clrft.config.sweeps import load_sweep
from clrft.planning.stream_statistics import statistics_of
from clrft.runner.fork import planned, saved_config
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.files import read_json, write_json_atomic
from clrft.utils.progress import Silent
from task_streams.errors import UserError
from task_streams.prompt_style import PromptStyle, prompt_style
from tests.task_streams.clips import write_clip

# The suite's words, which the embedded model can read, in a file of a user's own.
OWN = """\
labels: normalised
label_order: appearance
placeholders: [your reasoning]
think:
  classification: >-
    What does the {media} show? Choose from: {labels}.
    Reply as <think>your reasoning</think><answer>your choice</answer>
"""
SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 4},
    "train": {"updates": 1, "prompts_per_update": 4},
    "evaluate": {"probe": 8, "drift_prompts": 1},
}


def styled(folder: Path, method: str, prompt: str) -> RunConfig:
    own = {"run": {"output": str(folder), "mlflow": False}, "stream": {"prompt": prompt}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, own)


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def own(folder: Path, text: str = OWN) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


@pytest.mark.parametrize("method", ["grpo+rif+majority+information_gain", "sft+ewc+derpp", "raft", "sdft"])
def test_all_of_a_run_asks_and_scores_in_its_style(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = {name: Mock(wraps=getattr(PromptStyle, name)) for name in ("ask", "is_thought")}
    for name, mock in watched.items():
        monkeypatch.setattr(PromptStyle, name, lambda *arguments, mock=mock: mock(*arguments))
    folder = run(styled(tmp_path, method, own(tmp_path)), Silent())
    for mock in watched.values():
        assert {call.args[0].name for call in mock.call_args_list} == {"mine"}
    told = manifest(folder)
    assert (told["prompt_style"], told["prompts"]["style"]) == ("mine", prompt_style(own(tmp_path)).digest)


def test_another_style_or_a_style_file_that_has_changed_is_another_run(tmp_path: Path) -> None:
    config = styled(tmp_path, "zero_shot", own(tmp_path))
    folder = run(config, Silent())
    with pytest.raises(UserError, match=r"stream\.prompt is '.*mine\.yaml' there and 'suite' here"):
        run(styled(tmp_path, "zero_shot", "suite"), Silent())
    shutil.rmtree(folder / "task_02")
    (folder / "metrics.json").unlink()
    for changed in (OWN.replace("your choice", "it"), OWN.replace("[your reasoning]", "[]")):
        own(tmp_path, changed)
        with pytest.raises(UserError, match=r"the prompts are not those this run began with .*style"):
            run(config, Silent())
    own(tmp_path)
    assert (run(config, Silent()) / "metrics.json").is_file()


def test_the_papers_protocol_asks_in_the_papers_words_and_the_released_codes_in_its_own() -> None:
    assert {protocol(row).stream.prompt for row in published_rows()} == {"rapo_paper"}
    sweeps = ("paper", "image_cil", "image_dil", "video_cil", "detection_cil")
    assert {cell.stream.prompt for name in sweeps for cell in load_sweep(name, {})} == {"rapo_paper"}
    released = build_config("imagenet_r_10x20", "rapo_released_code", "qwen2_vl_2b")
    assert (released.stream.prompt, released.stream.label_order) == ("rapo_released", "appearance")
    assert {cell.stream.prompt for cell in load_sweep("ablation", {})} == {"suite"}  # on the embedded model


def test_the_styles_are_listed_a_run_shows_its_own_and_one_may_need_images_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=r"model\.media: got last, .*'rapo_paper'.*expected first"):
        build_config("digits_cil", "sft", "tiny", 1, {"stream": {"prompt": "rapo_paper"}, "model": {"media": "last"}})
    assert main(["list", "prompts"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("suite", "rapo_paper", "rapo_released"))
    assert main(["show", "stream=cub200_10x20", "method=sft"]) == 0
    assert "rapo_paper" in capsys.readouterr().out


CLIPS: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 2, "test_per_class": 1, "fps": 5},
    "train": {"updates": 1, "prompts_per_update": 2, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 0},
    "model": {"device": "cpu", "dtype": "float32"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four clips, each with frames of its own number."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("bow", "clap", "dive", "jump")):
        for i in range(4):
            write_clip(root / name / f"{i}.mp4", 6 + 4 * number + i)
    return root


@pytest.fixture(scope="module")
def without_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its video input."""
    folder = tmp_path_factory.mktemp("models") / "without_video"
    shutil.copytree(default_model_path(), folder)
    parts = read_json(folder / "processor_config.json")
    parts["video_processor"]["video_processor_type"] = "InternVLVideoProcessor"
    write_json_atomic(folder / "processor_config.json", parts)
    return folder


def cell(clips: Path, output: Path, method: str = "sft", sweep: str = "single", **own: Any) -> RunConfig:
    place = {"run": {"output": str(output), "sweep": sweep, "mlflow": False}, "stream": {"root": str(clips)}}
    return build_config("clips_cil", method, "tiny", 1993, CLIPS, place, own)


def feed(config: RunConfig, source: Any = None) -> str:
    """How clips will go into the model."""
    return prepare(config, Silent(), source).stream.feed


def forked_feed(folder: Path) -> str:
    return feed(*reversed(planned(f"{folder}@task1", ["train.learning_rate=1e-4"])))


def test_auto_is_video_where_the_model_has_one(clips: Path, without_video: Path, tmp_path: Path) -> None:
    model = {"path": str(without_video)}
    assert feed(cell(clips, tmp_path)) == "video"
    assert feed(cell(clips, tmp_path, model=model)) == "images"
    with pytest.raises(UserError, match=r"stream\.feed: got video, but InternVLVideoProcessor gives no video_grid_thw"):
        feed(cell(clips, tmp_path, model=model, stream={"feed": "video"}))


def test_what_it_came_to_is_recorded_and_not_compared_with_the_other(clips: Path, tmp_path: Path) -> None:
    ways = ("auto", "images", "video")
    folders = [run(cell(clips, tmp_path, "zero_shot", way, stream={"feed": way}), Silent()) for way in ways]
    auto, images, video = map(manifest, folders)
    assert [one["feed"] for one in (auto, images, video)] == ["video", "images", "video"]
    assert auto["prompts"] == video["prompts"] != images["prompts"]
    records = [read_run(folder) for folder in folders[:2]]
    with pytest.raises(UserError, match=r"stream\.feed is auto in .* and images in "):
        compare(records)
    for record in records:
        record.config["stream"]["feed"] = "auto"  # as of two models, one of which has no video
    with pytest.raises(UserError, match=r"manifest\.prompts\.task_01="):
        compare(records, mix=["model"])


def test_a_run_goes_on_and_is_forked_as_it_has_begun(clips: Path, tmp_path: Path) -> None:
    folder = run(cell(clips, tmp_path), Silent())
    # begun when its model was not known to take video
    begun = manifest(folder) | {"feed": "images"}
    write_json_atomic(folder / "manifest.json", begun)
    assert feed(saved_config(folder, {})) == forked_feed(folder) == "images"
    write_json_atomic(folder / "manifest.json", begun | {"feed": "movie"})
    with pytest.raises(UserError, match="feed is 'movie'; expected images or video"):
        feed(saved_config(folder, {}))


def test_a_run_of_before_there_was_a_choice_keeps_its_images(clips: Path, tmp_path: Path) -> None:
    config = cell(clips, tmp_path, stream={"feed": "images"})  # what was the default then, as its config.yaml says
    folder = run(config, Silent())
    before = manifest(folder)
    del before["feed"]
    write_json_atomic(folder / "manifest.json", before)
    shutil.rmtree(folder / "task_02")
    for name in ("matrix.json", "metrics.json"):
        (folder / name).unlink()
    assert run(saved_config(folder, {}), Silent()) == folder
    assert read_run(folder).config["stream"]["feed"] == "images"
    assert forked_feed(folder) == "images"
    with pytest.raises(UserError, match=r"stream\.feed is 'images' there and 'auto' here"):
        run(cell(clips, tmp_path), Silent())


def test_a_plan_counts_clips_as_they_go_in(clips: Path, tmp_path: Path) -> None:
    both = [statistics_of(cell(clips, tmp_path, stream={"feed": feed})) for feed in ("auto", "images")]
    steps = [[[grid for own in task.prompt.grids for grid in own] for task in one.tasks] for one in both]
    for video, images in zip(*steps, strict=True):
        assert all(time >= 2 for time, _, _ in video) and all(time == 1 for time, _, _ in images)
    assert both[0].longest.tokens < both[1].longest.tokens
    gone = [statistics_of(cell(tmp_path / "gone", tmp_path, stream={"feed": feed})) for feed in ("auto", "images")]
    # 10 s at 5 a second are 16 frames at most: 8 steps of a video against 16 images, of 16 tokens each
    assert [one.longest.images for one in gone] == [8, 16]
    assert not any(one.here for one in gone)
