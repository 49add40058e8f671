"""``clrft method``: the checks on real plugin files, of which every fault is named, and skeletons of new methods."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from clrft.cli.main import main
from clrft.cli.method import KINDS, check_method, misspelt, name_problems, subjects, write_method
from clrft.method_check import promises as method_promises
from clrft.method_check.promises import WHOLE, check_accumulation, check_adapter, check_effect, check_model
from clrft.method_check.report import Report
from clrft.method_check.trial import Learned, Resumed, Trial, resumed, two_tasks
from methods import METHODS
from methods.base import Method
from methods.registry import method_class
from task_streams.errors import UserError
from tests.clrft.faulty_methods import faulty

RUN, MODEL = "two tasks, hooks in order", "takes the embedded model"
EFFECT = "changes what is learned"
BOUNDARY, INSIDE = "stopped at a boundary = never stopped", "stopped inside a task = never stopped"
ACCUMULATED = "same result for 1, 2 and 4 accumulation steps"


def checked(path: Path) -> Report:
    ((name, plugins),) = subjects(str(path))
    return check_method(name, plugins)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped runs go on here; a new process is tried with a method of the suite and with one of a plugin file."""

    def here(trials: Sequence[Trial], run: str) -> dict[str, Resumed]:
        return {trial.words: resumed(trial, run) for trial in trials}

    monkeypatch.setattr(method_promises, "resume_elsewhere", here)


def test_a_sound_method_passes_every_check() -> None:
    report = check_method("l2", ())
    assert not [one for one in report.results if one.outcome == "failed"]
    done = {(one.check, one.company): one for one in report.results}
    assert done[BOUNDARY, "grpo"].reason == "same bits"
    order = "before_task > choose_examples > 2 x (loss_terms > before_step > after_step) > after_task > state_dict"
    assert done[RUN, "sft"].reason == order
    assert done[EFFECT, "sft"].reason == "other weights than sft"


def test_a_method_that_changes_nothing_is_told_and_does_not_fail(tmp_path: Path) -> None:
    report, trials = Report(lambda text: None), []
    for name in ("adds_a_constant", "has_no_gradient"):  # the same for a whole group, and for every weight
        ((_, plugins),) = subjects(str(faulty(name, tmp_path)))
        words = f"grpo+{name}" if name == "adds_a_constant" else f"sft+{name}"
        trials.append(Trial(name, words, plugins, tmp_path / name))
    for trial in trials:
        two_tasks(trial, WHOLE)
        check_effect(method_class(trial.name), trial, report)
    assert [(one.check, one.outcome) for one in report.results] == [(EFFECT, "no effect")] * 2 and report.passed
    reasons = [one.reason for one in report.results]
    assert reasons == [f"same weights as {name}: it changed nothing in these two tasks." for name in ("grpo", "sft")]


