"""Configuration: every file loads, every mistake is named, all at once."""

from pathlib import Path

import pytest
import yaml

from clrft.config import build_config, field_docs, merge, parse_overrides, typed_config
from clrft.files import config_root
from clrft.sweep import load_sweep
from methods import METHODS
from methods.model_config import ModelConfig
from methods.settings import TrainConfig
from task_streams import STREAMS
from task_streams.errors import UserError


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_root() / group).glob("*.yaml"))


@pytest.mark.parametrize("name", names("streams"))
def test_every_stream_config_loads(name: str) -> None:
    assert build_config(name, "rapo").stream_label == name


@pytest.mark.parametrize("name", sorted({*names("methods"), *METHODS}))
def test_every_method_config_loads(name: str) -> None:
    assert build_config("digits_cil", name).method_label == name


@pytest.mark.parametrize("name", names("models"))
def test_every_model_config_loads(name: str) -> None:
    assert build_config("digits_cil", "rapo", name).model_label == name


@pytest.mark.parametrize("name", names("sweeps"))
def test_every_sweep_config_loads_and_its_cells_have_folders_of_their_own(name: str) -> None:
    cells = load_sweep(name, {})
    assert len({cell.folder for cell in cells}) == len(cells) > 0


def test_no_config_file_lies_where_no_test_looks() -> None:
    found = {path.parent.name for path in config_root().rglob("*.yaml")}
    assert found <= {"streams", "methods", "models", "sweeps"}


@pytest.mark.parametrize(
    "schema",
    [*(spec.config for spec in STREAMS.values()), *(m.Config for m in METHODS.values()), ModelConfig, TrainConfig],
)
def test_every_field_is_explained_in_one_line(schema: type) -> None:
    for name, doc in field_docs(schema).items():
        assert doc and "\n" not in doc, name


def test_later_layers_win_and_the_command_line_is_last() -> None:
    config = build_config(
        "digits_cil", "rapo", "qwen2_vl_2b", 7, {"train": {"learning_rate": 2e-6}}, parse_overrides(["train.epochs=1"])
    )
    assert config.train.learning_rate == 2e-6
    assert config.train.epochs == 1
    assert config.train.warmup == 0  # the model's file
    assert config.train.prompts_per_update == 8  # the default


def test_the_saved_form_loads_to_the_same_configuration() -> None:
    config = build_config("digits_dil", "rapo_released_code", "tiny", 5, parse_overrides(["train.updates=3"]))
    saved = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    seed = saved.pop("seed")
    labels = {group: saved[group].pop("label") for group in ("stream", "method", "model")}
    assert typed_config(saved, labels, seed) == config


def test_all_mistakes_are_reported_at_once_with_the_nearest_name() -> None:
    words = [
        "train.learning_rate=-1",
        "train.lerning_rate=1e-4",
        "method.group_size=1",
        "train.updates=many",
        "evaluate.metrics=[forgeting]",
        "stream.tasks=11",
        "stream.classes_per_task=1",
        "trian.updates=3",
    ]
    with pytest.raises(UserError) as caught:
        build_config("digits_cil", "rapo", "tiny", 1993, parse_overrides(words))
    text = str(caught.value)
    assert len(caught.value.problems) == 7
    assert "train.learning_rate: got -1" in text
    assert "Did you mean 'train.learning_rate'?" in text
    assert "method.group_size: got 1" in text
    assert "train.updates: got 'many', expected int" in text
    assert "Did you mean 'forgetting'?" in text
    assert "11 classes asked" in text
    assert "Did you mean 'train'?" in text


def test_numbers_may_be_written_with_an_exponent() -> None:
    assert parse_overrides(["train.learning_rate=1e-4"]) == {"train": {"learning_rate": 1e-4}}


def test_words_that_set_nothing_are_named() -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(["rapo", "=3"])
    assert len(caught.value.problems) == 2


def test_lists_are_replaced_not_joined() -> None:
    assert merge({"a": {"b": [1, 2]}}, {"a": {"b": [3]}}) == {"a": {"b": [3]}}


def test_a_stream_may_come_from_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stream: {name: digits_cil, tasks: 2, classes_per_task: 3}\n")
    config = build_config(str(path), "sft")
    assert (config.stream_label, config.stream.tasks) == ("mine", 2)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("just words\n")
    with pytest.raises(UserError, match="expected sections"):
        build_config(str(path), "sft")


def test_a_single_value_where_a_list_is_needed_is_named() -> None:
    with pytest.raises(UserError, match=r"seeds is 1990, expected a list, e.g. seeds=\[1990\]"):
        load_sweep("quickstart", {"seeds": 1990})


def test_varied_settings_make_cells_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(
        "streams: [digits_cil]\nmethods: [sft, grpo]\nseeds: [1]\n"
        "set: {train: {updates: 2}}\nper_method: {grpo: {method: {kl: 0.1}}}\n"
        "vary: {train.learning_rate: [1.0e-5, 1.0e-4]}\n"
    )
    cells = load_sweep(str(path), {})
    assert [cell.cell for cell in cells] == [
        "digits_cil-sft-1-learning_rate=1e-05",
        "digits_cil-sft-1-learning_rate=0.0001",
        "digits_cil-grpo-1-learning_rate=1e-05",
        "digits_cil-grpo-1-learning_rate=0.0001",
    ]
    assert {cell.train.updates for cell in cells} == {2}
    assert cells[2].method.kl == 0.1
    assert cells[0].train.learning_rate == 1e-5
