"""Plans of cells: counted work against the meter of real runs, formulas by hand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.memory.estimate import estimate
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import ALONE, Sharing
from clrft.planning.hardware import Speed
from clrft.planning.plan import CELL, EXCHANGE, STAGE, Disk, assumed_seconds, disk_of, makespan, seconds_of
from clrft.planning.stage_work import COLUMNS, Cell, Lengths, micro_batches, part_of
from clrft.planning.stream_statistics import statistics_of
from clrft.runner.run import run
from clrft.runs.layout import DRIFT, EVALUATE, TRAIN
from clrft.runs.read import RunRecord, read_run
from clrft.utils.progress import Silent
from methods.model.config import ModelConfig
from tests.processes import ended, several

SMALL = ["stream.tasks=2", "stream.shots=8", "stream.test_per_class=6", "train.updates=3", "train.warmup=0"]
SMALL += ["train.prompts_per_update=4", "evaluate.probe=8", "evaluate.drift_prompts=3", "run.mlflow=false"]
# What prompts begin with, a list of two classes or more, is at least 28 tokens: once for 20 of them, 19 * 28 >= 512.
LEADS = ("model.media=last", "stream.shots=12", "stream.test_per_class=12", "train.prompts_per_update=20")
ONE_STREAM = ("parts=[{streams: [coco_5x16]}]",)
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "images")
FEW = Lengths(10, 10, 1.3)


def config_of(method: str, *words: str) -> RunConfig:
    return build_config("digits_cil", method, "tiny", 1993, parse_overrides([*SMALL, *words]))


def cell_of(config: RunConfig, lengths: Lengths = FEW, sharing: Sharing = ALONE) -> Cell:
    return Cell(config, torch.device("cpu"), lengths, sharing)


def assert_counted(cell: Cell, record: RunRecord, operations: bool = True) -> pd.DataFrame:
    """What is planned is what the stages of a real run have counted; operations if completions are as long as taken."""
    work = cell.work()
    for stage in cell.stages:
        costs, planned = record.task_metrics(stage)["cost"], work.loc[stage]
        assert set(costs) == set(planned.index)
        for activity, counts in planned.iterrows():
            told = {name: costs[activity][name] for name in COUNTS}
            assert counts[list(COUNTS)].to_dict() == pytest.approx(told, rel=1e-9), (stage, activity)
            if operations:
                assert counts.model_flops == pytest.approx(costs[activity]["model_flops"], rel=0.2), (stage, activity)
    return work


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("rapo", ()),
        ("grpo", ("method.updates_per_batch=2", "train.updates=4")),
        ("sft+lwf", ("train.epochs=1.0",)),
        ("sft+ewc", ("evaluate.future=true",)),
        ("joint_grpo", ("train.accumulation=2", "model.adapter=lora")),
    ],
)
def test_counted_work_is_that_of_a_real_run(tmp_path: Path, method: str, words: tuple[str, ...]) -> None:
    """Completions are taken as 10 tokens, as the base writes them."""
    config = config_of(method, f"run.output={tmp_path}", *words)
    record, cell = read_run(run(config, Silent())), cell_of(config)
    work = assert_counted(cell, record)
    costs = {stage: record.task_metrics(stage)["cost"] for stage in cell.stages}
    told = sum(one["tokens_generated"] for stage in costs.values() for one in stage.values())
    assert work.tokens_generated.sum() == pytest.approx(told, rel=0.15)
    for stage in cell.stages[1:]:
        trained = work.loc[(stage, TRAIN)]
        assert trained.updates == len(record.steps(stage))
        near = 1e-9 if method.startswith("sft") else 0.2
        assert trained.tokens_trained == pytest.approx(costs[stage][TRAIN]["tokens_trained"], rel=near)


def test_what_all_prompts_begin_with_is_counted_as_a_run_computes_it(tmp_path: Path) -> None:
    """20 prompts of an update and 24 of a test share it; the last 4 of the 24 in a frozen model, and drift's 3, not."""
    config = config_of("grpo", *LEADS, f"run.output={tmp_path}")
    record, cell, plain = read_run(run(config, Silent())), cell_of(config), cell_of(config)
    shared = assert_counted(cell, record, operations=False).loc[1]
    first, *others = cell.statistics.tasks
    apart = replace(first, prompt=replace(first.prompt, lead=0.0))
    plain.statistics = replace(cell.statistics, tasks=(apart, *others))
    alone = plain.work().loc[1]
    assert (shared.prompt_tokens_computed < alone.prompt_tokens_computed)[[TRAIN, EVALUATE]].all()
    assert shared.prompt_tokens.equals(alone.prompt_tokens)


