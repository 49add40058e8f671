"""Forks begin where a run stood, and runs of before a setting was there are read, gone on with and forked."""

import json
import re
import shutil
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.fault_lab import flip_a_bit
from benchmarks.kills import Kill, outcome, run_in_child
from clrft.analysis.compare import compare
from clrft.config.retired import in_todays_words
from clrft.config.run_config import build_config, with_defaults
from clrft.runner.fork import planned, saved_config
from clrft.runner.lineage import config_digest
from clrft.runner.run import run
from clrft.runs.differences import facts, settings
from clrft.runs.manifest import comparable
from clrft.runs.read import read_run
from clrft.tracking.runs import manifest_tags
from clrft.utils.files import digest
from clrft.utils.plain import read_yaml
from clrft.utils.progress import Silent
from task_streams.errors import UserError

SMALL: dict[str, Any] = {
    "stream": {"tasks": 3, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
    "train": {"updates": 2, "prompts_per_update": 4, "warmup": 0, "learning_rate": 1e-3},
    "evaluate": {"probe": 0, "drift_prompts": 0},
}


def trained(output: Path, seed: int = 1993, dtype: str = "float32") -> Path:
    """A finished run of sft."""
    own = {"run": {"output": str(output), "mlflow": False, "checkpoint_every": 1}}
    own["model"] = {"device": "cpu", "dtype": dtype}
    return run(build_config("digits_cil", "sft", "tiny", seed, SMALL, own), Silent())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of sft; who changes it copies it."""
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def source(finished: Path, tmp_path: Path) -> Path:
    """A finished run of sft in a sweep of its own."""
    folder = tmp_path / "single" / finished.name
    shutil.copytree(finished, folder)
    return folder


def fork(point: str, *words: str) -> Path:
    stage, config = planned(point, list(words))
    return run(config, Silent(), stage)


def refusal(point: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        planned(point, list(words))
    return "\n".join(caught.value.problems)


def learned(folder: Path) -> dict[str, str]:
    """Digests of weights, states, anchors, answers, updates, matrix and metrics.

    Left out are the tasks' ``metrics.json``, which sign times (the matrix has the accuracies), and the lineages, which
    sign the name of the folder.
    """
    signed = re.compile(r"task_\d+/(metrics|lineage)\.json")
    return {name: value for name, value in outcome(folder).items() if not signed.fullmatch(name)}


def lineages(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("task_*/lineage.json"))]


def test_a_fork_with_the_same_settings_ends_with_the_bits_of_the_run(source: Path) -> None:
    before = outcome(source)
    folder = fork(f"{source}@task1")
    assert folder == source.with_name("digits_cil-sft-1993-from-sft@1")
    assert learned(folder) == learned(source)
    assert outcome(source) == before


def test_the_lineage_of_a_fork_goes_through_the_run_it_was_forked_from(source: Path) -> None:
    folder = fork(f"{source}@1", "train.learning_rate=1e-4")
    assert folder.name == "digits_cil-sft-1993-from-sft@1,learning_rate=0.0001"
    ours, theirs = lineages(folder), lineages(source)
    assert ours[:2] == theirs[:2]
    assert [one["parent"] for one in ours[1:]] == [one["identity"] for one in ours[:3]]
    own = config_digest(saved_config(folder, {}))
    assert [one["config"] for one in ours] == [theirs[0]["config"]] * 2 + [own] * 2
    manifest = json.loads((folder / "manifest.json").read_text())
    (origin,) = manifest["fork"]["origins"]
    assert (origin["run"], origin["stage"], origin["identity"]) == (f"single/{source.name}", 1, theirs[1]["identity"])
    assert manifest["carry"]["method_state"] == "carried"
    assert manifest_tags(manifest)["clrft.fork"] == "sft@task1"
    again = fork(f"{folder}@2", "train.updates=1")  # a fork of a fork: tasks of three runs
    label = json.loads((again / "manifest.json").read_text())["fork"]["label"]
    assert label == "sft@task1>sft@task2"


def test_another_method_begins_anew_and_the_manifest_says_so(source: Path) -> None:
    folder = fork(f"{source}@2", "method=sft+ewc", "train.carry_optimizer=true")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["carry"]["method_state"] == "begun anew with task 3, then carried"
    assert manifest["carry"]["optimizer_moments"] == "begun anew with task 3, then carried"
    assert "ewc: begun with task 3, with nothing kept of tasks 1 to 2" in manifest["notes"]
    record = read_run(folder)
    assert (record.matrix.value[1, :2] == read_run(source).matrix.value[1, :2]).all()
    assert (record.matrix.value[2] >= 0).all()  # the last row is whole; NaN is not
    assert record.steps(3) and all("ewc_penalty" not in row for row in record.steps(3))  # no Fisher information yet


def test_the_first_task_s_anchor_comes_from_its_weights(source: Path) -> None:
    words = ("method=rapo", "method.anchor=first", "method.group_size=2")
    folder = fork(f"{source}@2", *words)
    assert "from the weights of task_01" in json.loads((folder / "manifest.json").read_text())["carry"]["anchor"]
    drift = read_run(folder).steps(3)[0]["drift"]
    assert drift > 1e-6  # before the first update: the policy of task 2 is not that of task 1
    shutil.rmtree(source / "task_01" / "weights")
    assert "its anchor (first) is made of policies" in refusal(f"{source}@2", *words, "run.name_suffix=other")


def test_a_fork_killed_while_it_is_made_and_while_it_learns_goes_on_to_the_same_bits(
    source: Path, fresh: Executor, tmp_path: Path
) -> None:
    stage, config = planned(f"{source}@2", ["method=rapo", "method.group_size=2"])
    count = tmp_path / "writes"
    assert fresh.submit(run_in_child, config, None, count, stage).result() == 0
    writes = count.read_text().splitlines()
    expected, signed = learned(config.folder), lineages(config.folder)
    shutil.rmtree(config.folder)
    first = writes.index("link model.safetensors") + 1  # of weights into the fork's folder
    assert fresh.submit(run_in_child, config, Kill(write=first), None, stage).result() == -9
    assert not config.folder.exists()  # whole or not at all
    assert fresh.submit(run_in_child, config, Kill(write=int(0.7 * len(writes))), None, stage).result() == -9
    assert not (config.folder / "metrics.json").exists()
    assert fresh.submit(run_in_child, saved_config(config.folder, {}), None).result() == 0
    assert (learned(config.folder), lineages(config.folder)) == (expected, signed)
    assert not list(config.folder.parent.glob(".*partial*"))


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ("", "is a run; expected it with a task"),
        ("@0", "task 0 is the base before any training"),
        ("@3", "task 3 is the last, nothing is left to learn"),
        ("@task7", "has 3 tasks; expected a task from 1 to 2"),
        ("@1 seed=1990", "seed: got 1990, but the run that is forked has 1993"),
        ("@1 method=zero_shot", "trains nothing; expected one that learns from task 2 on"),
        ("@1 method=joint_sft", "learns all tasks at once; expected one that can begin with task 2"),
        (
            "@1 method=sft+l2_init",
            "'l2_init' cannot begin with task 2: it holds the weights as they were before the first",
        ),
        ("@1 method=sft+olora", "'olora' cannot begin with task 2: each task has a block of the adapter to itself"),
        ("@1 method=rapp", "Did you mean 'rapo'?"),
    ],
)
def test_what_cannot_be_forked_is_refused(point: str, reason: str, finished: Path) -> None:
    point, *words = point.split(" ")
    assert reason in refusal(f"{finished}{point}", *words)


def test_what_is_no_finished_task_is_refused_by_name_and_what_may_differ_is_not(source: Path) -> None:
    planned(f"{source}@1", ["evaluate.batch_size=2", "train.updates=9", "seed=1993"])
    said = refusal(f"{source}@1", "stream.shots=2", "evaluate.decoding=sampled", "train.max_completion_tokens=30")
    assert "stream.shots is 4 in the run that is forked and 2 here" in said
    assert "evaluate.decoding is greedy" in said and "train.max_completion_tokens is 24" in said
    assert f"Did you mean '{source}'?" in refusal(f"{source.with_name('digits_cil-sft-1939')}@1")
    assert "expected RUN@taskK" in refusal("sft")
    shutil.rmtree(source / "task_01" / "weights")
    assert "task 1 of" in (said := refusal(f"{source}@1")) and "tasks with weights: 2." in said
    shutil.rmtree(source / "task_02")
    assert "is not finished; finished: 1." in refusal(f"{source}@2")


def test_runs_that_did_not_learn_task_by_task_are_refused(source: Path) -> None:
    for stage in (1, 2, 3):
        (source / f"task_0{stage}" / "method_state.json").unlink()
    assert "trained nothing" in refusal(f"{source}@1")
    shutil.rmtree(source / "task_01")
    assert "learned all tasks at once" in refusal(f"{source}@1")


def test_a_source_that_is_not_what_it_was_is_refused_and_nothing_is_left(source: Path) -> None:
    stage, config = planned(f"{source}@1", ["run.name_suffix=bad"])
    file = source / "task_01" / "weights" / "model.safetensors"
    flip_a_bit(file)
    with pytest.raises(UserError, match=rf"{file}: SHA-256 is \w+…, expected"):
        run(config, Silent(), stage)
    assert not config.folder.exists()


def test_a_folder_of_another_fork_and_a_fork_that_lost_a_task_are_refused(source: Path) -> None:
    words = ("run.name_suffix=x", "train.updates=1")
    folder = fork(f"{source}@2", *words)
    labels = [group.label for group in compare([read_run(source), read_run(folder)]).groups]  # it stands by itself
    assert labels == ["sft [train.updates=2]", "sft [fork=sft@task2, train.updates=1]"]
    assert [group.label for group in compare([read_run(folder)]).groups] == ["sft [fork=sft@task2]"]
    assert f"holds a fork of single/{source.name}@task2; asked for was a fork of" in refusal(f"{source}@1", *words)
    assert fork(f"{source}@2", *words) == folder  # done already
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "task_02")
    with pytest.raises(UserError, match=r"task_02 is missing or not whole; it is that of single/digits_cil-sft-1993"):
        run(saved_config(folder, {}), Silent())


def age(folder: Path) -> Path:
    """Let a run be one of before ``train.optimizer`` and ``stream.prompt``, by settings, manifest and lineage."""
    config = read_yaml(folder / "config.yaml")
    del config["stream"]["prompt"], config["train"]["optimizer"]
    config["train"]["autocast"] = False
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["model"]["optimizer"], manifest["model"]["weights"]
    del manifest["prompt_style"], manifest["prompts"]["style"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    parent = ""
    for file in sorted(folder.glob("task_*/lineage.json")):
        lineage = json.loads(file.read_text())
        del lineage["identity"]
        lineage |= {"config": digest(comparable(config)), "parent": parent}
        parent = digest(lineage)
        file.write_text(json.dumps({**lineage, "identity": parent}))
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another class order."""
    return trained(tmp_path_factory.mktemp("other"), seed=1996)


def test_a_run_of_before_a_setting_is_forked_and_gone_on_with(finished: Path, source: Path) -> None:
    age(source)
    assert learned(fork(f"{source}@task1")) == learned(finished)
    for stage in (2, 3):
        shutil.rmtree(source / f"task_0{stage}")
    for name in ("matrix.json", "metrics.json"):
        (source / name).unlink()
    run(saved_config(source, {}), Silent())
    assert learned(source) == learned(finished)
    assert run(saved_config(source, {}), Silent()) == source  # whose lineage is one


def test_a_run_of_before_a_setting_stands_beside_one_of_today(finished: Path, source: Path, other: Path) -> None:
    (group,) = compare([read_run(age(source)), read_run(other)]).groups
    assert [record.folder for record in group.runs] == [source, other]
    assert settings(read_run(source)) == settings(read_run(finished))
    now, then = read_run(finished), read_run(other)
    del then.config["method"]["thought"]  # nor does a method's own setting that came later part a group
    assert len(compare([now, then]).groups) == 1


def test_a_run_whose_updates_were_rounded_does_not_stand_beside_one_that_keeps_them(tmp_path: Path) -> None:
    low, aged = (trained(tmp_path / str(seed), seed, "bfloat16") for seed in (1990, 1993))
    age(aged)
    assert facts(read_run(low))["model.updates"] == "kept"
    assert facts(read_run(aged))["model.updates"] == "rounded"
    with pytest.raises(UserError, match=r"manifest.model.updates is kept in .* and rounded in"):
        compare([read_run(low), read_run(aged)])


def test_settings_of_before_are_in_words_of_today_with_its_defaults() -> None:
    today = in_todays_words({"train": {"autocast": True, "updates": 3}, "model": {"dtype": "float32"}})
    assert today["train"] == {"optimizer": "adamw_float32", "updates": 3}
    assert today["model"]["dtype"] == "bfloat16"
    before = {"train": {}, "stream": {"name": "digits_cil"}, "method": {"name": "sft", "parts": {"ewc": {}}}}
    today = in_todays_words(before)
    assert (today["train"], today["stream"]["prompt"]) == ({"optimizer": "auto"}, "suite")
    whole = with_defaults(today)
    assert whole["stream"]["tasks"] == 5
    assert whole["method"]["parts"]["ewc"]["strength"] > 0
    assert with_defaults({"method": {"name": "mine", "size": 3}})["method"] == {"name": "mine", "size": 3}
