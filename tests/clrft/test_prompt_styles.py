"""Prompt styles in runs: every part of a run asks and scores in the run's style, which stays what it began with."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clrft.analysis.published_results import protocol, published_rows
from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config
from clrft.config.sweeps import load_sweep
from clrft.runner.run import run
from clrft.utils.progress import Silent
from task_streams.errors import UserError
from task_streams.prompt import in_style, target_text
from task_streams.prompt_style import PromptStyle, prompt_style
from task_streams.types import Example
from tests.clrft.test_families import FAMILIES, lower_triangle
from tests.scripted import matrix_of

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


def own(folder: Path, text: str = OWN) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


@pytest.mark.parametrize("method", ["grpo+rif+majority+information_gain", "sft+ewc+derpp", "raft", "sdft"])
def test_all_of_a_run_asks_and_scores_in_its_style(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, str]] = set()

    def watch(name: str) -> None:
        plain = getattr(PromptStyle, name)

        def watched(style: PromptStyle, *arguments: Any) -> Any:
            seen.add((name, style.name))
            return plain(style, *arguments)

        monkeypatch.setattr(PromptStyle, name, watched)

    watch("ask")
    watch("is_thought")
    folder = run(styled(tmp_path, method, own(tmp_path)), Silent())
    assert seen == {("ask", "mine"), ("is_thought", "mine")}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["prompt_style"], manifest["prompts"]["style"]) == ("mine", prompt_style(own(tmp_path)).digest)


@pytest.mark.parametrize("style", ["rapo_paper", "rapo_released"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "questions"])
def test_the_perfect_policy_scores_one_everywhere_in_rapos_words(family: str, style: str, tmp_path: Path) -> None:
    stream = in_style(FAMILIES[family](), prompt_style(style))

    def perfect(example: Example, listed: object, stage: int) -> str:
        return target_text(example.target, style=stream.tasks[0].style, labels=stream.labels)

    matrix = matrix_of(perfect, stream, tmp_path)
    assert np.allclose(matrix.value, lower_triangle(1.0, len(stream)), rtol=0, atol=1e-12, equal_nan=True)


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


def test_a_style_that_needs_images_first_is_refused_with_images_last() -> None:
    with pytest.raises(UserError, match=r"model\.media: got last, .*'rapo_paper'.*expected first"):
        build_config("digits_cil", "sft", "tiny", 1, {"stream": {"prompt": "rapo_paper"}, "model": {"media": "last"}})


def test_the_papers_protocol_asks_in_the_papers_words_and_the_released_codes_in_its_own() -> None:
    assert {protocol(row).stream.prompt for row in published_rows()} == {"rapo_paper"}
    sweeps = ("paper", "image_cil", "image_dil", "video_cil", "detection_cil")
    assert {cell.stream.prompt for name in sweeps for cell in load_sweep(name, {})} == {"rapo_paper"}
    released = build_config("imagenet_r_10x20", "rapo_released_code", "qwen2_vl_2b")
    assert (released.stream.prompt, released.stream.label_order) == ("rapo_released", "appearance")
    assert {cell.stream.prompt for cell in load_sweep("ablation", {})} == {"suite"}  # on the embedded model


def test_the_styles_are_listed_and_a_run_shows_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "prompts"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("suite", "rapo_paper", "rapo_released"))
    assert main(["show", "stream=cub200_10x20", "method=sft"]) == 0
    assert "rapo_paper" in capsys.readouterr().out
