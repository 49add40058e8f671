"""Which base a run is of: every file that decides what a checkpoint computes, or a hub id's commit."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig, build_config
from clrft.runner.drift import policies_before
from clrft.runner.fork import planned
from clrft.runner.lineage import check_lineage, config_digest
from clrft.runner.prepare import prepare
from clrft.runner.run import run, threads_as_begun
from clrft.runs.base_identity import Base, base_of, check_same_base
from clrft.sweep.executors import HERE, engine_for
from clrft.utils.files import digest, sha256_file
from clrft.utils.progress import Silent
from task_streams.errors import UserError

COMMITS = ("a" * 40, "b" * 40)


def rewritten(path: Path, data: bytes) -> None:
    """Other bytes of the same number in a file, and the time of its change as it was."""
    times = path.stat()
    assert len(data) == times.st_size
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the names of a checkpoint's files."""
    folder = tmp_path / "checkpoint"
    (folder / "checkpoint-10").mkdir(parents=True)
    for name in ("config.json", "model-00001.safetensors", "model-00002.safetensors", "README.md", "optimizer.pt"):
        (folder / name).write_text(f"bytes of {name}")
    (folder / "checkpoint-10" / "model.safetensors").write_text("of a state on the way")
    return folder


def test_a_base_is_known_by_the_files_that_decide_and_each_is_hashed_once(checkpoint: Path, tmp_path: Path) -> None:
    hashed: list[int] = []
    base = base_of(str(checkpoint), None, tmp_path / "cache", hashed.append)
    names = ["config.json", "model-00001.safetensors", "model-00002.safetensors"]
    assert base.files == {name: sha256_file(checkpoint / name) for name in names}
    assert sum(hashed) == sum((checkpoint / name).stat().st_size for name in names)
    (checkpoint / "README.md").write_text("another text")
    assert base_of(str(checkpoint), None, tmp_path / "cache", hashed.append) == base
    assert len(hashed) == 3  # none of them again
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint, moved)
    assert base_of(str(moved), None, tmp_path / "cache").identity == base.identity


def test_a_file_of_a_base_that_has_its_old_size_and_time_is_not_taken_for_what_it_was(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = base_of(str(checkpoint), None, tmp_path / "cache")
    weights = checkpoint / "model-00002.safetensors"
    rewritten(weights, weights.read_bytes().upper())
    (checkpoint / "tokenizer.json").write_text("{}")
    now = base_of(str(checkpoint), None, tmp_path / "cache")
    with pytest.raises(UserError) as caught:
        check_same_base(Path("runs/mine"), before.facts(), now)
    (told,) = caught.value.problems
    digests = before.files[weights.name][:12], now.files[weights.name][:12]
    assert f"{weights.name}: {digests[0]}… there and {digests[1]}… here, tokenizer.json: missing there" in told
    assert "config.json" not in told and told.startswith("runs/mine: the base model is not the one")
    check_same_base(Path("runs/mine"), None, now)  # of before bases were recorded


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The copy of a hub id with two commits on this machine; sets which its main branch is."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--owner--tiny"
    for commit in COMMITS:
        shutil.copytree(default_model_path(), place / "snapshots" / commit)
    (place / "refs").mkdir()

    def main_is(commit: str) -> None:
        (place / "refs" / "main").write_text(commit)

    return main_is


def test_a_hub_id_is_known_by_its_commit_and_a_run_goes_on_with_the_one_it_began_with(
    hub: Callable[[str], None], tmp_path: Path
) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False}, "evaluate": {"probe": 0}}

    def config(**model: str) -> RunConfig:
        return build_config("digits_cil", "sft", "tiny", 1, own, {"model": {"path": "owner/tiny", **model}})

    hub(COMMITS[0])
    first = prepare(config(), Silent())
    assert first.base.facts() == {"commit": COMMITS[0]} and first.policy.config.revision == COMMITS[0]
    assert prepare(config(revision=COMMITS[1]), Silent()).base.commit == COMMITS[1]
    folder = first.folder
    folder.mkdir(parents=True)
    manifest = {"stream": "digits_cil", "method": "sft", "seed": 1, "model": {}, "base": first.base.facts()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    hub(COMMITS[1])  # the branch has moved on
    assert prepare(config(), Silent()).base.commit == COMMITS[0]
    with pytest.raises(UserError, match=f"{COMMITS[0][:12]}… there and {COMMITS[1][:12]}… here"):
        prepare(config(revision=COMMITS[1]), Silent())
    with pytest.raises(UserError, match=r"cannot load 'owner/tiny' at model.revision 'v9'"):
        base_of("owner/tiny", "v9", None)


def test_a_revision_is_of_a_hub_id(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"model.revision: got 'main', but '.*checkpoint' is a folder; expected null"):
        base_of(str(checkpoint), "main", None)
    with pytest.raises(UserError, match=r"model.revision: got 'main', but model.path names no hub id"):
        build_config("digits_cil", "sft", "tiny", 1, {"model": {"revision": "main"}})


SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
    "train": {"updates": 1, "prompts_per_update": 4, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 1},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], RunConfig]:
    """Settings of a finished run on a base of its own, in a folder of its own; who changes it copies it."""

    @cache
    def made() -> RunConfig:
        root = tmp_path_factory.mktemp("small")
        shutil.copytree(default_model_path(), root / "base")
        own = {"run": {"output": str(root / "runs"), "mlflow": False}, "model": {"path": str(root / "base")}}
        config = build_config("digits_cil", "sft", "tiny", 1, SMALL, own)
        run(config, Silent())
        return config

    return made