NOT_FINITE = "{path}", "the gradient of update 1 is not finite"
# What is said of a fault by the checks that fail; whether those are all.
FAULTS: dict[str, tuple[dict[str, tuple[str, ...]], bool]] = {
    "raises": ({RUN: ("{path}", ", after_step: KeyError: 'lost'")}, False),
    "gives_nan": ({RUN: ("{path}", ", shape_rewards: ", "values that are not finite")}, False),
    "wrong_shape": ({RUN: ("{path}", ", shape_rewards: ", "returned shape (4, 8), expected (32,)")}, False),
    "mutates_anchor": (
        {
            RUN: ("the anchor's weights were changed during the task (1 of",),
            "anchor not changed": ("{path}: loss_terms changed the anchor's weights",),
        },
        False,
    ),
    "forgets": ({BOUNDARY: ("{path}", "calls is not what it was at the boundary"), INSIDE: ("{path}",)}, True),
    "forks": ({RUN: NOT_FINITE}, False),  # the root of 0: the value is 0, the derivative 1 / 0 * 0
    "forks_alone": ({ACCUMULATED: NOT_FINITE}, True),  # 4 rows in 4 micro-batches: one row has a spread of 0
    "takes_nothing": ({MODEL: ("so nothing was tried: It takes 3 tasks.",)}, True),
    "looks_back": (
        {
            "learns from the task's own data": ("task 2 decoded 1 earlier tasks' examples",),
            ACCUMULATED: ("a mean over the rows",),
            "declared needs are honest": ("before_task uses anchor without declaring it",),
        },
        True,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named_with_its_reason(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name != "forgets":
        request.getfixturevalue("in_this_process")
    expected, all_of_them = FAULTS[name]
    path = faulty(name, tmp_path)
    said = {one.check: one.reason for one in checked(path).results if one.outcome == "failed"}
    assert not all_of_them or list(said) == list(expected)
    for check, phrases in expected.items():
        assert all(phrase.format(path=path) in said[check] for phrase in phrases), said[check]


@pytest.mark.parametrize("lost", ["gradients", "weights"])
def test_figures_that_are_no_numbers_do_not_count_as_equal(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(trial: Trial, folder: Path, steps: int) -> Learned:
        nan = torch.full((3,), float("nan"))
        gradient, weights = (nan if steps == 4 and name == lost else torch.ones(3) for name in ("gradients", "weights"))
        return Learned([torch.ones(3), gradient], weights, {})

    monkeypatch.setattr(method_promises, "learned_again", learned)
    report = Report(lambda text: None)
    check_accumulation(METHODS["l2"], Trial("l2", "sft+l2", (), Path("none")), report)
    assert [one.outcome for one in report.results] == ["failed"]


@pytest.mark.usefixtures("in_this_process")
def test_a_method_for_adapters_is_checked_with_one(tmp_path: Path) -> None:
    report = checked(faulty("adapters_only", tmp_path))
    assert report.passed
    found = {one.check: one for one in report.results}
    assert found[MODEL].reason.startswith("with model.adapter=lora")
    assert "It holds adapters apart; expected" in found[MODEL].reason
    assert found[BOUNDARY].reason == "same bits"
    assert found[ACCUMULATED].outcome == "ok"
    # rank 16 * (inputs + outputs) of all linear layers of the embedded model: 16 * 15616
    assert "of 249856 weights" in found[ACCUMULATED].reason


def test_a_method_that_refuses_adapters_is_checked_without_one(tmp_path: Path) -> None:
    ((name, files),) = subjects(str(faulty("no_adapters", tmp_path)))
    kind, trial, report = method_class(name), Trial(name, f"sft+{name}", files, tmp_path), Report(lambda text: None)
    assert check_model(kind, trial, report) == trial
    check_adapter(kind, trial, report)
    model, adapter = report.results
    assert (model.outcome, model.reason, adapter.outcome) == ("ok", "", "not applicable") and report.passed
    assert "It moves all weights; expected" in adapter.reason


def test_a_file_that_is_missing_is_refused_and_one_that_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["method", "check", str(tmp_path / "none.py")]) == 2
    (tmp_path / "broken.py").write_text("x = 1\nraise SystemExit\n")
    assert main(["method", "check", str(tmp_path / "broken.py")]) == 2
    assert "broken.py, line 2, fails when it is loaded" in " ".join(capsys.readouterr().err.split())


def test_a_name_that_is_nearly_a_hooks_is_found() -> None:
    class Slip(Method):
        def loss_term(self) -> None: ...

    assert misspelt(Slip) == ["loss_term is no hook; did you mean loss_terms?"]
    assert [name for name, method in METHODS.items() if misspelt(method)] == []


def test_skeletons_have_at_most_forty_lines_and_their_tests_pass(tmp_path: Path) -> None:
    written = [write_method(f"fresh_{kind}", kind, tmp_path) for kind in KINDS]
    for method, _ in written:
        text = method.read_text()
        assert len(text.splitlines()) <= 40 and "@" not in text.replace("@dataclass", "")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(test.name for _, test in written)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"{2 * len(KINDS)} passed" in done.stdout, done.stdout + done.stderr


def test_a_skeleton_overwrites_nothing(tmp_path: Path) -> None:
    write_method("fresh", "part", tmp_path)
    (tmp_path / "fresh.py").write_text("mine\n")
    with pytest.raises(UserError) as caught:
        write_method("fresh", "part", tmp_path)
    assert len(caught.value.problems) == 2  # the method and its test
    assert (tmp_path / "fresh.py").read_text() == "mine\n"


def test_names_that_cannot_be_are_refused_and_all_mistakes_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = dict.fromkeys(("Fresh", "a+b", "../up", "lambda"), "can't name a method")
    taken = dict.fromkeys(("ewc", "sft"), "exists already") | dict.fromkeys(("random", "torch"), "is a Python module")
    for name, reason in {**nowhere, **taken}.items():
        (problem,) = name_problems(name)
        assert reason in problem
    assert main(["method", "new", "Bad", "--kind", "prt", "-o", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'Bad' can't name a method" in said and "Did you mean 'part'?" in said
    assert list(tmp_path.iterdir()) == []
