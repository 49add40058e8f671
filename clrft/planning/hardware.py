"""What a plan can be for: known devices, so many of them, or the machine at hand.

The table is ``hardware.yaml``; a file of the same form may be named in its place. Efficiencies in it are assumed, each
as the most likely value and a slow and a fast one, so that a plan can say how far its hours may move. The link between
devices may be left out of a file: then a cell can have one device.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clrft.utils.plain import read_yaml
from task_streams.config import Settings, typed_section
from task_streams.errors import UserError, unknown_name

THIS = "this"
TABLE = Path(__file__).resolve().parent / "hardware.yaml"
MOST_DEVICES = 1024
LIKELY, SLOW, FAST = range(3)
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive, Positive], Field(title="three numbers above 0: most likely, slow, fast")]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one device is taken to be."""

    flops: float  # operations a second of reading, scoring and learning
    bandwidth: float  # bytes a second of decoding
    launch: float  # seconds to launch a layer's kernels
    start: float  # seconds from a process to its first stage, beside reading the weights
    disk: float  # bytes a second
    link: float = math.inf  # bytes a second from the other devices of a cell, and to them


@dataclass(frozen=True)
class Device(Settings):
    """What a file states of a device, and what it assumes: each as ``hardware.yaml`` explains it."""

    title: str
    memory: Positive
    flops: Positive
    bandwidth: Positive
    share: Range
    reach: Range
    launch: Range
    start: Range
    disk: Range
    link: Positive | None = None
    linked: Range | None = None

    def problems(self) -> list[str]:
        return ["linked: a value is needed where link has one."] if self.link and not self.linked else []

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """Most likely, slow, fast."""
        links = [self.link * share for share in self.linked] if self.link and self.linked else [math.inf] * 3
        ranges = zip(self.share, self.reach, self.launch, self.start, self.disk, links, strict=True)
        return tuple(Speed(self.flops * share, self.bandwidth * reach, *others) for share, reach, *others in ranges)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices of one kind."""

    name: str  # as it was asked for
    devices: int
    device: Device


def hardware_of(name: str) -> Hardware:
    """The hardware of a name such as ``h100x8`` or ``rtx4090``, or of a YAML file, ``mine.yaml`` or ``mine.yamlx8``.

    Raises:
        UserError: unknown name, or a file that is not of the table's form.
    """
    several = None if name in table(TABLE) else re.fullmatch(r"(.+)x([0-9]+)", name)  # rtx4090 is one
    device, count = (several[1], int(several[2])) if several else (name, 1)
    known = table(TABLE)
    if device.endswith((".yaml", ".yml")):
        known = table(Path(device))
        if len(known) != 1:
            raise UserError(f"{device}: has {len(known)} devices ({', '.join(known)}); expected one.")
        device = next(iter(known))
    if device not in known:
        hint = f" {THIS} is this machine; a number behind x is how many, e.g. h100x8; a path ends in .yaml."
        raise UserError(unknown_name("hardware", device, [*known, THIS]) + hint)
    if not 1 <= count <= MOST_DEVICES:
        raise UserError(f"hardware {name!r}: {count} devices; expected 1 to {MOST_DEVICES}.")
    return replace(known[device], name=name, devices=count)


@cache
def table(path: Path) -> dict[str, Hardware]:
    """One device of each kind in a file, by name, with what is assumed for it.

    Raises:
        UserError: everything that is wrong with it.
    """
    values = read_yaml(path)
    devices, assumed = values.get("devices"), values.get("assumed")
    if not isinstance(devices, dict) or not isinstance(assumed, dict):
        raise UserError(f"{path}: expected the sections devices and assumed, as in {TABLE.name} of the package.")
    found: dict[str, Hardware] = {}
    problems: list[str] = []
    for name, own in devices.items():
        values = {"title": name, **assumed, **(own if isinstance(own, dict) else {})}
        try:
            found[name] = Hardware(name, 1, typed_section(name, Device, values))
        except UserError as error:
            problems += [f"{path}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return found
