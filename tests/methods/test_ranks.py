"""The same batch gives the same update, whether one process has all of it or two have a part each."""

from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from methods import ranks
from tests.methods.rank_cases import CASES, SPLIT, found, small_stream
from tests.processes import ended, several


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Every case, by two processes."""
    file = tmp_path_factory.mktemp("ranks") / "cases.safetensors"
    ends = ended(several(2, ["-m", "tests.methods.rank_cases", str(file)]), 300)
    assert [code for code, *_ in ends] == [0, 0], ends
    return load_file(file)


@lru_cache
def by_one(name: str) -> dict[str, Tensor]:
    """A case, by one process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return found(name, small_stream())
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*CASES, *(f"{name} split" for name in SPLIT)])
def test_two_processes_learn_what_one_does(name: str, by_two: dict[str, Tensor]) -> None:
    alone = by_one(name.removesuffix(" split"))
    both = {key.partition("|")[2]: value for key, value in by_two.items() if key.partition("|")[0] == name}
    assert alone.keys() == both.keys()
    assert torch.equal(alone["answers"], both["answers"])
    if "sft" not in name:
        assert max(alone[key].abs().max() for key in alone if key.startswith("advantages")) > 0.1  # something is taught
    if "rapo" in name:
        assert alone["scale"].item() > 0.01
    different = {  # loss and norm of the gradient are among the figures: AdamW would hide a factor
        key: (value - both[key]).abs().max().item()
        for key, value in alone.items()
        if value.shape != both[key].shape or not torch.allclose(value, both[key], atol=1e-6, rtol=1e-6)
    }
    assert different == {}


def test_a_share_is_whole_groups_where_there_is_one_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(processes: int, rows: int, group: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(ranks, "count", lambda: processes)
        parts = []
        for place in range(processes):
            monkeypatch.setattr(ranks, "place", lambda place=place: place)
            part = ranks.share(rows, group)
            parts.append((part.start, part.stop))
        return parts

    assert shares(1, 12, 4) == [(0, 12)]
    assert shares(2, 12, 4) == [(0, 4), (4, 12)]  # three groups: one, and two
    assert shares(4, 8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]  # two groups for four
