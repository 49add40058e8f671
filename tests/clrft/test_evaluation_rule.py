"""``evaluate.every`` and ``evaluate.sample``: which cells are tested, on what, and what follows for metrics."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from clrft.planning.stage_work import EVALUATE
from clrft.runs.differences import differing_settings
from eval.metrics import stage_accuracy
from tests.clrft.test_forgetting_taxonomy import ITEMS, animals, mixture
from tests.clrft.test_plan import cell_of, config_of
from tests.scripted import run_of


def test_between_the_newest_and_the_last_earlier_tasks_are_tested_every_so_often(tmp_path: Path) -> None:
    run, whole = (
        run_of(mixture, animals(), tmp_path / name, **rule) for name, rule in (("a", {"every": 5}), ("b", {}))
    )
    tested = ~np.isnan(run.matrix.value)
    assert tested.tolist() == [[True, False, False], [False, True, False], [True, True, True]]
    assert run.matrix.to_json()["value"][1][0] is None  # not 0
    assert np.array_equal(run.matrix.value[tested], whole.matrix.value[tested])
    assert {one.task for one in run.predictions(2)} == {2}
    kept = ("last_acc", "learning_acc", "forgetting_diag", "forgetting_essential", "lost_to_newest", "bwt", "min_acc")
    assert [run.metrics[key] for key in kept] == [whole.metrics[key] for key in kept]
    assert None not in [run.metrics[key].value for key in kept]
    told = "not evaluated: R[i,j] of every task j < T at every stage i >= j"
    assert run.metrics["forgetting"].reason == told and whole.metrics["forgetting"].reason is None
    assert "evaluate.every" in differing_settings([run, whole])


def test_a_sample_is_the_same_items_each_time_and_ends_are_tested_whole(tmp_path: Path) -> None:
    run, whole = (
        run_of(mixture, animals(), tmp_path / name, **rule) for name, rule in (("a", {"sample": 3}), ("b", {}))
    )
    assert run.matrix.total[np.tril_indices(3)].tolist() == [ITEMS, 3, ITEMS, ITEMS, ITEMS, ITEMS]
    for place in ((0, 0), (1, 1), (2, 0), (2, 1), (2, 2)):
        assert run.matrix.value[place] == whole.matrix.value[place]
    keys = sorted((f"1/{number}" for number in range(ITEMS)), key=lambda key: hashlib.sha256(key.encode()).digest())[:3]
    asked = [one for one in run.predictions(2) if one.task == 1]
    assert {one.key for one in asked} == {*keys}
    right = sum(key != "1/7" for key in keys) / 3  # of each task item 7 is answered wrongly at stage 2
    assert run.matrix.value[1, 0] == right
    # both tasks have 8 items: task 1 counts with its 8, though 3 were asked
    assert stage_accuracy(run.matrix)[1] == pytest.approx((right + 7 / 8) / 2)
    assert run.metrics["forgetting"].value is not None


def test_a_plan_counts_the_items_that_a_rule_leaves() -> None:
    # 5 tasks of 4 items: after stages 1 to 5 all tasks so far, 4, 8, 12, 16, 20, and the newest again under all classes
    words = ("stream.tasks=5", "stream.test_per_class=2", "evaluate.probe=0", "evaluate.final_list=false")
    every, rule = (
        cell_of(config_of("sft", *words, *more)).work().xs(EVALUATE, level="activity").test_items.tolist()[-5:]
        for more in ((), ("evaluate.every=2", "evaluate.sample=3"))
    )
    assert every == [4, 8, 12, 16, 20]
    assert rule == [4, 3 + 4, 4, 3 * 3 + 4, 20]
