"""What may stand in one comparison: what a plan varies is named, anything else refused unless it was asked for."""

from pathlib import Path
from typing import Any

import pytest

from clrft.analysis.compare import compare
from clrft.analysis.comparison_tables import comparison_parts, to_csv
from clrft.analysis.pairs import pairs_to_csv
from clrft.analysis.render import to_markdown
from clrft.cli.main import main
from clrft.runs.read import RunRecord, read_run
from task_streams.errors import UserError
from tests.clrft.run_folders import write_run


def run(sweep: Path, method: str, seed: int = 1, **more: Any) -> RunRecord:
    return read_run(write_run(sweep, method, seed, [[90, None], [60, 80]], **more))


def budget(updates: int) -> dict[str, Any]:
    return {"train": {"learning_rate": 1e-4, "updates": updates}}


def labels(records: list[RunRecord], mix: list[str] | None = None) -> list[str]:
    return [group.label for group in compare(records, mix=mix or []).groups]


@pytest.mark.parametrize("word", ["train.updates", "train", "budget", "all"])
def test_another_budget_is_refused_with_the_remedy_and_mixed_on_request_in_every_output(
    tmp_path: Path, word: str
) -> None:
    records = [run(tmp_path / "a", "sft", config=budget(30)), run(tmp_path / "b", "grpo", config=budget(60))]
    with pytest.raises(UserError) as caught:
        compare(records)
    told, remedy = caught.value.problems
    assert f"train.updates is 30 in {records[0].folder} and 60 in {records[1].folder}" in told
    assert "--mix train.updates" in remedy
    comparison = compare(records, mix=[word])
    assert [group.label for group in comparison.groups] == ["sft [train.updates=30]", "grpo [train.updates=60]"]
    assert any("mixed on request: digits_cil: train.updates is 30 in" in note for note in comparison.notes)
    assert "mixed on request" in to_markdown(comparison_parts(comparison))
    for text in (to_csv(comparison), pairs_to_csv(comparison.pairs, comparison.mixed_by_stream())):
        assert ",train.updates," in text.splitlines()[1]


def test_data_are_compared_within_a_class_order(tmp_path: Path) -> None:
    records = [run(tmp_path / "s", "sft", 1), run(tmp_path / "s", "sft", 2)]
    assert labels(records) == ["sft"]  # their data differ, as their orders do
    other = run(tmp_path / "s", "grpo", 2, manifest={"data": {"sha256": "other"}})
    with pytest.raises(UserError, match=r"manifest\.data\.sha256 is order 2 in .*sft-2 and other in .*grpo-2"):
        compare([*records, other])


@pytest.mark.parametrize(
    ("manifest", "name", "word"),
    [
        ({"versions": {"torch": "x"}}, "versions.torch", "versions"),
        ({"code": {"source_sha256": "x"}}, "code.source_sha256", "versions"),
        ({"prompts": {"task_01": "x", "style": "a"}}, "prompts.task_01", "prompts"),
        ({"prompts": {"task_01": "a", "style": "x"}}, "prompts.style", "prompts"),  # its file was changed meanwhile
        ({"model": {"dtype": "x"}}, "model.dtype", "model"),
        ({"base": {"sha256": "x", "files": {}}}, "base.sha256", "base"),
    ],
)
def test_other_versions_code_prompts_and_models_are_refused(
    tmp_path: Path, manifest: Any, name: str, word: str
) -> None:
    usual = {"versions": {"torch": "a"}, "code": {"source_sha256": "a"}, "prompts": {"task_01": "a", "style": "a"}}
    usual |= {"model": {"dtype": "a"}, "base": {"sha256": "a"}}
    own = worded("my.yaml")
    records = [run(tmp_path / m, m, config=own, manifest=usual | of) for m, of in (("sft", {}), ("grpo", manifest))]
    with pytest.raises(UserError, match=rf"(?s)manifest\.{name} is a in .* and x in .*--mix {word} "):
        compare(records)
    assert [one.name for one in compare(records, mix=[word]).mixed] == [f"manifest.{name}"]


def worded(prompt: str | None, order: str = "sorted") -> dict[str, Any]:
    """The settings of a run with these prompts; None: of before there was a choice."""
    return {"stream": {"name": "digits_cil", "label_order": order} | ({"prompt": prompt} if prompt else {})}


