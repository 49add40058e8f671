"""``clrft method new``: a method that runs and the test that goes with it, to be filled with an idea.

The skeletons are small methods that work: an L2 penalty (part), a fine-tuning with one (supervised), and a price of
long answers (reinforcement). Deliberately absent: anything that is registered or installed; both are plain files.
"""

import importlib.util
import keyword
from pathlib import Path

from clrft.utils.files import check_writable, write_text_atomic
from methods.registry import NAME, installed_methods, known_methods
from task_streams.errors import UserError, unknown_name

PENALTY = '''"""@NAME@: say here what it does against forgetting, and where it comes from."""

from dataclasses import dataclass

from torch import Tensor

@IMPORTS@
from methods.settings import require@EXTRA@
from methods.model.weights import copied_weights, weighted_distance


@dataclass(frozen=True)
class @CLASS@Config@CONFIG@:
    """Settings of @NAME@."""

    strength: float = 1.0
    """Coefficient of the penalty (0 or more)."""

    def __post_init__(self) -> None:@SUPER@
        require("method", strength=(self.strength >= 0, self.strength, "a number from 0"))


class @CLASS@(@BASE@):
    """Begins as an L2 penalty to the weights that the previous task left; put your idea in its place."""

    name = "@NAME@"@FAMILY@
    Config = @CLASS@Config
    centre: dict[str, Tensor] | None = None

    def before_task(self, context: TaskContext) -> None:  # before the first update of each task
        self.centre = copied_weights(context.policy.model) if context.task.index > 1 else None

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:  # every micro-batch: added to the loss
        if self.centre is None:
            return {}
        return {"@NAME@_penalty": self.config.strength * weighted_distance(context.model, self.centre, None)}

    # More hooks: after_step, after_task, state_dict + load_state_dict (what before_task cannot make anew), needs.
'''

REWARDS = '''"""@NAME@: say here what it does against forgetting, and where it comes from."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Rollouts
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.settings import require


@dataclass(frozen=True)
class @CLASS@Config(GrpoConfig):
    """Settings of @NAME@, on top of GRPO's."""

    price: float = 0.001
    """Reward that each token of an answer costs (0 or more)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("method", price=(self.price >= 0, self.price, "a number from 0"))


class @CLASS@(Grpo):
    """Begins as GRPO with a price of long answers; put your idea in its place."""

    name = "@NAME@"
    Config = @CLASS@Config
    source = "your paper"

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:  # once per update: [B*G] to [B*G]
        lengths = rollouts.mask.sum(dim=1)  # [B*G, L] to [B*G]
        rollouts.log("mean_length", lengths.float().mean().item())  # a figure in steps.jsonl and MLflow
        return rewards - self.config.price * lengths

    # More hooks: normalize_advantages, loss_terms, before_task, after_task, state_dict + load_state_dict, needs.
    # The log-probabilities rollouts.actor_logps and anchor_logps come from task 2 on with "anchor" in needs.
'''

TEST = '''"""Test of @NAME@: its maths by hand, and two tasks of it on the embedded model."""

from pathlib import Path

import pytest
import torch

from clrft.config.run_config import build_config
from clrft.utils.progress import Silent
from clrft.runner.run import run
from methods.base import @RECORD@
from methods.registry import load_plugin

FILE = Path(__file__).with_name("@NAME@.py")
SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 2, "prompts_per_update": 4},
    "evaluate": {"probe": 0},
}

@MATHS@

def test_it_learns_two_tasks(tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False, "plugins": [str(FILE)]}}
    folder = run(build_config("digits_cil", "@WORDS@", "tiny", 1993, SMALL, own), Silent())
    assert (folder / "task_02" / "weights").is_dir()
    assert "@FIGURE@" in (folder / "task_02" / "steps.jsonl").read_text()
'''

