"""Records: rows of figures are read at once where all is as it should be, and each wrong field is named."""

from pathlib import Path
from typing import Any

import pytest

from clrft.config import records
from clrft.config.records import Drift, Manifest, Record, Stage, Step, check_fields, read_rows, read_steps
from clrft.runner.checkpoint import write_rows
from methods.training.fit import step_row
from task_streams.errors import UserError

STAGE = {"task": 1, "name": "t", "accuracy": {"1": 1.0}}
RUN = {"stream": "s", "method": "m", "seed": 1}


def test_rows_that_a_training_writes_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [step_row(step, {"loss": 0.5, "rewards/accuracy/mean": 1.0, "kl": -1e-9}) for step in (1, 2, 3)]
    path = tmp_path / "steps.jsonl"
    write_rows(path, rows)
    assert list(read_rows(path, Step)) == rows
    monkeypatch.setattr(records, "read_rows", None)  # what takes a closer look
    assert read_steps(path) == rows


@pytest.mark.parametrize("step", ["-1.0", "1.5", "true", '"1"', "null"])
def test_a_step_that_is_no_whole_number_is_refused_with_its_line(step: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(f'{{"step": 1.0, "loss": null}}\n{{"step": {step}, "loss": 0.5}}\n')
    with pytest.raises(UserError, match=r"steps.jsonl, line 2: step is .*; expected a whole number"):
        read_steps(path)


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (Stage, STAGE | {"more": 1, "pooled": None}, None),
        (Stage, {"task": True, "name": 5}, "task name accuracy"),
        (Stage, STAGE | {"drift": {"kl": None}, "cost": {"a": {"b": "c"}}, "probe": {"a": 2}}, "probe drift cost"),
        (Drift, {"kl": None, "undefined": {"kl": "no anchor"}, "jsd": 1}, None),
        (Manifest, RUN, None),
        (Manifest, RUN | {"seed": 2**60, "feed": "text", "tasks": [1]}, "seed feed tasks"),
    ],
)
def test_every_wrong_or_missing_field_of_a_record_is_named(
    kind: type[Record], values: dict[str, Any], problem: str | None
) -> None:
    if problem is None:
        return check_fields("file", values, kind)
    with pytest.raises(UserError) as caught:
        check_fields("file", values, kind)
    assert {one.split()[1] for one in caught.value.problems} == set(problem.split())
    assert all(one.startswith("file: ") and "; expected " in one for one in caught.value.problems)
