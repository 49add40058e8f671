"""Run folders read back: complete ones whole, others left out; what a run tells of code and machine is not private."""

import getpass
import hashlib
import json
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clrft.cli.main import main
from clrft.runs.provenance import code_identity, hardware, source_hash, versions
from clrft.runs.read import find_runs, read_run
from clrft.tracking.runs import task_facts
from task_streams.errors import UserError
from tests.clrft.run_folders import Rows, write_run

ROWS: Rows = [[90, None], [60, 80]]


def test_a_run_is_read_back_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s", "grpo", 1993, ROWS, steps=[{"step": 1, "reward": 1.5}])
    run = read_run(folder)
    assert (run.stream, run.method, run.seed) == ("digits_cil", "grpo", 1993)
    assert run.config["train"]["learning_rate"] == 1e-4
    assert run.matrix.value[1, 0] == 0.6
    assert run.metrics["forgetting"].value == pytest.approx(0.3)  # 90 - 60
    assert run.metrics["fwt"].value is None
    assert run.metrics["general_delta/printed_glyphs"].value == pytest.approx(-0.1)
    assert run.stages() == [1, 2]
    assert run.task_metrics(2)["accuracy"] == {"1": 0.6, "2": 0.8}
    assert [prediction.stage for prediction in run.predictions(2)] == [2]
    assert run.steps(1) == [{"step": 1, "reward": 1.5}]
    (folder / "task_01" / "steps.jsonl").unlink()
    assert run.steps(1) == []  # it trained nothing
    (folder / "metrics.json").write_text('{"schema": 1, "metrics": {}}')
    assert read_run(folder).metrics["last_acc"].value == pytest.approx(0.7)  # computed from the matrix


def test_runs_are_found_once_each_and_incomplete_damaged_and_foreign_folders_named_and_left_out(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    first, second = write_run(sweep, "grpo", 1, ROWS), write_run(sweep, "sft", 1, ROWS)
    (write_run(sweep, "grpo", 2, ROWS) / "metrics.json").unlink()
    (write_run(sweep, "grpo", 3, ROWS) / "matrix.json").write_text('{"schema": 1')
    for name in ("comparison", "holiday", ".hidden"):
        (sweep / name).mkdir()
    (sweep / "notes.txt").write_text("")
    found = find_runs([second, sweep])
    assert [run.folder for run in found.runs] == [second, first]  # once each
    assert [(one.folder.name, one.fault) for one in found.left_out] == [
        ("digits_cil-grpo-2", "incomplete"),
        ("digits_cil-grpo-3", "damaged"),
        ("holiday", "foreign"),
    ]
    assert "metrics.json missing; 2 task folders are done" in str(found.left_out[0])
    assert "matrix.json" in found.left_out[1].reason


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("matrix.json", '{"schema": 7}', "schema 7, expected 1"),
        ("manifest.json", '{"schema": 1, "stream": "a", "method": "b"}', "seed is missing"),
        ("manifest.json", "[]", "manifest.json"),
        ("config.yaml", "a: [", "config.yaml"),
        ("config.yaml", "- a", "expected sections"),
        ("metrics.json", '{"schema": 1, "metrics": {"bwt": 1}}', "bwt is 1; expected"),
        ("metrics.json", '{"schema": 1, "metrics": {"bwt": {"value": NaN, "reason": null}}}', "NaN is no JSON number"),
        ("metrics.json", '{"schema": 1, "metrics": {"bwt": {"value": 0.5, "reason": null}}}', "bwt not as the matrix"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, problem: str) -> None:
    folder = write_run(tmp_path / "s", "grpo", 1, ROWS)
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=problem):
        read_run(folder)


@pytest.mark.parametrize("name", ["predictions.jsonl", "steps.jsonl"])
def test_a_run_whose_rows_were_changed_is_left_out_and_not_tracked(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s", "grpo", 1, ROWS, steps=[{"step": 1.0, "loss": 0.5}])
    stage = folder / "task_02"
    record = json.loads((stage / "metrics.json").read_text())
    stated = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in stage.glob("*.jsonl")}
    (stage / "metrics.json").write_text(json.dumps(record | {"files": stated}))
    assert len(find_runs([folder]).runs) == 1 and len(task_facts(stage).points) > 2
    text = (stage / name).read_text()
    (stage / name).write_text(text.replace("one", "two").replace("0.5", "0.6"))  # still a good file
    (left_out,) = find_runs([folder]).left_out
    assert left_out.fault == "damaged" and f"{stage / name} was changed" in left_out.reason
    with pytest.raises(UserError, match="was changed"):
        task_facts(stage)
    (stage / name).unlink()  # who needs it will say so
    assert len(find_runs([folder]).runs) == 1


