"""The published figures as data, and the runs that stand beside them with every difference."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clrft.analysis import published_results as results
from clrft.analysis.groups import grouped
from clrft.analysis.table import EVERYWHERE
from clrft.cli.main import main
from clrft.runs.differences import flatten
from clrft.runs.read import RunRecord, read_run
from tests.clrft.run_folders import Rows, csv_row, record, write_run

MAIN = [row for row in results.published_rows() if row.table <= 4]
ABLATIONS = [row for row in results.published_rows() if row not in MAIN]
# Told beside every RaPO run of ImageNet-R, since no setting can tell otherwise.
ALWAYS = ["trainer", "trainer.loss", "draw.list"]


def learned(tasks: int) -> Rows:
    """The matrix of a run that is right on half of every task."""
    return [[50 if j <= i else None for j in range(tasks)] for i in range(tasks)]


def beside(records: Iterable[RunRecord]) -> dict[results.Published, results.Measured]:
    """Rows that the runs, of one group, stand beside."""
    return {row: measured for row, some in results.published_beside(grouped(records)).items() for measured in some}


def written(sweep: Path, config: dict[str, Any], *seeds: int) -> list[RunRecord]:
    """Runs of RaPO on ImageNet-R, in the published orders if no others are given."""
    model = {"optimizer": "adamw_kahan", "dtype": "bfloat16", "weights": "bfloat16"}
    more: Any = {"stream": "imagenet_r_10x20", "config": config, "manifest": {"model": model}}
    return [record(sweep, "rapo", seed, learned(10), **more) for seed in seeds or (1990, 1993, 1996)]


def last_cells(found: dict[results.Published, results.Measured]) -> list[str]:
    """What the table says at the end of its first row: the number of orders and the differences."""
    table = results.published_table({row: [measured] for row, measured in found.items()}, "", EVERYWHERE)
    return [cell.text for cell in table.rows[0]][-2:]


def row_of(dataset: str, tasks: int, method: str) -> results.Published:
    (row,) = [row for row in MAIN if (row.dataset, row.tasks, row.method) == (dataset, tasks, method)]
    return row


def published_config(row: results.Published, **changed: dict[str, Any]) -> dict[str, Any]:
    """Settings of a row, and what is changed in its sections."""
    config = {name: value for name, value in results.protocol(row).to_dict().items() if name not in ("run", "seed")}
    return config | {section: config[section] | values for section, values in changed.items()}


RAPO = row_of("ImageNet-R", 10, "RaPO")


def test_a_run_of_coco_whose_ap_was_not_pooled_is_not_as_published(tmp_path: Path) -> None:
    config = published_config(row_of("COCO", 5, "RaPO"))

    def departures(sweep: str, **more: Any) -> set[str]:
        more |= {"stream": "coco_5x16", "config": config}
        found = beside([record(tmp_path / sweep, "rapo", seed, learned(5), **more) for seed in (136, 377, 639)])
        assert [row.table for row in found] == [2, 5]
        return {one.name for one in next(iter(found.values())).departures}

    now = departures("now", manifest={"measure": "pooled box AP"})
    assert departures("before") == now | {"measure"}
    assert now == {"trainer", "trainer.loss", "draw", "draw.list", "model.optimizer"}  # which is not recorded


def test_the_published_figures_are_those_of_the_paper() -> None:
    # 10 data sets x 8 methods, and 7 of them once more in other tasks without joint rows: 7 x 6
    assert len({(row.dataset, row.tasks, row.method) for row in MAIN}) == len(MAIN) == 122
    # 4 + 3 + 8 + 2 + 8 + 2 + 2 rows of tables 5 to 11, each of classification and of detection
    assert Counter(row.table for row in ABLATIONS) == {5: 8, 6: 6, 7: 16, 8: 4, 9: 16, 10: 4, 11: 4}
    assert {(row.dataset, row.tasks) for row in ABLATIONS} == {("ImageNet-R", 10), ("COCO", 5)}
    rows = {(row.table, row.method, row.dataset): row for row in ABLATIONS}
    assert len(rows) == len(ABLATIONS)
    for row, expected in {
        RAPO: (85.92, 1.82, 4.69, 1.71),
        rows[6, "RaPO, drift from task 1", "ImageNet-R"]: (83.88, 1.93, 7.24, 2.34),
        rows[7, "RaPO, β 0.9999", "COCO"]: (19.07, 1.12, 1.56, 1.24),
        rows[9, "GRPO without reasoning", "COCO"]: (9.82, 2.21, 13.05, 2.96),
        rows[10, "SAPO + RaPO", "ImageNet-R"]: (84.46, 1.72, 6.52, 2.14),
        rows[11, "RaPO", "COCO"]: (21.68, 1.19, 2.11, 1.09),
    }.items():
        figures = (row.acc, row.acc_std, row.forget, row.forget_std)
        assert [100 * value for value in figures if value is not None] == pytest.approx(expected)
    for row in ABLATIONS:  # table 5 repeats rows of tables 1 and 2
        if row.table == 5 and not row.method.startswith("GRPO +"):
            same = row_of(row.dataset, row.tasks, row.method)
            assert (row.acc, row.forget) == (same.acc, same.forget)
    coco, grpo = row_of("COCO", 5, "GRPO"), row_of("ImageNet-R", 10, "GRPO")
    assert (coco.acc, coco.forget, grpo.acc, grpo.forget) == pytest.approx((0.1464, 0.0667, 0.7467, 0.2002))
    # RaPO against GRPO there: 85.92 - 74.67 = 11.25 points, and 20.02 - 4.69 = 15.33 less forgetting
    assert RAPO.forget is not None and grpo.forget is not None
    assert (RAPO.acc - grpo.acc, grpo.forget - RAPO.forget) == pytest.approx((0.1125, 0.1533))
    assert row_of("ImageNet-R", 10, "JointGRPO").forget is None
    assert all(row.source.startswith("arXiv 2605.09640 table ") for row in MAIN)


def test_every_row_has_a_protocol_and_one_of_an_ablation_stands_for_one_setting() -> None:
    assert {(row.dataset, row.tasks) for row in MAIN} == set(results.SETTINGS)
    for row in results.published_rows():
        config = results.protocol(row)
        assert (config.evaluate.decoding, config.train.learning_rate) == ("sampled", 1e-6)
    for row in ABLATIONS:
        now, then = (flatten(results.protocol(one).to_dict()) for one in (row, replace(row, settings=())))
        differing = {name for name in now if now[name] != then[name]}
        assert differing == {word.partition("=")[0] for word in row.settings}
        family, sizes = ("qwen2_5_vl", ("3b", "7b")) if row.table == 11 else ("qwen2_vl", ("2b", "7b"))
        assert row.model == f"{family}_{sizes[row.dataset == 'COCO']}"
    runs = {(row.table, row.stream, row.run, row.model, row.settings) for row in ABLATIONS}
    assert len(runs) == len(ABLATIONS)


def test_a_run_as_published_stands_beside_its_rows_with_what_no_setting_tells(tmp_path: Path) -> None:
    found = beside(written(tmp_path, published_config(RAPO)))
    assert [(row.table, row.method) for row in found] == [(1, "RaPO"), (5, "RaPO")]
    for measured in found.values():
        assert ([one.name for one in measured.departures], measured.acc.mean) == (ALWAYS, pytest.approx(0.5))
    assert last_cells(found) == ["3", "trainer, draw"]


def test_a_setting_of_an_ablation_or_another_base_stands_beside_its_own_row_alone(tmp_path: Path) -> None:
    def found(sweep: str, **changed: dict[str, Any]) -> dict[results.Published, results.Measured]:
        return beside(written(tmp_path / sweep, published_config(RAPO, **changed)))

    ((row, measured),) = found("known", method={"retention_weight": 0.2}).items()
    assert (row.table, row.method, [one.name for one in measured.departures]) == (7, "RaPO, λ 0.2", ALWAYS)
    other = found("other", method={"retention_weight": 0.3})
    assert [row.table for row in other] == [1, 5]
    (apart,) = [one for one in other[RAPO].departures if one.name == "method.retention_weight"]
    assert (apart.published, apart.here) == ("0.5", "0.3")
    assert [row.table for row in found("base", model={"path": "Qwen/Qwen2.5-VL-3B-Instruct"})] == [11]


def test_every_difference_is_told_with_both_values(tmp_path: Path) -> None:
    changed = {"train": {"learning_rate": 1e-4, "workers": 2}, "stream": {"prompt": "suite"}, "model": {"path": None}}
    folders = [one.folder for one in written(tmp_path, published_config(RAPO, **changed), 1, 2)]
    for folder in folders:  # the optimizer is what the manifest says
        manifest = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(manifest.replace("adamw_kahan", "adamw_float32"))
    found = beside(map(read_run, folders))
    assert [row.table for row in found] == [1, 5]
    names = {one.name: (one.published, one.here) for one in found[RAPO].departures if one.name not in ALWAYS}
    assert names == {
        "model.optimizer": ("adamw_kahan (adamw_bf16)", "adamw_float32"),
        "model.path": ("Qwen/Qwen2-VL-2B-Instruct", "None"),
        "train.learning_rate": ("1e-06", "0.0001"),
        "stream.prompt": ("rapo_paper", "suite"),
        "seeds": ("1990, 1993, 1996", "1, 2"),
    }
    both = {row: [measured] for row, measured in found.items()}
    assert any("another model" in sentence for sentence in results.difference_sentences(both))
    assert last_cells(found)[-1] == "model, stream, train, seeds, trainer, draw"
    told = csv_row(results.published_to_csv(both), table="1")["departures"]
    assert "train.learning_rate: 0.0001, published: 1e-06" in told


def test_what_no_setting_tells_is_told_where_it_holds() -> None:
    def names(dataset: str, tasks: int, method: str, *words: str) -> set[str]:
        row = row_of(dataset, tasks, method)
        settings = flatten(results.protocol(row).to_dict()) | dict(word.split("=") for word in words)
        return {one.name for one in results.untold(row, settings)}

    assert names("ImageNet-R", 10, "SFT") == {"batches", "draw.list"}
    assert names("ImageNet-R", 10, "SFT", "stream.shots_list=lists/train.jsonl") == {"batches"}
    assert names("ImageNet-R", 10, "EWC") == {"batches", "draw.list", "method.strength"}
    assert names("ImageNet-R", 10, "RaPO", "method.preset=released_code") == {"trainer", "draw.list"}
    assert names("PascalSeries", 4, "GRPO") == {"trainer", "trainer.loss", "seeds.domains", "draw.list"}
    assert names("UCF-101", 5, "JointGRPO") == {"trainer", "trainer.loss", "draw.list", "stream.frames"}
    assert names("ImageNet-R", 10, "RaPO", "method.anchor=average") == {*ALWAYS, "method.momentum"}
    assert names("ImageNet-R", 10, "GRPO", "stream.think=False") == {*ALWAYS, "stream.words"}


def test_a_run_of_another_stream_or_length_stands_beside_nothing(tmp_path: Path) -> None:
    config = published_config(RAPO)
    short = record(tmp_path / "s", "rapo", 1, stream="imagenet_r_10x20", config=config)
    found = results.published_beside(grouped([short, record(tmp_path / "s", "rapo", 1)]))
    assert len(found) == 180 and not any(found.values())


def test_a_sweep_says_which_tables_it_holds_and_every_table_is_one_sweep() -> None:
    for table in range(1, 12):
        (found,) = results.planned([f"rapo_table_{table}"])
        assert f"whole {table}" in results.tables_of(found.rows)
    paper, images = results.planned(["paper", "quickstart", "image_cil"])  # quickstart holds none
    assert results.tables_of(paper.rows).startswith("whole 1, 2, 3, 4; in part 5; none of 6, 7")
    assert results.tables_of(images.rows).startswith("in part 1, 5; none of 2, 3, 4, 6")
    assert images.departures[0].name == "evaluate.decoding"


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = published_config(RAPO)
    write_run(tmp_path / "s", "rapo", 1990, learned(10), stream="imagenet_r_10x20", config=config)
    assert main(["analyze", "ledger", str(tmp_path / "s"), "-o", str(tmp_path / "out")]) == 0
    assert "85.92" in capsys.readouterr().out
    line = "| 1 | ImageNet-R | 10 | RaPO | 85.92 ± 1.82 | 4.69 ± 1.71 | 50.0 | 0.0 | 1 | model, seeds, trainer, draw |"
    assert line in (tmp_path / "out" / "ledger.md").read_text()
