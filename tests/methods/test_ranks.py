"""The same batch gives the same update in one process or two; what a launcher's environment asks for."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clrft.runner.same_run import differences
from methods.distributed import launch, ranks
from task_streams.errors import UserError
from tests.methods.rank_cases import CASES, LOW, SPLIT, found, small_stream
from tests.methods.two_tasks import fresh_policy
from tests.processes import ended, several

zero3 = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed (the extra 'deepspeed')")


def several_found(folder: Path, kinds: Sequence[str], seconds: float) -> dict[str, Tensor]:
    """Every case, by two processes."""
    file = folder / "cases.safetensors"
    ends = ended(several(2, ["-m", "tests.methods.rank_cases", str(file), *kinds]), seconds)
    assert [code for code, *_ in ends] == [0, 0], ends
    return load_file(file)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The cases with whole weights, and with those that FSDP2 splits."""
    return several_found(tmp_path_factory.mktemp("ranks"), ["whole", "fsdp"], 300)


@pytest.fixture(scope="module")
def by_zero3(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The cases with weights that ZeRO-3 splits."""
    return several_found(tmp_path_factory.mktemp("ranks"), ["zero3"], 400)


@lru_cache
def by_one(name: str, double: bool = True) -> dict[str, Tensor]:
    """A case, by one process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return found(name, small_stream(), double=double)
    finally:
        torch.set_num_threads(threads)


def by_both(kind: str, request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The cases with weights that are split in a way."""
    return request.getfixturevalue("by_zero3" if kind == "zero3" else "by_two")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, "whole") for case in CASES),
        *((case, "fsdp") for case in SPLIT),
        *(pytest.param(case, "zero3", marks=zero3) for case in SPLIT),
    ],
)
def test_two_processes_learn_what_one_does(case: str, kind: str, request: pytest.FixtureRequest) -> None:
    name, low = f"{case}, {kind}", kind == "zero3"
    limit = 5e-6 if low else 1e-6  # in float32, where an update is 1e-5, or in float64
    alone, of_both = by_one(case, double=not low), by_both(kind, request)
    both = {key.partition("|")[2]: value for key, value in of_both.items() if key.partition("|")[0] == name}
    assert alone.keys() == both.keys()
    assert torch.equal(alone["answers"], both["answers"])
    if "sft" not in name:
        assert max(alone[key].abs().max() for key in alone if key.startswith("advantages")) > 0.1  # something is taught
    if "rapo" in name:
        assert alone["scale"].item() > 0.01
    different = {  # loss and norm of the gradient are among the figures: AdamW would hide a factor
        key: (value - both[key]).abs().max().item()
        for key, value in alone.items()
        if value.shape != both[key].shape or not torch.allclose(value, both[key], atol=limit, rtol=limit)
    }
    assert different == {}


@pytest.mark.parametrize("kind", ["whole", "fsdp", pytest.param("zero3", marks=zero3)])
@pytest.mark.parametrize("case", LOW)
def test_two_processes_move_weights_of_bfloat16_as_one_does(
    case: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """How far the weights have moved, with what is left over of their updates; and that all of it arrived."""
    name, alone, of_both = f"{case}, {kind}", by_one(case, double=False), by_both(kind, request)
    fresh = fresh_policy(dtype="bfloat16", optimizer=LOW[case])
    start = {key: weight.detach().double() for key, weight in fresh.model.named_parameters()}
    one = torch.cat([(alone[key] - weight).flatten() for key, weight in start.items()])
    both = torch.cat([(of_both[f"{name}|{key}"] - weight).flatten() for key, weight in start.items()])
    assert torch.nn.functional.cosine_similarity(one, both, dim=0) > 0.999
    assert both.norm().item() == pytest.approx(one.norm().item(), rel=0.01)
    assert (of_both[f"{name}|applied"] - 1).abs().max() < 0.01


def test_processes_that_were_started_differently_are_all_told_what_differs(by_two: dict[str, Tensor]) -> None:
    told = [bytes(by_two[f"told to {rank}"].tolist()).decode().splitlines() for rank in (0, 1)]
    assert told[0] == told[1] == [
        "train.learning_rate is 1e-05 in process 0 and 3e-05 in process 1.",
        "seed is 1993 in process 0 and 7 in process 1.",
        "Every process of a run needs the same command, code, packages and base: start them alike.",
    ]  # fmt: skip
    assert differences([{"a": 1}, {"a": 1}, {}]) == ["a is 1 in process 0, 1 and missing in process 2."]


def test_a_share_is_whole_groups_where_there_is_one_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(processes: int, rows: int, group: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(ranks, "world_size", lambda: processes)
        parts = []
        for place in range(processes):
            monkeypatch.setattr(ranks, "rank", lambda place=place: place)
            part = ranks.share(rows, group)
            parts.append((part.start, part.stop))
        return parts

    assert shares(1, 12, 4) == [(0, 12)]
    assert shares(2, 12, 4) == [(0, 4), (4, 12)]  # three groups: one, and two
    assert shares(4, 8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]  # two groups for four


ZERO3 = {launch.DEEPSPEED: "true", launch.STAGE: "3", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}


def asked(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], installed: bool = True) -> str | None:
    for name in (launch.FSDP, launch.DEEPSPEED, launch.STAGE, *launch.DECIDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "find_spec", lambda name: object() if installed else None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return launch.requested_sharding()


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, None), ({launch.FSDP: "TRUE"}, "fsdp"), ({launch.FSDP: "false"}, None), (ZERO3, "zero3")],
)
def test_a_split_is_what_is_asked_for(
    environment: dict[str, str], kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch, environment) == kind


def test_all_of_deepspeed_that_is_not_used_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"GRADIENT_ACCUMULATION_STEPS": "4", "GRADIENT_CLIPPING": "1.0", "DEEPSPEED_CONFIG_FILE": "mine.json"}
    own |= {"DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu", "DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none"}
    with pytest.raises(UserError) as error:
        asked(monkeypatch, {**ZERO3, launch.STAGE: "2"} | {f"ACCELERATE_{name}": value for name, value in own.items()})
    told = "\n".join(error.value.problems)
    assert len(error.value.problems) == 5
    for words in ("got mine.json", "got cpu", "train.max_grad_norm decides", "got 4", "got 2, expected 3"):
        assert words in told


def test_what_is_missing_and_what_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"clrft\[deepspeed\]"):
        asked(monkeypatch, ZERO3, installed=False)
    monkeypatch.setenv(launch.WORLD_SIZE, "two")
    with pytest.raises(UserError, match="got 'two', expected a whole number"):
        launch.launched()
