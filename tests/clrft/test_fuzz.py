"""Whatever is given to the command line ends in sentences, and nothing changes outside the folder it may write to.

The campaign is small and always the same; ``benchmarks/fuzz.py`` makes the large one. The tests after it keep what
that one has found.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console

from benchmarks.fuzz_call import Outcome, Place
from benchmarks.fuzz_configs import Given, calls, lay
from benchmarks.fuzz_folders import damage, linked_new
from benchmarks.fuzz_values import BOMB
from clrft.base_model import default_model_path
from clrft.config.run_config import build_config, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.runner.lineage import check_files
from clrft.runs.read import find_runs, read_run
from clrft.utils.files import check_inside, locked
from clrft.utils.locks import lock_path, look
from clrft.utils.plain import from_json, from_yaml, to_yaml
from eval.matrix import AccuracyMatrix
from methods.model.config import ModelConfig
from methods.model.policy import load_policy
from task_streams.errors import UserError
from tests.clrft.run_folders import write_run

LOOKING = (("status",), ("compare",), ("rewards",))  # commands that need no model
ROWS = [{"step": 1, "reward": 0.5, "reward_shaped": 0.5}]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_generated_calls_end_in_sentences(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []

    campaign = {"max_examples": 100, "deadline": None, "database": None, "derandomize": True}

    @settings(**campaign, phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
    @given(calls().filter(lambda one: one.words[0] != "run" or "--resume" in one.words))  # runs load a model
    def trial(one: Given) -> None:
        place = Place(tmp_path / str(len(outcomes)))
        lay(one, place.work)
        outcomes.append(place.call(one.words))

    trial()
    assert [(one.arguments, one.faults) for one in outcomes if one.faults] == []
    assert {one.code for one in outcomes} >= {0, 2}  # some were right


def test_damaged_run_folders_are_refused_or_told_as_they_were(place: Place) -> None:
    whole = write_run(place.output / "s", "rapo", 1, [[90, None], [80, 70]], steps=ROWS)
    kept = place.root / "kept"
    shutil.copytree(whole, kept)
    codes: dict[int | None, int] = {}
    rng = random.Random(0)
    expected = figures(place, whole)
    for _ in range(30):
        shutil.rmtree(place.output)
        shutil.copytree(kept, whole)
        words = damage(whole, place.outside, rng)
        for command in (("status",), ("rewards",)):  # and the comparison below
            outcome = place.call((*command, str(whole)))
            assert not outcome.faults, (words, outcome)
            codes[outcome.code] = codes.get(outcome.code, 0) + 1
        found = figures(place, whole)
        assert found in (None, expected), words
    assert codes.keys() >= {0, 2}


def figures(place: Place, folder: Path) -> str | None:
    """The table that a comparison of one run comes to; None if the run is refused."""
    outcome = place.call(("compare", str(folder), "-o", str(place.output / "table")))
    return (place.output / "table" / "table.csv").read_text() if outcome.code == 0 else None


YAML = (
    *("&a [*a]", "&a {b: *a}", "[" * 3000, "{a: " * 3000, "2 : 3", '"a\\0b"', '"\\ud800"', "{a: 1, a: 1}", BOMB),
    *("!!python/name:os.system ''", "!!python/object/apply:os.system ['x']", "!!float x", "!!int ''"),
    *("!!binary aGk=", "!!set {a}", "!!timestamp x", "!!bool x"),
)
JSON = ("NaN", "[Infinity]", "[" * 5000, '"\\ud800"', "9" * 5000)


@pytest.mark.parametrize(("read", "text"), [*((from_yaml, one) for one in YAML), *((from_json, one) for one in JSON)])
def test_what_is_no_plain_value_is_a_value_error(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


CORE = (
    (None, ("~", "null", "Null", "NULL", "")),
    (True, ("true", "True", "TRUE")),
    (False, ("false", "False", "FALSE")),
    (10, ("10", "010", "+10", "0xA", "0o12")),
    (-7, ("-7", "-07")),
    (1e-6, ("1e-6", "1E-6", "0.000001", "1.0e-06", ".000001")),
    (5.0, ("5.", "5.0", "+5.0", "5e0")),
    (math.inf, (".inf", "+.INF")),
)  # by the core schema of YAML 1.2: a value, and how it may be written
WORDS = [one for _, written in CORE for one in written]
TEXTS = (
    *("no", "yes", "on", "off", "y", "N", "tRUE", "1_000", "12:30", "1:2:3.5", "2024-01-01", "2024-99-99", "0b11", "="),
    *("-0x10", "nan", "inf", "1e", "e5", ".", "+", "0o8", "1e5x", "0x", "--1"),
)  # what is none of these


@pytest.mark.parametrize(("value", "written"), CORE)
def test_a_word_in_yaml_is_what_yaml_1_2_says(value: object, written: tuple[str, ...]) -> None:
    found = [from_yaml(f"a: {one}")["a"] for one in written]
    assert found == [value] * len(written)
    assert {isinstance(one, bool) for one in found} == {isinstance(value, bool)}


def test_all_other_words_are_texts_and_what_is_written_as_a_text_is_read_as_one() -> None:
    assert [from_yaml(f"a: {text}")["a"] for text in TEXTS] == list(TEXTS)
    values = {"texts": [*TEXTS, *WORDS], "numbers": [10, 1e-6, 1e300, 0.5, True, None]}
    assert from_yaml(to_yaml(values)) == values
    assert yaml.safe_load(to_yaml(values)) == values  # also by a reader of YAML 1.1


def test_a_key_that_stands_twice_is_named_with_its_lines_and_one_that_is_merged_may_be_set() -> None:
    text = """
