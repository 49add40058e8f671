"""The embedded model and a small real task, shared by the tests of this package."""

from pathlib import Path

import pytest

from methods.model.policy import Policy
from task_streams import STREAMS, build_stream
from task_streams.types import TaskStream
from tests.methods.qwen2_5 import write_qwen2_5_vl
from tests.methods.two_tasks import fresh_policy


@pytest.fixture
def policy() -> Policy:
    """A fresh embedded model in float32."""
    return fresh_policy()


@pytest.fixture
def lora_policy() -> Policy:
    """A fresh embedded model with a LoRA adapter."""
    return fresh_policy("lora")


@pytest.fixture(params=["policy", "lora_policy"])
def either(request: pytest.FixtureRequest) -> Policy:
    """A fresh embedded model, trained whole and by an adapter."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def qwen2_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Qwen2.5-VL checkpoint of random weights."""
    return write_qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5"))


@pytest.fixture
def qwen2_5_policy(qwen2_5: Path) -> Policy:
    """That checkpoint, loaded in float32."""
    return fresh_policy(path=qwen2_5)


@pytest.fixture(scope="session")
def stream() -> TaskStream:
    """Handwritten digits, five tasks of two classes, few items."""
    config = STREAMS["digits_cil"].config(shots=8, test_per_class=4)
    return build_stream("digits_cil", config, 1993)
