"""What a launcher's environment asks for, and what of it is refused."""

import pytest

from methods.distributed import launch
from task_streams.errors import UserError

ZERO3 = {launch.DEEPSPEED: "true", launch.STAGE: "3", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (launch.FSDP, launch.DEEPSPEED, launch.STAGE, *launch.DECIDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "find_spec", lambda name: object())


def asked(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> str | None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return launch.requested_sharding()


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, None), ({launch.FSDP: "TRUE"}, "fsdp"), ({launch.FSDP: "false"}, None), (ZERO3, "zero3")],
)
def test_a_split_is_what_the_configuration_asks_for(
    environment: dict[str, str], kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch, environment) == kind


def test_all_of_deepspeed_that_is_not_used_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        asked(
            monkeypatch,
            {
                **ZERO3,
                launch.STAGE: "2",
                "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
                "ACCELERATE_GRADIENT_CLIPPING": "1.0",
                "ACCELERATE_DEEPSPEED_CONFIG_FILE": "mine.json",
                "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
                "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
            },
        )
    told = "\n".join(error.value.problems)
    assert len(error.value.problems) == 5
    for words in ("got mine.json", "got cpu", "train.max_grad_norm decides", "got 4", "got 2, expected 3"):
        assert words in told


def test_deepspeed_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"clrft\[deepspeed\]"):
        asked(monkeypatch, ZERO3)


def test_a_number_of_processes_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.WORLD_SIZE, "two")
    with pytest.raises(UserError, match="got 'two', expected a whole number"):
        launch.launched()
