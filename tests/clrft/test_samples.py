"""Every family of streams on real data, from the command line to its matrix: trained, tested, written, printed."""

from pathlib import Path

import numpy as np
import pytest

from clrft.cli.main import main
from clrft.runs.read import read_run
from tests.shared_data import shared

SMALL = (
    *("stream.shots=2", "stream.test_per_class=2", "train.updates=2", "train.prompts_per_update=2"),
    *("evaluate.probe=0", "evaluate.drift_prompts=0", "run.mlflow=false"),
)

# name: (sample, stream section, method, words)
FAMILIES = {
    "CIFAR-10 from parquet, new classes": (
        "cifar10",
        "{{name: table_cil, train: {root}/train.parquet, test: {root}/test.parquet, tasks: 2, classes_per_task: 2}}",
        "sft",
        "train.max_completion_tokens=40 train.workers=1",
    ),
    "PACS from parquet, new domains": (
        "pacs",
        "{{name: table_dil, train: {root}/train.parquet, test: {root}/test.parquet, domain_column: domain,"
        " domains: [photo, sketch]}}",
        "grpo",
        "train.max_completion_tokens=32",
    ),
    "COCO, boxes of new categories": (
        "coco_mini",
        "{{name: coco_cil, root: {root}, tasks: 2, classes_per_task: 40, allow_empty_classes: true}}",
        "sft",
        "train.max_completion_tokens=64 train.allow_cut_answers=true stream.test_per_class=1 stream.shots=1",
    ),
    "clips, new classes": (
        "clips_mini",
        "{{name: clips_cil, root: {root}, tasks: 2, classes_per_task: 2, fps: 8, max_frames: 2}}",
        "rapo",
        "train.max_completion_tokens=48",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_real_data_ends_with_its_matrix(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, section, method, words = FAMILIES[family]
    (tmp_path / "mine.yaml").write_text(f"stream: {section.format(root=shared(sample))}\n")
    output = tmp_path / "runs"
    given = [*SMALL, *words.split()]  # the later word of a key wins
    assert main(["run", f"stream={tmp_path / 'mine.yaml'}", f"method={method}", *given, f"run.output={output}"]) == 0
    said = capsys.readouterr().out
    record = read_run(next((output / "single").glob("mine-*")))
    assert len(record.matrix) == 2
    assert np.isnan(record.matrix.value[0, 1]) and not np.isnan(record.matrix.value[1]).any()
    assert record.matrix.measure == ("box AP" if sample == "coco_mini" else "accuracy")
    assert ("Box AP (%)" if sample == "coco_mini" else "Accuracy (%)") in said
    assert sorted(path.name for path in output.iterdir()) == [".cache", "single"]  # nothing else is written
