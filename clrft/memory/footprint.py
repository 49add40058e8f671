"""What a run needs of its device's memory at its peaks, estimated before anything is trained: bytes by named parts.

A task goes through phases that need different things: sampling completions, scoring them, computing gradients, the
optimizer's step, testing. Each phase is a sum of parts; the largest counts. Everything is at its worst: the longest
prompt and completion in every row. Deliberately absent: what a method's own hooks compute or keep beyond its ``needs``,
libraries and kernels (``MARGIN`` stands for them), images that are larger than those that were looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clrft.memory.activations import EXACT, Pass, kept, text_end, text_layer, tower_ends, tower_layer
from clrft.memory.sizes import ModelSizes
from clrft.memory.workload import Load, Setup
from methods.generation.completion_logps import LARGEST, in_one_row

MARGIN = 1.1  # an allocator's gaps between blocks, kernels' scratch memory
MOMENTS = 2  # of AdamW, each in the type of the weight that it belongs to
TABLES = 4  # of logits in float32: as they come, by temperature, their softmax, its gradient
TILE = (4096, 32768)  # tokens and vocabulary for which TRL's fused head has logits at a time
FISHER = 2  # running and new one, in float32
SAMPLING, SCORING, UPDATE, STEP, TESTING = "sampling", "scoring", "gradients", "optimizer step", "testing"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one phase: bytes by part, those that are none left out."""

    phase: str
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all parts, with the margin."""
        return int(MARGIN * sum(self.parts.values()))

    def largest(self) -> list[tuple[str, int]]:
        """Parts and their bytes, the largest first."""
        return sorted(self.parts.items(), key=lambda part: -part[1])


def peak_of_training(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """The phase of training that needs most."""
    phases = [update(sizes, setup, load), optimizer_step(sizes, setup, load)]
    if load.samples:
        phases += [sampling(sizes, setup, load), scoring(sizes, setup, load)]
    return max(phases, key=lambda phase: phase.total)


def peak_of_testing(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """Testing: a batch's keys and values, and logits of its next tokens; the trainer is gone by then."""
    generating = _generating(sizes, setup, load, load.tested, load.tested)
    generating["decoding"] = cache(sizes, setup, load.tested, load.length) if setup.recorded else 0
    return _footprint(TESTING, weights(sizes, setup), _snapshots(sizes, setup, at_work=False), generating)


