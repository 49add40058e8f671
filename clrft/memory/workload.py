"""What decides a run's memory beside its model: how the model is held and trained, and what goes through it at once."""

from dataclasses import dataclass

from clrft.memory.activations import Precision


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is held and trained.

    Attributes:
        precision: types of its numbers.
        checkpointing: activations are computed again in the backward pass.
        autocast: matrices are applied to, and kept in, a smaller type than the weights'.
        compensated: beside each trained weight there is what its updates have left over (``adamw_kahan``).
        gpu: it is on a GPU.
        anchor: an anchor is kept.
        reference: a reference is kept; an adapter's is the model without it.
        offloaded: both rest in CPU memory while the policy is on the GPU, which has one of them at a time.
        fisher: Fisher information is kept.
        recorded: decoding steps are, in buffers that stay.
        split: weights are, among processes; frozen copies keep their type then.
    """

    precision: Precision
    checkpointing: bool = False
    autocast: bool = False
    compensated: bool = False
    gpu: bool = False
    anchor: bool = False
    reference: bool = False
    offloaded: bool = False
    fisher: bool = False
    recorded: bool = False
    split: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through the model at a time.

    Attributes:
        rows: completions of an update.
        micro_rows: of a micro-batch.
        prompts: different prompts of an update.
        micro_prompts: of a micro-batch.
        prompt: tokens of a prompt.
        completion: tokens of a completion.
        patches: of the images and clips of a prompt.
        images: of a prompt.
        samples: completions are sampled from the policy.
        shared: each prompt is computed once for its completions.
        once: the policy's only pass over prompts and completions has gradients, and is there from sampling on.
        prefixes: bytes of what prompts leave behind in anchor and reference that may be kept.
        examples: different prompts of a task; None if that is not known.
        tested: rows of a test's batch.
    """

    rows: int
    micro_rows: int
    prompts: int
    micro_prompts: int
    prompt: int
    completion: int
    patches: int
    images: int
    samples: bool
    shared: bool
    tested: int
    once: bool = False
    prefixes: int = 0
    examples: int | None = None

    @property
    def length(self) -> int:
        """Tokens of a prompt and its completion."""
        return self.prompt + self.completion
