"""Which base a run is of: the SHA-256 of every file that decides what a checkpoint computes, or a hub id's commit.

Digests are kept in the index of the suite's cache for as long as a file's stamp stays the same, so that a checkpoint of
many gigabytes is hashed once, not at every start. Deliberately absent: what else lies in a checkpoint's folder
(a README, states of optimizers), and the files of a hub id, whose commit names them.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrft.utils.files import digest, sha256_file
from task_streams.errors import UserError
from task_streams.sources.library import Index
from task_streams.sources.records import Damaged, FileSource

DECODER = "sha256 of a file"  # as what the index keeps digests
# Files that transformers loads weights, settings, tokenizer and processor from.
DECISIVE = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "*processor_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "chat_template.*", "additional_chat_templates/*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """What tells one base from another: digests of a folder's files by name, or the commit of a hub id."""

    files: Mapping[str, str]
    commit: str = ""

    @property
    def identity(self) -> str:
        """One digest for all, or the commit."""
        return self.commit or digest(dict(self.files))

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"commit": self.commit} if self.commit else {"sha256": self.identity, "files": dict(self.files)}


UNKNOWN = Base({})


def base_of(path: str, revision: str | None, cache: Path | None, advance: Callable[[int], None] | None = None) -> Base:
    """The base in a folder, or of a hub id.

    Args:
        path: checkpoint folder or hub id.
        revision: branch, tag or commit of a hub id; None: its main branch.
        cache: folder of the suite's cache, which keeps digests; None: all is hashed.
        advance: called with the bytes of each file that is hashed now.

    Raises:
        UserError: a file cannot be read, or the hub id cannot be resolved.
    """
    folder = Path(path)
    if not folder.exists():
        return Base({}, hub_commit(path, revision))
    if revision is not None:
        raise UserError(f"model.revision: got {revision!r}, but {path!r} is a folder; expected null, or a hub id.")
    files = decisive_files(folder)
    sources = [FileSource(os.path.abspath(folder / name)) for name in files]
    index = Index(cache)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        try:
            stamps = [source.stamp() for source in sources]  # before reading: a change meanwhile is not missed
            found = index.contents(DECODER, sources, stamps)
            fresh = [place for place, known in enumerate(found) if known is None]
            for place, known in zip(fresh, workers.map(sha256_file, [folder / files[at] for at in fresh]), strict=True):
                found[place] = known
                if advance is not None:
                    advance(os.path.getsize(folder / files[place]))
            index.remember(DECODER, [(sources[place], stamps[place], str(found[place])) for place in fresh])
        except (Damaged, OSError) as error:
            raise UserError(f"model.path: {path!r} cannot be read: {error}") from error
        finally:
            index.close()
            workers.shutdown(cancel_futures=True)
    return Base({name: str(known) for name, known in zip(files, found, strict=True)})


def decisive_files(folder: Path) -> list[str]:
    """Names of the files in a checkpoint's folder that decide what it computes, sorted."""
    found = {path for pattern in DECISIVE for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def hub_commit(path: str, revision: str | None) -> str:
    """The commit that a revision of a hub id stands for now; where no hub is reached, that of the copy on this machine.

    Raises:
        UserError: there is no such id or revision, or no copy of it.
    """
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        commit = extract_commit_hash(cached_file(path, "config.json", revision=revision), None)
    except (OSError, ValueError) as error:
        at = f" at model.revision {revision!r}" if revision else ""
        raise UserError(f"model.path: cannot load {path!r}{at}: {error}") from error
    if commit is None:
        raise UserError(f"model.path: the hub names no commit of {path!r}; download it and give its folder.")
    return commit


def check_same_base(run: Path, then: Mapping[str, Any] | None, now: Base) -> None:
    """Refuse a base that is not the one that a run began with; of runs of before bases were recorded, nothing is known.

    Raises:
        UserError: which files differ, or which commits.
    """
    if not then:
        return
    begun = Base(then.get("files", {}), then.get("commit", ""))
    if begun.identity == now.identity:
        return
    names = [name for name in sorted({*begun.files, *now.files}) if begun.files.get(name) != now.files.get(name)]
    pairs = [(f"{name}: ", begun.files.get(name), now.files.get(name)) for name in names]
    if begun.commit or now.commit:
        pairs = [("", begun.identity, now.identity)]
    differing = ", ".join(f"{what}{short(before)} there and {short(after)} here" for what, before, after in pairs)
    raise UserError(
        f"{run}: the base model is not the one that this run began with ({differing}); restore it or start a new run."
    )


def short(identity: str | None) -> str:
    """A digest or commit in few characters."""
    return "missing" if identity is None else f"{identity[:12]}…"
