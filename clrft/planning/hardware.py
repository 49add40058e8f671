"""What a plan can be for: known devices, so many of them, or the machine at hand.

The table is ``hardware.yaml``; a file of the same form may be named in its place. Efficiencies in it are assumed, each
as the most likely value and a slow and a fast one, so that a plan can say how far its hours may move. The link between
devices may be left out of a file: then a cell can have one device.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from clrft.utils.plain import read_yaml
from task_streams.errors import UserError, unknown_name

THIS = "this"
TABLE = Path(__file__).resolve().parent / "hardware.yaml"
MOST_DEVICES = 1024
LIKELY, SLOW, FAST = range(3)
STATED = ("memory", "flops", "bandwidth")
ASSUMED = ("share", "reach", "launch", "start", "disk")
LINK, LINKED = "link", "linked"  # what is stated and assumed of it


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one device is taken to be."""

    flops: float  # operations a second of reading, scoring and learning
    bandwidth: float  # bytes a second of decoding
    launch: float  # seconds to launch a layer's kernels
    start: float  # seconds from a process to its first stage, beside reading the weights
    disk: float  # bytes a second
    link: float = math.inf  # bytes a second from the other devices of a cell, and to them


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices of one kind."""

    name: str  # as it was asked for
    title: str  # of the device
    devices: int
    memory: int  # bytes of a device
    link: float | None  # bytes a second between devices, each way; None where that is not stated
    speeds: tuple[Speed, Speed, Speed]  # most likely, slow, fast
    assumed: Mapping[str, tuple[float, float, float]]  # the efficiencies behind them, by name, in the same order


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
    problems: list[str] = []

    def number(where: str, value: Any) -> float:
        """A number above 0; YAML 1.1 has ``989e12`` as text."""
        try:
            found = float(value)
        except (TypeError, ValueError):
            found = 0.0
        if not 0 < found < math.inf:
            problems.append(f"{path}: {where} is {value!r}, expected a number above 0.")
        return found

    found = {}
    for name, own in devices.items():
        facts = {**assumed, **(own if isinstance(own, dict) else {})}
        names = (*STATED, LINK, *ASSUMED, LINKED)
        expected = f"{', '.join(names)} or title"
        problems += [f"{path}: {name} has {key!r}, expected {expected}." for key in {*facts} - {*names, "title"}]
        linked = LINK in facts
        stated = {key: number(f"{name}.{key}", facts.get(key)) for key in (*STATED, *([LINK] if linked else []))}
        ranges = {}
        for key in (*ASSUMED, *([LINKED] if linked else [])):
            where, value = f"{name}.{key}", facts.get(key)
            if not isinstance(value, list) or len(value) != 3:
                problems.append(f"{path}: {where} is {value!r}, expected three numbers: most likely, slow, fast.")
                value = [1.0, 1.0, 1.0]
            ranges[key] = (number(where, value[0]), number(where, value[1]), number(where, value[2]))
        link = [stated[LINK] * share for share in ranges[LINKED]] if linked else [math.inf] * 3
        likely, slow, fast = (
            Speed(stated["flops"] * share, stated["bandwidth"] * reach, *others)
            for share, reach, *others in zip(*(ranges[key] for key in ASSUMED), link, strict=True)
        )
        title, memory = str(facts.get("title", name)), int(stated["memory"] * 1e9)
        found[str(name)] = Hardware(str(name), title, 1, memory, stated.get(LINK), (likely, slow, fast), ranges)
    if problems:
        raise UserError(*problems)
    return found
