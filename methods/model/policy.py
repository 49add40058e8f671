"""The policy: a vision-language model with its processor, an optional adapter, and generation.

Any checkpoint that ``AutoModelForImageTextToText`` loads goes through this one path, the embedded model included.
Deliberately absent: quantised loading, remote code, model families by path name.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from methods.costs.flops import TRAINED_ADAPTER
from methods.costs.meter import Meter, sampled_tokens
from methods.distributed.fsdp import hollow
from methods.distributed.sharding import is_sharded, put
from methods.generation.answers import Session, answered
from methods.generation.rollout import Sampling
from methods.generation.shared_prefix import obstacle
from methods.generation.static_decode import StaticSteps
from methods.inputs.encoding import encoded_requests, prompts_in
from methods.inputs.fit_image import Prepared, image_fit
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.inputs.vision import batch_images
from methods.model.config import SEQUENCE_TOKENS, Decoding, ModelConfig, choose_attention, choose_device
from methods.model.numerics import Numerics, numerics_of
from methods.model.snapshots import AdapterSnapshot, FullSnapshot, Snapshot
from methods.model.weights import clear_rope_state
from methods.settings import PLAIN
from task_streams.errors import UserError
from task_streams.prompt import Request

ANCHOR_ADAPTER = "anchor"
SAFE: Any = {"trust_remote_code": False, "use_safetensors": True}  # no code runs, nothing is unpickled
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(eq=False)
class Policy:
    """A model that answers requests and can be trained."""

    model: Any  # the transformers model, wrapped by PEFT when it has an adapter
    processor: Any  # its processor, padding on the left
    config: ModelConfig  # the settings it was loaded with
    attention: str  # the attention implementation that was chosen
    given: InitVar[Numerics | None] = None  # becomes ``numerics``; None: all in the weights' own type
    max_prompt_tokens: int | None = None  # longest prompt that is encoded; None: any
    share_prefix: bool = True  # answer by way of ``rollout.py`` where the model allows it, else by ``generate``
    recorded: bool = False  # decode with recorded steps, in training and in tests (``static_decode.py``)
    meter: Meter = field(default_factory=Meter)  # counts what the model's calls come to
    generation_defaults: GenerationConfig | None = None  # the checkpoint's, which no answer follows; saved as they were
    numerics: Numerics = field(init=False)  # types of its weights and of what it computes, and how it is moved

    def __post_init__(self, given: Numerics | None) -> None:
        own = next(self.model.parameters()).dtype
        self.numerics = Numerics(PLAIN, own, own) if given is None else given
        self.meter.watch(self.model.get_base_model() if self.has_adapter else self.model)

    @property
    def has_adapter(self) -> bool:
        """Whether a LoRA adapter is trained instead of the full weights."""
        return isinstance(self.model, PeftModel)

    @property
    def ends(self) -> list[int]:
        """Tokens that end a completion, as ``generate`` takes them."""
        ends = self.model.generation_config.eos_token_id
        ends = self.processor.tokenizer.eos_token_id if ends is None else ends
        return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def computing(self) -> AbstractContextManager[None]:
        """The block in which the model, or a snapshot of it, is called.

        Keep it short: autocast keeps its copies of the weights that long.
        """
        numerics = self.numerics
        return torch.autocast(self.device.type, numerics.compute) if numerics.autocasts else nullcontext()

    def encode(self, requests: Sequence[Request]) -> Any:
        """Requests to one left-padded batch of model inputs on the policy's device, as ``encoded_requests``."""
        return encoded_requests(self.processor, requests, self.config.media, self.max_prompt_tokens).to(self.device)

    def prompts(self, requests: Sequence[Request]) -> Prompts:
        """Requests as the prompts that ``shared_prefix.py`` computes; as ``encode``."""
        images, clips = [len(one.images) for one in requests], [len(one.clips) for one in requests]
        return prompts_in(self.encode(requests), images, clips, self.model.config)

    @property
    def prepared(self) -> Prepared:
        """What a request goes through before it is asked ahead of the model: see ``Prepared``."""
        return Prepared(self.config.media, image_fit(self.processor))

    def session(self) -> Session:
        """A fresh session: what later answers can reuse, for as long as the weights do not change."""
        return Session(steps=StaticSteps() if self.recorded else None)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], decoding: Decoding, session: Session | None = None) -> list[str]:
        """Answer a batch of requests, each with its own completion text.

        ``session`` has what questions before these have left, to the policy as it is now; answers are the same without.
        """
        with self._answering(decoding.seed):
            if self.share_prefix and obstacle(self.model) is None:
                lasts = tuple(self.ends), never_sampled(self.model.config)
                sampling = Sampling(decoding.max_new_tokens, decoding.temperature, decoding.top_p, *lasts)
                completions: Any = answered(self.model, requests, self.prompts(requests), sampling, session)
            else:
                inputs = self.encode(requests)
                tokens = self.model.generate(**inputs, **generation_arguments(decoding, self.model.config))
                completions = tokens[:, inputs["input_ids"].shape[1] :]
                ends = torch.tensor(self.ends, device=completions.device)
                self.meter.add("tokens_generated", sampled_tokens(completions, ends))
        return list(self.processor.batch_decode(completions, skip_special_tokens=True))

    @contextmanager
    def _answering(self, seed: int) -> Iterator[None]:
        """The model as in an evaluation, from a random state of its own."""
        was_training = self.model.training
        devices = [self.device] if self.device.type == "cuda" else []
        clear_rope_state(self.model)
        self.model.eval()
        try:
            with torch.random.fork_rng(devices=devices), self.computing():
                torch.manual_seed(seed)
                yield
        finally:
            self.model.train(was_training)
            clear_rope_state(self.model)

    def snapshot(self, name: str = ANCHOR_ADAPTER, asked_only: bool = False) -> Snapshot:
        """A frozen copy of the policy as it is now: a second adapter of that name when it has one, else a full copy.

        ``asked_only``: its weights are never changed, so that matrices may be held in the type they are applied in.
        """
        if self.has_adapter:
            return AdapterSnapshot.take(self.model, name)
        lowers = asked_only and self.numerics.autocasts
        return FullSnapshot.take(self.model, self.config.anchor_memory, self.numerics.compute if lowers else None)

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights (or the adapter alone) as safetensors, with the processor beside full weights.

        ``weights``: those of a split model, put together (``sharding.whole_weights``); None: the model's own.
        """
        if self.has_adapter:
            self.model.save_pretrained(folder, selected_adapters=[TRAINED_ADAPTER], safe_serialization=True)
            return
        if weights is None:
            self.model.save_pretrained(folder, safe_serialization=True)
        else:
            hollow(self.model).save_pretrained(folder, state_dict=weights, safe_serialization=True)
        if self.generation_defaults is not None:
            self.generation_defaults.to_json_file(folder / "generation_config.json")
        self.processor.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Take the weights that ``save`` wrote for a policy of the same settings."""
        if self.has_adapter:
            set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))
            return
        saved = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=self.model.dtype, attn_implementation=self.attention, **SAFE
        )
        if is_sharded(self.model):
            values = dict(saved.named_parameters())
            for name, weight in self.model.named_parameters():
                put(weight, values[name])
        else:
            self.model.load_state_dict(saved.state_dict())


