"""What is learned: examples, tasks, streams and prompts. ``STREAMS`` lists every stream there is."""

from task_streams import (
    cifar100,
    coco,
    cub200,
    digits,
    domainnet,
    folder,
    imagenet_ra,
    kinetics,
    officehome,
    pacs,
    questions,
    tables,
    tinyimagenet,
    ucf101,
    video_folder,
    voc,
)
from task_streams.config import CilConfig, DilConfig, StreamConfig, seed_problems
from task_streams.errors import UserError, unknown_name
from task_streams.library import rare_collection
from task_streams.prompt import in_style
from task_streams.records import Workspace
from task_streams.spec import StreamSpec
from task_streams.types import Example, Task, TaskStream

__all__ = [
    "STREAMS",
    "CilConfig",
    "DilConfig",
    "Example",
    "StreamConfig",
    "StreamSpec",
    "Task",
    "TaskStream",
    "UserError",
    "Workspace",
    "build_stream",
]

NOTHING_KEPT = Workspace()


STREAMS: dict[str, StreamSpec] = {
    "digits_cil": digits.CIL,
    "digits_dil": digits.DIL,
    "folder_cil": folder.CIL,
    "folder_dil": folder.DIL,
    "tinyimagenet_cil": tinyimagenet.CIL,
    "cub200_cil": cub200.CIL,
    "imagenet_r_cil": imagenet_ra.CIL_R,
    "imagenet_a_cil": imagenet_ra.CIL_A,
    "officehome_dil": officehome.DIL,
    "domainnet_dil": domainnet.DIL,
    "pacs_dil": pacs.DIL,
    "questions_til": questions.TIL,
    "coin_til": questions.COIN_TIL,
    "ucit_til": questions.UCIT_TIL,
    "coco_cil": coco.CIL,
    "voc_cil": voc.CIL,
    "voc_dil": voc.DIL,
    "ucf101_cil": ucf101.CIL,
    "kinetics200_cil": kinetics.CIL,
    "clips_cil": video_folder.CIL,
    "cifar100_cil": cifar100.CIL,
    "cifar10_cil": cifar100.CIL_10,
    "table_cil": tables.CIL,
    "table_dil": tables.DIL,
}


def build_stream(name: str, config: StreamConfig, order_seed: int, workspace: Workspace = NOTHING_KEPT) -> TaskStream:
    """The stream of that name with its settings and class (or domain) order.

    Raises:
        UserError: unknown name, a seed out of range, data that are not as the stream expects, or a prompt style without
            a wording for what it asks.
        TypeError: the settings of another stream.
    """
    if name not in STREAMS:
        raise UserError(unknown_name("stream", name, STREAMS))
    spec = STREAMS[name]
    if not isinstance(config, spec.config):
        raise TypeError(f"stream {name} takes {spec.config.__name__}, not {type(config).__name__}")
    if problems := seed_problems("order_seed", order_seed):
        raise UserError(*problems)
    with rare_collection():
        return in_style(spec.build(config, order_seed, workspace), config.style)