def test_a_base_that_has_changed_is_refused_wherever_a_run_goes_on_from_it(small: Callable[[], RunConfig]) -> None:
    config = small()
    stage, fork = planned(f"{config.folder}@1", ["train.learning_rate=1e-3"])
    state = prepare(config, Silent())
    lineage = json.loads((config.folder / "task_02" / "lineage.json").read_text())
    facts = json.loads((config.folder / "manifest.json").read_text())["base"]
    assert facts == state.base.facts() and lineage["base"] == facts["sha256"]
    weights = Path(str(config.model.path)) / "model.safetensors"
    rewritten(weights, weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    told = rf"{config.folder}: the base model is not .* \(model.safetensors: "
    with pytest.raises(UserError, match=told):
        prepare(config, Silent())  # the same command again
    with pytest.raises(UserError, match=told):
        prepare(fork, Silent(), stage)
    with pytest.raises(UserError, match=told):
        policies_before(state, 1)  # while it runs: drift from the base would be that from another one
    own = config_digest(config), json.loads((config.folder / "manifest.json").read_text())["data"]
    check_lineage(config.folder, [0, 1, 2], *own, facts["sha256"])
    with pytest.raises(UserError, match=f"base is {facts['sha256'][:12]}…, expected {digest('other')[:12]}…"):
        check_lineage(config.folder, [0, 1, 2], *own, digest("other"))


def test_a_run_goes_on_with_the_threads_that_it_began_with(tmp_path: Path) -> None:
    config = build_config("digits_cil", "sft", "tiny", 1, {"run": {"output": str(tmp_path)}})
    config.folder.mkdir(parents=True)
    usual = torch.get_num_threads()

    def threads(begun: int, device: str) -> int:
        facts = {"stream": "digits_cil", "method": "sft", "seed": 1, "model": {"device": device}}
        text = json.dumps({**facts, "hardware": {"torch_threads": begun}})
        (config.folder / "manifest.json").write_text(text)
        with threads_as_begun(config, Silent()):
            return torch.get_num_threads()

    cores = len(os.sched_getaffinity(0))
    assert threads(cores, "cpu") == cores
    assert threads(cores + 7, "cpu") == cores
    assert threads(cores + 7, "cuda") == usual == torch.get_num_threads()


@pytest.mark.parametrize("jobs", [1, 2, None])
def test_the_threads_of_a_cell_on_the_cpu_do_not_follow_from_how_many_run_at_a_time(jobs: int | None) -> None:
    cells = [build_config("digits_cil", "sft", "tiny", seed, {"model": {"device": "cpu"}}) for seed in (1, 2)]
    for some in (cells, cells[:1]):  # the rest of a sweep has fewer cells
        with engine_for(HERE, some, jobs, 0, print) as engine:
            assert engine.setup.threads == 1


def test_bases_are_alike_by_what_is_in_them() -> None:
    assert Base({"a": "1", "b": "2"}).identity == Base({"b": "2", "a": "1"}).identity
    assert Base({"a": "1"}).identity != Base({"a": "2"}).identity != Base({}, "commit").identity == "commit"
