"""The report in MLflow: an artifact of the sweep's run with its answer as the description, fed exactly once."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from clrft.analysis.compare import compare
from clrft.cli.main import main
from clrft.report.comparison import reported
from clrft.report.parts import Subject
from clrft.runs.read import find_runs
from clrft.tracking.runs import Tracker
from clrft.tracking.store import tracking_uri
from tests.clrft.run_folders import hostile_sweep
from tests.clrft.stores import preparation, root

__all__ = ["preparation", "root"]


def test_a_sweeps_report_is_an_artifact_of_its_run_fed_once_and_its_cells_compare_by_key(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = hostile_sweep(root / "quick")
    found = find_runs([sweep])
    folder, note = reported(Subject(compare(found.runs), found.left_out), sweep)
    assert main(["sync", str(sweep)]) == 0
    Tracker(root, "quick").finish([folder], note=note)
    capsys.readouterr()
    assert main(["sync", str(sweep)]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if "added" in line]

    client = MlflowClient(tracking_uri(root))
    experiments = [one.experiment_id for one in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.`clrft.kind` = 'sweep'")
    held = {entry.path for entry in client.list_artifacts(parent.info.run_id, "report")}
    assert held == {"report/index.html", "report/tables", "report/figures"}
    # sft forgets 100 points in both orders, grpo 0 and 100
    assert parent.data.tags["mlflow.note.content"].startswith(
        "**digits_cil**: Undecided: grpo forgets 50.0 points less"
    )
    nested = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    cells = client.search_runs(experiments, nested, order_by=["metrics.forgetting ASC"])
    assert [cell.data.metrics["forgetting"] for cell in cells] == [0.0, 1.0, 1.0, 1.0]
    assert cells[0].info.run_name == "digits_cil-grpo-1" and cells[0].data.params["method.name"] == "grpo"
