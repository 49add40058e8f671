"""The configuration of a run that is on disk, so that it can be gone on with by the name of its folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config.retired import saved_settings
from clrft.config.run_config import RunConfig, config_of, merge, with_defaults
from clrft.utils.plain import plugins_of
from methods.registry import load_plugins
from task_streams.errors import UserError


def saved_config(folder: Path, overrides: Mapping[str, Any]) -> RunConfig:
    """The settings of the run in a folder, which may have been moved since; where it lies now counts.

    Args:
        folder: the run's folder.
        overrides: nested; of the settings that do not change what is computed (``run.mlflow``). A plugin file must be
            named again in ``run.plugins``: code is not run because a folder says so.

    Raises:
        UserError: no run is there, or it cannot be gone on with under these settings.
    """
    if not os.path.isfile(folder / "config.yaml"):  # for a name of any length
        raise UserError(f"--resume: {str(folder)!r} holds no run; expected a run's folder, with config.yaml in it.")
    values = with_defaults(saved_settings(folder))
    used = plugins_of(values)
    values["run"].pop("plugins", None)
    asked = plugins_of(overrides)
    if used and not asked:
        files = " ".join(f"--plugin {file}" for file in used)
        raise UserError(f"--resume: the run in {folder} has methods from files of your own; name them again: {files}")
    load_plugins(asked)
    place = folder.resolve()
    here = {"run": {"output": str(place.parent.parent), "sweep": place.parent.name}}
    config = config_of(merge(values, here, overrides))
    if config.folder.resolve() != place:
        raise UserError(f"--resume: the folder is called {place.name!r}, but the run {config.cell!r}; rename it back.")
    return config
