"""The conformance suite on real plugin files: a sound method passes, and every fault is named."""

from pathlib import Path

import pytest
import torch

from clrft.cli.main import main
from clrft.cli.method import check_method, misspelt, subjects
from clrft.config.run_config import build_config
from clrft.method_check import promises as method_promises
from clrft.method_check.promises import check_accumulation
from clrft.method_check.report import Report
from clrft.method_check.trial import Learned, Trial
from clrft.runner.run import run
from clrft.runs.read import find_runs
from clrft.utils.progress import Silent
from methods import METHODS, registry
from methods.base import Method
from task_streams.errors import UserError
from tests.clrft.faulty_methods import faulty

SMALL = {
    "stream": {"tasks": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 2, "prompts_per_update": 4},
    "evaluate": {"probe": 0, "drift_prompts": 0},
}


@pytest.fixture(autouse=True)
def no_plugins_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {})


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all plugin files: a method's name is one file's in a process."""
    return tmp_path_factory.mktemp("plugins")


def checked(path: Path) -> Report:
    ((name, plugins),) = subjects(str(path))
    return check_method(name, plugins)


def failures(path: Path) -> dict[str, str]:
    return {one.check: one.reason for one in checked(path).results if one.outcome == "failed"}


def test_a_sound_method_passes_every_check() -> None:
    report = check_method("l2", ())
    assert not [one for one in report.results if one.outcome == "failed"]
    done = {(one.check, one.company): one for one in report.results}
    assert done["stopped at a boundary = never stopped", "grpo"].reason == "same bits"
    order = "before_task > choose_examples > 2 x (loss_terms > before_step > after_step) > after_task > state_dict"
    assert done["two tasks, hooks in order", "sft"].reason == order


@pytest.mark.parametrize(
    ("name", "hook", "reason"),
    [
        ("raises", "after_step", "KeyError: 'lost'"),
        ("gives_nan", "shape_rewards", "values that are not finite"),
        ("wrong_shape", "shape_rewards", "returned shape (4, 8), expected (32,)"),
    ],
)
def test_a_fault_in_a_hook_is_named_with_file_hook_and_reason(name: str, hook: str, reason: str, plugins: Path) -> None:
    path = faulty(name, plugins)
    said = failures(path)["two tasks, hooks in order"]
    assert str(path) in said and f", {hook}: " in said and reason in said


def test_a_method_that_changes_the_anchor_is_named_with_the_hook(plugins: Path) -> None:
    path = faulty("mutates_anchor", plugins)
    said = failures(path)
    assert f"{path}: loss_terms changed the anchor's weights" in said["anchor not changed"]
    assert "the anchor's weights were changed during the task (1 of" in said["two tasks, hooks in order"]


def test_a_method_that_forgets_its_state_is_named_with_what_is_lost(plugins: Path) -> None:
    path = faulty("forgets", plugins)
    said = failures(path)
    assert list(said) == ["stopped at a boundary = never stopped", "stopped inside a task = never stopped"]
    assert str(path) in said["stopped at a boundary = never stopped"]
    assert "calls is not what it was at the boundary" in said["stopped at a boundary = never stopped"]


def test_a_gradient_that_is_not_finite_is_found_though_the_term_is(plugins: Path) -> None:
    path = faulty("forks", plugins)  # the root of 0: the value is 0, the derivative 1 / 0 * 0
    said = failures(path)["two tasks, hooks in order"]
    assert str(path) in said and "the gradient of update 1 is not finite" in said


def test_a_gradient_that_is_not_finite_in_small_batches_alone_is_found(plugins: Path) -> None:
    path = faulty("forks_alone", plugins)  # 4 rows in 4 micro-batches: one row has a spread of 0
    said = failures(path)
    assert list(said) == ["same result for 1, 2 and 4 accumulation steps"]
    assert "the gradient of update 1 is not finite" in said["same result for 1, 2 and 4 accumulation steps"]


@pytest.mark.parametrize("lost", ["gradients", "weights"])
def test_figures_that_are_no_numbers_do_not_count_as_equal(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(trial: Trial, folder: Path, steps: int) -> Learned:
        values = {"gradients": torch.ones(3), "weights": torch.ones(3)}
        if steps == 4:
            values[lost] = torch.full((3,), float("nan"))
        return Learned([torch.ones(3), values["gradients"]], values["weights"], {})

    monkeypatch.setattr(method_promises, "learned_again", learned)
    report = Report(lambda text: None)
    check_accumulation(METHODS["l2"], Trial("l2", "sft+l2", (), Path("none")), report)
    assert [one.outcome for one in report.results] == ["failed"]


def test_a_method_for_adapters_is_checked_with_one(plugins: Path) -> None:
    report = checked(faulty("adapters_only", plugins))
    assert report.passed
    found = {one.check: one for one in report.results}
    said = found["takes the embedded model"].reason
    assert said.startswith("with model.adapter=lora") and "It holds adapters apart; expected" in said
    assert found["stopped at a boundary = never stopped"].reason == "same bits"
    assert found["same result for 1, 2 and 4 accumulation steps"].outcome == "ok"
    # rank 16 * (inputs + outputs) of all linear layers of the embedded model: 16 * 15616
    assert "of 249856 weights" in found["same result for 1, 2 and 4 accumulation steps"].reason


def test_a_method_that_refuses_adapters_is_checked_without_one(plugins: Path) -> None:
    report = checked(faulty("no_adapters", plugins))
    assert report.passed
    found = {one.check: one for one in report.results}
    assert found["takes the embedded model"].reason == ""
    assert found["learns with a LoRA adapter"].outcome == "not applicable"
    assert "It moves all weights; expected" in found["learns with a LoRA adapter"].reason


def test_a_method_that_refuses_every_model_does_not_pass(plugins: Path) -> None:
    said = failures(faulty("takes_nothing", plugins))
    assert list(said) == ["takes the embedded model"]
    assert said["takes the embedded model"].endswith("so nothing was tried: It takes 3 tasks.")


def test_looking_back_undeclared_needs_and_sums_over_rows_are_found(plugins: Path) -> None:
    said = failures(faulty("looks_back", plugins))
    assert "task 2 decoded 1 earlier tasks' examples" in said["learns from the task's own data"]
    assert "before_task uses anchor without declaring it" in said["declared needs are honest"]
    assert "a mean over the rows" in said["same result for 1, 2 and 4 accumulation steps"]
    assert len(said) == 3


def test_a_changed_anchor_stops_a_run_and_nothing_of_the_task_counts(plugins: Path, tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False, "plugins": [str(faulty("mutates_anchor", plugins))]}}
    config = build_config("digits_cil", "sft+mutates_anchor", "tiny", 1993, SMALL, own)
    with pytest.raises(UserError, match=r"method 'mutates_anchor' \(.*mutates_anchor.py\): the anchor's weights"):
        run(config, Silent())
    assert (config.folder / "task_01").is_dir()
    assert not (config.folder / "task_02").exists()


def test_in_a_sweep_the_other_cells_go_on(plugins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = faulty("raises", plugins)
    sweep = f"streams: [digits_cil]\nmethods: [sft, sft+raises]\nseeds: [1990]\nset: {SMALL}\n"
    (tmp_path / "mini.yaml").write_text(sweep)
    words = ["sweep", str(tmp_path / "mini.yaml"), "--plugin", str(path), "run.mlflow=false", "--jobs", "1"]
    assert main([*words, f"run.output={tmp_path / 'runs'}"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"digits_cil-sft+raises-1990: method 'raises' ({path}, line" in said
    assert [one.method for one in find_runs([tmp_path / "runs" / "mini"]).runs] == ["sft"]


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
