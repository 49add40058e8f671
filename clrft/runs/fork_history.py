"""The runs that a fork's first stages come from, as its manifest names them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from task_streams.errors import UserError


@dataclass(frozen=True, slots=True)
class Origin:
    """A run that another was forked from: the stages up to one of them are that run's, under its settings."""

    run: str  # sweep and name of its folder
    method: str  # its name
    stage: int  # the last that the fork has of it
    identity: str  # of that stage
    config: str  # digest of the run's settings
    settings: dict[str, Any]  # those that a fork may change, nested: method and training


def fork_facts(origins: Sequence[Origin]) -> dict[str, Any]:
    """What a fork's manifest says of it: a label, the same in every class order, and where its stages come from."""
    label = ">".join(f"{one.method}@task{one.stage}" for one in origins)
    return {"label": label, "origins": [asdict(one) for one in origins]}


def origins_of(folder: Path, manifest: Mapping[str, Any]) -> tuple[Origin, ...]:
    """The runs that a run was forked from, the oldest first, none if it is no fork; a damaged manifest is refused."""
    if "fork" not in manifest:
        return ()
    try:
        origins = tuple(Origin(**one) for one in manifest["fork"]["origins"])
        whole = [type(one.stage) is int and isinstance(one.settings, dict) for one in origins]
        if not whole or not all(whole) or fork_facts(origins) != manifest["fork"]:
            raise ValueError("it has no such label, stages or settings")
        if not {"method_state", "anchor"} <= manifest["carry"].keys():
            raise ValueError("the carry policy is not whole")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        file = folder / "manifest.json"
        raise UserError(f"{file}: what it says of the fork is damaged ({error}); restore it, or fork again.") from error
    return origins