@pytest.mark.parametrize("command", ["compare", "report", "kinds", "costs", "rewards", "drift"])
def test_where_no_run_is_complete_each_folder_is_named_with_why(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "s"
    (write_run(sweep, "sft", 1, ROWS) / "matrix.json").unlink()
    (write_run(sweep, "grpo", 1, ROWS) / "matrix.json").write_text("{")
    assert main([command, str(sweep)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "no complete run" in told and "digits_cil-sft-1: incomplete: matrix.json missing" in told
    assert "digits_cil-grpo-1: damaged" in told
    assert not (sweep / "comparison" / "table.md").exists() and not (sweep / "report" / "index.html").exists()


def test_a_damaged_line_is_named_when_it_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "s", "grpo", 1, ROWS, steps=[{"step": 1}]))
    (run.folder / "task_01" / "steps.jsonl").write_text('{"step": 1}\n{"ste')
    with pytest.raises(UserError, match=r"steps\.jsonl"):
        run.steps(1)
    rows = (run.folder / "task_01" / "predictions.jsonl").read_text()
    (run.folder / "task_01" / "predictions.jsonl").write_text(rows + json.dumps({"stage": 1}) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 2: task is missing"):
        list(run.predictions(1))


def test_all_bad_paths_are_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s", "grpo", 1993, ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        find_runs([tmp_path / "empty", tmp_path / "no" / "where", folder.with_name("digits_cil-grpo-1939")])
    empty, nowhere, misspelt = caught.value.problems
    assert "holds no run" in empty
    assert "does not exist either" in nowhere
    assert "Did you mean" in misspelt and folder.name in misspelt


def committed(folder: Path) -> None:
    """Put all that is in a folder into a repository of its own."""
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init"], ["add", "."], ["commit", "-m", "all"]):
        subprocess.run([*command, *words], check=True, capture_output=True)


def test_versions_name_python_and_the_packages() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert re.match(r"1\.16\.", found["trl"])


def test_code_is_known_by_its_own_commit_whether_that_was_changed_and_the_sources_wherever_they_lie(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two, tmp_path / "checkout" / "site-packages"):
        (root / "clrft").mkdir(parents=True)
        (root / "clrft" / "a.py").write_text("x = 1\n")
    outside = code_identity(two)
    assert (outside["commit"], outside["dirty"]) == (None, None)
    assert re.fullmatch("[0-9a-f]{64}", outside["source_sha256"])
    committed(tmp_path / "checkout")
    assert code_identity(tmp_path / "checkout" / "site-packages")["commit"] is None  # somebody else's
    committed(one)
    clean = code_identity(one)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["dirty"] is False
    assert clean["source_sha256"] == outside["source_sha256"] == source_hash(one)
    (one / "clrft" / "a.py").write_text("x = 2\n")
    changed = code_identity(one)
    assert (changed["commit"], changed["dirty"]) == (clean["commit"], True)
    assert changed["source_sha256"] != clean["source_sha256"]
    (two / "clrft" / "a.py").rename(two / "clrft" / "b.py")
    assert source_hash(two) != outside["source_sha256"]


def test_hardware_is_plain_json_without_names_or_paths() -> None:
    text = json.dumps(hardware())
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert "/home" not in text
    assert hardware()["cores"] >= 1
    assert hardware()["ram_gb"] > 0.1


def test_peak_memory_grows_with_what_is_held_and_is_forgotten_once_that_is_given_back() -> None:
    # In a process of its own, where the peak so far is low; it must not start at this process's size.
    # 2**20 bytes are one MB. torch is imported after the first look: it takes more than all the rest.
    program = (
        "from clrft.runs.provenance import forget_peaks, peak_memory_mb; before = peak_memory_mb()\n"
        "held = bytearray(b'x') * (200 * 2**20); high = peak_memory_mb(); del held\n"
        "print(before, high - before); import torch\n"
        "held = bytearray(b'x') * (200 * 2**20); high = peak_memory_mb(); del held\n"
        "forget_peaks(); print(high - peak_memory_mb())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    before, grown, forgotten = map(float, done.stdout.split())
    assert before < 150
    assert 190 < grown < 260
    assert forgotten > 150 or sys.platform != "linux"  # others cannot forget a process's peak
