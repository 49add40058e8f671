"""``clrft method``: check what the contract promises of a method, in short real runs; write the skeleton of a new one.

A part is tried with every learner that it joins (``sft``, ``grpo``), a learner by itself, on the embedded model. A
check that fails says why and what is expected. Deliberately absent: whether a method forgets less. That takes a sweep.
The skeletons are small methods that work: an L2 penalty (part), a fine-tuning with one (supervised), and a price of
long answers (reinforcement). They are filled in as text, and nothing is registered or installed.
"""

import argparse
import importlib.util
import keyword
import tempfile
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clrft.config.run_config import DEFAULT_LEARNERS
from clrft.method_check.report import Report
from clrft.utils.files import check_writable, write_text_atomic
from clrft.utils.progress import Bars, say
from clrft.utils.quiet import quiet_libraries
from methods.base import Method
from methods.guard import HOOKS, made_method
from methods.isolation import words_of
from methods.registry import NAME, installed_methods, known_methods, load_plugin, source_file
from task_streams.config import converted, field_docs, values_of
from task_streams.errors import UserError, unknown_name

TEMPLATES = Path(__file__).with_name("templates")  # KIND.txt is the method, test_KIND.txt its test
KINDS = {"part": "sft+@NAME@", "supervised": "@NAME@", "reinforcement": "@NAME@"}  # as named on the command line
COLOURS = {"ok": "green", "failed": "bold red", "not applicable": "dim", "no effect": "yellow"}


def check_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft method check``: a table of all checks; exit code 1 if one failed."""
    checked = subjects(options.file)
    quiet_libraries()
    passed = True
    for name, plugins in checked:
        with Bars(console) as bars:
            report = check_method(name, plugins, lambda text: bars.begin(name, text, None))  # noqa: B023
        table = Table("check", "with", "result", "s", "why", title=f"method {name}", title_justify="left")
        for one in report.results:
            outcome = f"[{COLOURS[one.outcome]}]{one.outcome}[/]"
            table.add_row(one.check, one.company, outcome, f"{one.seconds:.1f}", escape(one.reason))
        console.print(table)
        passed = passed and report.passed
    return 0 if passed else 1


def subjects(given: str) -> list[tuple[str, tuple[str, ...]]]:
    """Names of the methods in a Python file, or of the known one of a name, with the plugin files they come from.

    Raises:
        UserError: no such file, or it cannot be loaded.
    """
    path = Path(given).expanduser().resolve()
    known = known_methods()
    if given in known:
        return [(given, ())]
    shipped = [name for name, method in known.items() if Path(source_file(method)) == path]
    if shipped:
        return [(name, ()) for name in shipped]
    return [(method.name, (str(path),)) for method in load_plugin(path)]


def check_method(name: str, plugins: Sequence[str], begin: Callable[[str], None] = lambda text: None) -> Report:
    """Every check of a method that is loaded already."""
    from clrft.method_check import promises
    from clrft.method_check.trial import Trial

    report = Report(begin)
    kind = known_methods()[name]
    if not check_class(kind, report):
        return report
    with tempfile.TemporaryDirectory(prefix="clrft-check-") as folder:
        trials = [
            Trial(name, words, tuple(plugins), Path(folder) / words.replace("+", "_")) for words in companies(kind)
        ]
        ready = [fitting for trial in trials if (fitting := promises.check_model(kind, trial, report)) is not None]
        traces = {trial: trace for trial in ready if (trace := promises.check_run(kind, trial, report)) is not None}
        for trial in traces:
            promises.check_effect(kind, trial, report)
        stopped = [trial for trial in traces if promises.check_determinism(kind, trial, report)]
        promises.check_restart(kind, stopped, traces, report)
        for trial in traces:
            promises.check_accumulation(kind, trial, report)
            promises.check_inside(kind, trial, report)
            promises.check_adapter(kind, trial, report)
        if len(traces) == len(trials):
            promises.check_needs(kind, traces, report)
    return report


def companies(kind: type[Method]) -> list[str]:
    """What to name on the command line to try a method: with every learner that a part joins."""
    if kind.family != "part":
        return [kind.name]
    return [f"{learner}+{kind.name}" for family, learner in DEFAULT_LEARNERS.items() if family in kind.joins]


def check_class(kind: type[Method], report: Report) -> bool:
    """What can be seen without a run; returns whether there can be one."""
    with report.check("loads") as found:
        found[1] = f"{kind.family} in {source_file(kind)}"
        if kind.family == "frozen":
            found[:] = ["failed", "family is frozen: nothing is trained, so there is nothing to check."]
        elif not companies(kind):
            found[:] = ["failed", f"joins is {sorted(kind.joins)}: expected supervised, reinforcement or both."]
        elif wrong := misspelt(kind):
            found[:] = ["failed", " ".join(wrong)]
    loaded = report.passed
    runnable = False
    settings = kind.Config
    with report.check("config: defaults valid, every field explained") as found:
        try:
            made = settings()
        except TypeError as error:
            raise UserError(f"{settings.__name__}: {error}; expected a default for every field.") from error
        except (ValueError, AssertionError, SystemExit) as error:
            raise UserError(f"{settings.__name__}: its own defaults are refused ({words_of(error)}).") from error
        if problems := converted(settings, values_of(made))[1]:
            raise UserError(*problems)
        made_method(kind, made)
        runnable = True
        if missing := [name for name, doc in field_docs(settings).items() if not doc.strip() or "\n" in doc.strip()]:
            found[:] = ["failed", f"{settings.__name__}: no docstring of one line below {', '.join(missing)}."]
        elif not settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            found[:] = ["failed", f"{settings.__name__} is not frozen; expected @dataclass(frozen=True)."]
    return loaded and runnable


def misspelt(kind: type[Method]) -> list[str]:
    """Sentences about a method's own functions whose names are nearly those of hooks."""
    own = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]
    near = {name: get_close_matches(name, HOOKS, 1, 0.85) for name in own if name not in HOOKS}
    return [f"{name} is no hook; did you mean {close[0]}?" for name, close in near.items() if close]


def new_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft method new``: write both files, and say what to do with them."""
    folder = Path(options.output).expanduser()
    method, test = write_method(options.name, options.kind, folder)
    words = KINDS[options.kind].replace("@NAME@", options.name)
    say(console, f"wrote {method} and {test}", f"  pytest {test}", f"  clrft method check {method}")
    say(console, f"  clrft run stream=digits_cil method={words} --plugin {method}")
    return 0


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
