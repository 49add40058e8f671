"""A model's sizes by its checkpoint's config.json alone: parameters, layers, matrices, and what an adapter adds.

The model is built without memory for its weights; none are read, nothing is downloaded. A checkpoint may hold its
sizes, as the embedded one does, so that nothing is built. Known families are those of ``methods/costs/flops.py``; of
another one nothing is said.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from pydantic import TypeAdapter, ValidationError

from clrft.base_model import default_model_path
from clrft.utils.files import read_json, sha256_file, write_json_atomic
from clrft.utils.plain import read_yaml
from methods.costs.flops import SUPPORTED, ModelShape, is_trained, shape_of
from methods.model.config import ModelConfig
from task_streams.errors import UserError, unknown_name

SIZES_FILE = "sizes.json"  # in a checkpoint's folder
PUBLISHED = read_yaml(Path(__file__).with_name("published_models.yaml"))  # the config.json of checkpoints, by hub id


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model: what decides its memory and its operations."""

    family: str  # the model type
    parameters: int  # without adapters, tied ones once
    trained: int  # weights that are trained: all of them, or those of an adapter
    shape: ModelShape  # what decides its operations, the adapter that is trained included
    width: int  # numbers in a hidden state of the language model
    gate: int  # width within the gated part of one of its layers
    heads: int  # of its queries
    keys: int  # numbers in a position's keys; as many in its values
    vocabulary: int
    patch: int  # pixels along each side of a patch of an image
    values: int  # numbers in a patch as the processor makes it
    tower_layers: int
    tower_heads: int
    inner: int  # width within the second half of a layer of the tower
    gated: bool  # that half is gated
    tower_trained: bool  # any weight of the tower is

    @property
    def outer(self) -> int:
        """Weights outside of the layers of tower and language model: embeddings and output head, mostly."""
        return self.parameters - self.shape.language.weights - self.shape.patches.weights


def model_sizes(config: ModelConfig, published: bool = False) -> ModelSizes | None:
    """The sizes of the model of some settings, with the adapter that they ask for; None for an unknown family.

    Those of a checkpoint that is not on this machine may be taken as they were ``published``.

    Raises:
        OSError: the folder, or the hub id's copy on this machine, has no config.json.
    """
    path = config.path or str(default_model_path())
    if not (published and path in PUBLISHED) and local_config(path, config.revision) is None:
        raise FileNotFoundError(f"{path}: no config.json on this machine")
    return _sizes(path, config.revision, config.lora_rank if config.adapter == "lora" else 0, config.lora_targets)


@cache
def _sizes(path: str, revision: str | None, rank: int, targets: str) -> ModelSizes | None:
    """The sizes of a model, with an adapter of a rank on some of its matrices if it is above 0."""
    known = local_config(path, revision) or PUBLISHED[path]
    if known.get("model_type") not in SUPPORTED:
        return None
    return (None if rank else recorded_sizes(Path(path))) or built_sizes(known, rank, targets)


def recorded_sizes(folder: Path) -> ModelSizes | None:
    """The sizes that a checkpoint's folder holds; None if it holds none, or those of another config.json.

    Raises:
        UserError: they are damaged.
    """
    file = folder / SIZES_FILE
    if not file.is_file():
        return None
    record = read_json(file)
    if record.get("config_sha256") != sha256_file(folder / "config.json"):
        return None
    try:
        return TypeAdapter(ModelSizes).validate_python(record.get("sizes"))
    except ValidationError as error:
        raise UserError(f"{file} is damaged: expected the sizes of the model beside it; remove it.") from error


def record_sizes(folder: Path) -> None:
    """Write the sizes of a checkpoint into its folder."""
    config = folder / "config.json"
    sizes = asdict(built_sizes(read_json(config)))
    write_json_atomic(folder / SIZES_FILE, {"config_sha256": sha256_file(config), "sizes": sizes})


def built_sizes(config: Mapping[str, Any], rank: int = 0, targets: str = "") -> ModelSizes:
    """The sizes of the model that a config.json of a known family describes, with an adapter if its rank is above 0."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # the libraries' own, of each other
        build: Any = AutoModelForImageTextToText.from_config
        model = build(AutoConfig.for_model(**config))
        parameters = sum(weight.numel() for weight in model.parameters())
        patch = model.model.visual.patch_embed.proj.weight.shape  # [width, channels, frames, P, P]
        mlp = model.model.visual.blocks[0].mlp
        gated = hasattr(mlp, "gate_proj")
        inner = (mlp.gate_proj if gated else mlp.fc1).out_features
        if rank:
            from peft import get_peft_model

            from methods.model.policy import lora_config

            adapter = lora_config(ModelConfig(adapter="lora", lora_rank=rank, lora_targets=targets))
            model = get_peft_model(model, adapter).get_base_model()
    shape, text, vision = shape_of(model), model.config.get_text_config(), model.config.vision_config
    if shape is None:
        raise RuntimeError(f"a model of the known family {config['model_type']} without a shape")
    return ModelSizes(
        family=config["model_type"],
        parameters=parameters,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        shape=shape,
        width=text.hidden_size,
        gate=text.intermediate_size,
        heads=text.num_attention_heads,
        keys=shape.language_width // text.num_attention_heads * text.num_key_value_heads,
        vocabulary=text.vocab_size,
        patch=vision.patch_size,
        values=patch[1:].numel(),
        tower_layers=vision.depth,
        tower_heads=vision.num_heads,
        inner=inner,
        gated=gated,
        tower_trained=is_trained(model.model.visual),
    )


def known_sizes(config: ModelConfig) -> ModelSizes:
    """The sizes of a model that is on this machine or published.

    Raises:
        UserError: it is neither, or of a family whose work is not counted.
    """
    path = config.path or str(default_model_path())
    try:
        sizes = model_sizes(config, published=True)
    except OSError as error:
        raise UserError(
            f"model.path: {path!r} is not on this machine, so its sizes are not known. "
            f"{unknown_name('checkpoint', path, PUBLISHED)}"
        ) from error
    if sizes is None:
        raise UserError(f"model.path: {path!r} is of another type than {', '.join(SUPPORTED)}.")
    return sizes


def local_config(path: str, revision: str | None = None) -> dict[str, Any] | None:
    """The config.json of a checkpoint on this machine, a folder or a hub id at a revision; None if there is none."""
    file: Any = Path(path) / "config.json"
    if not file.is_file():
        try:
            file = try_to_load_from_cache(path, "config.json", revision=revision)
        except HFValidationError:  # no hub id either
            return None
    return read_json(Path(file)) if isinstance(file, str | Path) else None
