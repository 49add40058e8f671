"""The published figures as data, and the runs that stand beside them with every difference."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clrft.analysis.groups import grouped
from clrft.analysis.published_results import (
    SETTINGS,
    Measured,
    Published,
    difference_sentences,
    planned,
    protocol,
    published_beside,
    published_rows,
    published_table,
    published_to_csv,
    tables_of,
    untold,
)
from clrft.analysis.table import EVERYWHERE
from clrft.cli.main import main
from clrft.runs.differences import flatten
from clrft.runs.read import read_run
from tests.clrft.run_folders import write_run

TASKS = 10
ROWS = [[50 if j <= i else None for j in range(TASKS)] for i in range(TASKS)]


MAIN = [row for row in published_rows() if row.table <= 4]
# Told beside every RaPO run of ImageNet-R, since no setting can tell otherwise.
ALWAYS = ["trainer", "trainer.loss", "draw.list"]


def beside(folders: Sequence[Path]) -> dict[Published, Measured]:
    """Rows that the runs, of one group, stand beside."""
    found = published_beside(grouped([read_run(folder) for folder in folders]))
    return {row: measured for row, some in found.items() for measured in some}


def written(tmp_path: Path, config: dict[str, Any], seeds: tuple[int, ...] = (1990, 1993, 1996)) -> list[Path]:
    """Runs of RaPO on ImageNet-R."""
    model = {"optimizer": "adamw_kahan", "dtype": "bfloat16", "weights": "bfloat16"}
    more: Any = {"stream": "imagenet_r_10x20", "config": config, "manifest": {"model": model}}
    return [write_run(tmp_path / "s", "rapo", seed, ROWS, **more) for seed in seeds]


def texts_of(found: dict[Published, Measured]) -> list[str]:
    """First row of the table."""
    table = published_table({row: [measured] for row, measured in found.items()}, "", EVERYWHERE)
    return [cell.text for cell in table.rows[0]]


def names_of(measured: Measured) -> list[str]:
    return [one.name for one in measured.departures]


def tables(found: dict[Published, Measured]) -> list[int]:
    return [row.table for row in found]


def row_of(dataset: str, tasks: int, method: str) -> Published:
    (row,) = [row for row in MAIN if (row.dataset, row.tasks, row.method) == (dataset, tasks, method)]
    return row


def published_config(row: Published) -> dict[str, Any]:
    return {name: value for name, value in protocol(row).to_dict().items() if name not in ("run", "seed")}


RAPO = row_of("ImageNet-R", 10, "RaPO")


def test_the_published_figures_are_those_of_the_paper() -> None:
    rows = {(row.dataset, row.tasks, row.method): row for row in MAIN}
    # 10 data sets x 8 methods, and 7 of them once more in other tasks without joint rows: 7 x 6
    assert len(rows) == 122
    rapo = rows["ImageNet-R", 10, "RaPO"]
    assert (rapo.acc, rapo.acc_std, rapo.forget, rapo.forget_std) == pytest.approx((0.8592, 0.0182, 0.0469, 0.0171))
    assert (rows["COCO", 5, "GRPO"].acc, rows["COCO", 5, "GRPO"].forget) == pytest.approx((0.1464, 0.0667))
    assert rows["ImageNet-R", 10, "JointGRPO"].forget is None
    # RaPO against GRPO there: 85.92 - 74.67 = 11.25 points, and 20.02 - 4.69 = 15.33 less forgetting.
    grpo = rows["ImageNet-R", 10, "GRPO"]
    assert grpo.forget is not None and rapo.forget is not None
    assert (rapo.acc - grpo.acc, grpo.forget - rapo.forget) == pytest.approx((0.1125, 0.1533))
    assert all(row.source.startswith("arXiv 2605.09640 table ") for row in rows.values())


def test_a_run_of_coco_whose_ap_was_not_pooled_is_not_as_published(tmp_path: Path) -> None:
    config = published_config(row_of("COCO", 5, "RaPO"))
    some = [[50 if j <= i else None for j in range(5)] for i in range(5)]

    def departures(sweep: str, **more: Any) -> set[str]:
        more |= {"stream": "coco_5x16", "config": config}
        found = beside([write_run(tmp_path / sweep, "rapo", seed, some, **more) for seed in (136, 377, 639)])
        assert tables(found) == [2, 5]
        return set(names_of(next(iter(found.values()))))

    now = departures("now", manifest={"measure": "pooled box AP"})
    assert departures("before") == now | {"measure"}
    assert now == {"trainer", "trainer.loss", "draw", "draw.list", "model.optimizer"}  # which is not recorded


def test_every_published_row_has_a_protocol_that_loads() -> None:
    assert {(row.dataset, row.tasks) for row in MAIN} == set(SETTINGS)
    for row in published_rows():
        config = protocol(row)
        assert (config.evaluate.decoding, config.train.learning_rate) == ("sampled", 1e-6)


def test_ablations_are_those_of_the_paper() -> None:
    rows = [row for row in published_rows() if row not in MAIN]
    # 4 + 3 + 8 + 2 + 8 + 2 + 2 rows of tables 5 to 11, each of classification and of detection
    assert Counter(row.table for row in rows) == {5: 8, 6: 6, 7: 16, 8: 4, 9: 16, 10: 4, 11: 4}
    assert {(row.dataset, row.tasks) for row in rows} == {("ImageNet-R", 10), ("COCO", 5)}
    figures = {(row.table, row.method, row.dataset): (row.acc, row.acc_std, row.forget, row.forget_std) for row in rows}
    assert len(figures) == len(rows)
    for key, expected in {
        (6, "RaPO, drift from task 1", "ImageNet-R"): (83.88, 1.93, 7.24, 2.34),
        (7, "RaPO, β 0.9999", "COCO"): (19.07, 1.12, 1.56, 1.24),
        (9, "GRPO without reasoning", "COCO"): (9.82, 2.21, 13.05, 2.96),
        (10, "SAPO + RaPO", "ImageNet-R"): (84.46, 1.72, 6.52, 2.14),
        (11, "RaPO", "COCO"): (21.68, 1.19, 2.11, 1.09),
    }.items():
        assert [100 * value for value in figures[key] if value is not None] == pytest.approx(expected)
    # table 5 repeats rows of tables 1 and 2
    main = {(row.method, row.dataset, row.tasks): (row.acc, row.forget) for row in MAIN}
    for row in rows:
        if row.table == 5 and not row.method.startswith("GRPO +"):
            assert (row.acc, row.forget) == main[row.method, row.dataset, row.tasks]


def test_a_row_of_an_ablation_stands_for_one_setting() -> None:
    rows = [row for row in published_rows() if row not in MAIN]
    for row in rows:
        now, then = (flatten(protocol(one).to_dict()) for one in (row, replace(row, settings=())))
        differing = {name for name in now if now[name] != then[name]}
        assert differing == {word.partition("=")[0] for word in row.settings}
        of_ablation = {"ImageNet-R": "qwen2_vl_2b", "COCO": "qwen2_vl_7b"}
        of_others = {"ImageNet-R": "qwen2_5_vl_3b", "COCO": "qwen2_5_vl_7b"}
        assert row.model == (of_others if row.table == 11 else of_ablation)[row.dataset]
    assert len({(row.table, row.stream, row.run, row.model, row.settings) for row in rows}) == len(rows)


def test_a_run_as_published_stands_beside_its_rows_with_what_no_setting_tells(tmp_path: Path) -> None:
    found = beside(written(tmp_path, published_config(RAPO)))
    assert [(row.table, row.method) for row in found] == [(1, "RaPO"), (5, "RaPO")]
    for measured in found.values():
        assert names_of(measured) == ALWAYS
        assert measured.acc.mean == pytest.approx(0.5)
    assert texts_of(found)[-2:] == ["3", "trainer, draw"]


def test_a_setting_of_an_ablation_or_another_base_stands_beside_its_own_row_alone(tmp_path: Path) -> None:
    config = published_config(RAPO)
    known = {**config, "method": {**config["method"], "retention_weight": 0.2}}
    ((row, measured),) = beside(written(tmp_path / "known", known)).items()
    assert (row.table, row.method, names_of(measured)) == (7, "RaPO, λ 0.2", ALWAYS)
    other = {**config, "method": {**config["method"], "retention_weight": 0.3}}
    found = beside(written(tmp_path / "other", other))
    assert tables(found) == [1, 5]
    (apart,) = [one for one in found[RAPO].departures if one.name == "method.retention_weight"]
    assert (apart.published, apart.here) == ("0.5", "0.3")
    base = {**config, "model": {**config["model"], "path": "Qwen/Qwen2.5-VL-3B-Instruct"}}
    assert tables(beside(written(tmp_path / "base", base))) == [11]


def test_every_difference_is_told_with_both_values(tmp_path: Path) -> None:
    config = published_config(RAPO)
    config["model"] = {**config["model"], "path": None}
    config["train"] = {**config["train"], "learning_rate": 1e-4, "workers": 2}
    config["stream"] = {**config["stream"], "prompt": "suite"}
    folders = written(tmp_path, config, seeds=(1, 2))
    for folder in folders:  # the optimizer is what the manifest says
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["model"]["optimizer"] = "adamw_float32"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    found = beside(folders)
    assert tables(found) == [1, 5]
    names = {one.name: (one.published, one.here) for one in found[RAPO].departures if one.name not in ALWAYS}
    assert names == {
        "model.optimizer": ("adamw_kahan (adamw_bf16)", "adamw_float32"),
        "model.path": ("Qwen/Qwen2-VL-2B-Instruct", "None"),
        "train.learning_rate": ("1e-06", "0.0001"),
        "stream.prompt": ("rapo_paper", "suite"),
        "seeds": ("1990, 1993, 1996", "1, 2"),
    }
    both = {row: [measured] for row, measured in found.items()}
    assert any("another model" in sentence for sentence in difference_sentences(both))
    assert texts_of(found)[-1] == "model, stream, train, seeds, trainer, draw"
    first, _ = csv.DictReader(io.StringIO(published_to_csv(both)))
    assert "train.learning_rate: 0.0001, published: 1e-06" in first["departures"]


def test_what_no_setting_tells_is_told_where_it_holds() -> None:
    def names(dataset: str, tasks: int, method: str, *words: str) -> set[str]:
        row = row_of(dataset, tasks, method)
        settings = flatten(protocol(row).to_dict()) | dict(word.split("=") for word in words)
        return {one.name for one in untold(row, settings)}

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
    short = write_run(tmp_path / "s", "rapo", 1, [[50, None], [50, 50]], stream="imagenet_r_10x20", config=config)
    digits = write_run(tmp_path / "s", "rapo", 1, [[50, None], [50, 50]])
    found = published_beside(grouped([read_run(short), read_run(digits)]))
    assert len(found) == 180 and not any(found.values())


def test_a_sweep_says_which_tables_it_holds_and_which_not() -> None:
    paper, images = planned(["paper", "quickstart", "image_cil"])  # quickstart holds none
    assert tables_of(paper.rows).startswith("whole 1, 2, 3, 4; in part 5; none of 6, 7")
    assert tables_of(images.rows).startswith("in part 1, 5; none of 2, 3, 4, 6")
    assert images.departures[0].name == "evaluate.decoding"


@pytest.mark.parametrize("table", range(1, 12))
def test_every_table_is_one_sweep(table: int) -> None:
    (found,) = planned([f"rapo_table_{table}"])
    assert f"whole {table}" in tables_of(found.rows)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "s", "rapo", 1990, ROWS, stream="imagenet_r_10x20", config=published_config(RAPO))
    assert main(["analyze", "ledger", str(tmp_path / "s"), "-o", str(tmp_path / "out")]) == 0
    assert "85.92" in capsys.readouterr().out
    assert (
        "| 1 | ImageNet-R | 10 | RaPO | 85.92 ± 1.82 | 4.69 ± 1.71 | 50.0 | 0.0 | 1 | model, seeds, trainer, draw |"
        in (tmp_path / "out" / "ledger.md").read_text()
    )
