"""Every stream by name, imported when it is asked for, and how one is registered."""

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from task_streams.config import StreamConfig
from task_streams.types import TaskStream

if TYPE_CHECKING:
    from task_streams.sources.records import Workspace

T = TypeVar("T")


class Registry(UserDict[str, T]):
    """What there is by name; a module is imported when its own is asked for, and none for the names.

    Args:
        paths: where each is defined, ``module:attribute``.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        super().__init__(paths)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> T:
        return resolve_name(str(self.data[name]))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream: its settings, how it is built, and where its data come from.

    Attributes:
        config: frozen dataclass of its settings.
        build: (config, order seed, workspace) to stream; a ``UserError`` names everything that is wrong with the data.
        summary: what it is, one line.
        licence: licence of the data.
        citation: whom to cite for the data.
    """

    config: type[StreamConfig]
    build: "Callable[[Any, int, Workspace], TaskStream]"
    summary: str
    licence: str
    citation: str


STREAMS: Registry[StreamSpec] = Registry(
    {
        "digits_cil": "task_streams.datasets.digits:CIL",
        "digits_dil": "task_streams.datasets.digits:DIL",
        "folder_cil": "task_streams.datasets.folder:CIL",
        "folder_dil": "task_streams.datasets.folder:DIL",
        "tinyimagenet_cil": "task_streams.datasets.tinyimagenet:CIL",
        "cub200_cil": "task_streams.datasets.cub200:CIL",
        "imagenet_r_cil": "task_streams.datasets.imagenet_ra:CIL_R",
        "imagenet_a_cil": "task_streams.datasets.imagenet_ra:CIL_A",
        "officehome_dil": "task_streams.datasets.officehome:DIL",
        "domainnet_dil": "task_streams.datasets.domainnet:DIL",
        "pacs_dil": "task_streams.datasets.pacs:DIL",
        "questions_til": "task_streams.datasets.questions:TIL",
        "coin_til": "task_streams.datasets.questions:COIN_TIL",
        "ucit_til": "task_streams.datasets.questions:UCIT_TIL",
        "coco_cil": "task_streams.datasets.coco:CIL",
        "voc_cil": "task_streams.datasets.voc:CIL",
        "voc_dil": "task_streams.datasets.voc:DIL",
        "ucf101_cil": "task_streams.datasets.ucf101:CIL",
        "kinetics200_cil": "task_streams.datasets.kinetics:CIL",
        "clips_cil": "task_streams.datasets.clip_folders:CIL",
        "cifar100_cil": "task_streams.datasets.cifar100:CIL",
        "cifar10_cil": "task_streams.datasets.cifar100:CIL_10",
        "table_cil": "task_streams.datasets.tables:CIL",
        "table_dil": "task_streams.datasets.tables:DIL",
    }
)