def test_counted_work_of_two_processes_is_that_of_a_real_run(tmp_path: Path) -> None:
    """Weights are split; three batches of a test go to two processes; drift is measured by both."""
    own = ("evaluate.batch_size=5", f"run.output={tmp_path}", "model.dtype=float32")
    words = ["-m", "clrft", "run", "stream=digits_cil", "method=rapo", "seed=1993", *SMALL, *own]
    told = ended(several(2, words, {"ACCELERATE_USE_FSDP": "true"}), 120)
    assert [code for code, _, _ in told] == [0, 0], told
    config = config_of("rapo", *own)
    assert_counted(cell_of(config, sharing=Sharing(2, split=True)), read_run(config.folder))


def test_rows_are_dealt_out_as_a_run_does() -> None:
    # 12 rollouts, 4 of a prompt, in two parts of 6, three for each of two: 012 and 345, 678 and 9 10 11
    assert part_of(12, 2 * 2, 4) == (3, (1 + 2 + 2 + 1) / 4)
    assert part_of(2, 4, 4) == (1 / 2, 2 / 4)  # two of four have none
    # 11 items in batches of 4, two for an update: 4 and 4, 3; then once more 4 and 4
    train = config_of("sft", "train.prompts_per_update=8", "train.accumulation=2").train
    assert micro_batches(train, 11, 3) == {4: 4, 3: 1}
    # a batch of one row: the other of two processes computes one as well, from which nothing is learned
    config = config_of("sft", "train.epochs=1.0", "train.prompts_per_update=5", "evaluate.drift_prompts=0")
    alone, two = (cell_of(config, sharing=one).work().loc[1, TRAIN] for one in (ALONE, Sharing(2)))  # 16: 5, 5, 5, 1
    assert (two.updates, two.tokens_trained) == (alone.updates, alone.tokens_trained) == (4, alone.tokens_trained)
    assert two.images == alone.images + 1 == 17


def test_work_is_shared_or_done_by_every_process() -> None:
    """Tests of 12 items in batches of 5: three, two of them are the first process's; the probe, 8: one of two."""
    config = config_of("sft+ewc", "evaluate.batch_size=5", "evaluate.final_list=false")
    alone, two = (cell_of(config, sharing=one).work().loc[1] for one in (ALONE, Sharing(2)))
    assert (alone.share == 1).all()
    assert two.share.to_dict() == {EVALUATE: (2 + 1) / (3 + 2), TRAIN: 1 / 2, DRIFT: 1 / 2}
    counts = [*COUNTS, "tokens_generated", "tokens_trained", "launched"]
    assert two.loc[EVALUATE, counts].equals(alone.loc[EVALUATE, counts])
    assert two.loc[DRIFT, counts].equals(2 * alone.loc[DRIFT, counts])
    # three updates on 4 rows, two each; Fisher information of all 16 items, by both
    assert two.tokens_trained[TRAIN] == alone.tokens_trained[TRAIN]
    assert two.tokens_generated[TRAIN] == 2 * alone.tokens_generated[TRAIN] == 2 * 16 * 10
    # the gradients of 3 updates, summed: each process gets the other's half, and then the sums of its own
    assert two.exchanged[TRAIN] == 3 * 4 * known_sizes(config.model).trained
    assert two.updates[TRAIN] == 3


