"""How clips go into the model: ``stream.feed=auto`` is the model's own video where it has one; runs keep to it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clrft.analysis.compare import compare
from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig, build_config
from clrft.planning.stream_statistics import statistics_of
from clrft.runner.fork import planned, saved_config
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.files import write_json_atomic
from clrft.utils.progress import Silent
from task_streams.errors import UserError
from tests.task_streams.clips import write_clip

CLASSES = ("bow", "clap", "dive", "jump")
SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 2, "test_per_class": 1, "fps": 5},
    "train": {"updates": 1, "prompts_per_update": 2, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 0},
    "model": {"device": "cpu", "dtype": "float32"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four clips, each with frames of its own number."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(CLASSES):
        for i in range(4):
            write_clip(root / name / f"{i}.mp4", 6 + 4 * number + i)
    return root


@pytest.fixture(scope="module")
def without_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its video input."""
    folder = tmp_path_factory.mktemp("models") / "without_video"
    shutil.copytree(default_model_path(), folder)
    file = folder / "processor_config.json"
    parts = json.loads(file.read_text())
    parts["video_processor"]["video_processor_type"] = "InternVLVideoProcessor"
    file.write_text(json.dumps(parts))
    return folder


def cell(clips: Path, output: Path, method: str = "sft", sweep: str = "single", **own: Any) -> RunConfig:
    place = {"run": {"output": str(output), "sweep": sweep, "mlflow": False}, "stream": {"root": str(clips)}}
    return build_config("clips_cil", method, "tiny", 1993, SMALL, place, own)


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def feed(config: RunConfig, source: Any = None) -> str:
    """How clips will go into the model."""
    return prepare(config, Silent(), source).stream.feed


def forked_feed(folder: Path) -> str:
    source, config = planned(f"{folder}@task1", ["train.learning_rate=1e-4"])
    return feed(config, source)


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