def test_the_command_refuses_and_mixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", "sft", config=budget(30))
    run(tmp_path / "b", "grpo", config=budget(60), manifest={"versions": {"torch": "3"}})
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "train.updates" in said and "manifest.versions.torch" in said
    assert list((tmp_path / "a" / "comparison").iterdir()) == []
    assert main([*words, "--mix", "train.updates,versions"]) == 0
    assert "mixed on request" in (tmp_path / "a" / "comparison" / "table.md").read_text()


def evaluated(way: str) -> dict[str, Any]:
    return {"evaluate": {"decoding": way}}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        # within one sweep what its plan varies is named, be it training, evaluation, or a setting that data follow from
        (
            [("s", name, 30) for name in ("zero_shot", "sft", "rapo")] + [("s", "grpo", 60)],
            ["zero_shot", "sft", "grpo [train.updates=60]", "rapo"],
        ),
        # the frozen base has no budget
        ([("a", "zero_shot", 30), ("b", "sft", 60)], ["zero_shot", "sft"]),
        # groups of one method that training tells apart need no word
        ([("30", "sft", 30), ("60", "sft", 60)], ["sft [train.updates=30]", "sft [train.updates=60]"]),
    ],
)
def test_what_a_plan_varies_or_a_label_tells_is_named(
    tmp_path: Path, runs: list[tuple[str, str, int]], expected: list[str]
) -> None:
    assert (
        labels([run(tmp_path / sweep, method, config=budget(updates)) for sweep, method, updates in runs]) == expected
    )


def test_the_folder_of_single_runs_is_no_plan_and_another_evaluation_is_refused_unless_it_is_the_plans(
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "single"
    with pytest.raises(UserError, match=r"train\.updates"):
        compare([run(sweep, "sft", config=budget(30)), run(sweep, "grpo", config=budget(60))])
    records = [run(tmp_path / way, "sft", config=evaluated(way)) for way in ("greedy", "sampled")]
    with pytest.raises(UserError, match=r"evaluate\.decoding"):
        compare(records)
    assert len(labels(records, ["evaluate"])) == 2
    plan = [("sft", "greedy"), ("grpo", "sampled")]
    records = [run(tmp_path / "s", method, config=evaluated(way)) for method, way in plan]
    assert labels(records) == ["sft [evaluate.decoding=greedy]", "grpo [evaluate.decoding=sampled]"]
    few = {"stream": {"name": "digits_cil", "shots": 2}}  # and the data that follow from a setting of the plan
    records = [run(tmp_path / "t", "sft"), run(tmp_path / "t", "grpo", config=few, manifest={"data": {"sha256": "x"}})]
    assert labels(records) == ["sft [stream.shots=5]", "grpo [stream.shots=2]"]


@pytest.mark.parametrize("before", ["suite", None])
def test_other_prompt_styles_are_refused_and_mixed_on_request(tmp_path: Path, before: str | None) -> None:
    prints = [{"prompts": {"task_01": "a"}}, {"prompts": {"task_01": "b", "style": "c"}}]
    records = [run(tmp_path / "a", "sft", config=worded(before), manifest=prints[0])]
    records.append(run(tmp_path / "b", "grpo", config=worded("rapo_paper"), manifest=prints[1]))
    with pytest.raises(UserError, match=r"stream\.prompt is suite in .*sft-1 and rapo_paper in .*grpo-1"):
        compare(records)
    assert labels(records, ["stream.prompt"]) == ["sft [stream.prompt=suite]", "grpo [stream.prompt=rapo_paper]"]
    # runs of before there were styles stand beside those of the suite's
    assert labels([records[0], run(tmp_path / "c", "sft", 2, config=worded("suite"))]) == ["sft"]


def test_versions_are_compared_over_class_orders_too_and_what_is_not_recorded_or_not_known_is_named(
    tmp_path: Path,
) -> None:
    newer = run(tmp_path / "s", "sft", 2, manifest={"versions": {"torch": "3", "numpy": "2"}})
    with pytest.raises(UserError, match=r"torch is 2 in .* and 3 in"):
        compare([run(tmp_path / "s", "sft", 1), newer])
    records = [run(tmp_path / "t", "sft"), run(tmp_path / "t", "grpo", manifest={"prompts": {"task_01": "a"}})]
    assert any("1 of 2 runs do not record their prompts" in note for note in compare(records).notes)
    with pytest.raises(UserError, match=r"unknown setting 'version'. Did you mean 'versions'\?"):
        compare(records, mix=["version"])