def test_split_weights_are_gathered_for_every_pass() -> None:
    """Of W bytes a process has a quarter. An update of sft: forward, backward, gradients: 3 * 3/4 W; tests: 3/4 W."""
    config = config_of("sft", "stream.tasks=1")
    cell = cell_of(config, sharing=Sharing(4, split=True))
    work = cell.work().loc[1:]
    size = 4 * known_sizes(config.model).parameters
    assert work.exchanged.loc[1].to_dict() == pytest.approx(
        {TRAIN: 3 * 3 * 3 / 4 * size, EVALUATE: 3 / 4 * size, DRIFT: 0}
    )
    speed = Speed(flops=1e12, bandwidth=1e12, launch=0, start=0, disk=1e12, link=1e6)
    seconds = assumed_seconds(cell, work, Disk(0, 0, 0), speed)
    assert seconds[EXCHANGE] == pytest.approx((3 * 3 + 1) * 3 / 4 * size / 1e6)
    # rapo in its second task: the anchor and the base are gathered for tests too
    parts = cell_of(config_of("rapo"), sharing=Sharing(2, split=True)).work().exchanged
    assert parts[1, EVALUATE] == 2 * parts[0, EVALUATE] / 2 == parts[2, EVALUATE] * 2 / 3


def test_memory_is_that_of_a_process(tmp_path: Path) -> None:
    """7B in bfloat16, W: of four processes each has a quarter of policy, moments, gradients, and of the copies."""
    asked = ["methods=[rapo]", "seeds=[136]", "train.optimizer=adamw_kahan", *ONE_STREAM]
    (config,) = load_sweep("detection_cil", parse_overrides(asked))
    sizes, longest, gpu = known_sizes(config.model), statistics_of(config).longest, torch.device("cuda")
    size = 2 * sizes.parameters

    def parts(sharing: Sharing, name: str, *words: str) -> dict[str, int]:
        settings = load_sweep("detection_cil", parse_overrides([*asked, *words]))
        return dict(estimate(settings[0], longest, gpu, sharing)[name].parts)

    quiet = "evaluate.drift_prompts=0"
    split, two = Sharing(4, split=True), Sharing(2)
    tests = parts(split, "testing", quiet)
    assert (tests["weights"], tests["anchor"], tests["reference"]) == (pytest.approx(size / 4),) * 3
    assert tests["gathered weights"] == 3 * size
    training = parts(split, "training", "train.accumulation=4")
    assert training["moments"] == pytest.approx(2 * size / 4)
    assert training["compensation"] == pytest.approx(size / 4)
    assert training["gathered weights"] == size  # while rollouts are sampled
    assert parts(two, "training")["moments"] == 2 * size
    # of the 64 rollouts of an update 16: keys and values of 28 layers, and of one more while they grow
    row = 2 * 512 * 2 * 29 * (longest.tokens + 2048)
    assert training["cache"] == 16 * row
    # drift is of 64 rollouts whatever the share, with two policies' prefixes of 8 prompts
    assert parts(split, "testing")["cache"] == 64 * row + 2 * 8 * 2 * 512 * 2 * 29 * longest.tokens
    # float32 weights are twice as many bytes; what autocast applies of them stands beside what is put together
    wide = parts(split, "training", "train.accumulation=4", "train.optimizer=adamw_float32")
    assert wide["moments"] == pytest.approx(4 * size / 4)
    assert wide["gathered weights"] == 2 * size + size
    assert parts(split, "testing", quiet, "train.optimizer=adamw_float32")["anchor"] == pytest.approx(2 * size / 4)
    # of sft nothing is at hand: the policy it is compared with is loaded
    (plain,) = load_sweep("detection_cil", parse_overrides(["methods=[sft]", *asked[1:]]))
    found = estimate(plain, longest, gpu, split)
    assert found["testing"].phase == "drift"
    assert found["testing"].parts["another policy"] == size


