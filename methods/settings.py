"""Settings shared by all methods: the training budget and the optimizer. Plain frozen dataclasses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from task_streams.errors import UserError

ROLLOUTS = ("own", "vllm", "vllm_server")
AUTO, WIDE, KAHAN, PLAIN = "auto", "adamw_float32", "adamw_kahan", "adamw"
OPTIMIZERS = (AUTO, WIDE, KAHAN, PLAIN)  # what each is: methods/model/numerics.py
LOST_BELOW = 0.9  # share of an update that reached the weights, below which a run says so


def require(section: str, **checks: tuple[bool, Any, str]) -> None:
    """Refuse impossible values, all at once: ``field=(is_valid, given, expected)``.

    Raises:
        UserError: at least one field is not valid.
    """
    problems = [
        f"{section}.{field}: got {given!r}, expected {expected}."
        for field, (is_valid, given, expected) in checks.items()
        if not is_valid
    ]
    if problems:
        raise UserError(*problems)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Values that a setting may have, and how a message names them."""

    expected: str
    holds: Callable[[Any], bool]


FROM_0 = Allowed("a number from 0", lambda value: value >= 0)
ABOVE_0 = Allowed("a number above 0", lambda value: value > 0)
ABOVE_0_BELOW_1 = Allowed("a number above 0 and below 1", lambda value: 0 < value < 1)
ABOVE_0_TO_1 = Allowed("a number above 0, at most 1", lambda value: 0 < value <= 1)
UNIT = Allowed("a number in [0, 1]", lambda value: 0 <= value <= 1)
UNIT_OPEN = Allowed("a number in [0, 1)", lambda value: 0 <= value < 1)
WHOLE_FROM_0 = Allowed("a whole number from 0", lambda value: value >= 0)
WHOLE_FROM_1 = Allowed("a whole number from 1", lambda value: value >= 1)
WHOLE_FROM_2 = Allowed("a whole number from 2", lambda value: value >= 2)


def one_of(values: Sequence[Any]) -> Allowed:
    """One of some values."""
    return Allowed(f"one of {', '.join(map(str, values))}", lambda value: value in values)


def or_none(allowed: Allowed) -> Allowed:
    """The same, or None, which stands for a preset's value."""
    return Allowed(allowed.expected, lambda value: value is None or allowed.holds(value))


def or_null(allowed: Allowed) -> Allowed:
    """The same, or None, which a message offers as ``null``."""
    return Allowed(f"{allowed.expected}, or null", or_none(allowed).holds)


def check(config: Any, section: str = "method", /, **allowed: Allowed | tuple[bool, str]) -> None:
    """Refuse a config's impossible values, all at once: what each field may be, or ``(is_valid, expected)``.

    Raises:
        UserError: at least one field is not valid.
    """
    checks = {}
    for field, rule in allowed.items():
        given = getattr(config, field)
        is_valid, expected = rule if isinstance(rule, tuple) else (rule.holds(given), rule.expected)
        checks[field] = (is_valid, given, expected)
    require(section, **checks)


@dataclass(frozen=True)
class TrainConfig:
    """How much each task is trained, and with which optimizer."""

    updates: int = 30
    """Optimizer steps per task (at least 1); ignored when ``epochs`` is given."""
    epochs: float | None = None
    """Passes over a task's examples (above 0) instead of a number of updates."""
    prompts_per_update: int = 8
    """Examples per optimizer step (at least 1), over all processes."""
    accumulation: int = 1
    """Micro-batches per optimizer step (divides the step's batch); changes memory, not the result."""
    optimizer: str = AUTO
    """adamw_float32, adamw_kahan, adamw (how weights take updates), or auto: as memory allows, see the manifest."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW (above 0)."""
    schedule: str = "linear"
    """Learning-rate schedule within a task: linear (to 0), constant or cosine."""
    warmup: int = 3
    """Updates of linear warm-up at the start of each task (0 or more)."""
    weight_decay: float = 0.01
    """AdamW's weight decay (0 or more)."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm (above 0)."""
    carry_optimizer: bool = False
    """Carry AdamW's moments over task boundaries instead of starting them anew."""
    max_prompt_tokens: int = 2048
    """Longest prompt allowed, image tokens included; a longer one is refused before any work."""
    max_completion_tokens: int = 24
    """Longest completion that is sampled (at least 1)."""
    allow_cut_answers: bool = False
    """Run although some right answers are longer than max_completion_tokens, so that they can never be given."""
    share_prefix: bool = True
    """Compute each group's prompt once instead of once per completion: the same numbers in less time."""
    kept_prefixes: int = 1024
    """MiB of what prompts leave behind in anchor and reference that are kept while a task is learned (0: none)."""
    cuda_graphs: bool | None = None
    """Record decoding steps as CUDA graphs: less waiting between kernels (null: where a GPU and the model allow it)."""
    rollouts: str = "own"
    """What samples completions in training: own (the engine of this suite), vllm (in this process) or vllm_server."""
    vllm_memory: float = 0.3
    """Share of the GPU's memory that vLLM takes in the run's own process (above 0 and below 1)."""
    vllm_server: str = "http://127.0.0.1:8000"
    """Address of the vLLM server."""
    deterministic: bool = True
    """Use kernels that sum in a fixed order, so that the same seed gives the same weights; costs time on a GPU."""
    workers: int | None = None
    """Processes that decode and resize ahead of the training (0: none; null: 2 for data in files on a GPU)."""

    def records(self, device: str) -> bool:
        """Whether decoding steps are recorded on a kind of device (cpu, cuda), where model and weights allow it."""
        return device == "cuda" and self.share_prefix and self.cuda_graphs is not False

    def __post_init__(self) -> None:
        check(
            self,
            "train",
            updates=WHOLE_FROM_1,
            epochs=or_null(ABOVE_0),
            prompts_per_update=WHOLE_FROM_1,
            accumulation=WHOLE_FROM_1,
            optimizer=one_of(OPTIMIZERS),
            learning_rate=ABOVE_0_BELOW_1,
            schedule=one_of(("linear", "constant", "cosine")),
            kept_prefixes=WHOLE_FROM_0,
            warmup=WHOLE_FROM_0,
            weight_decay=FROM_0,
            max_grad_norm=ABOVE_0,
            max_prompt_tokens=WHOLE_FROM_1,
            max_completion_tokens=WHOLE_FROM_1,
            rollouts=one_of(ROLLOUTS),
            vllm_memory=ABOVE_0_BELOW_1,
            vllm_server=(
                self.vllm_server.startswith(("http://", "https://")),
                "an address, e.g. http://127.0.0.1:8000",
            ),
            workers=or_null(WHOLE_FROM_0),
        )
