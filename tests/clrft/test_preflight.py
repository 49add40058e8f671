"""A run that its device has no memory for is refused before any work, with what to set; what was found is recorded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.memory.available_memory import available_bytes, free_in_group
from clrft.memory.estimate import estimate, longest_allowed
from clrft.memory.hints import changes, halves, memory_hints
from clrft.memory.model_sizes import ModelSizes, known_sizes
from clrft.memory.phases import Longest, most_prompts
from clrft.runner.memory_check import check_memory, memory_there
from clrft.runner.prepare import longest_prompts, prepare
from clrft.runner.run import run
from clrft.runner.state import Run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from methods.model.config import ModelConfig
from task_streams.errors import UserError

SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 4},
    "train": {"updates": 1, "prompts_per_update": 4},
    "evaluate": {"probe": 0, "drift_prompts": 0},
}
CPU = torch.device("cpu")
MIB = 2**20


def small(output: Path, method: str = "rapo", *words: str) -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, own, parse_overrides(words))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of RaPO before any training."""
    return prepare(small(tmp_path_factory.mktemp("prepared")), Silent())


@pytest.fixture(scope="module")
def longest(state: Run) -> Longest:
    """What is longest of its prompts."""
    return longest_prompts(state.config, state.stream, (), state.policy.processor)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the frozen base."""
    return run(small(tmp_path_factory.mktemp("finished"), "zero_shot"), Silent())


def sizes_in(state: Run) -> ModelSizes:
    return known_sizes(state.config.model)


def test_a_run_that_does_not_fit_is_refused_with_parts_and_settings(state: Run, longest: Longest) -> None:
    with pytest.raises(UserError) as caught:
        check_memory(state, longest, available=20 * MIB)
    training, testing = caught.value.problems
    assert training.startswith("memory: training (gradients) needs about 0.1 GiB at its peak, and 0.020 GiB are there.")
    assert "The largest parts: activations 0." in training
    assert "train.accumulation=32 (saves 0." in training and "method.group_size=2 (saves 0." in training
    assert training.endswith("Or set run.check_memory=false to run without this check.")
    assert testing.startswith("memory: testing needs about") and "evaluate.batch_size=" in testing


def ways(sentence: str) -> list[str]:
    return sentence.split("Set one or more of ")[1].split(". Or set")[0].replace("; slower", "").split("; ")


def test_settings_are_named_by_how_much_they_save_and_the_mildest_that_is_enough(state: Run, longest: Longest) -> None:
    needed = estimate(state.config, sizes_in(state), CPU, longest).peak.total
    with pytest.raises(UserError) as caught:
        check_memory(state, longest, available=needed - MIB)
    named = [way for way in ways(str(caught.value)) if "saves" in way]
    saved = [float(way.split("saves ")[1].split()[0]) for way in named]
    assert len(saved) > 2 and saved == sorted(saved, reverse=True)
    assert all("which is enough" in way for way in named)  # but a MiB is missing
    assert any(way.startswith("train.accumulation=2 ") for way in named)


def test_a_setting_that_is_said_to_be_enough_is_enough(state: Run, longest: Longest, tmp_path: Path) -> None:
    available = 60 * MIB
    with pytest.raises(UserError) as caught:
        check_memory(state, longest, available=available)
    enough = [way.split()[0] for way in ways(str(caught.value)) if "which is enough" in way]
    assert enough == ["train.accumulation=8"]
    cut = replace(state, config=small(tmp_path, "rapo", *enough))
    assert check_memory(cut, longest, available=available)["training"]["bytes"] <= available


def test_no_setting_is_named_that_right_answers_do_not_fit_into(state: Run, longest: Longest) -> None:
    with pytest.raises(UserError, match=r"train.max_completion_tokens=1 "):
        check_memory(state, replace(longest, answer=1), available=MIB)
    with pytest.raises(UserError) as caught:
        check_memory(state, replace(longest, answer=20), available=MIB)
    assert "max_completion_tokens" not in str(caught.value)


def test_the_check_can_be_switched_off(state: Run, longest: Longest, tmp_path: Path) -> None:
    unchecked = replace(state, config=small(tmp_path, "rapo", "run.check_memory=false"))
    assert check_memory(unchecked, longest, available=MIB)["available_bytes"] == MIB


def test_the_prompts_that_were_looked_at_decide(longest: Longest) -> None:
    # one image of 8 x 8 patches of 8 x 8 pixels
    assert (longest.patches, longest.images, longest.pixels) == (64, 1, 64 * 64)
    assert 16 < longest.tokens < 100


def test_the_estimate_is_recorded_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path, "sft")
    folder = run(config, Silent())
    memory = json.loads((folder / "manifest.json").read_text())["memory"]
    assert memory["training"]["parts"]["weights"] == memory["testing"]["parts"]["weights"] == 4 * 1_410_400
    assert memory["training"]["bytes"] == int(1.1 * sum(memory["training"]["parts"].values()))
    assert memory["available_bytes"] > memory["testing"]["bytes"] > 0
    assert read_run(folder).manifest["memory"] == memory
    words = ["stream=digits_cil", "method=sft", f"run.output={tmp_path}"]
    assert main(["show", *words]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("memory: about 0.") and "at most" not in told


def test_before_a_run_its_settings_tell_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "stream=digits_cil", "method=rapo", f"run.output={tmp_path}"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("memory: about") and told.endswith("with prompts as long as train.max_prompt_tokens")


def test_a_checkpoint_that_is_not_here_has_no_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "stream=digits_cil", "method=rapo", "model=qwen2_vl_2b"]) == 0
    assert "no estimate without the checkpoint's config" in capsys.readouterr().out.splitlines()[-1]


def test_the_longest_prompt_allowed_is_one_large_image(state: Run, tmp_path: Path) -> None:
    config = small(tmp_path, "rapo", "train.max_prompt_tokens=100", "model.max_pixels=6400")
    # patches of 8 x 8 pixels: 100 in 6400; without a limit four to each token
    assert longest_allowed(config, sizes_in(state)).patches == 100
    assert longest_allowed(small(tmp_path, "rapo", "train.max_prompt_tokens=100"), sizes_in(state)).patches == 400


def test_a_frozen_base_is_only_tested(finished: Path) -> None:
    memory = json.loads((finished / "manifest.json").read_text())["memory"]
    assert "training" not in memory and memory["testing"]["bytes"] > 0


def test_the_embedded_model_fits_into_the_memory_of_this_machine(state: Run, longest: Longest) -> None:
    there = memory_there(state.policy.model, CPU)
    assert there is not None and there > 10 * estimate(state.config, sizes_in(state), CPU, longest).peak.total


def test_memory_that_is_there_is_within_the_limit_of_the_control_group(tmp_path: Path) -> None:
    assert free_in_group(tmp_path) is None
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "700\n",
        "memory.stat": "anon 5\ninactive_file 200\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert free_in_group(tmp_path) == 1000 - 700 + 200
    (tmp_path / "memory.max").write_text("max\n")
    assert free_in_group(tmp_path) is None
    assert 0 < available_bytes(CPU) <= psutil.virtual_memory().total


def test_values_to_try_go_from_the_mildest(tmp_path: Path) -> None:
    config = small(tmp_path, "rapo", "method.group_size=3", "train.accumulation=2")
    longest = Longest(400, 332, 1, 332 * 14 * 14)
    tried = [one.word for one in changes(config, longest, known_sizes(config.model))]
    assert tried[:4] == [f"train.accumulation={parts}" for parts in (3, 4, 6, 12)]  # of 12 rows
    assert halves(24, 5) == [12, 6]
    assert halves(1, 1) == []


@pytest.mark.parametrize("broken", [{"training": {}}, {"available_bytes": "much"}, []])
def test_a_manifest_with_another_kind_of_estimate_is_refused(broken: Any, finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / finished.name))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "memory": broken}))
    with pytest.raises(UserError, match="memory is"):
        read_run(folder)


@pytest.fixture(scope="module")
def two_billion() -> ModelSizes:
    """Qwen2-VL-2B-Instruct's sizes."""
    return known_sizes(ModelConfig(path="Qwen/Qwen2-VL-2B-Instruct"))


