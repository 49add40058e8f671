"""Values that are no numbers, and files with a flipped bit."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.fault_lab import Command, Lab, Settings, Trial, flip_a_bit, in_test, in_training

SFT = Settings()

# A part that spoils what it is told to, in the third update of task 2, while a file lies beside it.
SPOILER = '''
from dataclasses import dataclass
from pathlib import Path
import torch
from methods.base import Method

WHAT = Path(__file__).parent / "spoil"

@dataclass(frozen=True)
class Config:
    """Settings."""
    weight: float = 1.0
    """A weight."""

class Spoiler(Method):
    """Spoils rewards, loss or gradients."""
    name, family, Config = "spoiler", "part", Config
    joins = frozenset({"supervised", "reinforcement"})
    task = calls = 0

    def before_task(self, context):
        self.task, self.calls = context.task.index, 0

    def spoils(self, what):
        return self.task == 2 and self.calls >= 2 and WHAT.exists() and WHAT.read_text() == what

    def after_step(self, task_index, step):
        self.calls = step

    def shape_rewards(self, rewards, rollouts):
        return rewards * float("nan") if self.spoils("reward") else rewards

    def loss_terms(self, context):
        if self.spoils("loss"):
            return {"spoiled": torch.tensor(float("nan"))}
        if self.spoils("gradient"):
            weight = next(weight for weight in context.model.parameters() if weight.requires_grad)
            return {"spoiled": (weight - weight.detach()).square().sum().sqrt()}
        return {}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = int(state["calls"])
'''


def nan_reward(lab: Lab) -> Trial:
    """A reward that is not a number."""
    return spoiled(lab, "grpo", "reward", "shape_rewards: returned 16 of 16 values that are not finite")


def nan_loss(lab: Lab) -> Trial:
    """A loss term that is not a number."""
    return spoiled(lab, "sft", "loss", "loss_terms: term 'spoiled' is nan, expected a finite number")


def nan_gradient(lab: Lab) -> Trial:
    """A finite loss whose gradient is not."""
    return spoiled(lab, "sft", "gradient", "the gradient of update 3 is not finite")


def spoiled(lab: Lab, method: str, what: str, says: str) -> Trial:
    """A run with a method that spoils a value; it is gone on with once the cause, outside of its file, is mended."""
    place = lab.place(f"nan_{what}")
    plugin = place / "spoiler.py"
    plugin.write_text(SPOILER)
    settings = Settings(f"{method}+spoiler", plugin=plugin)
    expected = lab.whole(settings)
    (place / "spoil").write_text(what)
    trial = Trial(f"{what} is NaN in update 3 of task 2")
    trial.disturbed(Command(settings.words(place), place).end(), [2], says)
    kept = sorted(path.name for path in (settings.folder(place) / "unfinished" / "task_02").glob("step_*"))
    if kept[-1:] != ["step_000002"]:
        trial.problems.append(f"kept are {kept}, expected update 2 as the last good one")
    plugin.write_text(SPOILER + "# mended\n")
    trial.disturbed(Command(settings.words(place), place).end(), [2], "is not what this run began with")
    plugin.write_text(SPOILER)
    (place / "spoil").unlink()
    return trial.gone_on(Command(settings.words(place), place).end(), settings.folder(place), expected)


def diverging(lab: Lab) -> Trial:
    """The highest learning rate there is, to the end: figures, or a sentence."""
    place = lab.place("diverging")
    own = ("train.learning_rate=0.99", "train.max_grad_norm=1e9", "train.warmup=0")
    ended = Command(Settings("grpo", own).words(place), place).end()
    return Trial("train.learning_rate=0.99").disturbed(ended, [0, 2])


def flipped_weights(lab: Lab) -> Trial:
    """A bit of a finished task's weights."""
    return flipped(lab, "task_01/weights/model.safetensors", lambda folder: in_training(folder, 2))


def flipped_method_state(lab: Lab) -> Trial:
    """A bit of a finished task's method state."""
    return flipped(lab, "task_01/method_state.json", lambda folder: in_training(folder, 2))


def flipped_anchor(lab: Lab) -> Trial:
    """A bit of the anchor that a finished task left."""
    settings = Settings("rapo", ("method.anchor=average", "stream.tasks=3"))  # after task 1 the weights tell it
    return flipped(lab, "task_02/anchor.safetensors", lambda folder: in_training(folder, 3), settings)


def flipped(lab: Lab, name: str, point: Callable[[Path], Callable[[], bool]], settings: Settings = SFT) -> Trial:
    """A file that the next task starts from: refused by name; restored, the run goes on."""
    place = lab.place("flipped")
    folder = settings.folder(place)
    run = Command(settings.words(place), place)
    run.stopped_when(point(folder))
    run.process.kill()
    run.end()
    good = (folder / name).read_bytes()
    flip_a_bit(folder / name)
    trial = Trial(f"a bit of {name} flipped, after a SIGKILL in the next task")
    trial.disturbed(Command(settings.words(place), place).end(), [2], str(folder / name))
    (folder / name).write_bytes(good)
    return trial.gone_on(Command(settings.words(place), place).end(), folder, lab.whole(settings))


def flipped_state(lab: Lab) -> Trial:
    """A bit of the newest state inside a task: the one before it is taken."""
    return passed_over(lab, "step_*/state.safetensors", lambda folder: in_training(folder, 2))


def flipped_trained(lab: Lab) -> Trial:
    """A bit of what a training left that is being tested: the newest state inside the task is taken."""
    return passed_over(lab, "trained/weights/model.safetensors", lambda folder: in_test(folder, 2))


def passed_over(lab: Lab, pattern: str, point: Callable[[Path], Callable[[], bool]]) -> Trial:
    """A damaged file inside a task's unfinished work: named, and the last good point before it is taken."""
    settings, place = Settings(), lab.place("passed_over")
    folder = settings.folder(place)
    run = Command(settings.words(place), place)
    run.stopped_when(point(folder))
    run.process.kill()
    run.end()
    file = sorted((folder / "unfinished" / "task_02").glob(pattern))[-1]
    flip_a_bit(file)
    again = Command(settings.words(place), place).end()
    trial = Trial(f"a bit of {file.relative_to(folder)} flipped, after a SIGKILL in task 2")
    trial.disturbed(again, [0], "is damaged and left out")
    return trial.gone_on(again, folder, lab.whole(settings))


FAULTS = (
    nan_reward,
    nan_loss,
    nan_gradient,
    diverging,
    flipped_weights,
    flipped_method_state,
    flipped_anchor,
    flipped_state,
    flipped_trained,
)
