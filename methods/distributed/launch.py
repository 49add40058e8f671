"""What a launcher says in the environment of several processes: ``torchrun``'s names, and accelerate's settings."""

import os
from importlib.util import find_spec

from task_streams.errors import UserError

WORLD_SIZE, RANK, LOCAL_RANK = "WORLD_SIZE", "RANK", "LOCAL_RANK"
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # ask to split a model
DEEPSPEED_DEVICE = "DS_ACCELERATOR"  # DeepSpeed's name of the kind of device to use
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
# What tells a library that there are several processes, or asks it to split a model.
LAUNCHER_VARIABLES = (
    WORLD_SIZE,
    RANK,
    LOCAL_RANK,
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    FSDP,
    DEEPSPEED,
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)
# Settings of DeepSpeed in accelerate's configuration, their name there, and what decides in their place.
DECIDED = {
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("deepspeed_config_file", "the run's own settings decide"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("offload_optimizer_device", "nothing is offloaded here"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("offload_param_device", "nothing is offloaded here"),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "train.max_grad_norm decides"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", "train.accumulation decides"),
}
UNSET = {"", "none", "auto", "1"}


def launched() -> int:
    """How many processes the environment says were launched for this run.

    Raises:
        UserError: the value is not a number.
    """
    try:
        return max(1, int(os.environ.get(WORLD_SIZE, "1")))
    except ValueError:
        raise UserError(f"{WORLD_SIZE}: got {os.environ[WORLD_SIZE]!r}, expected a whole number from 1.") from None


def hide_launcher() -> None:
    """Remove the launcher's variables from this process's environment, for good.

    accelerate has no other switch: wherever it finds them (an ``Accelerator``, ``TrainingArguments.device``, a model
    that is loaded), it wraps the model in DDP, gives each process another part of the data, offsets the seeds and
    averages gradients. This suite shares the work itself, with the same batch and random state in every process
    (``ranks.py``), so each Trainer must see a run of one process. Once the process group exists, nothing here reads
    them again; what the launcher asked for is kept by ``ranks.join``.
    """
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)


def requested_sharding() -> str | None:
    """How accelerate's configuration asks to split weights among processes: fsdp, zero3, or None (not at all).

    Raises:
        UserError: it asks for a part of DeepSpeed that is not used here, or DeepSpeed is not installed.
    """
    asked = [name for name in (DEEPSPEED, FSDP) if os.environ.get(name, "").lower() == "true"]
    if DEEPSPEED not in asked:
        return "fsdp" if asked else None
    stage = os.environ.get(STAGE, "")
    problems = [
        f"{setting} in accelerate's configuration: got {os.environ[name]}, expected none: {instead}."
        for name, (setting, instead) in DECIDED.items()
        if os.environ.get(name, "").lower() not in UNSET
    ]
    if stage != "3":
        problems.append(
            f"zero_stage in accelerate's configuration ({STAGE}): got {stage or 'none'}, expected 3; where the weights "
            "fit into every process, MULTI_GPU needs no DeepSpeed (configs/accelerate/ddp_*.yaml)."
        )
    if find_spec("deepspeed") is None:
        problems.append(
            "accelerate's configuration asks for DeepSpeed, which is not installed (pip install 'clrft[deepspeed]'); "
            "FSDP splits in the same way and needs nothing more (configs/accelerate/fsdp_*.yaml)."
        )
    if problems:
        raise UserError(*problems)
    return "zero3"
