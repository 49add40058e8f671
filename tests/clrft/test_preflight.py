"""Before any work: whether device and disk have room for a run and what to set, which optimizer it will have."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from clrft.analysis.compare import compare
from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.memory.available_memory import available_bytes, group_memory
from clrft.memory.estimate import changes, estimate, halves, longest_allowed, memory_hints
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import Longest, most_prompts
from clrft.runner import resource_checks as preflight
from clrft.runner.fork import planned
from clrft.runner.prepare import longest_prompts, prepare
from clrft.runner.resource_checks import check_memory, needed_bytes
from clrft.runner.run import run
from clrft.runner.state import Run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from methods.inputs.admission import Admission
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from task_streams.errors import UserError

SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 4},
    "train": {"updates": 1, "prompts_per_update": 4},
    "evaluate": {"probe": 0, "drift_prompts": 0},
}
CPU = torch.device("cpu")
MIB = 2**20
PARAMETERS = 1_410_400  # of the embedded model, 4 bytes each
GPU = torch.device("cuda")
LONGEST = Longest(400, 332, 1, 332 * 14 * 14, examples=80, items=1000)  # of which docs/models.md tells
Usage = namedtuple("Usage", "total used free")
There = dict[str, int | None]


def small(output: Path, method: str = "rapo", *words: str) -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, own, parse_overrides(words))


def refusals(state: Run, longest: Longest, available: int) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_memory(state, longest, available=available)
    return caught.value.problems


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of RaPO before any training."""
    return prepare(small(tmp_path_factory.mktemp("prepared")), Silent())


