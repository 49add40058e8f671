"""Settings shared by all methods: the training budget and the optimizer. Plain frozen dataclasses."""

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
        batch = self.prompts_per_update
        require(
            "train",
            updates=(self.updates >= 1, self.updates, "a whole number from 1"),
            epochs=(self.epochs is None or self.epochs > 0, self.epochs, "a number above 0, or null"),
            prompts_per_update=(batch >= 1, batch, "a whole number from 1"),
            accumulation=(self.accumulation >= 1, self.accumulation, "a whole number from 1"),
            optimizer=(self.optimizer in OPTIMIZERS, self.optimizer, f"one of {', '.join(OPTIMIZERS)}"),
            learning_rate=(0 < self.learning_rate < 1, self.learning_rate, "a number above 0 and below 1"),
            schedule=(
                self.schedule in ("linear", "constant", "cosine"),
                self.schedule,
                "one of linear, constant, cosine",
            ),
            kept_prefixes=(self.kept_prefixes >= 0, self.kept_prefixes, "a whole number from 0"),
            warmup=(self.warmup >= 0, self.warmup, "a whole number from 0"),
            weight_decay=(self.weight_decay >= 0, self.weight_decay, "a number from 0"),
            max_grad_norm=(self.max_grad_norm > 0, self.max_grad_norm, "a number above 0"),
            max_prompt_tokens=(self.max_prompt_tokens >= 1, self.max_prompt_tokens, "a whole number from 1"),
            max_completion_tokens=(
                self.max_completion_tokens >= 1,
                self.max_completion_tokens,
                "a whole number from 1",
            ),
            rollouts=(self.rollouts in ROLLOUTS, self.rollouts, f"one of {', '.join(ROLLOUTS)}"),
            vllm_memory=(0 < self.vllm_memory < 1, self.vllm_memory, "a number above 0 and below 1"),
            vllm_server=(
                self.vllm_server.startswith(("http://", "https://")),
                self.vllm_server,
                "an address, e.g. http://127.0.0.1:8000",
            ),
            workers=(self.workers is None or self.workers >= 0, self.workers, "a whole number from 0, or null"),
        )
