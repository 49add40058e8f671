"""Which optimizer ``train.optimizer=auto`` stands for: by the device's memory, the method, and what was begun with."""

import json
from pathlib import Path

import pytest

from clrft.analysis import compare as comparing
from clrft.analysis.compare import compare
from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.runner import memory_check as preflight
from clrft.runner.fork import planned
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from methods.settings import AUTO, KAHAN, LOST_BELOW, PLAIN, WIDE
from task_streams.errors import UserError

MIB = 2**20
SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
    "train": {"updates": 1, "prompts_per_update": 4, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 0},
    "model": {"device": "cpu", "dtype": "bfloat16"},
}


def small(output: Path, *words: str, method: str = "sft", seed: int = 1993) -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}}
    return build_config("digits_cil", method, "tiny", seed, SMALL, own, parse_overrides(words))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What the device has; a test says how much."""
    there: dict[str, int | None] = {"bytes": None}
    monkeypatch.setattr(preflight, "capacity_bytes", lambda device: there["bytes"])
    return there


def chosen(config: RunConfig) -> str:
    return prepare(config, Silent()).policy.numerics.optimizer


def test_weights_are_float32_where_there_is_memory_for_them(tmp_path: Path, memory: dict[str, int | None]) -> None:
    assert chosen(small(tmp_path)) == WIDE  # nothing tells how much there is
    memory["bytes"] = 10_000 * MIB
    assert chosen(small(tmp_path)) == WIDE
    memory["bytes"] = 10 * MIB
    assert chosen(small(tmp_path)) == KAHAN
    assert chosen(small(tmp_path, method="sft+ewc")) == WIDE  # it looks at weights
    assert chosen(small(tmp_path, f"train.optimizer={PLAIN}")) == PLAIN
    assert chosen(small(tmp_path, method="zero_shot")) == PLAIN  # nothing moves its weights
    assert chosen(small(tmp_path, "model.adapter=lora")) == PLAIN
    assert chosen(small(tmp_path, "model.dtype=float32")) == PLAIN


def test_a_run_goes_on_as_it_began_whatever_memory_there_is(tmp_path: Path, memory: dict[str, int | None]) -> None:
    memory["bytes"] = 10 * MIB
    folder = run(small(tmp_path, "run.check_memory=false"), Silent())
    assert json.loads((folder / "manifest.json").read_text())["model"]["optimizer"] == KAHAN
    memory["bytes"] = None
    assert chosen(small(tmp_path, "run.check_memory=false")) == KAHAN
    source, config = planned(f"{folder}@task1", ["method=grpo"])
    assert prepare(config, Silent(), source).policy.numerics.optimizer == KAHAN
    source, config = planned(f"{folder}@task1", [f"train.optimizer={WIDE}"])
    with pytest.raises(UserError, match="holds its weights for adamw_kahan; expected adamw_kahan or auto"):
        prepare(config, Silent(), source)


def test_two_ways_that_keep_all_stand_side_by_side_with_a_note(tmp_path: Path, memory: dict[str, int | None]) -> None:
    folders = []
    for method, size in (("sft", 10 * MIB), ("zero_shot", 60 * MIB), ("sft+l2", None)):
        memory["bytes"] = size
        folders.append(run(small(tmp_path, "run.check_memory=false", method=method), Silent()))
    notes = compare([read_run(folder) for folder in folders]).notes
    (note,) = [note for note in notes if "moved in two ways" in note]
    assert "sft+l2 by adamw_float32 and sft by adamw_kahan" in note or "sft by adamw_kahan and sft+l2 by" in note


def test_what_comparisons_know_of_optimizers_is_what_they_are_called() -> None:
    assert (comparing.AUTO, comparing.KEEPING, comparing.LOST_BELOW) == (AUTO, (WIDE, KAHAN), LOST_BELOW)
