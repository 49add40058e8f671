"""Configuration: every file loads, every mistake is named, all at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from clrft.cli.run import chosen_config
from clrft.config.run_config import RunConfig, build_config, config_of, merge, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.runs.manifest import write_config
from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml
from methods import METHODS
from methods.model.config import ModelConfig
from methods.settings import TrainConfig
from task_streams import STREAMS
from task_streams.config import QUOTES, field_docs
from task_streams.errors import UserError


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_root() / group).glob("*.yaml"))


CHOICES = {"stream": names("streams"), "method": sorted({*names("methods"), *METHODS}), "model": names("models")}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, found in CHOICES.items() for name in found])
def test_every_config_loads(group: str, name: str) -> None:
    chosen = {"stream": "digits_cil", "method": "rapo", "model": "tiny", group: name}
    assert getattr(build_config(**chosen), f"{group}_label") == name


@pytest.mark.parametrize("name", names("sweeps"))
def test_every_sweep_config_loads_and_its_cells_have_folders_of_their_own(name: str) -> None:
    cells = load_sweep(name, {})
    assert len({cell.folder for cell in cells}) == len(cells) > 0


@pytest.mark.parametrize("name", names("accelerate"))
def test_every_accelerate_config_is_one_that_it_knows_and_none_lies_where_no_test_looks(name: str) -> None:
    found = {path.parent.name for path in config_root().rglob("*.yaml")}
    assert found == {"streams", "methods", "models", "sweeps", "accelerate"}
    config = ClusterConfig.from_yaml_file(config_root() / "accelerate" / f"{name}.yaml")  # refuses unknown fields
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[name.partition("_")[0]]
    assert config.num_processes > 1 and config.mixed_precision == "no"


@pytest.mark.parametrize(
    "schema",
    [*(spec.config for spec in STREAMS.values()), *(m.Config for m in METHODS.values()), ModelConfig, TrainConfig],
)
def test_every_field_is_explained_in_one_line(schema: type) -> None:
    for name, doc in field_docs(schema).items():
        assert doc and "\n" not in doc, name


def test_later_layers_win_and_the_command_line_is_last() -> None:
    own, words = {"train": {"learning_rate": 2e-6}}, parse_overrides(["train.epochs=1"])
    train = build_config("digits_cil", "rapo", "qwen2_vl_2b", 7, own, words).train
    assert (train.learning_rate, train.epochs) == (2e-6, 1)
    assert (train.warmup, train.prompts_per_update) == (0, 8)  # of the model's file; the default
    assert merge({"a": {"b": [1, 2]}}, {"a": {"b": [3]}}) == {"a": {"b": [3]}}  # lists are replaced, not joined


@pytest.mark.parametrize("method", ["rapo_released_code", "grpo+ewc+replay"])
def test_the_saved_form_loads_to_the_same_configuration(method: str) -> None:
    config = build_config("digits_dil", method, "tiny", 5, parse_overrides(["train.updates=3", "run.sweep=x"]))
    for plain in (yaml.safe_load(yaml.safe_dump(config.to_dict())), json.loads(json.dumps(config.to_dict()))):
        assert config_of(plain) == config


def test_all_mistakes_are_reported_at_once_with_the_nearest_name() -> None:
    words = ["train.learning_rate=-1", "train.lerning_rate=1e-4", "method.group_size=1", "train.updates=many"]
    words += ["evaluate.metrics=[forgeting]", "stream.tasks=11", "stream.classes_per_task=1", "trian.updates=3"]
    with pytest.raises(UserError) as caught:
        build_config("digits_cil", "rapo", "tiny", 1993, parse_overrides(words))
    assert len(caught.value.problems) == 7
    told = ["train.learning_rate: got -1", "train.updates: got 'many', expected a whole number from 1"]
    told += ["method.group_size: got 1", "11 classes asked", "Did you mean 'train'?"]
    told += ["Did you mean 'train.learning_rate'?", "Did you mean 'forgetting'?"]
    assert [sentence for sentence in told if sentence not in str(caught.value)] == []


def test_words_are_read_as_yaml_with_exponents_and_those_that_set_nothing_are_named() -> None:
    assert parse_overrides(["train.learning_rate=1e-4"]) == {"train": {"learning_rate": 1e-4}}
    with pytest.raises(UserError) as caught:
        parse_overrides(["rapo", "=3"])
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match=r"seeds is 1990, expected a list, e.g. seeds=\[1990\]"):
        load_sweep("quickstart", {"seeds": 1990})


@pytest.mark.parametrize("word", ["train=[1]", "trian=x"])
def test_what_follows_from_a_refused_or_misspelt_field_is_not_told(word: str) -> None:
    with pytest.raises(UserError) as caught:
        build_config("table_cil", "sft", "tiny", 1, {"stream": {"train": None}}, parse_overrides([f"stream.{word}"]))
    (problem,) = caught.value.problems
    assert "stream.train" in problem and "neither" not in problem


def test_a_stream_may_come_from_a_users_own_file_which_holds_sections(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stream: {name: digits_cil, tasks: 2, classes_per_task: 3}\n")
    config = build_config(str(path), "sft")
    assert (config.stream_label, config.stream.tasks) == ("mine", 2)
    path.write_text("just words\n")
    with pytest.raises(UserError, match="expected sections"):
        build_config(str(path), "sft")


def test_varied_settings_make_cells_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(
        "streams: [digits_cil]\nmethods: [sft, grpo]\nseeds: [1]\n"
        "set: {train: {updates: 2}}\nper_method: {grpo: {method: {kl: 0.1}}}\n"
        "vary: {train.learning_rate: [1.0e-5, 1.0e-4]}\n"
    )
    cells = load_sweep(str(path), {})
    rates = ("1e-05", "0.0001")
    expected = [f"digits_cil-{method}-1-learning_rate={rate}" for method in ("sft", "grpo") for rate in rates]
    assert [cell.cell for cell in cells] == expected
    assert {cell.train.updates for cell in cells} == {2}
    assert (cells[0].train.learning_rate, cells[2].method.kl) == (1e-5, 0.1)


GRID = "streams: [digits_cil]\nmethods: [sft, grpo]\nseeds: [1]\n"


def cells_of(tmp_path: Path, text: str, *words: str) -> list[RunConfig]:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID + text)
    return load_sweep(str(path), parse_overrides(words))


def test_what_is_varied_keeps_its_type_and_the_names_of_before(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "vary: {model.max_pixels: [null, 3136], train.learning_rate: [1e-5, 1.0e-4]}\n")
    assert {(cell.model.max_pixels, cell.train.learning_rate) for cell in cells} == {
        (None, 1e-5), (None, 1e-4), (3136, 1e-5), (3136, 1e-4),
    }  # fmt: skip
    names = ("max_pixels=null,learning_rate=1e-5", "max_pixels=null,learning_rate=0.0001")
    assert [cell.cell for cell in cells[:2]] == [f"digits_cil-sft-1-{name}" for name in names]
    quoted = cells_of(tmp_path, "vary: {model.lora_targets: ['1', 'true', 'null', '1e-4', no]}\n", "methods=[sft]")
    assert [cell.model.lora_targets for cell in quoted] == ["1", "true", "null", "1e-4", "no"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("parts: [{methods: 3}]", "methods is 3, expected a list, e.g. methods=[3]."),
        ("per_method: {grop: {train: {updates: 3}}}", "per_method: unknown method 'grop'. Did you mean 'grpo'?"),
        ("parts: [{}, {per_method: {rapo: {}}}]", "per_method: unknown method 'rapo'."),
        ("vary: {train.updates: []}", "vary.train.updates is an empty list, expected a value."),
        ("models: []", "models is an empty list, expected a value."),
        ("parts: []", "parts is empty, expected at least one."),
        ("sweep: 2024", f"sweep is 2024; expected text.{QUOTES}"),
        ("methods: [sft]", "the key 'methods' is given 2 times, in lines 2, 4"),
    ],
)
def test_a_sweep_whose_words_would_have_no_effect_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        cells_of(tmp_path, text)


def test_a_methods_own_settings_stay_where_the_command_leaves_the_method_out(tmp_path: Path) -> None:
    own = "per_method: {grpo: {method: {kl: 0.1}}, rapo: {method: {kl: 0.2}}}\nparts: [{}, {methods: [rapo]}]\n"
    assert [cell.method.kl for cell in cells_of(tmp_path, own)[1:]] == [0.1, 0.2]
    left_out = cells_of(tmp_path, "per_method: {grpo: {method: {kl: 0.1}}}\n", "methods=[sft]")
    assert [cell.method_name for cell in left_out] == ["sft"]


EMPTY = [
    ("stream:", "stream.name: a value is needed. Known: "),
    ("stream: {name: }", "stream.name: a value is needed. Known: "),
    ("stream: {name: folder_cil, root: }", "stream.root: a value is needed."),
    ("stream: {name: folder_cil, root: ''}", "stream.root: a value is needed."),
    ("stream: {name: digits_cil, shots_list: ''}", "unknown key 'stream.shots_list'"),
    ("stream: {name: folder_cil, root: x, shots_list: ''}", "stream.shots_list: got an empty text, expected text, or"),
]


@pytest.mark.parametrize(("text", "problem"), EMPTY)
def test_a_setting_that_is_needed_and_left_empty_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(problem)):
        build_config(str(tmp_path / "mine.yaml"), "sft")


@pytest.mark.parametrize("word", ["stream=", "stream=null", "method=", "model=~", "model.path=", "run.output="])
def test_a_word_without_a_value_is_not_taken_for_a_choice(word: str) -> None:
    words = [one for one in ("stream=digits_cil", "method=sft") if one.partition("=")[0] != word.partition("=")[0]]
    with pytest.raises(UserError, match=r"a value is needed|got an empty text"):
        chosen_config([*words, word])


def test_a_section_that_is_left_empty_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("stream: {name: digits_cil}\ntrain:\n")
    usual = build_config("digits_cil", "sft", "qwen2_vl_2b").train
    assert usual != TrainConfig() and build_config(str(tmp_path / "mine.yaml"), "sft", "qwen2_vl_2b").train == usual


def test_names_are_as_they_are_written_and_numbers_as_yaml_has_them(tmp_path: Path) -> None:
    text = "stream: {name: folder_dil, root: x, domains: [no, on, 007, 1.50, 1e3], shots: 010}"
    (tmp_path / "mine.yaml").write_text(text)
    config = build_config(str(tmp_path / "mine.yaml"), "sft", "tiny", 8, parse_overrides(["run.sweep=2024_01"]))
    assert config.stream.domains == ("no", "on", "007", "1.50", "1e3")
    assert (config.stream.shots, config.run.sweep) == (10, "2024_01")
    write_config(config, tmp_path)
    assert config_of(read_yaml(tmp_path / "config.yaml")) == config
    chosen = chosen_config(["stream=digits_cil", "method=sft", "seed=010"])
    assert (chosen.seed, chosen.cell) == (10, "digits_cil-sft-10")
    with pytest.raises(UserError, match="seed: got '1_000', expected a whole number"):
        chosen_config(["stream=digits_cil", "method=sft", "seed=1_000"])


PLUGIN = '''
from dataclasses import dataclass
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import Method
from task_streams.errors import UserError

@dataclass(frozen=True)
class Config:
    """Settings."""
    weight: float = 1.0
    """A weight."""

class Mine(Method):
    name, family, Config = "config_mine", "part", Config

@dataclass(frozen=True, slots=True)
class Bounds(GrpoConfig):
    """Settings."""
    low: float = 0.0
    """Lower bound."""
    high: float = 1.0
    """Upper bound."""

    def __post_init__(self):
        GrpoConfig.__post_init__(self)
        if self.low > self.high:
            raise UserError(f"low: got {self.low}, expected a number up to high.")

class Extended(Grpo):
    name, Config = "config_extended", Bounds
'''


@pytest.fixture
def plugged(tmp_path: Path) -> Callable[..., RunConfig]:
    """Settings of a run with a plugin's methods."""
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    own = {"run": {"plugins": [str(path)]}}
    return lambda method, *words: build_config("digits_cil", method, "tiny", 1, own, parse_overrides(words))