def sampling(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """The completions of an update at once, whatever the accumulation; gradients are gone, moments are not."""
    prompts = load.prompts if load.shared else load.rows
    generating = _generating(sizes, setup, load, load.rows, prompts)
    if load.once and not setup.checkpointing:  # prompts are computed with gradients, which the loss uses
        generating["activations"] += _kept(sizes, setup, load)[0]
        generating["vision"] = _tower(sizes, setup, load)[1]
    return _footprint(SAMPLING, _learning(sizes, setup, load), _snapshots(sizes, setup, at_work=False), generating)


def scoring(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """Log-probabilities without gradients, a micro-batch at a time: one layer's numbers are there at once."""
    layer, tower = max(_text(sizes, setup, load)), _tower(sizes, setup, load)[0]
    rows = load.micro_rows if load.shared else 0
    work = {
        "cache": cache(sizes, setup, rows, load.length),
        "activations": max(layer, tower),
        "logits": logits(sizes, setup, load, backward=False),
        "images": _pixels(sizes, load.prompts if load.shared else load.prompts + load.micro_rows, load),
        "autocast copies": autocast_copies(sizes, setup),
    }
    return _footprint(SCORING, _learning(sizes, setup, load), _snapshots(sizes, setup, at_work=True), work)


def update(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """Forward and backward of a micro-batch: what is kept, and the gradient of one layer's share of it at a time."""
    each = _kept(sizes, setup, load)
    layer, tower = _tower(sizes, setup, load)
    waiting = trained(sizes, setup) if load.shared else 0
    work = {
        "gradients": early_gradients(sizes, setup, load),
        # Autograd adds the completions' gradients to the prompts' when it has both: they wait as activations go.
        "activations": sum(each[:-1]) + max(each[-1], waiting),
        "vision": tower,
        "backward": max(*_text(sizes, setup, load), layer),
        "logits": logits(sizes, setup, load, backward=True),
        "images": _pixels(sizes, load.prompts if load.shared else load.prompts + load.micro_rows, load),
        "autocast copies": autocast_copies(sizes, setup),
    }
    # Supervised losses ask the anchor beside the policy; so do rewards where what the policy keeps is there already.
    snapshots = _snapshots(sizes, setup, at_work=load.once or not load.samples)
    return _footprint(UPDATE, _learning(sizes, setup, load), snapshots, work)


def autocast_copies(sizes: ModelSizes, setup: Setup) -> int:
    """Weights in the type that they are applied in, kept as long as a pass takes, or as recorded steps are there."""
    return sizes.parameters * setup.precision.compute if setup.autocast else 0


def optimizer_step(sizes: ModelSizes, setup: Setup, load: Load) -> Footprint:
    """AdamW's step; on a GPU torch takes all weights at once and needs their size once more (``foreach``)."""
    size = trained(sizes, setup)
    work = {"gradients": size, "step": size if setup.gpu else 0}
    return _footprint(STEP, _learning(sizes, setup, load), _snapshots(sizes, setup, at_work=False), work)


def weights(sizes: ModelSizes, setup: Setup) -> dict[str, int]:
    """The policy as it is held."""
    return {"weights": sizes.parameters * setup.precision.weight + _adapter(sizes, setup)}


def standing(sizes: ModelSizes, setup: Setup) -> dict[str, int]:
    """What is there from a task's first update to its last."""
    size = trained(sizes, setup)
    numbers = size // (setup.precision.adapter or setup.precision.weight)
    fisher = FISHER * EXACT * numbers if setup.fisher else 0
    compensation = size if setup.compensated else 0
    return {**weights(sizes, setup), "moments": MOMENTS * size, "compensation": compensation, "fisher": fisher}


def trained(sizes: ModelSizes, setup: Setup) -> int:
    """Bytes of the weights that are trained, each with a gradient and moments of its own type."""
    return _adapter(sizes, setup) or sizes.parameters * setup.precision.weight


def early_gradients(sizes: ModelSizes, setup: Setup, load: Load) -> int:
    """Gradients that are there while activations still are: those of micro-batches before, if there are any.

    Else they grow as activations go; that of the output head, which may be the embeddings' too, comes first.
    """
    if load.micro_rows < load.rows:
        return trained(sizes, setup)
    head = sizes.text.vocabulary * sizes.text.width * setup.precision.weight
    return 0 if setup.precision.rank else head


def cache(sizes: ModelSizes, setup: Setup, rows: int, length: int) -> int:
    """Keys and values of rows of a length; a layer's are there twice while they grow.

    Under autocast keys leave their rotation in the type of the hidden states, which is that of the weights.
    """
    text, precision = sizes.text, setup.precision
    each = precision.compute + (precision.weight if setup.autocast else precision.compute)
    return text.keys * each * (text.layers + 1) * rows * length


def logits(sizes: ModelSizes, setup: Setup, load: Load, backward: bool) -> int:
    """Logits of the completions: of a bounded table of tokens, or of tiles in TRL's fused head.

    The fused head adds up the gradient of its weight in float32, for all of the vocabulary.
    """
    text, positions = sizes.text, load.micro_rows * load.completion
    if load.shared:
        return TABLES * EXACT * min(positions * text.vocabulary, max(LARGEST, text.vocabulary))
    tile = min(load.micro_rows * load.length, TILE[0]) * min(text.vocabulary, TILE[1])
    head = text.vocabulary * text.width * EXACT if backward and setup.precision.rank == 0 else 0
    return tile * (setup.precision.compute + (0 if setup.gpu else TABLES * EXACT)) + head


def _generating(sizes: ModelSizes, setup: Setup, load: Load, rows: int, prompts: int) -> dict[str, int]:
    """Generation: the cache of all rows, a layer's numbers while prompts are read, logits of every row's next token.

    Recorded steps have buffers for completions, and copies of the prompts' keys and values.
    """
    patches, images = prompts * load.patches, prompts * load.images
    reading = text_layer(sizes.text, setup.precision, Pass(prompts, load.prompt, load.prompt))
    return {
        "cache": cache(sizes, setup, prompts, load.prompt)
        if setup.recorded
        else cache(sizes, setup, rows, load.length),
        "activations": max(reading, tower_layer(sizes.tower, setup.precision, patches, images)),
        "logits": TABLES * EXACT * rows * sizes.text.vocabulary,
        "images": _pixels(sizes, rows, load),
        "autocast copies": autocast_copies(sizes, setup),
    }


def _adapter(sizes: ModelSizes, setup: Setup) -> int:
    return setup.precision.rank * setup.precision.adapter * (sizes.text_sides + sizes.tower_sides)


def _snapshots(sizes: ModelSizes, setup: Setup, at_work: bool) -> dict[str, int]:
    """Anchor and reference on the device; ``at_work``: one of them is asked, wherever it rests."""
    if setup.precision.rank:
        return {"anchor": _adapter(sizes, setup) if setup.anchor else 0}
    copy = sizes.parameters * setup.precision.weight if setup.split else frozen_copy(sizes, setup)
    if not setup.offloaded:
        return {"anchor": copy * setup.anchor, "reference": copy * setup.reference}
    return {"anchor or reference": copy if at_work and (setup.anchor or setup.reference) else 0}


def frozen_copy(sizes: ModelSizes, setup: Setup) -> int:
    """A copy that is only asked: under autocast all but the embeddings are held as they are applied."""
    embeddings = sizes.text.vocabulary * sizes.text.width
    wide = embeddings if setup.autocast else sizes.parameters
    return wide * setup.precision.weight + (sizes.parameters - wide) * setup.precision.compute


def _learning(sizes: ModelSizes, setup: Setup, load: Load) -> dict[str, int]:
    """What is there while a task is learned, what prompts left behind in frozen models included."""
    frozen = setup.anchor + setup.reference if load.shared else 0
    most = load.prefixes if load.examples is None else load.examples * frozen * cache(sizes, setup, 1, load.prompt)
    buffers = cache(sizes, setup, load.prompts, load.prompt) + cache(sizes, setup, load.rows, load.completion)
    return {
        **standing(sizes, setup),
        "kept prefixes": min(load.prefixes, most) if frozen else 0,
        "decoding": buffers if setup.recorded and load.samples else 0,
    }


def _passes(setup: Setup, load: Load) -> list[Pass]:
    """A micro-batch through the language model: prompts once and completions after them, or rows as they are."""
    if not load.shared:
        return [Pass(load.micro_rows, load.length, load.length)]
    prompts = Pass(load.micro_prompts, load.prompt, load.prompt)
    group, rest = divmod(load.micro_rows, load.micro_prompts)
    together = group * load.completion
    if rest or setup.checkpointing or not in_one_row(group, load.prompt, load.completion, setup.precision.attention):
        return [prompts, Pass(load.micro_rows, load.completion, load.length)]
    return [prompts, Pass(load.micro_prompts, together, load.prompt + together)]


def _text(sizes: ModelSizes, setup: Setup, load: Load) -> list[int]:
    """One layer of each pass."""
    return [text_layer(sizes.text, setup.precision, one) for one in _passes(setup, load)]


def _kept(sizes: ModelSizes, setup: Setup, load: Load) -> list[int]:
    """What each pass through the language model keeps for its backward pass."""
    text, precision, passes = sizes.text, setup.precision, _passes(setup, load)
    states = [one.rows * one.tokens * text.width * precision.compute for one in passes]
    return [
        kept(layer, text.layers, state, setup.checkpointing) + text_end(text, precision, one)
        for layer, state, one in zip(_text(sizes, setup, load), states, passes, strict=True)
    ]


def _tower(sizes: ModelSizes, setup: Setup, load: Load) -> tuple[int, int]:
    """One layer of the vision tower, and what is kept of all; nothing is where an adapter leaves the tower out."""
    tower, precision = sizes.tower, setup.precision
    rows = load.micro_prompts if load.shared else load.micro_rows
    patches = rows * load.patches
    layer = tower_layer(tower, precision, patches, rows * load.images)
    if precision.rank and not sizes.tower_sides:
        return layer, 0
    states = patches * tower.width * precision.compute
    return layer, kept(layer, tower.layers, states, setup.checkpointing) + tower_ends(tower, precision, patches)


def _pixels(sizes: ModelSizes, rows: int, load: Load) -> int:
    """Patches of rows, or of prompts for all of their rows, as the processor makes them, in float32."""
    return rows * load.patches * sizes.tower.values * EXACT


def _footprint(phase: str, *groups: Mapping[str, int]) -> Footprint:
    joined: dict[str, int] = {}
    for group in groups:
        joined |= group
    return Footprint(phase, {name: size for name, size in joined.items() if size})
