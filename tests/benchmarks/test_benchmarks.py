"""Every benchmark can be imported, and the harness measures what it says: exact lengths, floors and ratios by hand."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from unittest.mock import call as mock_call

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.engine.__main__ import main
from benchmarks.engine.floor import decoding_weights, floor_seconds
from benchmarks.engine.memory import highest, on_cpu, reachable_tensors, stored_bytes
from benchmarks.engine.models import as_transformers_has_it, config_2b, load, processor_2b
from benchmarks.engine.options import Options, options_of
from benchmarks.engine.pairs import Case, Contender, Sample, Turn, measured, ratios, spread
from benchmarks.engine.peak import Peak
from benchmarks.engine.rollout import sampled_turn, until_end
from benchmarks.engine.table import worst
from benchmarks.engine.trainers import step_parts, trainer_of
from benchmarks.engine.workload import prompt_length, shortest_prompt, workload
from benchmarks.equality import main as equality
from methods.model.config import Decoding
from task_streams.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FILES = [path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py") if path.name != "__init__.py"]
MODULES = sorted(".".join(path.with_suffix("").parts) for path in FILES)
CPU = torch.device("cpu")
QUICK = ("--no-memory",)
SMALL = ("--prompts", "2", "--group", "2", "--rounds", "1", "--warmup", "1", "--completion-tokens", "3")


def test_every_module_under_benchmarks_can_be_imported() -> None:
    assert {"benchmarks.domain_accuracy", "benchmarks.engine.step"} <= set(MODULES)  # of the folder and of one below it
    assert [name for name in MODULES if not import_module(name).__doc__] == []


@pytest.mark.parametrize("tokens", [60, 512])
@pytest.mark.parametrize("model", ["tiny", "qwen2_vl_2b_random"])
def test_every_prompt_has_the_length_that_is_asked_for(model: str, tokens: int) -> None:
    processor = processor_2b() if model != "tiny" else load(Options("step")).processor
    options = Options("step", prompt_tokens=tokens + (64 if model != "tiny" else 0))
    work = workload(options, processor)
    assert work.prompt_tokens == prompt_length(processor, work.task) == options.prompt_tokens
    assert len(set(work.task.seen)) == len(work.task.seen)


def test_a_prompt_shorter_than_any_is_refused_with_the_shortest() -> None:
    processor = load(Options("step")).processor
    least = shortest_prompt(Options("short"), processor)
    assert workload(Options("step", prompt_tokens=least), processor).prompt_tokens == least
    with pytest.raises(UserError, match=f"got {least - 1}, expected at least {least}"):
        workload(Options("step", prompt_tokens=least - 1), processor)


def test_completions_have_the_length_that_is_asked_for() -> None:
    policy = load(Options("rollout", completion_tokens=30))  # the embedded model ends its answers far earlier
    work = workload(Options("rollout"), policy.processor)
    policy.meter.taken()
    policy.generate(work.requests(4), Decoding(30))
    assert policy.meter.taken()["tokens_generated"] == 4 * 30


def test_the_2b_shape_has_the_published_size_and_the_tokenizers_special_tokens() -> None:
    tokenizer = processor_2b().tokenizer
    config = config_2b(tokenizer)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 2_208_985_600  # of Qwen2-VL-2B-Instruct
    assert max(tokenizer.get_vocab().values()) < config.text_config.vocab_size
    assert tokenizer.convert_ids_to_tokens(config.image_token_id) == "<|image_pad|>"
    # layers of 46,797,824 weights of which 46,792,704 are matrices': 2 * 1536^2 + 2 * 1536 * 256 + 3 * 1536 * 8960
    language = 28 * (2 * 1536**2 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    weights = language + 151936 * 1536
    assert decoding_weights(model) == (weights, 2 * weights)


def test_stock_is_the_same_model_as_transformers_has_it() -> None:
    ours, stock = load(Options("step")).model, load(Options("step"), stock=True).model
    kinds = {type(module).__module__.split(".")[0] for module in stock.modules()}
    assert kinds == {"torch", "transformers"}
    assert all(torch.equal(one, stock.state_dict()[name]) for name, one in ours.state_dict().items())

    class Ours(torch.nn.Linear):
        __module__ = "methods.faster"

    model = torch.nn.Sequential(Ours(2, 2), torch.nn.ReLU())
    as_transformers_has_it(model)
    assert [type(module) for module in model] == [torch.nn.Linear, torch.nn.ReLU]


def test_the_floor_is_the_products_and_the_weights_that_decoding_reads_up_to_the_longest_completions() -> None:
    # D = 2 * 100 * 10 = 2000 of the 5000 operations; reading takes 4 * 200 / 100 = 8 s, more than 2000 / 1000 = 2 s
    turn = Turn(tokens=12, decode_steps=4, decoded=10)
    for one, bandwidth, expected in ((turn, 100, 3 + 8), (turn, 1e9, 3 + 2), (Turn(), 100, 5)):
        assert floor_seconds(5000, one, (100, 200), Peak(1000, bandwidth)) == pytest.approx(expected)
    turn = sampled_turn([[1, 2, 3], [4]], [[5, 6]])
    assert (turn.tokens, turn.decode_steps, turn.decoded) == (6, 2 + 1, 2 + 0 + 1)
    tokens = torch.tensor([[7, 9, 0], [7, 7, 7]])
    assert until_end(tokens, torch.tensor([9])) == [[7, 9], [7, 7, 7]]


def test_contenders_take_turns_after_the_warmup() -> None:
    both = Mock(**{"a.return_value": Turn(seconds=1.0), "b.return_value": Turn(seconds=2.0)})
    case = Case("", {}, "a", [Contender("a", both.a), Contender("b", both.b)])
    samples = measured(case, rounds=3, warmup=2, device=CPU)
    assert both.method_calls == [mock_call.a(), mock_call.b()] * 5
    assert ratios(samples["b"], samples["a"]) == [2.0, 2.0, 2.0]
    assert spread([1.0, 2.0, 3.0, 4.0]) == {"median": 2.5, "quarter": 1.75, "three_quarters": 3.25}
    assert spread([2.0]) == {"median": 2.0, "quarter": 2.0, "three_quarters": 2.0}


def test_a_contender_without_memory_enough_has_no_samples() -> None:
    fails = Mock(side_effect=torch.OutOfMemoryError("no memory"))
    case = Case("", {}, "a", [Contender("a", fails), Contender("b", Turn)])
    samples = measured(case, rounds=1, warmup=1, device=CPU)
    assert samples["a"] == [] and len(samples["b"]) == 1
    assert isinstance(samples["b"][0], Sample)


def test_memory_of_a_turn_is_the_most_that_was_allocated_at_once_and_what_is_held_counts_once() -> None:
    assert highest([5, -5, 3, 4, -7]) == 7

    def take() -> None:
        first = torch.zeros(1000, 1000)  # 4 MB
        second = first + 1
        del first
        second.sum()

    assert 8_000_000 <= on_cpu(take) < 8_100_000
    weight = torch.zeros(10)
    tensors = reachable_tensors({"a": [weight], "b": {"c": weight[2:], "d": torch.nn.Linear(2, 3)}, "self": None})
    assert stored_bytes(tensors) == 4 * (10 + 2 * 3 + 3)


def test_the_parts_of_a_step_add_up_and_the_worst_ratio_is_named_with_its_case() -> None:
    parts = step_parts({"prepare": 5.0, "rollout": 3.0, "logprobs": 1.0}, 9.0)
    assert parts == {"rollout": 3.0, "logprobs": 1.0, "rewards_and_data": 1.0, "update": 4.0}
    cases = []
    for group, ratio in ((2, 0.9), (4, 0.5)):
        rows = {name: {"ratio": {"median": median}} for name, median in (("a", 1.0), ("b", ratio))}
        cases.append({"title": "t", "axes": {"group": group}, "baseline": "a", "contenders": rows})
    assert worst(cases) == {"ratio": 0.9, "contender": "b", "title": "t", "axes": {"group": 2}}
    assert worst([]) is None


def test_the_command_line_has_the_defaults_of_the_options() -> None:
    assert options_of(["step"]) == Options("step")
    given = options_of(["step", "--groups", "2", "8", "--only", "stock", "rapo", "--no-memory", "--checkpointing"])
    assert (given.groups, given.only) == ((2, 8), ("stock", "rapo"))
    assert (given.memory, given.checkpointing) == (False, True)


@pytest.mark.parametrize(("name", "parts"), [("stock", 4), ("rapo_plain", 4), ("rapo", 2)])
def test_ours_may_have_other_micro_batches_than_stock(name: str, parts: int, tmp_path: Path) -> None:
    options = Options("step", prompts=4, group=4, accumulation=4, own_accumulation=2)
    policy = load(options)
    work = workload(options, policy.processor)
    assert trainer_of(name, policy, work, options, tmp_path).args.gradient_accumulation_steps == parts


def test_equality_says_how_near_the_paths_come_to_each_other(tmp_path: Path) -> None:
    file = tmp_path / "equality.json"
    assert equality([*SMALL[:4], "--completion-tokens", "4", "--device", "cpu", "--output", str(file)]) == 0
    written = json.loads(file.read_text())
    shared = written["scores"]["shared from plain"]
    assert written["dtype"] == "float32"
    assert 0 < shared["logps_largest"] < 1e-4 and 0 < shared["gradients"] < 1e-5
    assert all(row == {"tokens": 1.0, "completions": 1.0} for row in written["tokens"].values())


@pytest.mark.parametrize(
    ("bench", "words", "contenders"),
    [
        ("rollout", (), ["stock", "plain", "ours"]),
        ("logprobs", QUICK, ["stock", "ours"]),
        ("step", (*QUICK, "--only", "rapo_plain", "rapo"), ["rapo_plain", "rapo"]),
        ("evaluate", (*QUICK, "--items", "4", "--batch", "2"), ["plain", "ours"]),
        ("scaling", (*QUICK, "--groups", "2", "--lengths", "--batches", "--only", "stock", "grpo"), ["stock", "grpo"]),
    ],
)
def test_every_bench_writes_what_it_measured(
    bench: str, words: tuple[str, ...], contenders: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    assert main([bench, *SMALL, *words, "--device", "cpu", "--output", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["options"]["bench"] == bench
    assert {"versions", "hardware", "code", "peak"} <= set(written)
    for case in written["results"][bench]["cases"]:
        assert list(case["contenders"]) == contenders
        for name, row in case["contenders"].items():
            assert len(case["seconds"][name]) == 1
            assert row["completion_tokens"] == 4 * 3  # four rows, be it of two groups of two or of four items
            assert row["share_of_peak"] > 0 and row["times_floor"] > 0
