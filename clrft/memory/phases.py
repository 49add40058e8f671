"""What a run needs of its device's memory in each phase, estimated before anything is trained: bytes by named parts.

A task goes through phases that need different things: sampling completions, scoring them, computing gradients, the
optimizer's step, testing, the measure of drift. Each is a sum of parts; the largest counts. Everything is at its worst:
the longest prompt and completion in every row, prompts padded so that attention has a mask. Activations are what
autograd saves in transformers' layers, numbers per position times bytes; a test counts the same with
``torch.autograd.graph.saved_tensors_hooks``.
Deliberately absent: what a method's own hooks compute or keep beyond its ``needs``; statistics of norms and softmax,
rotations, token ids; libraries and kernels (``MARGIN`` stands for them); images larger than those that were looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from clrft.memory.model_sizes import ModelSizes
from methods.costs.pass_sizes import LARGEST, in_one_row

EXACT = 4  # bytes of float32, in which norms and softmax are computed
TEXT_MATRICES = 7  # of a layer: queries, keys, values, output; gate, up, down
MARGIN = 1.1  # an allocator's gaps between blocks, kernels' scratch memory
MOMENTS = 2  # of AdamW, each in the type of the weight that it belongs to
TABLES = 4  # of logits in float32: as they come, by temperature, their softmax, its gradient
TILE = (4096, 32768)  # tokens and vocabulary for which TRL's fused head has logits at a time
FISHER = 2  # running and new one, in float32
AT_ONCE = 2  # layers whose split weights are gathered: the one that is computed, and the next one
SAMPLING, SCORING, UPDATE, STEP = "sampling", "scoring", "gradients", "optimizer step"
TESTING, DRIFT = "testing", "drift"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one phase: bytes by part, those that are none left out."""

    phase: str
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all parts, with the margin."""
        return int(MARGIN * sum(self.parts.values()))


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is held and trained."""

    weight: int  # bytes of a weight
    compute: int  # bytes of a number that matrices are applied to; smaller than a weight's under autocast
    adapter: int = 0  # bytes of an adapter's weight; 0 for full fine-tuning
    rank: int = 0  # of the adapter; 0 for full fine-tuning
    attention: str = "sdpa"  # flash_attention_2, sdpa or eager
    checkpointing: bool = False  # activations are computed again in the backward pass
    compensated: bool = False  # beside each trained weight there is what its updates have left over (adamw_kahan)
    gpu: bool = False
    anchor: bool = False  # one is kept
    reference: bool = False  # one is kept; an adapter's is the model without it
    offloaded: bool = False  # both rest in CPU memory while the policy is on the GPU, which has one of them at a time
    fisher: bool = False  # Fisher information is kept
    recorded: bool = False  # decoding steps are, in buffers that stay
    parts: int = 1  # processes that the weights are split among; frozen copies keep their type then

    @property
    def autocast(self) -> bool:
        """Whether matrices are applied to, and kept in, a smaller type than the weights'."""
        return self.weight != self.compute


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through the model at a time."""

    rows: int  # completions of an update
    micro_rows: int  # of a micro-batch
    prompts: int  # different ones of an update
    micro_prompts: int  # of a micro-batch
    prompt: int  # tokens of a prompt
    completion: int  # tokens of a completion
    patches: int  # of the images and clips of a prompt
    images: int  # of a prompt
    samples: bool  # completions are sampled from the policy
    shared: bool  # each prompt is computed once for its completions
    tested: int  # rows of a test's batch
    once: bool = False  # the policy's only pass over prompts and completions has gradients, from sampling on
    prefixes: int = 0  # bytes of what prompts leave behind in anchor and reference that may be kept
    examples: int | None = None  # different prompts of a task; None if that is not known


@dataclass(frozen=True, slots=True)
class Pass:
    """Some rows that go through a language model."""

    rows: int
    tokens: int  # of each row, that are computed
    context: int  # tokens of each row that these look at, themselves included


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of a process; formulas of activations first."""

    sizes: ModelSizes
    setup: Setup
    load: Load

    def text(self, one: Pass) -> tuple[int, int]:
        """What a pass through the language model keeps of one layer, and of all and what follows them, bytes.

        A layer: two norms, each its input in float32 and what is multiplied by the weight, if that is trained; inputs
        of queries, keys and values, of gate and up, one each, or a copy for each matrix; attention; gate, its
        activation, up, and their product. At the end: the last norm, and the input of the output head.
        """
        text, setup, positions = self.sizes.text, self.setup, one.rows * one.tokens
        entry = setup.adapter or setup.compute  # an adapter takes its input in its own type
        copies = entry != setup.weight or setup.autocast
        scaled = 0 if setup.rank else setup.weight
        norms = 2 * text.width * (EXACT + scaled)
        inputs = (5 if copies else 2) * text.width * entry
        gated = text.inner * (3 * setup.compute + entry)
        adapter = TEXT_MATRICES * setup.rank * setup.adapter
        output = text.queries * (setup.adapter if setup.rank and copies else 0)  # its matrix's own copy
        layer = positions * (norms + inputs + gated + adapter + output) + self._attention(one)
        end = positions * text.width * (EXACT + scaled + setup.compute)
        return layer, self._all_layers(layer, text.layers, positions * text.width * setup.compute) + end

    def _attention(self, one: Pass) -> int:
        """A layer's queries and output, and keys and values of all that is looked at.

        FlashAttention keeps keys and values by their own heads and no mask. SDPA under a mask repeats them for the
        queries' heads and keeps the mask as numbers. Eager attention keeps the probabilities, in float32 and as
        computed.
        """
        text, number, context = self.sizes.text, self.setup.compute, one.rows * one.context
        pairs = one.tokens * context
        kept = one.rows * one.tokens * 2 * text.queries * number
        if self.setup.attention == "flash_attention_2":
            return kept + 2 * context * text.keys * number
        kept += 2 * context * text.queries * number
        if self.setup.attention == "sdpa":
            return kept + pairs * number
        return kept + text.heads * pairs * (EXACT + (number if number != EXACT else 0))

    def tower(self, rows: int, patches: int, images: int) -> tuple[int, int]:
        """What rows keep of one layer of the vision tower, and of all of it; nothing where an adapter leaves it out.

        A layer: two norms' inputs (Qwen2.5's as in the text); inputs of the matrices before and behind attention and
        of the second half; queries, keys, values and output; the second half before, within and behind its activation.
        At the ends: the patches; three inputs and a norm's on the way out.
        """
        tower, setup, patches, images = self.sizes.tower, self.setup, rows * patches, rows * images
        entry = setup.adapter or setup.compute
        scaled = 0 if setup.rank else setup.weight
        norms = 2 * tower.width * (EXACT + scaled if tower.gated else setup.compute)
        inner = tower.inner * ((3 if tower.gated else 2) * setup.compute + entry)
        layer = patches * (norms + 3 * tower.width * entry + 4 * tower.width * setup.compute + inner)
        if setup.attention == "eager":
            layer += tower.heads * patches * patches // max(images, 1) * EXACT
        if setup.rank and not self.sizes.tower_sides:
            return layer, 0
        values = 0 if setup.rank else tower.values * setup.compute
        ends = patches * (values + 3 * tower.width * entry + tower.width * setup.compute)
        return layer, self._all_layers(layer, tower.layers, patches * tower.width * setup.compute) + ends

    def _all_layers(self, layer: int, layers: int, state: int) -> int:
        """With checkpointing each layer keeps its input alone, and one at a time is computed again (1604.06174)."""
        return layers * state + layer if self.setup.checkpointing else layers * layer

    @property
    def own_parameters(self) -> int:
        """Weights of the model that a process has."""
        return math.ceil(self.sizes.parameters / self.setup.parts)

    @property
    def adapter(self) -> int:
        """Bytes of the adapter."""
        return self.setup.rank * self.setup.adapter * (self.sizes.text_sides + self.sizes.tower_sides)

    @property
    def weights(self) -> int:
        """Bytes of the policy as it is held."""
        return self.own_parameters * self.setup.weight + self.adapter

    @property
    def trained(self) -> int:
        """Bytes of the weights that are trained, each with a gradient and moments of its own type."""
        return self.adapter or self.own_parameters * self.setup.weight

    def frozen_copy(self, parameters: int) -> int:
        """A copy that is only asked: under autocast all but the embeddings are held as they are applied."""
        wide = self.sizes.text.vocabulary * self.sizes.text.width if self.setup.autocast else parameters
        return wide * self.setup.weight + (parameters - wide) * self.setup.compute

    def autocast_copies(self, parameters: int) -> int:
        """Weights in the type that they are applied in, kept as long as a pass, or recorded steps, are there."""
        return parameters * self.setup.compute if self.setup.autocast else 0

    def cache(self, rows: int, length: int) -> int:
        """Keys and values of rows of a length; a layer's are there twice while they grow.

        Under autocast keys leave their rotation in the type of the hidden states, which is that of the weights.
        """
        text = self.sizes.text
        return text.keys * (self.setup.compute + self.setup.weight) * (text.layers + 1) * rows * length

    def training(self) -> Footprint:
        """The phase of training that needs most."""
        phases = [self.gradients(), self.step(), *([self.sampling(), self.scoring()] if self.load.samples else [])]
        return max(phases, key=lambda phase: phase.total)

    def sampling(self) -> Footprint:
        """The completions of an update at once, whatever the accumulation; gradients are gone, moments are not."""
        load = self.load
        generating = self._generating(load.rows, load.prompts if load.shared else load.rows)
        if load.once and not self.setup.checkpointing:  # prompts are computed with gradients, which the loss uses
            generating["activations"] += self.text(self._passes()[0])[1]
            generating["vision"] = self._micro_tower()[1]
        return self._phase(SAMPLING, self._learning(), self._snapshots(at_work=False), generating)

    def scoring(self) -> Footprint:
        """Log-probabilities without gradients, a micro-batch at a time: one layer's numbers are there at once."""
        load = self.load
        work = {
            "cache": self.cache(load.micro_rows if load.shared else 0, load.prompt + load.completion),
            "activations": max(*(self.text(one)[0] for one in self._passes()), self._micro_tower()[0]),
            **self._micro_batch(backward=False),
        }
        return self._phase(SCORING, self._learning(), self._snapshots(at_work=True), work)

    def gradients(self) -> Footprint:
        """Forward and backward of a micro-batch: what is kept, and the gradient of one layer's share of it at a time.

        Gradients grow as activations go, that of the output head first; those of micro-batches before are there.
        """
        load, text = self.load, self.sizes.text
        passes = [self.text(one) for one in self._passes()]
        layer, vision = self._micro_tower()
        head = 0 if self.setup.rank else text.vocabulary * text.width * self.setup.weight
        waiting = self.trained if load.shared else 0
        work = {
            "gradients": self.trained if load.micro_rows < load.rows else head,
            # Autograd adds the completions' gradients to the prompts' when it has both: they wait as activations go.
            "activations": sum(kept for _, kept in passes[:-1]) + max(passes[-1][1], waiting),
            "vision": vision,
            "backward": max(*(one for one, _ in passes), layer),
            **self._micro_batch(backward=True),
        }
        # Supervised losses ask the anchor beside the policy; so do rewards where its passes are kept already.
        return self._phase(UPDATE, self._learning(), self._snapshots(load.once or not load.samples), work)

    def step(self) -> Footprint:
        """AdamW's step; on a GPU torch takes all weights at once and needs their size once more (``foreach``)."""
        work = {"gradients": self.trained, "step": self.trained if self.setup.gpu else 0}
        return self._phase(STEP, self._learning(), self._snapshots(at_work=False), work)

    def testing(self) -> Footprint:
        """Testing: a batch's keys and values, and logits of its next tokens; the trainer is gone by then."""
        load = self.load
        generating = self._generating(load.tested, load.tested)
        buffers = self.cache(load.tested, load.prompt + load.completion) if self.setup.recorded else 0
        weights = {"weights": self.weights}
        return self._phase(TESTING, weights, self._snapshots(at_work=False), {**generating, "decoding": buffers})

    def drift(self, asked: int, rows: int, at_hand: bool) -> Footprint:
        """The measure of drift: rollouts of some prompts by two policies, each read by both.

        Args:
            asked: prompts.
            rows: rollouts of all of them.
            at_hand: the policies to compare with are anchor and reference; else one is loaded beside them, whole.
        """
        load, parts, length = self.load, dict(self.testing().parts), self.load.prompt + self.load.completion
        parts["cache"] = self.cache(rows, length) + 2 * self.cache(asked, load.prompt)
        parts["activations"] = max(parts.get("activations", 0), self.text(Pass(rows, load.completion, length))[0])
        parts["logits"] = TABLES * EXACT * rows * self.sizes.text.vocabulary
        if not self.setup.rank and (self.setup.offloaded or not at_hand):
            parts["another policy"] = self.frozen_copy(self.sizes.parameters)
        return Footprint(DRIFT, parts)

    def _phase(self, phase: str, *groups: Mapping[str, int]) -> Footprint:
        """A phase of some groups of parts, with the split weights that are gathered for it."""
        joined = {name: size for group in groups for name, size in group.items()}
        if self.setup.parts > 1:
            joined["gathered weights"] = self._gathered(phase)
        return Footprint(phase, {name: size for name, size in joined.items() if size})

    def _gathered(self, phase: str) -> int:
        """Bytes of split weights that are put together, and of their gradients before these are summed."""
        sizes, weight = self.sizes, self.setup.weight
        layers = (sizes.outer + AT_ONCE * sizes.shape.language.weights // sizes.text.layers) * weight
        models = 1 + self.setup.anchor + self.setup.reference
        whole = sizes.parameters * weight
        needed = {SAMPLING: whole, SCORING: layers, UPDATE: 2 * layers, TESTING: models * whole}
        return needed[phase] + self.autocast_copies(sizes.parameters) if phase in needed else 0

    def _snapshots(self, at_work: bool) -> dict[str, int]:
        """Anchor and reference on the device; ``at_work``: one of them is asked, wherever it rests."""
        setup = self.setup
        if setup.rank:
            return {"anchor": self.adapter if setup.anchor else 0}
        copy = self.own_parameters * setup.weight if setup.parts > 1 else self.frozen_copy(self.own_parameters)
        if not setup.offloaded:
            return {"anchor": copy * setup.anchor, "reference": copy * setup.reference}
        return {"anchor or reference": copy if at_work and (setup.anchor or setup.reference) else 0}

    def _learning(self) -> dict[str, int]:
        """What is there from a task's first update to its last, what prompts left in frozen models included."""
        load, setup = self.load, self.setup
        numbers = self.trained // (setup.adapter or setup.weight)
        frozen = setup.anchor + setup.reference if load.shared else 0
        most = load.prefixes if load.examples is None else load.examples * frozen * self.cache(1, load.prompt)
        buffers = self.cache(load.prompts, load.prompt) + self.cache(load.rows, load.completion)
        return {
            "weights": self.weights,
            "moments": MOMENTS * self.trained,
            "compensation": self.trained if setup.compensated else 0,
            "fisher": FISHER * EXACT * numbers if setup.fisher else 0,
            "kept prefixes": min(load.prefixes, most) if frozen else 0,
            "decoding": buffers if setup.recorded and load.samples else 0,
        }

    def _generating(self, rows: int, prompts: int) -> dict[str, int]:
        """Generation: the cache of all rows, a layer's numbers while prompts are read, logits of the next tokens.

        Recorded steps have buffers for completions, and copies of the prompts' keys and values.
        """
        load = self.load
        reading = self.text(Pass(prompts, load.prompt, load.prompt))[0]
        cached = (prompts, load.prompt) if self.setup.recorded else (rows, load.prompt + load.completion)
        return {
            "cache": self.cache(*cached),
            "activations": max(reading, self.tower(prompts, load.patches, load.images)[0]),
            "logits": TABLES * EXACT * rows * self.sizes.text.vocabulary,
            "images": self._pixels(rows),
            "autocast copies": self.autocast_copies(self.own_parameters),
        }

    def _micro_batch(self, backward: bool) -> dict[str, int]:
        """Logits and images of a micro-batch, and copies of weights.

        Logits are those of a bounded table of tokens, or of tiles in TRL's fused head, which adds up the gradient of
        its weight in float32, for all of the vocabulary.
        """
        load, setup, text = self.load, self.setup, self.sizes.text
        if load.shared:
            table = min(load.micro_rows * load.completion * text.vocabulary, max(LARGEST, text.vocabulary))
            logits = TABLES * EXACT * table
        else:
            positions = load.micro_rows * (load.prompt + load.completion)
            tile = min(positions, TILE[0]) * min(text.vocabulary, TILE[1])
            head = text.vocabulary * text.width * EXACT if backward and not setup.rank else 0
            logits = tile * (setup.compute + (0 if setup.gpu else TABLES * EXACT)) + head
        shown = load.prompts if load.shared else load.prompts + load.micro_rows
        return {
            "logits": logits,
            "images": self._pixels(shown),
            "autocast copies": self.autocast_copies(self.own_parameters),
        }

    def _micro_tower(self) -> tuple[int, int]:
        """The vision tower on a micro-batch, as ``tower``."""
        load = self.load
        return self.tower(load.micro_prompts if load.shared else load.micro_rows, load.patches, load.images)

    def _pixels(self, rows: int) -> int:
        """Patches of rows, or of prompts for all of their rows, as the processor makes them, in float32."""
        return rows * self.load.patches * self.sizes.tower.values * EXACT

    def _passes(self) -> list[Pass]:
        """A micro-batch through the language model: prompts once and completions after them, or rows as they are."""
        load, length = self.load, self.load.prompt + self.load.completion
        if not load.shared:
            return [Pass(load.micro_rows, length, length)]
        prompts = Pass(load.micro_prompts, load.prompt, load.prompt)
        group, rest = divmod(load.micro_rows, load.micro_prompts)
        together = group * load.completion
        one_row = in_one_row(group, load.prompt, load.completion, self.setup.attention)
        if rest or self.setup.checkpointing or not one_row:
            return [prompts, Pass(load.micro_rows, load.completion, length)]
        return [prompts, Pass(load.micro_prompts, together, load.prompt + together)]
