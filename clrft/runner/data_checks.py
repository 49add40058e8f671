"""A stream's data held against what a run makes of them: what ``clrft data check`` passes, a run takes.

Sentences instead of errors, so that all are told at once; empty when all is well.
"""

from collections.abc import Sequence

from PIL import Image
from transformers import AutoConfig

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig
from clrft.memory.phases import Longest
from eval.targets import answer_problems, right_answers
from methods.base import Method
from methods.inputs.admission import Admission
from methods.settings import TrainConfig
from methods.training.fit import batch_problems
from task_streams.errors import brief
from task_streams.probes.sets import ProbeSet
from task_streams.prompt import THOUGHTS
from task_streams.scenarios.split import joint_task
from task_streams.types import TaskStream


def model_problems(method: Method, stream: TaskStream, probes: Sequence[ProbeSet], admission: Admission) -> list[str]:
    """What the model can't be asked or can't answer; items of the stream that it doesn't take are left out already."""
    thought = str(getattr(method.config, "thought", THOUGHTS[0]))
    answers = right_answers(stream, thought)
    problems = answer_problems(answers, admission.read)
    if method.family == "supervised" and not admission.learns(answers[0].text):
        problems.append(
            f"model.path: the model's chat template changes what {method.name!r} trains towards, such as "
            f"{brief(answers[0].text)}; expected a model whose template keeps it, or stream.think=false."
        )
    for style in dict.fromkeys(task.style for task in stream.tasks):
        if held := admission.own_tokens(" ".join(style.wordings.values())):
            problems.append(f"stream.prompt: the words of {style.name!r} hold {', '.join(held)}, tokens of the model.")
    for one in probes:
        for each in one.probes:
            held = admission.own_tokens(" ".join((each.text, *each.options)))
            reasons = [f"holds {', '.join(held)}, which stands for something else to the model"] if held else []
            for path in each.images:
                with Image.open(path) as image:  # its header alone
                    reason = admission.size(*image.size)[1]
                reasons += [f"has an image of {reason}"] if reason else []
            problems += [f"probe set {one.name!r}: the question {brief(each.key)} {reason}." for reason in reasons]
    return problems


def update_problems(method: Method, stream: TaskStream, train: TrainConfig) -> list[str]:
    """Tasks that are too small for an update, and batches that don't split evenly."""
    if method.family == "frozen":
        return []
    tasks = [joint_task(stream)] if method.joint else stream.tasks
    return list(dict.fromkeys(problem for task in tasks for problem in batch_problems(method, task, train)))


def context_problems(config: RunConfig, longest: Longest) -> list[str]:
    """Prompts that leave no room for their answers in what the model can look back at."""
    path = config.model.path or str(default_model_path())
    whole = AutoConfig.from_pretrained(path, revision=config.model.revision, trust_remote_code=False)
    context = getattr(whole.get_text_config(), "max_position_embeddings", None)
    asked, answered = longest.tokens, config.train.max_completion_tokens
    if context is None or asked + answered <= context:
        return []
    return [
        f"model.path: its context has {context} tokens, but the longest prompt has {asked} and its answer may have "
        f"{answered}; expected a lower model.max_pixels or train.max_completion_tokens, shorter questions, or another "
        "model."
    ]