def test_items_and_answers_are_those_that_are_asked() -> None:
    """Two tasks of two classes, 6 items each: 12 a task. After task 1: 12, once more under the final list, probe 8."""
    work = cell_of(config_of("sft", "evaluate.drift_prompts=0")).work().test_items.unstack()
    assert list(work[EVALUATE]) == [8, 12 + 12 + 8, 24 + 8]
    assert set(work) == {EVALUATE, TRAIN}
    assert list(cell_of(config_of("zero_shot")).work().test_items) == [8, 24, 24 + 8]


def test_seconds_by_hand() -> None:
    """Reading 4e12 operations at 2e12 a second takes 2 s; its launches, 100 layers at 1 ms, 0.1 s: 2 s.

    Decoding: 1e9 operations, 6e9 bytes at 3e9 a second, 2 s, and 5000 layers at 1 ms, 5 s: 5 s.
    """
    speed = Speed(flops=2e12, bandwidth=3e9, launch=1e-3, start=0, disk=1e9)
    counts = {"passes": 4e12, "launched": 100, "decoding": 1e9, "moved": 6e9, "share": 1}
    work = pd.DataFrame([{**counts, "stepped": 5000}, counts], columns=COLUMNS).fillna(0.0)  # recorded as a graph
    assert list(seconds_of(work, speed)) == pytest.approx([2 + 5, 2 + 2])
    # Two workers: 5 and 3, then 2 beside the 5; the last goes to who is free at 5.
    assert makespan([5, 3, 2, 4], 2) == 9
    assert makespan([5, 3, 2, 4], 1) == 14


def test_a_decoding_step_reads_all_weights_and_the_cache_of_its_rows() -> None:
    """2B: 28 layers, 2 key heads of 128; 8 rows of 100 + 20/2 tokens: 2 * 256 * 28 * 8 * 110 numbers of 2 bytes."""
    sizes = known_sizes(ModelConfig(path="Qwen/Qwen2-VL-2B-Instruct", dtype="bfloat16"))
    assert sizes.parameters == 2_208_985_600  # of the published checkpoint
    config = build_config("digits_cil", "rapo", "qwen2_vl_2b", 1993, parse_overrides(["model.dtype=bfloat16"]))
    wrote = cell_of(config, Lengths(20, 20, 1.5)).written(8, prompt=100, mean=20)
    weights = sizes.shape.language.weights + sizes.shape.head.weights
    assert wrote["moved"] == 30 * 2 * (weights + 2 * 256 * 28 * 8 * 110)
    assert (wrote["stepped"], wrote["tokens_generated"]) == (30 * 28, 160)


def test_disk_is_what_the_settings_keep() -> None:
    """Two tasks; weights W, adapter A; moments are twice what is trained; three states while one is written."""

    def disk(*words: str) -> tuple[int, int]:
        cell = cell_of(config_of("sft", *words))
        found = disk_of(cell, cell.work())
        return found.kept, found.meanwhile

    size = known_sizes(ModelConfig(dtype="float32")).parameters * 4
    adapter = known_sizes(ModelConfig(dtype="float32", adapter="lora")).trained * 4
    rest = CELL + 3 * STAGE
    assert disk()[0] == pytest.approx(2 * size + rest, abs=80_000)  # tokenizers, answers and steps
    assert disk("train.carry_optimizer=true")[0] - disk()[0] == 2 * 2 * size
    assert disk()[0] - disk("run.keep_weights=last")[0] == pytest.approx(size, abs=30_000)
    assert disk()[1] == 3 * 3 * size
    assert disk("run.checkpoint_every=0")[1] == 0
    assert disk("model.adapter=lora")[0] == pytest.approx(2 * adapter + rest, abs=40_000)
