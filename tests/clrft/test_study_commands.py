"""``clrft costs``, ``drift`` and ``rewards``: runs that differ are refused or told of in every output."""

import csv
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from clrft.analysis.compare import Comparison, compare
from clrft.analysis.outputs import pictures_of
from clrft.cli.main import main
from clrft.runs.read import read_run
from tests.clrft.run_folders import write_run
from tests.clrft.test_costs import TRAIN, spent, with_costs
from tests.clrft.test_drift_study import figures, with_drift

ROWS = [[90, None], [60, 80]]
STEPS = [{"step": 1.0, "reward": 0.5, "shaped_reward": 0.5}]
CSV = {
    "costs": ("costs.csv",),
    "drift": ("drift.csv", "drift_runs.csv", "drift_spread.csv"),
    "rewards": ("rewards.csv",),
}


def differing(tmp_path: Path) -> list[Path]:
    """A run each of two methods, with 30 and with 60 updates, in two sweeps."""
    folders = []
    for sweep, method, updates in (("a", "grpo", 30), ("b", "rapo", 60)):
        config = {"train": {"learning_rate": 1e-4, "updates": updates}}
        folder = write_run(tmp_path / sweep, method, 1, ROWS, config=config, steps=STEPS)
        with_costs(folder, {stage: {TRAIN: spent(1e12)} for stage in (1, 2)})
        with_drift(folder, {stage: figures(0.1, stage, 0.1) for stage in (1, 2)})
        folders.append(folder)
    return folders


def words(command: str, folders: list[Path], out: Path, *mix: str) -> list[str]:
    return ["analyze", command, *map(str, folders), "-o", str(out), *mix]


@pytest.mark.parametrize("command", ["costs", "drift", "rewards"])
def test_runs_that_differ_are_refused_or_what_is_mixed_is_told_in_every_output(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, out = differing(tmp_path), tmp_path / "out"
    if command != "rewards":  # each method's own: nothing is set against another
        assert main(words(command, folders, out)) == 2
        said = capsys.readouterr().err
        assert "train.updates is 30 in" in said and "--mix train.updates" in said
        assert not out.exists()
    assert main(words(command, folders, out, *([] if command == "rewards" else ["--mix", "budget"]))) == 0
    told = "the runs differ: digits_cil: train.updates is 30 in"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (out / f"{command}.md").read_text()
    for name in CSV[command]:
        rows = list(csv.DictReader((out / name).open()))
        assert rows and {row["mixed"] for row in rows} == {"train.updates"}


def test_nothing_is_told_where_nothing_is_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(words("costs", differing(tmp_path)[:1], out)) == 0
    assert "the runs differ" not in capsys.readouterr().out + (out / "costs.md").read_text()
    assert {row["mixed"] for row in csv.DictReader((out / "costs.csv").open())} == {""}


def test_a_picture_says_what_is_mixed_and_has_its_streams_name_where_there_are_several(tmp_path: Path) -> None:
    records = [read_run(folder) for folder in differing(tmp_path)]

    def drawn(comparison: Comparison, stream: str) -> tuple[str, Figure]:
        (only,) = pictures_of(comparison, [stream], lambda _: {"costs": Figure()})
        return only

    name, picture = drawn(compare(records, mix=["all"]), "digits_cil")
    assert name == "costs" and [text.get_text() for text in picture.texts] == ["the runs differ: train.updates"]
    other: Any = read_run(write_run(tmp_path / "c", "grpo", 1, ROWS, stream="signs"))
    name, picture = drawn(compare([records[0], other]), "signs")
    assert name == "costs-signs" and not picture.texts


def test_a_command_under_its_former_name_says_where_it_went_and_does_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "c", "grpo", 1, ROWS)  # without predictions, costs, drift and rewards
    for name, path in (
        ("rewards", folder),
        *((name, tmp_path / "none") for name in ("kinds", "costs", "drift", "ledger")),
    ):
        assert main(["analyze", name, str(path)]) == 2
        found = capsys.readouterr()
        assert main([name, str(path)]) == 2
        former = capsys.readouterr()
        assert former.out == found.out
        assert former.err == f"clrft {name} is now clrft analyze {name}.\n" + found.err
