"""Runs of before a setting was there are read, gone on with and forked, as what they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.kills import outcome
from clrft.analysis.compare import compare
from clrft.config.retired import in_todays_words
from clrft.config.run_config import RunConfig, build_config, with_defaults
from clrft.runner.fork import planned, saved_config
from clrft.runner.run import run
from clrft.runs.differences import facts, settings
from clrft.runs.manifest import comparable
from clrft.runs.read import read_run
from clrft.utils.files import digest
from clrft.utils.plain import read_yaml
from clrft.utils.progress import Silent
from task_streams.errors import UserError

SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
    "train": {"updates": 1, "prompts_per_update": 4, "warmup": 0, "learning_rate": 1e-3},
    "evaluate": {"probe": 0, "drift_prompts": 0},
}


def small(output: Path, seed: int = 1993, dtype: str = "float32") -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}, "model": {"device": "cpu", "dtype": dtype}}
    return build_config("digits_cil", "sft", "tiny", seed, SMALL, own)


def age(folder: Path) -> None:
    """Let a run be one of before ``train.optimizer`` and ``stream.prompt``, by settings, manifest and lineage."""
    config = read_yaml(folder / "config.yaml")
    del config["stream"]["prompt"]
    config["train"] = {**config["train"], "autocast": False}
    del config["train"]["optimizer"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("optimizer", "weights"):
        del manifest["model"][name]
    del manifest["prompt_style"], manifest["prompts"]["style"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    parent = ""
    for file in sorted(folder.glob("task_*/lineage.json")):
        lineage = json.loads(file.read_text())
        del lineage["identity"]
        lineage |= {"config": digest(comparable(config)), "parent": parent}
        parent = digest(lineage)
        file.write_text(json.dumps({**lineage, "identity": parent}))


def learned(folder: Path) -> dict[str, str]:
    """Digests of what a run has learned and said."""
    return {name: value for name, value in outcome(folder).items() if name.endswith((".safetensors", ".jsonl"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(tmp_path_factory.mktemp("finished")), Silent())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another class order."""
    return run(small(tmp_path_factory.mktemp("other"), seed=1996), Silent())


@pytest.fixture
def aged(finished: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "single" / finished.name
    shutil.copytree(finished, folder)
    age(folder)
    return folder


def test_a_run_of_before_a_setting_is_gone_on_with(finished: Path, aged: Path) -> None:
    shutil.rmtree(aged / "task_02")
    for name in ("matrix.json", "metrics.json"):
        (aged / name).unlink()
    run(saved_config(aged, {}), Silent())
    assert learned(aged) == learned(finished)
    assert run(saved_config(aged, {}), Silent()) == aged  # whose lineage is one


def test_a_run_of_before_a_setting_is_forked(finished: Path, aged: Path) -> None:
    source, config = planned(f"{aged}@task1", [])
    assert learned(run(config, Silent(), source)) == learned(finished)


def test_a_run_of_before_a_setting_stands_beside_one_of_today(finished: Path, aged: Path, other: Path) -> None:
    (group,) = compare([read_run(aged), read_run(other)]).groups
    assert [record.folder for record in group.runs] == [aged, other]
    assert settings(read_run(aged)) == settings(read_run(finished))


def test_a_run_whose_updates_were_rounded_does_not_stand_beside_one_that_keeps_them(tmp_path: Path) -> None:
    low, aged = (run(small(tmp_path / name, seed, "bfloat16"), Silent()) for name, seed in (("a", 1990), ("b", 1993)))
    age(aged)
    assert facts(read_run(low))["model.updates"] == "kept"
    assert facts(read_run(aged))["model.updates"] == "rounded"
    with pytest.raises(UserError, match=r"manifest.model.updates is kept in .* and rounded in"):
        compare([read_run(low), read_run(aged)])


def test_autocast_of_before_is_the_optimizer_of_today() -> None:
    today = in_todays_words({"train": {"autocast": True, "updates": 3}, "model": {"dtype": "float32"}})
    assert today["train"] == {"optimizer": "adamw_float32", "updates": 3}
    assert today["model"]["dtype"] == "bfloat16"


def test_a_setting_that_was_not_there_has_its_default() -> None:
    before = {"train": {}, "stream": {"name": "digits_cil"}, "method": {"name": "sft", "parts": {"ewc": {}}}}
    today = in_todays_words(before)
    assert (today["train"], today["stream"]["prompt"]) == ({"optimizer": "auto"}, "suite")
    whole = with_defaults(today)
    assert whole["stream"]["tasks"] == 5
    assert whole["method"]["parts"]["ewc"]["strength"] > 0
    assert with_defaults({"method": {"name": "mine", "size": 3}})["method"] == {"name": "mine", "size": 3}


def test_a_methods_own_setting_that_came_later_parts_no_group(finished: Path, other: Path) -> None:
    now, then = read_run(finished), read_run(other)
    del then.config["method"]["thought"]
    (group,) = compare([now, then]).groups
    assert len(group.runs) == 2