def load_policy(config: ModelConfig, path: str, seed: int = 0, optimizer: str = PLAIN, processor: Any = None) -> Policy:
    """Load model and processor from a local folder or hub id ``path``, with the adapter the config asks for.

    ``seed`` is of an adapter's first weights; the ``optimizer`` that will move the weights decides in which type they
    are held (``numerics.py``); ``processor``: the checkpoint's, if it is loaded already.

    Raises:
        UserError: the folder does not exist or holds no processor, or the checkpoint cannot be loaded.
    """
    processor = processor or load_processor(config, path)
    device, numerics = choose_device(config), numerics_of(config, optimizer)
    attention = choose_attention(config, device, numerics.compute)
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path, revision=config.revision, dtype=numerics.weights, attn_implementation=attention, **SAFE
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: cannot load {path!r}: {error}") from error
    defaults = model.generation_config
    # Penalties, bans and temperatures of a checkpoint would change some answers and not others: the suite's own
    # sampling knows none of them, and neither does the loss.
    tokens = {name: getattr(defaults, name) for name in SEQUENCE_TOKENS}
    model.generation_config = GenerationConfig(**tokens)  # type: ignore[no-untyped-call]
    batch_images(model)
    model.to(device)
    if config.adapter == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the adapter begins with random weights
            model = get_peft_model(model, lora_config(config))
    return Policy(model, processor, config, attention, numerics, generation_defaults=defaults)


def load_processor(config: ModelConfig, path: str) -> Any:
    """The checkpoint's processor, padding on the left, with the config's pixel limits, for a clip's frames too.

    Raises:
        UserError: the folder does not exist or holds no processor.
    """
    check_checkpoint(path)
    try:
        load: Any = AutoProcessor.from_pretrained
        processor = load(path, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: no processor can be loaded from {path!r}: {error}") from error
    processor.tokenizer.padding_side = "left"
    limits = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    given = {edge: pixels for edge, pixels in limits.items() if pixels is not None}
    video: Any = getattr(processor, "video_processor", None)
    for part in (processor.image_processor, video) if given else ():
        if part is not None:
            part.size = {**dict(part.size), **given}
    if getattr(video, "cap_pixels_per_frame", True) is None:
        video.cap_pixels_per_frame = False  # the limits hold for each frame, whatever a later default says
    return processor


def check_checkpoint(path: str) -> None:
    """Refuse a local checkpoint folder that cannot be a vision-language model, before anything is loaded.

    Raises:
        UserError: the path looks local but does not exist, or has no config, processor or tokenizer.
    """
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")) or len(folder.parts) > 2:
            raise UserError(f"model.path: no folder {path!r}; expected a checkpoint folder or a hub id.")
        return  # a hub id
    problems = []
    if not (folder / "config.json").is_file():
        problems.append(f"model.path: {path!r} has no config.json; expected a checkpoint in hub format.")
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        problems.append(
            f"model.path: {path!r} has no processor (none of {', '.join(PROCESSOR_FILES)}); save the model's "
            "processor into the folder with processor.save_pretrained(folder)."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        problems.append(f"model.path: {path!r} has no tokenizer (tokenizer.json).")
    if problems:
        raise UserError(*problems)


def lora_config(config: ModelConfig) -> LoraConfig:
    """The adapter's settings for PEFT."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=config.lora_targets,
        bias="none",
    )


def generation_arguments(decoding: Decoding, model_config: Any) -> dict[str, Any]:
    """Decoding to the arguments of ``generate``; the tokens of images and clips are never sampled."""
    drawn = decoding.temperature > 0
    values: tuple[Any, ...] = (decoding.temperature, decoding.top_p, 0) if drawn else (None, None, None)
    arguments: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, "do_sample": drawn}
    arguments |= dict(zip(("temperature", "top_p", "top_k"), values, strict=True))
    if placeholders := never_sampled(model_config):
        arguments["suppress_tokens"] = list(placeholders)
    return arguments
