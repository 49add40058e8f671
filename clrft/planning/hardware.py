"""What a plan can be for: known devices, so many of them, or the machine at hand.

The table is ``hardware.yaml``; a file of the same form may be named in its place. Efficiencies in it are assumed, each
as the most likely value and a slow and a fast one, so that a plan can say how far its hours may move. The link between
devices may be left out of a file: then a cell can have one device.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clrft.utils.plain import read_yaml
from task_streams.errors import UserError, unknown_name

THIS = "this"
TABLE = Path(__file__).resolve().parent / "hardware.yaml"
MOST_DEVICES = 1024
LIKELY, SLOW, FAST = range(3)
ASSUMED = ("share", "reach", "launch", "start", "disk")
STATED = ("memory", "flops", "bandwidth")
LINK, LINKED = "link", "linked"  # what is stated and assumed of it
_SEVERAL = re.compile(r"(?P<device>.+)x(?P<count>[0-9]+)")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one device is taken to be.

    Attributes:
        flops: operations a second of reading, scoring and learning.
        bandwidth: bytes a second of decoding and of the optimizer.
        launch: seconds to launch a layer's kernels.
        start: seconds from a process to its first stage, beside reading the weights.
        disk: bytes a second.
        link: bytes a second from the other devices of a cell, and to them; without end where there are none.
    """

    flops: float
    bandwidth: float
    launch: float
    start: float
    disk: float
    link: float = math.inf


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices of one kind.

    Attributes:
        name: as it was asked for.
        title: of the device.
        devices: how many.
        memory: bytes of a device.
        link: bytes a second between devices, each way; None where that is not stated.
        speeds: most likely, slow, fast.
        assumed: the efficiencies behind them, by name, in the same order.
    """

    name: str
    title: str
    devices: int
    memory: int
    link: float | None
    speeds: tuple[Speed, Speed, Speed]
    assumed: Mapping[str, tuple[float, float, float]]


def hardware_of(name: str) -> Hardware:
    """The hardware of a name such as ``h100x8`` or ``rtx4090``, or of a YAML file, ``mine.yaml`` or ``mine.yamlx8``.

    Raises:
        UserError: unknown name, or a file that is not of the table's form.
    """
    found = None if name in table(TABLE) else _SEVERAL.fullmatch(name)  # rtx4090 is one
    device, count = (found["device"], int(found["count"])) if found else (name, 1)
    if device.endswith((".yaml", ".yml")):
        own = table(Path(device))
        if len(own) != 1:
            raise UserError(f"{device}: has {len(own)} devices ({', '.join(own)}); expected one.")
        device, known = next(iter(own)), own
    else:
        known = table(TABLE)
    if device not in known:
        hint = f" {THIS} is this machine; a number behind x is how many, e.g. h100x8; a path ends in .yaml."
        raise UserError(unknown_name("hardware", device, [*known, THIS]) + hint)
    if not 1 <= count <= MOST_DEVICES:
        raise UserError(f"hardware {name!r}: {count} devices; expected 1 to {MOST_DEVICES}.")
    facts = known[device]
    memory, link = int(facts["memory"] * 1e9), facts[LINK]
    return Hardware(name, facts["title"], count, memory, link, _speeds(facts), facts["assumed"])


@cache
def table(path: Path) -> dict[str, dict[str, Any]]:
    """Devices of a file by name, numbers as numbers, each with what is assumed for it.

    Raises:
        UserError: everything that is wrong with it.
    """
    values = read_yaml(path)
    devices, assumed = values.get("devices"), values.get("assumed")
    if not isinstance(devices, dict) or not isinstance(assumed, dict):
        raise UserError(f"{path}: expected the sections devices and assumed, as in {TABLE.name} of the package.")
    problems: list[str] = []
    found = {}
    for name, facts in devices.items():
        facts = facts if isinstance(facts, dict) else {}
        here = {**assumed, **facts}
        known = (*STATED, LINK, *ASSUMED, LINKED)
        problems += [
            f"{path}: {name} has {key!r}, expected {', '.join(known)} or title."
            for key in here
            if key not in (*known, "title")
        ]
        numbers, ranges = ((*STATED, LINK), (*ASSUMED, LINKED)) if LINK in here else (STATED, ASSUMED)
        stated = {key: _number(path, f"{name}.{key}", here.get(key), problems) for key in numbers}
        triples = {key: _triple(path, f"{name}.{key}", here.get(key), problems) for key in ranges}
        found[str(name)] = {"title": str(here.get("title", name)), LINK: None, **stated, "assumed": triples}
    if problems:
        raise UserError(*problems)
    return found


def _number(path: Path, name: str, value: Any, problems: list[str]) -> float:
    """A number above 0; YAML 1.1 has ``989e12`` as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        problems.append(f"{path}: {name} is {value!r}, expected a number above 0.")
    return number


def _triple(path: Path, name: str, value: Any, problems: list[str]) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3:
        problems.append(f"{path}: {name} is {value!r}, expected three numbers: most likely, slow, fast.")
        return (1.0, 1.0, 1.0)
    likely, slow, fast = (_number(path, name, one, problems) for one in value)
    return likely, slow, fast


def _speeds(facts: Mapping[str, Any]) -> tuple[Speed, Speed, Speed]:
    assumed = facts["assumed"]
    likely, slow, fast = (
        Speed(
            flops=facts["flops"] * assumed["share"][place],
            bandwidth=facts["bandwidth"] * assumed["reach"][place],
            launch=assumed["launch"][place],
            start=assumed["start"][place],
            disk=assumed["disk"][place],
            link=facts[LINK] * assumed[LINKED][place] if facts[LINK] else math.inf,
        )
        for place in (LIKELY, SLOW, FAST)
    )
    return likely, slow, fast
