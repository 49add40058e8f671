"""Run folders read back: complete ones whole, all others named and left out."""

import hashlib
import json
from pathlib import Path

import pytest

from clrft.cli.main import main
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


def test_run_and_sweep_folders_are_found_once_each_and_a_comparison_beside_them_is_not_named(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    first, second = write_run(sweep, "grpo", 1, ROWS), write_run(sweep, "sft", 1, ROWS)
    (sweep / "comparison").mkdir()
    found = find_runs([second, sweep])
    assert [run.folder for run in found.runs] == [second, first]
    assert found.left_out == ()


def test_incomplete_damaged_and_foreign_folders_are_named_and_left_out(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    write_run(sweep, "grpo", 1, ROWS)
    (write_run(sweep, "grpo", 2, ROWS) / "metrics.json").unlink()
    (write_run(sweep, "grpo", 3, ROWS) / "matrix.json").write_text('{"schema": 1')
    (sweep / "holiday").mkdir()
    (sweep / ".hidden").mkdir()
    (sweep / "notes.txt").write_text("")
    found = find_runs([sweep])
    assert [run.seed for run in found.runs] == [1]
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