base: &base {tasks: 2, shots: 3}
stream:
  <<: *base
  tasks: 5
  tasks: 6
train: {updates: 3, more: {a: 1, "a": 2}}
train: 1
"""
    with pytest.raises(ValueError, match="key") as caught:
        from_yaml(text)
    assert sorted(str(caught.value).split("; ")) == [
        "the key 'a' is given 2 times, in lines 7, 7",
        "the key 'tasks' is given 2 times, in lines 5, 6",
        "the key 'train' is given 2 times, in lines 7, 8",
    ]
    fit = "a: {b: {c: &own {<<: {x: 1}, x: 2}}}\nd: {<<: *own, x: 3}\n"
    assert from_yaml(fit) == {"a": {"b": {"c": {"x": 2}}}, "d": {"x": 3}}


SHAPES = (
    *("train=x", "run=[1]", "run.plugins=x.py", "run.plugins=[1]"),
    *("method.parts=[ewc]", "run.name_suffix=../x", "run.sweep=..", "stream=x"),
)


@pytest.mark.parametrize("word", SHAPES)
def test_a_setting_of_a_wrong_shape_is_refused(word: str) -> None:
    with pytest.raises(UserError):
        build_config("digits_cil", "grpo", "tiny", 1, parse_overrides([word]))


@pytest.mark.parametrize("name", ["a b.yaml", "$x.yaml", "é.yaml", "-x.yaml", "x" * 230 + ".yaml"])
def test_a_config_whose_file_cannot_name_a_run_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("stream: {name: digits_cil}")
    with pytest.raises(UserError, match="can't name a file or folder"):
        build_config(str(tmp_path / name), "sft")


SWEEPS: list[dict[str, Any]] = [
    *({"set": [1]}, {"vary": {"train.updates": "12"}}, {"vary": [1]}, {"per_method": {"sft": 3}}, {"parts": {"a": 1}}),
    *({"parts": ["x"]}, {"methods": [["sft"]]}, {"streams": [{"name": "x"}]}, {"sweep": ["x"]}),
    {"vary": {f"train.{name}": list(range(100)) for name in ("updates", "warmup", "workers")}},
]


@pytest.mark.parametrize("keys", SWEEPS, ids=str)
def test_a_sweep_of_a_wrong_shape_is_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    fitting = {"streams": ["digits_cil"], "methods": ["sft"], "seeds": [1]}
    (tmp_path / "s.yaml").write_text(json.dumps({**fitting, **keys}))
    with pytest.raises(UserError):
        load_sweep(str(tmp_path / "s.yaml"), {})


NAMES = ("x" * 300, "x/" * 3000, "x" * 300 + ".yaml", "x" * 300 + ".py", "é\n", "[/x]", "\udcff")
COMMANDS = ("run --resume", "status", "compare", "sweep", "show", "show --plugin", "data check")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_of_any_length_and_letters_is_a_sentence(command: str, name: str, place: Place) -> None:
    outcome = place.call((*command.split(), name))
    assert not outcome.faults and outcome.code == 2, outcome


def test_square_brackets_and_dollars_are_shown_as_they_are(place: Place) -> None:
    outcome = place.call(("show", "run.output='[/x]'"))
    assert not outcome.faults and outcome.code == 0 and "[/x]" in outcome.out
    console = Console(width=80)
    with console.capture() as captured:
        console.print(AccuracyMatrix.empty(["[/x]"]).to_table())
    assert "[/x]" in captured.get()
    folder = write_run(place.output / "s", "rapo", 1, [[90, None], [80, 70]], steps=ROWS)
    values = json.loads((folder / "matrix.json").read_text())
    (folder / "matrix.json").write_text(json.dumps({**values, "tasks": ["$\\frac$", "[/x]"]}))
    outcome = place.call(("compare", str(folder)))  # draws figures with the tasks' names
    assert not outcome.faults and outcome.code == 0, outcome


@pytest.mark.parametrize(
    "change",
    [
        {"value": [["0.9", None], [0.8, 0.7]]},
        {"base": [True, None]},
        {"tasks": "ab"},
        {"total": [[10**400, None], [100, 100]]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_matrix_of_other_types_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    values = json.loads((write_run(tmp_path, "sft", 1, [[90, None], [80, 70]]) / "matrix.json").read_text())
    with pytest.raises(UserError, match="damaged accuracy matrix"):
        AccuracyMatrix.from_json({**values, **change})


def test_a_run_whose_manifest_is_anothers_is_left_out(tmp_path: Path) -> None:
    config = {"stream": {"label": "digits_cil", "name": "digits_cil"}, "method": {"label": "sft", "name": "sft"}}
    folder = write_run(tmp_path, "sft", 1, [[90, None], [80, 70]], config=config)
    read_run(folder)
    other = write_run(tmp_path / "other", "grpo", 1, [[90, None], [80, 70]])
    shutil.copy(other / "manifest.json", folder)
    (left,) = find_runs([folder]).left_out
    assert left.fault == "damaged" and "manifest.json is of method 'grpo', but config.yaml of 'sft'" in left.reason


def test_a_run_with_another_runs_task_folder_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sft", 1, [[90, None], [80, 70]])
    other = write_run(tmp_path / "other", "sft", 1, [[90, None], [40, 70]])
    shutil.rmtree(folder / "task_02")
    (left,) = find_runs([folder]).left_out
    assert "task_02/metrics.json is missing" in left.reason
    shutil.copytree(other / "task_02", folder / "task_02")
    (left,) = find_runs([folder]).left_out
    assert left.fault == "damaged" and "but matrix.json" in left.reason


def test_links_that_lead_out_of_a_run_folder_are_refused_and_what_they_lead_to_stays(place: Place) -> None:
    for number in range(12):
        folder = write_run(place.output / f"s{number}", "rapo", 1, [[90, None], [80, 70]], steps=ROWS)
        (folder / "comparison").mkdir()
        words = linked_new(folder, place.outside, random.Random(number))
        for command in LOOKING:
            outcome = place.call((*command, str(folder)))
            assert not outcome.faults, (words, outcome)


def test_a_run_folder_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "elsewhere", "sft", 1, [[90, None], [80, 70]])
    (tmp_path / "link").symlink_to(folder)
    assert read_run(tmp_path / "link").method == "sft"
    (folder / "task_02" / "weights").symlink_to(tmp_path)
    with pytest.raises(UserError, match="outside of the run's folder"):
        check_inside(tmp_path / "link")


def test_a_lock_that_is_a_link_or_a_folder_is_a_sentence_and_no_endless_wait(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    lock_path(tmp_path / "a").symlink_to(tmp_path / "none")
    lock_path(tmp_path / "b").mkdir()
    for name in ("a", "b"):
        with pytest.raises(UserError, match="no file, as a lock is"):
            look(lock_path(tmp_path / name))
    (tmp_path / ".mlflow.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="can't be opened"), locked(tmp_path / ".mlflow.lock"):
        pass
    assert not (tmp_path / "outside").exists()


def test_a_checkpoint_that_would_be_unpickled_is_not_loaded(tmp_path: Path) -> None:
    shutil.copytree(default_model_path(), tmp_path / "model")
    for path in (tmp_path / "model").glob("*.safetensors*"):
        path.unlink()
    mark = tmp_path / "unpickled"
    running = b"cposix\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR."  # a pickle that runs a command
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(running)
    with pytest.raises(UserError, match=r"model\.path"):
        load_policy(ModelConfig(device="cpu"), str(tmp_path / "model"), 1)
    assert not mark.exists()


def test_no_plugin_is_loaded_because_a_run_folder_names_it(place: Place) -> None:
    mark = place.outside / "ran"
    (place.outside / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    named = {"run": {"plugins": [str(place.outside / "evil.py")]}}
    folder = write_run(place.output / "s", "sft", 1, [[90]], config=named)
    for command in (*LOOKING, ("run", "--resume")):
        outcome = place.call((*command, str(folder)))
        assert not outcome.faults and not mark.exists(), outcome
    assert os.listdir(place.home) == []


def test_a_folder_in_place_of_a_weights_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "weights" / "model.safetensors").mkdir(parents=True)
    facts = {"schema": 1, "stage": 1, "parent": "", "identity": "", "files": {"weights/model.safetensors": "0" * 64}}
    (tmp_path / "lineage.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 is missing"):
        check_files(tmp_path, "Restore it.")
