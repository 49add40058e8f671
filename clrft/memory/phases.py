"""What a run needs of its device's memory in each phase, estimated before anything is trained: bytes by named parts.

A task goes through phases that need different things: sampling completions, computing gradients (scoring needs less),
the optimizer's step, testing, the measure of drift. Each is a sum of parts; the largest counts. Everything is at its
worst: the longest prompt and completion in every row, prompts padded so that attention has a mask. Activations are what
autograd saves in transformers' layers, numbers per position times bytes; a test counts the same with
``torch.autograd.graph.saved_tensors_hooks``.
Deliberately absent: what a method's own hooks compute or keep beyond its ``needs``; statistics of norms and softmax,
rotations, an adapter's inner numbers, token ids; tiles of TRL's fused head; libraries and kernels (``MARGIN``
stands for them); images larger than those that were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from clrft.config.run_config import RunConfig
from clrft.memory.model_sizes import known_sizes
from methods import build_method
from methods.costs.pass_sizes import LARGEST, in_one_row
from methods.lazy import torch
from methods.model.config import choose_attention, choose_dtype
from methods.settings import AUTO, KAHAN, WIDE
from methods.training.budget import rows_per_update

EXACT = 4  # bytes of float32: of norms and softmax, and of an adapter's weights, whatever the model's type
MARGIN = 1.1  # an allocator's gaps between blocks, kernels' scratch memory
MOMENTS = 2  # of AdamW, each in the type of the weight that it belongs to
FISHER = 2  # running and new one, in float32
AT_ONCE = 2  # layers whose split weights are gathered: the one that is computed, and the next one
SHOWN = 4  # parts that are named
SAMPLING, UPDATE, STEP, TESTING, DRIFT = "sampling", "gradients", "optimizer step", "testing", "drift"


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes of a run, which share an update's rows and a test's batches."""

    processes: int = 1  # each has a device
    split: bool = False  # each keeps a part of weights, gradients and moments (FSDP2); else every one has all of them


ALONE = Sharing()


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one phase: bytes by part, those that are none left out."""

    phase: str
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all parts, with the margin."""
        return int(MARGIN * sum(self.parts.values()))

    @property
    def largest(self) -> str:
        """The largest parts, GiB each."""
        parts = sorted(self.parts.items(), key=lambda part: -part[1])[:SHOWN]
        return ", ".join(f"{name} {gib(size)}" for name, size in parts)


def gib(count: int) -> str:
    """Bytes in GiB, to a digit after the point, or three digits where that would be 0."""
    return f"{count / 2**30:.{1 if count >= 0.1 * 2**30 else 3}f}"


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest of what a run's prompts have, each by itself."""

    tokens: int  # of a prompt, those of images and clips included
    patches: int  # of the images and clips of a prompt
    images: int  # of a prompt; the steps of a clip's time
    pixels: int  # of an image as the model sees it
    answer: int = 1  # tokens of a right answer, end of sequence included
    examples: int | None = None  # that a task learns from; None if that is not known
    items: int | None = None  # that are tested together at most; None if that is not known


