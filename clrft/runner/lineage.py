"""Where each stage comes from: digests of what it left, of settings and data, and the identity of the stage before.

``lineage.json`` of a task folder holds the SHA-256 of every file that the next task starts from. The identity of a
stage is the digest of all this with the identity of the stage before in it, so that one number stands for the history.
The first stages of a fork are another run's, unchanged: each stage answers to the settings it was learned under.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clrft.config.records import Lineage, read_record
from clrft.config.retired import CONFIG_FILE
from clrft.config.run_config import RunConfig
from clrft.runs.fork_history import Origin
from clrft.runs.layout import ANCHOR_FILE, MOMENTS_FILE, STATE_FILE, STATE_TENSORS, WEIGHTS_FOLDER, stage_folder
from clrft.runs.manifest import comparable
from clrft.utils.files import Damaged, digest, sha256_file, write_json_atomic
from clrft.utils.plain import read_yaml
from task_streams.errors import UserError

SCHEMA = 1
FILE = "lineage.json"
ROOT = ""  # parent of the first stage


def write_lineage(folder: Path, stage: int, parent: str, config: RunConfig, data: Mapping[str, str], base: str) -> None:
    """Write where a stage comes from and what it left, beside its files in ``folder``."""
    facts = {
        "schema": SCHEMA,
        "stage": stage,
        "parent": parent,
        "config": config_digest(config),
        "data": digest(dict(data)),
        "base": base,
        "files": learned_files(folder),
    }
    write_json_atomic(folder / FILE, {**facts, "identity": digest(facts)})


def config_digest(config: RunConfig) -> str:
    """Digest of the settings that decide what a run computes, as the version that began it wrote them."""
    file = config.folder / CONFIG_FILE
    return digest(comparable(read_yaml(file) if file.exists() else config.to_dict()))


def learned_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that the next stage starts from, by its name in the folder."""
    single = [folder / name for name in (STATE_FILE, STATE_TENSORS, MOMENTS_FILE, ANCHOR_FILE)]
    paths = sorted(path for path in [*(folder / WEIGHTS_FOLDER).glob("*"), *single] if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in paths}


def identity_of(run: Path, stage: int) -> str:
    """Identity of a finished stage."""
    return str(read_record(stage_folder(run, stage) / FILE, SCHEMA, Lineage)["identity"])


def check_lineage(
    run: Path, stages: Sequence[int], config: str, data: Mapping[str, str], base: str, origins: Sequence[Origin] = ()
) -> None:
    """Refuse to go on from stages that are not what they were, or not each other's.

    Args:
        run: the run's folder.
        stages: the finished stages in order; the files of the last, from which the next one starts, are hashed.
        config: digest of the run's settings.
        data: fingerprints of the stream.
        base: identity of the base, which stages of before it was recorded do not tell.
        origins: the runs it was forked from, if any, the oldest first.

    Raises:
        UserError: which differs, what was found and what is expected.
    """
    parent = ROOT
    for stage in stages:
        file = stage_folder(run, stage) / FILE
        facts = read_record(file, SCHEMA, Lineage)
        stated = facts.pop("identity", None)
        origin = next((one for one in origins if stage <= one.stage), None)  # whose stage it is; None: the run's own
        expected = {
            "stage": stage,
            "parent": parent,
            "config": config if origin is None else origin.config,
            "data": digest(dict(data)),
            "base": base if "base" in facts else None,
        }
        problems = [
            f"{file}: {name} is {short(facts.get(name))}, expected {short(value)}."
            for name, value in expected.items()
            if facts.get(name) != value
        ]
        if stated != digest(facts):
            problems.append(f"{file}: identity is {short(stated)}, expected {short(digest(facts))}; it was changed.")
        elif origin is not None and origin.stage == stage and origin.identity != stated:
            problems.append(f"{file}: identity is {short(stated)}, expected {short(origin.identity)}, what was forked.")
        if problems:
            raise UserError(*problems, remedy(run, stage, origin))
        parent = str(stated)
    if stages:
        check_files(stage_folder(run, stages[-1]), remedy(run, stages[-1], origin))


def check_left(folder: Path, parent: str) -> None:
    """Refuse what a training left if it began with something else, or was changed since.

    Raises:
        UserError: which differs, what was found and what is expected.
    """
    facts = read_record(folder / FILE, SCHEMA, Lineage)
    advice = f"Remove {folder} to train this task again."
    if facts["parent"] != parent:
        raise UserError(f"{folder / FILE}: parent is {short(facts['parent'])}, expected {short(parent)}.", advice)
    check_files(folder, advice)


def check_files(folder: Path, advice: str) -> None:
    """Refuse a stage's folder as ``Damaged``, with every file that is missing, changed or new by its lineage."""
    expected = read_record(folder / FILE, SCHEMA, Lineage)["files"]
    found = learned_files(folder)
    problems = [
        f"{folder / name}: SHA-256 is {short(found.get(name))}, expected {short(expected.get(name))}."
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if problems:
        raise Damaged(*problems, advice)


def remedy(run: Path, stage: int, origin: Origin | None = None) -> str:
    """What to do about a stage that cannot be gone on from; ``origin``: the run that it is of, if it is another's."""
    if origin is not None:
        return f"Restore {stage_folder(run, stage)}, which is that of {origin.run}, or remove {run} and fork again."
    return f"Restore {stage_folder(run, stage)}, or remove it and all later task folders to learn them again."


def short(value: Any) -> str:
    """A digest in few characters; anything else as it is."""
    if value is None:
        return "missing"
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)
