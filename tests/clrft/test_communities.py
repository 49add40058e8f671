"""``clrft compare --metrics``: finished runs in the columns of other suites and papers."""

import csv
import json
from pathlib import Path

import pytest

from clrft.cli.main import main
from tests.clrft.run_folders import write_run


def two_methods(sweep: Path) -> Path:
    """BWT of three tasks over 3, sft: (-40 - 10 + 0)/3 and (-30 - 10 + 0)/3; grpo: (-10 + 0 + 0)/3 twice."""
    for seed, first in ((1, 90), (2, 80)):
        write_run(sweep, "sft", seed, [[first], [60, 80], [50, 70, 85]])
        write_run(sweep, "grpo", seed, [[60], [60, 70], [50, 70, 90]])
    return sweep


def compared(out: Path, metrics: str, *words: Path | str) -> int:
    return main(["compare", *map(str, words), "--metrics", metrics, "-o", str(out)])


def table(out: Path, community: str) -> str:
    return (out / f"metrics_{community}.md").read_text(encoding="utf-8")


def test_a_table_has_the_columns_of_a_community_with_mean_and_spread_and_its_csv_fractions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert compared(out, "coin", two_methods(tmp_path / "s")) == 0
    text = table(out, "coin")
    assert "# Metrics as CoIN" in text and "Source: arXiv 2403.08350." in text
    assert "| method | n | MFT | MFN | MAA | BWT |" in text
    # sft: MFT (90 + 80 + 85)/3 = 85 and 81.67: 83.3, s 2.36; BWT -16.67 and -13.33: -15, s 2.36.
    assert "| sft | 2 | 83.3 ± 2.4 | 68.3 ± 0.0 |" in text and "| −15.0 ± 2.4 |" in text
    assert "- BWT: divided by T, not by T − 1" in text
    assert "- MAA: (1/T) Σ_i (1/i) Σ_{j≤i} R[i,j], our `avg_incremental_acc` (higher is better)" in text
    said = " ".join(capsys.readouterr().out.split())
    assert "digits_cil as CoIN (arXiv 2403.08350): mean ± standard deviation over n class orders, %" in said
    assert "−15.0 ± 2.4" in said and str(out / "metrics_coin.csv") in said.replace(" ", "")
    rows = {(row["method"], row["metric"]): row for row in csv.DictReader((out / "metrics_coin.csv").open())}
    bwt = rows["sft", "BWT"]
    assert float(bwt["mean"]) == pytest.approx(-0.15)
    assert (float(bwt["order_1"]), float(bwt["order_2"])) == pytest.approx((-0.5 / 3, -0.4 / 3))
    assert (bwt["ours"], rows["sft", "MFT"]["ours"]) == ("", "learning_acc")


def test_several_known_communities_each_have_their_table_and_none_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "metrics"]) == 0
    assert "--metrics NAME, of coin, mcitlib, mammoth," in " ".join(capsys.readouterr().out.split())
    out, sweep = tmp_path / "out", two_methods(tmp_path / "s")
    assert main(["compare", str(sweep), "-o", str(out)]) == 0
    assert not list(out.glob("metrics_*")) and "as CoIN" not in capsys.readouterr().out
    assert compared(out, "pilot,gem", sweep, "--metrics", "pilot") == 0
    names = {f"metrics_{name}.{ending}" for name in ("pilot", "gem") for ending in ("md", "csv")}
    assert {path.name for path in out.glob("metrics_*")} == names
    header = "| method | n | CNN top1 | Average Accuracy (CNN) | Forgetting (CNN) |"
    assert header in table(out, "pilot")
    # unknown ones are refused before any work
    out = tmp_path / "none"
    assert compared(out, "coim,mamoth", sweep) == 2
    said = capsys.readouterr().err
    assert "unknown community 'coim'. Did you mean 'coin'? Known: avalanche, chaudhry, coin," in said
    assert "unknown community 'mamoth'. Did you mean 'mammoth'?" in said
    assert not out.exists()


def test_a_dash_has_its_reason_below_the_table(tmp_path: Path) -> None:
    out, sweep = tmp_path / "out", two_methods(tmp_path / "s")
    write_run(sweep, "joint_sft", 1, [[None], [None, None], [90, 90, 90]])
    assert compared(out, "gem", sweep) == 0
    text = table(out, "gem")
    assert "| joint_sft | 1 | 90.0 | – | – | – | – |" in text
    assert "- FWT, Forward: undefined for sft, grpo, joint_sft (not evaluated: R[j-1,j]: future tasks)." in text
    assert (
        "- BWT, Backward: undefined for joint_sft (not evaluated: R[j,j]: each task right after learning it)." in text
    )
    rows = list(csv.DictReader((out / "metrics_gem.csv").open()))
    assert {row["mean"] for row in rows if row["metric"] == "FWT"} == {""}


def test_a_run_from_before_a_metric_gets_it_from_its_matrix(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s", "sft", 1, [[90, 70, 20], [60, 50, 40], [95, 40, 85]])
    stored = json.loads((folder / "metrics.json").read_text())
    del stored["metrics"]["forgetting_chaudhry_all"]
    (folder / "metrics.json").write_text(json.dumps(stored))
    out = tmp_path / "out"
    assert compared(out, "chaudhry", folder) == 0
    # As in tests/eval/test_communities.py: A_k (95 + 40 + 85)/3, F_k 2.5, from task 1 12.5.
    assert "| sft | 1 | 73.3 | 2.5 | 12.5 |" in table(out, "chaudhry")


def test_what_is_mixed_is_told_beside_the_columns_of_others(tmp_path: Path) -> None:
    for sweep, method, updates in (("a", "grpo", 30), ("b", "rapo", 60)):
        config = {"train": {"learning_rate": 1e-4, "updates": updates}}
        write_run(tmp_path / sweep, method, 1, [[90], [60, 80]], config=config)
    out = tmp_path / "out"
    assert compared(out, "rapo", tmp_path / "a", tmp_path / "b", "--mix", "budget") == 0
    assert "- mixed on request: digits_cil: train.updates is 30 in" in table(out, "rapo")
    assert {row["mixed"] for row in csv.DictReader((out / "metrics_rapo.csv").open())} == {"train.updates"}