class Phases:
    """The phases of one of a run's processes; ``train.optimizer=auto`` stands for what needs most memory."""

    def __init__(self, config: RunConfig, longest: Longest, device: torch.device, sharing: Sharing = ALONE) -> None:
        self.config, self.longest, self.sharing = config, longest, sharing
        self.sizes = sizes = known_sizes(config.model)
        self.method = method = build_method(config.method_name, config.method, config.parts)
        train, model, self.gpu = config.train, config.model, device.type == "cuda"
        self.parts = sharing.processes if sharing.split else 1  # of the weights; frozen copies keep their type then
        self.lora = model.adapter == "lora"
        # Bytes of a number that matrices are applied to, and of a weight: larger under autocast.
        kind = choose_dtype(model, device)
        self.compute, self.attention = kind.itemsize, choose_attention(model, device, kind)
        self.weight = EXACT if train.optimizer in (AUTO, WIDE) and not self.lora else self.compute
        # Of a number that comes into a matrix (an adapter takes it in its own type); of one that a norm keeps, which is
        # its input in float32 and what a trained weight is multiplied by.
        self.entry, self.norm = EXACT if self.lora else self.compute, EXACT + (0 if self.lora else self.weight)
        # Frozen models; an adapter's reference is the model without it, and one copy serves both where they are alike.
        self.anchor = "anchor" in method.needs
        self.reference = "reference" in method.needs and not (self.anchor and method.anchor_rule.kind == "base")
        self.offloaded = self.gpu and model.anchor_memory == "cpu"  # one at a time is on the GPU, if it is asked
        self.recorded = train.records(device.type) and not sharing.split  # decoding, in buffers that stay
        # Completions of an update and of a micro-batch, and their different prompts; each is computed once if shared.
        rows, group = rows_per_update(method, train), int(getattr(config.method, "group_size", 1))
        self.samples = method.family == "reinforcement"
        self.shared = self.samples and train.share_prefix
        self.rows, self.micro = (math.ceil(rows / parts / sharing.processes) for parts in (1, train.accumulation))
        self.prompts = math.ceil(self.rows / group)
        self.micro_prompts = most_prompts(self.micro, group) if self.shared else self.micro
        self.tested = min(config.evaluate.batch_size, longest.items or config.evaluate.batch_size)
        self.prompt, self.completion = longest.tokens, train.max_completion_tokens
        # Bytes in float32: of a token: logits as they come, by temperature, their softmax, its gradient; of a prompt:
        # patches as the processor makes them.
        self.logits = 4 * EXACT * sizes.vocabulary
        self.pixels = longest.patches * sizes.values * EXACT
        # Bytes: of the policy as it is held; of what is trained, each weight with a gradient and moments of its type;
        # of weights as they are applied, under autocast; of a frozen copy, in which all but the embeddings are so.
        own = math.ceil(sizes.parameters / self.parts)
        adapter = sizes.trained * EXACT if self.lora else 0
        self.weights, self.trained = own * self.weight + adapter, adapter or own * self.weight
        self.compensated = self.trained if train.optimizer == KAHAN and not self.lora and self.compute < EXACT else 0
        autocast = self.weight != self.compute
        self.applied, wide = own * self.compute * autocast, sizes.vocabulary * sizes.width * autocast
        self.another = wide * self.weight + (sizes.parameters - wide) * self.compute
        self.copy = own * self.weight if self.parts > 1 else self.another

    def text(self, rows: int, tokens: int, context: int) -> tuple[int, int]:
        """What a pass through the language model keeps of one layer, and of all and what follows them, bytes.

        A layer: two norms; inputs of queries, keys and values, of gate and up, one each, or a copy for each matrix;
        gate, its activation, up, and their product. Attention: queries and output, keys and values of all that is
        looked at. FlashAttention keeps those by their own heads and no mask; SDPA under a mask repeats them for the
        queries' heads and keeps the mask as numbers; eager attention keeps the probabilities, in float32 and as
        computed. At the end: the last norm, and the input of the output head.

        Args:
            rows: that go through together.
            tokens: of each row, that are computed.
            context: tokens of each row that these look at, themselves included.
        """
        sizes, positions, seen, number = self.sizes, rows * tokens, rows * context, self.compute
        width, queries = sizes.width, sizes.shape.language_width
        inputs = 2 * width * self.entry
        if self.entry != self.weight or self.weight != number:
            inputs = 5 * width * self.entry + (queries * EXACT if self.lora else 0)
        gated = sizes.gate * (3 * number + self.entry)
        layer = positions * (2 * width * self.norm + inputs + gated + 2 * queries * number)
        layer += 2 * seen * (sizes.keys if self.attention == "flash_attention_2" else queries) * number
        if self.attention == "sdpa":
            layer += tokens * seen * number
        elif self.attention == "eager":
            layer += tokens * seen * sizes.heads * (EXACT + (number if number != EXACT else 0))
        state = positions * width * number
        # With checkpointing each layer keeps its input alone, and one at a time is computed again (1604.06174).
        layers = sizes.shape.language_layers
        kept = layers * state + layer if self.config.model.gradient_checkpointing else layers * layer
        return layer, kept + positions * width * self.norm + state

    def tower(self, rows: int) -> tuple[int, int]:
        """What rows keep of one layer of the vision tower, and of all of it; nothing where an adapter leaves it out.

        A layer: two norms' inputs (Qwen2.5's as in the text); inputs of the matrices before and behind attention and
        of the second half; queries, keys, values and output; the second half before, within and behind its activation.
        At the ends: the patches; three inputs and a norm's on the way out.
        """
        sizes, patches, number = self.sizes, rows * self.longest.patches, self.compute
        width = sizes.shape.vision_width
        norms = 2 * width * (self.norm if sizes.gated else number)
        inner = sizes.inner * ((3 if sizes.gated else 2) * number + self.entry)
        layer = patches * (norms + width * (3 * self.entry + 4 * number) + inner)
        if self.attention == "eager":
            layer += sizes.tower_heads * patches * self.longest.patches // max(self.longest.images, 1) * EXACT
        if not sizes.tower_trained:
            return layer, 0
        ends = patches * (width * (3 * self.entry + number) + (0 if self.lora else sizes.values * number))
        layers, state = sizes.tower_layers, patches * width * number
        return layer, ends + (layers * state + layer if self.config.model.gradient_checkpointing else layers * layer)

    def cache(self, rows: int, length: int) -> int:
        """Keys and values of rows of a length; a layer's are there twice while they grow.

        Under autocast keys leave their rotation in the type of the hidden states, which is that of the weights.
        """
        layers = self.sizes.shape.language_layers + 1
        return self.sizes.keys * (self.compute + self.weight) * layers * rows * length

    def training(self) -> dict[str, Footprint]:
        """The phases of training by name.

        Gradients: forward and backward of a micro-batch, what is kept, and the gradient of one layer's share of it at a
        time. Gradients grow as activations go, that of the output head first; those of micro-batches before are there.
        Logits are those of a bounded table of tokens. Supervised losses ask the anchor beside the policy; so do rewards
        where the policy's only passes have gradients. AdamW's step: on a GPU torch takes all weights at once and needs
        their size once more (``foreach``). Sampling: the completions of an update at once, whatever the accumulation;
        gradients are gone, moments are not.
        """
        sizes, train, length = self.sizes, self.config.train, self.prompt + self.completion
        # Rows, tokens and context of each pass: prompts once and completions behind them, or rows as they are.
        passes = [self.text(self.micro_prompts, self.prompt, self.prompt)] if self.shared else []
        group, rest = divmod(self.micro, self.micro_prompts)
        alone = rest or self.config.model.gradient_checkpointing
        if not self.shared:
            passes.append(self.text(self.micro, length, length))
        elif alone or not in_one_row(group, self.prompt, self.completion, self.attention):
            passes.append(self.text(self.micro, self.completion, length))
        else:
            together = group * self.completion
            passes.append(self.text(self.micro_prompts, together, self.prompt + together))
        layer, vision = self.tower(self.micro_prompts)
        head = 0 if self.lora else sizes.vocabulary * sizes.width * self.weight
        once = self.shared and train.accumulation == self.config.method.updates_per_batch == self.parts == 1
        learning, gradients = self._learning(), self.trained if self.micro < self.rows else head
        update = {
            **learning,
            **self._snapshots(asked=once or not self.samples),
            "gradients": gradients,
            # Autograd adds the completions' gradients to the prompts' when it has both: they wait as activations go.
            "activations": sum(kept for _, kept in passes[:-1]) + max(passes[-1][1], self.trained * self.shared),
            "vision": vision,
            "backward": max(*(one for one, _ in passes), layer),
            "logits": self.logits * min(self.micro * self.completion, max(1, LARGEST // sizes.vocabulary)),
            "images": self.pixels * (self.prompts if self.shared else self.prompts + self.micro),
            "autocast copies": self.applied,
        }
        gathered = sizes.outer + AT_ONCE * sizes.shape.language.weights // sizes.shape.language_layers
        phases = [self._phase(UPDATE, update, 2 * gathered * self.weight)]  # and as many gradients
        learning |= self._snapshots(asked=False)
        step = {"gradients": self.trained, "step": self.trained * self.gpu}
        phases.append(self._phase(STEP, learning | step))
        if self.samples:
            generating = self._generating(self.rows, self.prompts if self.shared else self.rows)
            phases.append(self._phase(SAMPLING, learning | generating, sizes.parameters * self.weight))
        return {one.phase: one for one in phases}

    def testing(self) -> dict[str, Footprint]:
        """The phases of testing: a batch's keys and values, and logits of its next tokens; the trainer is gone by then.

        Of several processes each measures all of drift: rollouts of some prompts by two policies, each read by both.
        Those to compare with are anchor and reference; else one is loaded beside them, whole.
        """
        length, evaluate, rule = self.prompt + self.completion, self.config.evaluate, self.method.anchor_rule
        buffers = self.cache(self.tested, length) if self.recorded else 0
        work = {"weights": self.weights, "decoding": buffers, **self._snapshots(asked=False)}
        work |= self._generating(self.tested, self.tested)
        whole = (1 + self.anchor + self.reference) * self.sizes.parameters * self.weight
        tests = self._phase(TESTING, work, whole)
        if self.sharing.processes == 1 or self.method.family == "frozen" or not evaluate.drift_prompts:
            return {TESTING: tests}
        from methods.drift.items import GROUP_SIZE
        from methods.drift.measure import PROMPTS

        asked = min(PROMPTS, evaluate.drift_prompts)
        rows = asked * GROUP_SIZE
        at_hand = self.reference and (self.method.joint or (self.anchor and rule.kind == "previous"))
        work["cache"] = self.cache(rows, length) + 2 * self.cache(asked, self.prompt)
        work["activations"] = max(work["activations"], self.text(rows, self.completion, length)[0])
        work["logits"] = self.logits * rows
        if not self.lora and (self.offloaded or not at_hand):
            work["another policy"] = self.another
        return {TESTING: tests, DRIFT: self._phase(DRIFT, work, whole)}

    def _phase(self, name: str, parts: Mapping[str, int], gathered: int = 0) -> Footprint:
        """A phase of some parts; ``gathered``: bytes of split weights that are put together in it."""
        if self.parts > 1 and gathered:
            applied = self.sizes.parameters * self.compute if self.applied else 0
            parts = {**parts, "gathered weights": gathered + applied}
        return Footprint(name, {part: size for part, size in parts.items() if size})

    def _snapshots(self, asked: bool) -> dict[str, int]:
        """Anchor and reference on the device; ``asked``: one of them is at work, wherever it rests."""
        if self.lora:
            return {"anchor": self.trained * self.anchor}
        if not self.offloaded:
            return {"anchor": self.copy * self.anchor, "reference": self.copy * self.reference}
        return {"anchor or reference": self.copy * (asked and (self.anchor or self.reference))}

    def _learning(self) -> dict[str, int]:
        """What is there from a task's first update to its last, beside anchor and reference.

        What prompts leave behind in frozen models is kept as long as settings allow.
        """
        numbers = self.trained // (EXACT if self.lora else self.weight)
        buffers = self.cache(self.prompts, self.prompt) + self.cache(self.rows, self.completion)
        kept, models = self.config.train.kept_prefixes * 2**20, self.anchor + self.reference
        if self.longest.examples is not None:
            kept = min(kept, self.longest.examples * models * self.cache(1, self.prompt))
        return {
            "weights": self.weights,
            "moments": MOMENTS * self.trained,
            "compensation": self.compensated,
            "fisher": FISHER * EXACT * numbers * ("fisher" in self.method.needs),
            "kept prefixes": kept if models and self.shared and self.parts == 1 else 0,
            "decoding": buffers if self.recorded and self.samples else 0,
        }

    def _generating(self, rows: int, prompts: int) -> dict[str, int]:
        """Generation: the cache of all rows, a layer's numbers while prompts are read, logits of the next tokens.

        Recorded steps have buffers for completions, and copies of the prompts' keys and values.
        """
        cached = (prompts, self.prompt) if self.recorded else (rows, self.prompt + self.completion)
        return {
            "cache": self.cache(*cached),
            "activations": max(self.text(prompts, self.prompt, self.prompt)[0], self.tower(prompts)[0]),
            "logits": self.logits * rows,
            "images": self.pixels * rows,
            "autocast copies": self.applied,
        }


def most_prompts(rows: int, group: int) -> int:
    """Most prompts among the rollouts of one of a batch's equal parts, of so many rows; groups are adjacent."""
    into = group - math.gcd(rows, group)  # how far into a group a part may begin
    return math.ceil((into + rows) / group)
