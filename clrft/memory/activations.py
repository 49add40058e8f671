"""Bytes that a pass through a Qwen2-VL-like model keeps for its backward pass, from the sizes of model and batch.

Each formula is the list of what autograd saves in transformers' layers, numbers per position times bytes; a test counts
the same with ``torch.autograd.graph.saved_tensors_hooks``. Prompts are taken as padded, so that attention has a mask:
the worst case. Left out, as small beside the rest: statistics of norms and softmax, rotations, token ids.
"""

from dataclasses import dataclass

from clrft.memory.sizes import TextSizes, TowerSizes

EXACT = 4  # bytes of float32, in which norms and softmax are computed
TEXT_MATRICES = 7  # of a layer: queries, keys, values, output; gate, up, down


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model is held and computed with.

    Attributes:
        weight: bytes of a weight.
        compute: bytes of a number that matrices are applied to.
        adapter: bytes of an adapter's weight; 0 for full fine-tuning.
        rank: of the adapter; 0 for full fine-tuning.
        attention: ``flash_attention_2``, ``sdpa`` or ``eager``.
    """

    weight: int
    compute: int
    adapter: int = 0
    rank: int = 0
    attention: str = "sdpa"

    @property
    def entry(self) -> int:
        """Bytes of a number that a trained matrix keeps of its input: an adapter takes it in its own type."""
        return self.adapter or self.compute

    @property
    def copies(self) -> bool:
        """Whether each matrix makes a copy of its input, in another type."""
        return self.entry != self.weight or self.compute != self.weight

    @property
    def scaled(self) -> int:
        """Bytes of a number that a norm keeps beside its input: only to train its own weight."""
        return 0 if self.rank else self.weight


@dataclass(frozen=True, slots=True)
class Pass:
    """Some rows that go through a language model.

    Attributes:
        rows: how many.
        tokens: of each row, that are computed.
        context: tokens of each row that these look at, themselves included.
    """

    rows: int
    tokens: int
    context: int


def text_layer(text: TextSizes, precision: Precision, one: Pass) -> int:
    """Kept of one layer of the language model, bytes.

    Two norms: input in float32, and what is multiplied by the weight. Inputs of queries, keys and values, of gate and
    up: one each, or a copy for each matrix. Then attention; then gate, its activation, up, and their product.
    """
    positions = one.rows * one.tokens
    norms = 2 * text.width * (EXACT + precision.scaled)
    inputs = (5 if precision.copies else 2) * text.width * precision.entry
    gated = text.inner * (3 * precision.compute + precision.entry)
    adapter = TEXT_MATRICES * precision.rank * precision.adapter
    return positions * (norms + inputs + gated + adapter) + attention(text, precision, one)


def attention(text: TextSizes, precision: Precision, one: Pass) -> int:
    """Kept of a layer's attention, bytes: queries and output; keys and values of all that is looked at.

    FlashAttention keeps keys and values by their own heads and no mask. SDPA under a mask repeats them for the
    queries' heads and keeps the mask as numbers. Eager attention keeps the probabilities, in float32 and as computed.
    """
    bytes_each, positions, context = precision.compute, one.rows * one.tokens, one.rows * one.context
    pairs = one.rows * one.tokens * one.context
    output = text.queries * (precision.adapter if precision.rank and precision.copies else 0)  # its matrix's own copy
    kept = positions * (2 * text.queries * bytes_each + output)
    if precision.attention == "flash_attention_2":
        return kept + 2 * context * text.keys * bytes_each
    kept += 2 * context * text.queries * bytes_each
    if precision.attention == "sdpa":
        return kept + pairs * bytes_each
    return kept + text.heads * pairs * (EXACT + (bytes_each if bytes_each != EXACT else 0))


def text_end(text: TextSizes, precision: Precision, one: Pass) -> int:
    """Kept behind the last layer, bytes: the last norm, and the input of the output head."""
    return one.rows * one.tokens * text.width * (EXACT + precision.scaled + precision.compute)


def tower_layer(tower: TowerSizes, precision: Precision, patches: int, images: int) -> int:
    """Kept of one layer of the vision tower, bytes; ``patches`` of all images together.

    Two norms (input; Qwen2.5's as in the text). Inputs of the matrices before and behind attention and of the second
    half. Queries, keys, values and output. The second half: before, within and behind its activation.
    """
    norms = 2 * tower.width * (EXACT + precision.scaled if tower.gated else precision.compute)
    inputs = 3 * tower.width * precision.entry
    mixed = 4 * tower.width * precision.compute
    inner = tower.inner * ((3 if tower.gated else 2) * precision.compute + precision.entry)
    kept = patches * (norms + inputs + mixed + inner)
    if precision.attention != "eager":
        return kept
    return kept + tower.heads * patches * patches // max(images, 1) * EXACT


def tower_ends(tower: TowerSizes, precision: Precision, patches: int) -> int:
    """Kept before and behind the tower's layers, bytes: the patches; three inputs and a norm's on the way out."""
    values = 0 if precision.rank else tower.values * precision.compute
    return patches * (values + 3 * tower.width * precision.entry + tower.width * precision.compute)


def kept(layer: int, layers: int, state: int, checkpointing: bool) -> int:
    """Kept of all layers, bytes.

    With checkpointing each keeps its input, ``state``, alone, and one at a time is computed again (arXiv 1604.06174).
    """
    return layers * state + layer if checkpointing else layers * layer
