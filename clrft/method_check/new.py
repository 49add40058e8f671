"""``clrft method new``: a method that runs and the test that goes with it, to be filled with an idea.

The skeletons are small methods that work: an L2 penalty (part), a fine-tuning with one (supervised), and a price of
long answers (reinforcement). They are filled in as text. Deliberately absent:
anything that is registered or installed; both are plain files.
"""

import importlib.util
import keyword
from pathlib import Path

from clrft.utils.files import check_writable, write_text_atomic
from methods.registry import NAME, installed_methods, known_methods
from task_streams.errors import UserError, unknown_name

TEMPLATES = Path(__file__).with_name("templates")  # KIND.txt is the method, test_KIND.txt its test
# How a method of each kind is named on the command line.
KINDS = {"part": "sft+@NAME@", "supervised": "@NAME@", "reinforcement": "@NAME@"}


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
    title = "".join(word.capitalize() for word in name.split("_"))
    for path, template in ((method, f"{kind}.txt"), (test, f"test_{kind}.txt")):
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        write_text_atomic(path, text.replace("@CLASS@", title).replace("@NAME@", name))
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