def test_a_part_of_a_batch_has_as_many_prompts_as_adjacent_groups_allow() -> None:
    for rows, group, parts in ((8, 8, 4), (4, 8, 4), (12, 8, 4), (6, 4, 6), (3, 4, 8), (16, 8, 2)):
        each = [{row // group for row in range(part * rows, (part + 1) * rows)} for part in range(parts)]
        assert most_prompts(rows, group) == max(map(len, each))


def documented() -> list[list[str]]:
    """Rows of the table of docs/models.md: tokens, accumulation, two optimizers, anchor_memory=cpu, LoRA."""
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = text.split("| `train.max_completion_tokens` |")[1].split("\n\n")[0].splitlines()[2:]
    return [row.strip("| ").split(" | ") for row in rows]


@pytest.mark.parametrize("row", documented(), ids=lambda row: "-".join(row[:2]))
def test_the_table_of_the_docs_is_what_the_code_says(row: list[str]) -> None:
    longest = Longest(400, 332, 1, 332 * 14 * 14, examples=80, items=1000)
    ways = [
        ("qwen2_vl_2b", "adamw_float32", "device"),
        ("qwen2_vl_2b", "adamw_kahan", "device"),
        ("qwen2_vl_2b", "adamw_kahan", "cpu"),
        ("qwen2_vl_2b_lora", "auto", "device"),
    ]
    for (model, optimizer, memory), told in zip(ways, row[2:], strict=True):
        words = [f"train.max_completion_tokens={row[0]}", f"train.accumulation={row[1]}"]
        words += [f"train.optimizer={optimizer}", f"model.anchor_memory={memory}", "model.attention=sdpa"]
        config = build_config("digits_cil", "rapo", model, 1993, parse_overrides(words))
        found = estimate(config, known_sizes(config.model), torch.device("cuda"), longest).training
        assert found is not None and f"{found.total / 2**30:.1f}" == told


def test_on_a_gpu_what_rests_on_the_cpu_is_no_part_of_the_peak(two_billion: ModelSizes) -> None:
    longest = Longest(400, 332, 1, 332 * 14 * 14, examples=80, items=1000)
    words = ["model.attention=sdpa", "train.optimizer=adamw", "train.accumulation=1"]
    config = build_config("digits_cil", "rapo", "qwen2_vl_2b", 1993, parse_overrides(words))
    named = memory_hints(config, two_billion, torch.device("cuda"), longest, "training", 40 * 2**30)
    assert "train.accumulation=8 (saves 34.4 GiB, which is enough)" in named
    # of two copies of 4.11 GiB one is at work while what the loss needs is kept; with a tenth
    assert "model.anchor_memory=cpu (saves 4.5 GiB)" in named
    assert not any("gradient_checkpointing" in way for way in named)  # it is on