def test_a_plugins_part_joins_a_learner_with_settings_of_its_own(plugged: Callable[..., RunConfig]) -> None:
    config = plugged("grpo+config_mine+ewc")
    other = plugged("grpo+config_mine+ewc", "method.parts.config_mine.weight=3", "method.kl=0.5")
    assert [name for name, _ in config.parts] == ["config_mine", "ewc"]
    assert (other.method.kl, dict(other.parts)["config_mine"].weight) == (0.5, 3.0)
    assert config.cell == "digits_cil-grpo+config_mine+ewc-1"
    with pytest.raises(UserError, match=r"Did you mean 'method.parts.config_mine.weight'"):
        plugged("grpo+config_mine", "method.parts.config_mine.wieght=3")


def test_a_plugins_settings_extend_ours_and_have_checks_of_their_own(plugged: Callable[..., RunConfig]) -> None:
    made = plugged("config_extended", "method.low=-1")
    assert (made.method.low, made.method.group_size) == (-1.0, 8)
    with pytest.raises(UserError) as caught:
        plugged("config_extended", "method.low=2", "method.high=true", "method.kl=-1")
    assert set(caught.value.problems) == {
        "method.low: got 2.0, expected a number up to high.",
        "method.high: got True, expected a number.",
        "method.kl: got -1, expected a number from 0.",
    }


def test_a_part_alone_joins_sft_and_a_yaml_may_list_methods(tmp_path: Path) -> None:
    alone = build_config("digits_cil", "ewc")
    assert (alone.method_name, [name for name, _ in alone.parts], alone.method_label) == ("sft", ["ewc"], "ewc")
    path = tmp_path / "both.yaml"
    path.write_text("method: [grpo, {name: ewc, strength: 3}, replay]\n")
    listed = build_config("digits_cil", str(path))
    assert [name for name, _ in listed.parts] == ["ewc", "replay"]
    assert dict(listed.parts)["ewc"].strength == 3


@pytest.mark.parametrize(
    ("method", "reason"),
    [("grpo+sft", "'sft' learns by itself"), ("zero_shot+ewc", "'zero_shot' is frozen"), ("grpo+ewcc", "mean 'ewc'")],
)
def test_methods_that_cannot_go_together_are_refused_before_any_work(method: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build_config("digits_cil", method)
