"""Settings shared by all methods: the training budget and the optimizer."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from task_streams.config import Count, PartialShare, Settings

Optimizer = Literal["auto", "adamw_float32", "adamw_kahan", "adamw"]  # what each is: methods/model/numerics.py
AUTO: Final = "auto"
WIDE: Final = "adamw_float32"
KAHAN: Final = "adamw_kahan"
PLAIN: Final = "adamw"
LOST_BELOW = 0.9  # share of an update that reached the weights, below which a run says so


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How much each task is trained, and with which optimizer."""

    updates: Count = 30
    """Optimizer steps per task (at least 1); ignored when ``epochs`` is given."""
    epochs: PositiveFloat | None = None
    """Passes over a task's examples (above 0) instead of a number of updates."""
    prompts_per_update: Count = 8
    """Examples per optimizer step (at least 1), over all processes."""
    accumulation: Count = 1
    """Micro-batches per optimizer step (divides the step's batch); changes memory, not the result."""
    optimizer: Optimizer = "auto"
    """adamw_float32, adamw_kahan, adamw (how weights take updates), or auto: as memory allows, see the manifest."""
    learning_rate: PartialShare = 1e-4
    """Peak learning rate of AdamW (above 0)."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Learning-rate schedule within a task: linear (to 0), constant or cosine."""
    warmup: NonNegativeInt = 3
    """Updates of linear warm-up at the start of each task (0 or more)."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay (0 or more)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm (above 0)."""
    carry_optimizer: bool = False
    """Carry AdamW's moments over task boundaries instead of starting them anew."""
    max_prompt_tokens: Count = 2048
    """Longest prompt allowed, image tokens included; a longer one is refused before any work."""
    max_completion_tokens: Count = 24
    """Longest completion that is sampled (at least 1)."""
    allow_cut_answers: bool = False
    """Run although some right answers are longer than max_completion_tokens, so that they can never be given."""
    share_prefix: bool = True
    """Compute each group's prompt once instead of once per completion: the same numbers in less time."""
    kept_prefixes: NonNegativeInt = 1024
    """MiB of what prompts leave behind in anchor and reference that are kept while a task is learned (0: none)."""
    cuda_graphs: bool | None = None
    """Record decoding steps as CUDA graphs: less waiting between kernels (null: where a GPU and the model allow it)."""
    rollouts: Literal["own", "vllm", "vllm_server"] = "own"
    """What samples completions in training: own (the engine of this suite), vllm (in this process) or vllm_server."""
    vllm_memory: PartialShare = 0.3
    """Share of the GPU's memory that vLLM takes in the run's own process (above 0 and below 1)."""
    vllm_server: Annotated[str, Field(pattern="^https?://", title="an address, e.g. http://127.0.0.1:8000")] = (
        "http://127.0.0.1:8000"
    )
    """Address of the vLLM server."""
    deterministic: bool = True
    """Use kernels that sum in a fixed order, so that the same seed gives the same weights; costs time on a GPU."""
    workers: NonNegativeInt | None = None
    """Processes that decode and resize ahead of the training (0: none; null: 2 for data in files on a GPU)."""

    def records(self, device: str) -> bool:
        """Whether decoding steps are recorded on a kind of device (cpu, cuda), where model and weights allow it."""
        return device == "cuda" and self.share_prefix and self.cuda_graphs is not False