PENALTY_MATHS = """
def test_the_penalty_by_hand() -> None:
    (kind,) = load_plugin(FILE)
    model = torch.nn.Linear(2, 1, bias=False)
    method = kind(kind.Config(strength=3.0))
    method.centre = {"weight": model.weight.detach() + 2.0}
    terms = method.loss_terms(LossContext(model, {}, 2, None, log=lambda name, value: None))
    assert terms["@NAME@_penalty"].item() == pytest.approx(24)  # 3 * (2^2 + 2^2)
"""

REWARD_MATHS = """
def test_the_rewards_by_hand() -> None:
    (kind,) = load_plugin(FILE)
    rollouts = Rollouts(
        task_index=1,
        group_size=2,
        components={"accuracy": torch.tensor([1.0, 0.0])},
        mask=torch.tensor([[1, 1, 1], [1, 0, 0]]),  # answers of three tokens and of one
        actor_logps=None,
        anchor_logps=None,
        keys=("item", "item"),
        log=lambda name, value: None,
    )
    shaped = kind(kind.Config(price=0.1)).shape_rewards(rollouts.task_reward, rollouts)
    assert shaped.tolist() == pytest.approx([0.7, -0.1])  # 1 - 3 * 0.1, 0 - 1 * 0.1
"""

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "part": (
        PENALTY,
        {
            "IMPORTS": "from methods.base import LossContext, Method, TaskContext",
            "EXTRA": "",
            "CONFIG": "",
            "SUPER": "",
            "BASE": "Method",
            "FAMILY": '\n    family = "part"  # joins sft and grpo: method=sft+@NAME@\n    source = "your paper"',
            "RECORD": "LossContext",
            "MATHS": PENALTY_MATHS,
            "WORDS": "sft+@NAME@",
            "FIGURE": "@NAME@_penalty",
        },
    ),
    "supervised": (
        PENALTY,
        {
            "IMPORTS": "from methods.base import LossContext, TaskContext",
            "EXTRA": "\nfrom methods.algorithms.sft import Sft, SftConfig",
            "CONFIG": "(SftConfig)",
            "SUPER": "\n        super().__post_init__()",
            "BASE": "Sft",
            "FAMILY": "",
            "RECORD": "LossContext",
            "MATHS": PENALTY_MATHS,
            "WORDS": "@NAME@",
            "FIGURE": "@NAME@_penalty",
        },
    ),
    "reinforcement": (
        REWARDS,
        {"RECORD": "Rollouts", "MATHS": REWARD_MATHS, "WORDS": "@NAME@", "FIGURE": "mean_length"},
    ),
}


def write_method(name: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Write a method's file and its test's; returns both.

    Raises:
        UserError: the name or kind cannot be used, or a file exists; all problems at once.
    """
    method, test = folder / f"{name}.py", folder / f"test_{name}.py"
    problems = name_problems(name)
    if kind not in KINDS:
        problems.append(f"--kind: {unknown_name('kind', kind, KINDS)}")
    problems += [f"{path} exists already; choose another name or folder." for path in (method, test) if path.exists()]
    if problems:
        raise UserError(*problems)
    check_writable(folder)
    for path, text in zip((method, test), texts(name, kind), strict=True):
        write_text_atomic(path, text)
    return method, test


def name_problems(name: str) -> list[str]:
    """Sentences about a name that a new method cannot have; empty when it can."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        return [f"{name!r} can't name a method; expected small letters, digits and _, a letter first (e.g. my_ewc)."]
    if name in known_methods() or name in installed_methods():
        return [f"a method {name!r} exists already; choose another name (e.g. my_{name})."]
    if importlib.util.find_spec(name) is not None:
        return [f"{name!r} is a Python module, which a file {name}.py would hide; choose another name (my_{name})."]
    return []


def texts(name: str, kind: str) -> tuple[str, str]:
    """The method's file and its test's."""
    template, values = KINDS[kind]
    filled = template, TEST
    title = "".join(word.capitalize() for word in name.split("_"))
    for key, value in (*values.items(), ("CLASS", title), ("NAME", name)):
        filled = filled[0].replace(f"@{key}@", value), filled[1].replace(f"@{key}@", value)
    return filled
