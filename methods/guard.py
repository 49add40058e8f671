"""A method whose every hook is watched: what goes wrong in one is reported with method, file, hook and reason.

Deliberately absent: going on after a fault. The run stops, and nothing of the task at hand counts as done.
"""

from collections.abc import Callable
from functools import wraps
from traceback import extract_tb
from typing import Any

from methods.base import Method
from methods.registry import source_file
from task_streams.errors import UserError

HOOKS = (
    *("before_task", "loss_terms", "shape_rewards", "normalize_advantages", "after_step", "after_task"),
    *("state_dict", "load_state_dict", "describe"),
)


def guarded_method(method: Method) -> Method:
    """The same method; a fault in a hook becomes a ``UserError`` that names it."""
    for hook in HOOKS:
        setattr(method, hook, _watched(method, hook, getattr(method, hook)))
    return method


def _watched(method: Method, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except UserError:
            raise
        except Exception as error:
            file = source_file(type(method))
            lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
            place = f"{file}, line {lines[-1]}" if lines else file
            raise UserError(f"method {method.name!r} ({place}), {hook}: {type(error).__name__}: {error}") from error

    return watched
