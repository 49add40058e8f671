"""Impossible settings of methods are refused, each by its name, all of them at once."""

from functools import partial
from typing import Any

import pytest

from methods import METHODS
from task_streams.config import typed_section
from task_streams.errors import UserError

IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("cpo", {"strength": -1.0, "share": 0.0}),
    ("derpp", {"items": 0, "logit_weight": -1.0, "label_weight": -1.0, "top": 0}),
    ("drift_threshold", {"keep": "middle"}),
    ("ewc", {"strength": -1.0, "decay": 1.5, "fisher_items": 0}),
    ("l2", {"strength": -1}),
    ("lwf", {"strength": -1.0, "temperature": 0.0}),
    ("olora", {"strength": -0.1, "rank": 0}),
    (
        "raft",
        {"answers": 0, "temperature": 0.0, "top_p": 0.0, "refresh": -1, "unsolved": "guess", "sampled_together": 0},
    ),
    ("rapo", {"preset": "papr", "scale_momentum": 1.0, "retention_weight": -1.0}),
    ("rapo", {"anchor": "frist", "anchor_momentum": 1.0, "scale_init_batches": 0}),
    ("replay", {"share": 0.0}),
    ("replay", {"share": 1.0}),
    ("sdft", {"average": 1.5, "thought": "x", "demonstration": "y"}),
    ("wise", {"share": 1.5}),
]


@pytest.mark.parametrize(("name", "settings"), IMPOSSIBLE)
def test_every_impossible_value_is_named_at_once(name: str, settings: dict[str, Any]) -> None:
    config = METHODS[name].Config
    for made in (partial(config, **settings), partial(typed_section, "x", config, settings)):
        with pytest.raises(UserError) as caught:
            made()
        told = {problem.partition(": got ")[0].removeprefix("x.") for problem in caught.value.problems}
        assert told == set(settings)


def test_a_value_is_told_with_what_is_expected() -> None:
    with pytest.raises(UserError, match="keep: got 'middle', expected low or high"):
        METHODS["drift_threshold"].Config(keep="middle")
    with pytest.raises(UserError, match="group_size: got 1, expected a whole number from 2"):
        METHODS["rapo"].Config(group_size=1)
    with pytest.raises(UserError, match="least_correct: got 3, expected a whole number from 1 to rollouts"):
        METHODS["rif"].Config(rollouts=2, least_correct=3)