@pytest.fixture(scope="module")
def longest(state: Run) -> Longest:
    """What is longest of its prompts."""
    return longest_prompts(state.config, state.stream, (), Admission(state.policy.processor))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the frozen base."""
    return run(small(tmp_path_factory.mktemp("finished"), "zero_shot"), Silent())


def needs(state: Run, longest: Longest) -> int:
    return estimate(state.config, longest, CPU).peak.total


def test_a_run_that_does_not_fit_is_refused_with_parts_and_settings(state: Run, longest: Longest) -> None:
    training, testing = refusals(state, longest, 20 * MIB)
    assert training.startswith("memory: training (gradients) needs about 0.1 GiB at its peak, and 0.020 GiB are there.")
    assert "The largest parts: activations 0." in training
    assert "train.accumulation=32 (saves 0." in training and "method.group_size=2 (saves 0." in training
    assert training.endswith("Or set run.check_memory=false to run without this check.")
    assert testing.startswith("memory: testing needs about") and "evaluate.batch_size=" in testing


def ways(sentences: list[str]) -> list[str]:
    return "\n".join(sentences).split("Set one or more of ")[1].split(". Or set")[0].replace("; slower", "").split("; ")


def test_settings_are_named_by_how_much_they_save_and_the_mildest_that_is_enough(state: Run, longest: Longest) -> None:
    named = [way for way in ways(refusals(state, longest, needs(state, longest) - MIB)) if "saves" in way]
    saved = [float(way.split("saves ")[1].split()[0]) for way in named]
    assert len(saved) > 2 and saved == sorted(saved, reverse=True)
    assert all("which is enough" in way for way in named)  # but a MiB is missing
    assert any(way.startswith("train.accumulation=2 ") for way in named)


def test_a_setting_that_is_said_to_be_enough_is_enough_and_the_check_can_be_switched_off(
    state: Run, longest: Longest, tmp_path: Path
) -> None:
    enough = [way.split()[0] for way in ways(refusals(state, longest, 60 * MIB)) if "which is enough" in way]
    assert enough == ["train.accumulation=8"]
    cut = replace(state, config=small(tmp_path, "rapo", *enough))
    assert check_memory(cut, longest, available=60 * MIB)["training"]["bytes"] <= 60 * MIB
    unchecked = replace(state, config=small(tmp_path, "rapo", "run.check_memory=false"))
    assert check_memory(unchecked, longest, available=MIB)["available_bytes"] == MIB


def test_no_setting_is_named_that_right_answers_do_not_fit_into(state: Run, longest: Longest) -> None:
    told = ["\n".join(refusals(state, replace(longest, answer=answer), MIB)) for answer in (1, 20)]
    assert "train.max_completion_tokens=1 " in told[0]
    assert "max_completion_tokens" not in told[1]


def test_the_longest_prompt_is_the_streams_or_one_large_image(state: Run, longest: Longest, tmp_path: Path) -> None:
    # one image of 8 x 8 patches of 8 x 8 pixels
    assert (longest.patches, longest.images, longest.pixels) == (64, 1, 64 * 64)
    assert 16 < longest.tokens < 100
    # of those allowed: 100 in 6400 pixels; without a limit four to each token
    for words, patches in ((("model.max_pixels=6400",), 100), ((), 400)):
        config = small(tmp_path, "rapo", "train.max_prompt_tokens=100", *words)
        assert longest_allowed(config, known_sizes(config.model)).patches == patches


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["show", "stream=digits_cil", *words]) == 0
    return capsys.readouterr().out.splitlines()[-1]


def test_the_estimate_is_recorded_and_shown(frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(small(tmp_path, "sft"), Silent())
    memory = json.loads((folder / "manifest.json").read_text())["memory"]
    assert memory["training"]["parts"]["weights"] == memory["testing"]["parts"]["weights"] == 4 * PARAMETERS
    assert memory["training"]["bytes"] == int(1.1 * sum(memory["training"]["parts"].values()))
    assert memory["available_bytes"] > memory["testing"]["bytes"] > 0
    assert read_run(folder).manifest["memory"] == memory
    tested = json.loads((frozen / "manifest.json").read_text())["memory"]
    assert "training" not in tested and tested["testing"]["bytes"] > 0
    output = f"run.output={tmp_path}"
    told = shown(capsys, "method=sft", output)
    assert told.startswith("memory: about 0.") and "at most" not in told
    told = shown(capsys, "method=rapo", output)  # before a run: at most
    assert told.startswith("memory: about") and told.endswith("with prompts as long as train.max_prompt_tokens")
    assert "no estimate without the checkpoint's config" in shown(capsys, "method=rapo", "model=qwen2_vl_2b")


def test_memory_that_is_there_is_within_the_limit_of_the_control_group(
    state: Run, longest: Longest, tmp_path: Path
) -> None:
    there = check_memory(state, longest)["available_bytes"]
    assert there > 10 * needs(state, longest)  # the embedded model fits into this machine
    assert group_memory(tmp_path) == ()
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 5\ninactive_file 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert group_memory(tmp_path) == (1000, 1000 - 700 + 200)
    (tmp_path / "memory.max").write_text("max\n")
    assert group_memory(tmp_path) == ()
    assert 0 < available_bytes(CPU) <= psutil.virtual_memory().total


def test_values_to_try_go_from_the_mildest(tmp_path: Path) -> None:
    config = small(tmp_path, "rapo", "method.group_size=3", "train.accumulation=2")
    tried = [one.word for one in changes(config, LONGEST)]
    assert tried[:4] == [f"train.accumulation={parts}" for parts in (3, 4, 6, 12)]  # of 12 rows
    assert halves(24, 5) == [12, 6]
    assert halves(1, 1) == []


@pytest.mark.parametrize("broken", [{"training": {}}, {"available_bytes": "much"}, []])
def test_a_manifest_with_another_kind_of_estimate_is_refused(broken: Any, frozen: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(frozen, tmp_path / frozen.name))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "memory": broken}))
    with pytest.raises(UserError, match="memory is"):
        read_run(folder)


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
    full = [("qwen2_vl_2b", WIDE, "device"), ("qwen2_vl_2b", KAHAN, "device"), ("qwen2_vl_2b", KAHAN, "cpu")]
    for (model, optimizer, memory), told in zip([*full, ("qwen2_vl_2b_lora", AUTO, "device")], row[2:], strict=True):
        words = [f"train.max_completion_tokens={row[0]}", f"train.accumulation={row[1]}"]
        words += [f"train.optimizer={optimizer}", f"model.anchor_memory={memory}", "model.attention=sdpa"]
        config = build_config("digits_cil", "rapo", model, 1993, parse_overrides(words))
        found = estimate(config, LONGEST, GPU)["training"]
        assert f"{found.total / 2**30:.1f}" == told


def test_on_a_gpu_what_rests_on_the_cpu_is_no_part_of_the_peak() -> None:
    words = ["model.attention=sdpa", "train.optimizer=adamw", "train.accumulation=1"]
    config = build_config("digits_cil", "rapo", "qwen2_vl_2b", 1993, parse_overrides(words))
    named = memory_hints(config, LONGEST, "training", 40 * 2**30, partial(estimate, device=GPU))
    assert "train.accumulation=8 (saves 34.4 GiB, which is enough)" in named
    # of two copies of 4.11 GiB one is at work while what the loss needs is kept; with a tenth
    assert "model.anchor_memory=cpu (saves 4.5 GiB)" in named
    assert not any("gradient_checkpointing" in way for way in named)  # it is on


def test_the_bytes_on_disk_that_are_needed_by_hand(tmp_path: Path) -> None:
    def needed(*words: str) -> float:
        """Bytes over those of the weights, without the margin."""
        asked = prepare(small(tmp_path, "sft", "stream.tasks=3", *words), Silent())
        return needed_bytes(asked, left=3) / 1.1 / (4 * PARAMETERS)

    # three tasks' weights; two states and one that is written, each of weights and two moments
    never = "run.checkpoint_every=0"
    assert needed() == pytest.approx(3 + 3 * 3, rel=1e-6)
    assert needed(never) == pytest.approx(3, rel=1e-6)
    assert needed(never, "run.keep_weights=last") == pytest.approx(2, rel=1e-6)
    assert needed(never, "train.carry_optimizer=true") == pytest.approx(3 * 3, rel=1e-6)


def test_a_disk_without_room_is_named_and_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**7, 10**7))
    # 12 times 5.64 MB and a tenth: 74.5 MB
    with pytest.raises(UserError, match=r"0.01 GB are free at .*, and the 3 tasks to come need about 0.0745 GB"):
        run(small(tmp_path, "sft", "stream.tasks=3"), Silent())
    assert not list(tmp_path.glob("single/*/task_*"))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> There:
    """What the device has; a test says how much."""
    there: There = {"bytes": None}
    monkeypatch.setattr(preflight, "capacity_bytes", lambda device: there["bytes"])
    return there


def narrow(output: Path, method: str, *words: str) -> RunConfig:
    return small(output, method, "model.dtype=bfloat16", "model.device=cpu", "run.check_memory=false", *words)


def chosen(output: Path, method: str = "sft", *words: str) -> str:
    return prepare(narrow(output, method, *words), Silent()).policy.numerics.optimizer


def test_weights_are_float32_where_there_is_memory_for_them(tmp_path: Path, memory: There) -> None:
    assert chosen(tmp_path) == WIDE  # nothing tells how much there is
    memory["bytes"] = 10_000 * MIB
    assert chosen(tmp_path) == WIDE
    memory["bytes"] = 10 * MIB
    assert chosen(tmp_path) == KAHAN
    assert chosen(tmp_path, "sft+ewc") == WIDE  # it looks at weights
    assert chosen(tmp_path, "zero_shot") == PLAIN  # nothing moves its weights
    for word in (f"train.optimizer={PLAIN}", "model.adapter=lora", "model.dtype=float32"):
        assert chosen(tmp_path, "sft", word) == PLAIN


def test_a_run_goes_on_as_it_began_whatever_memory_there_is(tmp_path: Path, memory: There) -> None:
    memory["bytes"] = 10 * MIB
    folder = run(narrow(tmp_path, "sft"), Silent())
    assert json.loads((folder / "manifest.json").read_text())["model"]["optimizer"] == KAHAN
    memory["bytes"] = None
    assert chosen(tmp_path) == KAHAN
    source, config = planned(f"{folder}@task1", ["method=grpo"])
    assert prepare(config, Silent(), source).policy.numerics.optimizer == KAHAN
    source, config = planned(f"{folder}@task1", [f"train.optimizer={WIDE}"])
    with pytest.raises(UserError, match="holds its weights for adamw_kahan; expected adamw_kahan or auto"):
        prepare(config, Silent(), source)


def test_two_ways_that_keep_all_stand_side_by_side_with_a_note(tmp_path: Path, memory: There) -> None:
    folders = []
    for method, size in (("sft", 10 * MIB), ("zero_shot", 60 * MIB), ("sft+l2", None)):
        memory["bytes"] = size
        folders.append(run(narrow(tmp_path, method), Silent()))
    notes = compare([read_run(folder) for folder in folders]).notes
    (note,) = [note for note in notes if "moved in two ways" in note]
    assert "sft+l2 by adamw_float32 and sft by adamw_kahan" in note or "sft by adamw_kahan and sft+l2 by" in note
