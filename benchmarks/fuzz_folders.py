"""Damaged run folders: everything that an accident or a stranger may do to the files of a run.

A damage is a function of a run folder, the folder of a stranger beside all, and a random generator; it says in words
what it did. Deliberately absent: what the commands make of it (``benchmarks/fuzz.py``).
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    3,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "1",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "[/x]",
    "$\\frac$",
    "'; drop",
    "x" * 5000,
    [],
    {},
    [1],
    [None],
    {"a": 1},
    {"": {}},
    [[[]]],
)

Damage = Callable[[Path, Path, random.Random], str]


def files_in(folder: Path, *endings: str) -> list[Path]:
    """Files of a run folder, hidden ones left out."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return [path for path in found if not endings or path.suffix in endings]


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested values, the whole left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, part in inside for one in [(*place, key), *places(part, (*place, key))]]


def changed(values: Any, rng: random.Random) -> tuple[Any, str]:
    """Nested values of which one is another, gone, or has another name."""
    here = rng.choice(places(values) or [()])
    if not here:
        return rng.choice(ODD), "the whole"
    holder = values
    for key in here[:-1]:
        holder = holder[key]
    what = rng.choice(("odd", "odd", "odd", "gone", "renamed"))
    if what == "gone":
        del holder[here[-1]]
        return values, f"{here} gone"
    if what == "renamed" and isinstance(holder, dict):
        holder[rng.choice(("", "x", "-1", "10" * 200, "../x"))] = holder.pop(here[-1])
        return values, f"{here} renamed"
    holder[here[-1]] = rng.choice(ODD)
    return values, f"{here} is {holder[here[-1]]!r:.60}"


def json_value(run: Path, outside: Path, rng: random.Random) -> str:
    """Another value in a JSON file."""
    path = rng.choice(files_in(run, ".json"))
    values, words = changed(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))
    return f"{path.relative_to(run)}: {words}"


def own_json(run: Path, outside: Path, rng: random.Random) -> str:
    """Another value in a JSON file of the run itself, not of its weights."""
    paths = [path for path in files_in(run, ".json") if "weights" not in path.parts]
    path = rng.choice(paths)
    values, words = changed(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))
    return f"{path.relative_to(run)}: {words}"


def rows_value(run: Path, outside: Path, rng: random.Random) -> str:
    """Another value in a file of rows."""
    path = rng.choice([path for path in files_in(run, ".jsonl") if path.stat().st_size])
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    values, words = changed(json.loads(lines[at]), rng)
    lines[at] = rng.choice((json.dumps(values), lines[at][:-3], "", "[]", "{}"))
    path.write_text("\n".join(lines) + "\n")
    return f"{path.relative_to(run)}, row {at + 1}: {words}"


def config_value(run: Path, outside: Path, rng: random.Random) -> str:
    """Another value in config.yaml."""
    values, words = changed(yaml.safe_load((run / "config.yaml").read_text()), rng)
    (run / "config.yaml").write_text(yaml.dump(values, allow_unicode=False))
    return f"config.yaml: {words}"


def config_escape(run: Path, outside: Path, rng: random.Random) -> str:
    """A config.yaml that names places outside."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    section, key, value = rng.choice(
        (
            ("run", "output", str(outside)),
            ("run", "sweep", "../../outside"),
            ("run", "name_suffix", "../.."),
            ("stream", "label", "../../outside/x"),
            ("method", "label", "/etc/x"),
            ("run", "plugins", [str(outside / "evil.py")]),
            ("model", "path", str(outside)),
            ("evaluate", "probes", [str(outside / "sentinel.json")]),
            ("method", "name", "../x"),
            ("run", "keep_weights", "last"),
            ("stream", "name", "../x"),
        )
    )
    values[section][key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    return f"config.yaml: {section}.{key} is {value}"


def config_raw(run: Path, outside: Path, rng: random.Random) -> str:
    """A config.yaml that is none."""
    text = rng.choice(
        (
            b"",
            b"[]",
            b"\xff\xfe",
            b"\0",
            b"&a {b: *a}",
            b"stream: 5",
            b"run: x",
            b"{a: " * 3000,
            b"!!python/object/apply:os.system ['touch pwned']",
            b"stream: {name: 2024-99-99}",
        )
    )
    (run / "config.yaml").write_bytes(text)
    return f"config.yaml is {text[:40]!r}"


def truncated(run: Path, outside: Path, rng: random.Random) -> str:
    """A file cut short, maybe to nothing."""
    path = rng.choice(files_in(run))
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice((0, 1, len(data) // 2, max(len(data) - 1, 0)))])
    return f"{path.relative_to(run)} cut short to {path.stat().st_size} bytes"


def flipped(run: Path, outside: Path, rng: random.Random) -> str:
    """A flipped bit."""
    path = rng.choice([path for path in files_in(run) if path.stat().st_size])
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.relative_to(run)}: a bit of byte {at} flipped"


def missing(run: Path, outside: Path, rng: random.Random) -> str:
    """A file or folder that is gone."""
    path = rng.choice([path for path in sorted(run.rglob("*")) if not path.name.startswith(".")])
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"{path.relative_to(run)} missing"


def duplicated(run: Path, outside: Path, rng: random.Random) -> str:
    """A file or task folder that is there under another name too."""
    path = rng.choice([*files_in(run), *sorted(run.glob("task_*"))])
    name = rng.choice(
        (f"{path.name}.copy", "task_03", "task_99", "task_2", "task_x", "task_١", "step_x", ".x.partial-1")
    )
    target = path.with_name(name)
    if not target.exists():
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    return f"{path.relative_to(run)} again as {name}"


def swapped(run: Path, outside: Path, rng: random.Random) -> str:
    """Two files or folders of one kind in each other's place."""
    stages = sorted(run.glob("task_*"))
    first, second = rng.sample(stages, 2)
    names = [path.name for path in first.iterdir() if (second / path.name).exists()]
    if rng.random() < 0.6:
        name = rng.choice(names)
        first, second = first / name, second / name
    spare = run / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    return f"{first.relative_to(run)} and {second.relative_to(run)} swapped"


def folder_for_file(run: Path, outside: Path, rng: random.Random) -> str:
    """A folder where a file is expected, or a file for a folder."""
    path = rng.choice([path for path in sorted(run.rglob("*")) if not path.name.startswith(".")])
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("x")
        return f"{path.relative_to(run)} is a file"
    path.unlink()
    path.mkdir()
    return f"{path.relative_to(run)} is a folder"


def linked(run: Path, outside: Path, rng: random.Random) -> str:
    """A link that leads out of the run folder, to a file or folder that is there or not."""
    path = rng.choice([path for path in sorted(run.rglob("*")) if not path.name.startswith(".")])
    into = outside / path.relative_to(run)
    shape = rng.choice(("its own", "sentinel", "nothing", "circle"))
    if shape == "its own" and not into.exists():  # what the link leads to is what was there
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, into) if path.is_dir() else shutil.copy(path, into)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    target = {"its own": into, "sentinel": outside / "sentinel.json", "nothing": outside / "none", "circle": path}[
        shape
    ]
    path.symlink_to(target)
    return f"{path.relative_to(run)} is a link to {shape}"


def linked_new(run: Path, outside: Path, rng: random.Random) -> str:
    """A link out of the run folder at a place that is written to."""
    name, target = rng.choice(
        (
            ("comparison", "."),
            ("error.txt", "sentinel.json"),
            (".mlflow.lock", "new.lock"),
            (".mlflow.lock", "sentinel.json"),
            ("unfinished", "."),
            ("task_03", "task_01"),
            ("metrics.json", "sentinel.json"),
            ("matrix.json", "none"),
            ("comparison/accuracy.png", "x.png"),
            ("comparison/table.md", "x.png"),
            (f"../.{run.name}.lock", "sentinel.json"),
            (f"../.{run.name}.lock", "none"),
            ("../mlflow.json", "sentinel.json"),
            ("comparison/rewards.png", "x.png"),
        )
    )
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(outside / target)
    return f"{name} is a link to outside/{target}"


def lock_damaged(run: Path, outside: Path, rng: random.Random) -> str:
    """A lock that nobody wrote, and which was not touched for long."""
    lock = run.parent / f".{run.name}.lock"
    text = rng.choice(
        (
            "",
            "x",
            "[]",
            "{}",
            "null",
            '{"process": -1}',
            "\0",
            '{"process": 1e999}',
            "[" * 5000,
            json.dumps(
                {
                    "process": 10**30,
                    "host": os.uname().nodename,
                    "space": "",
                    "boot": "",
                    "started": "",
                    "taken": "",
                    "token": "a",
                }
            ),
            "folder",
        )
    )
    if text == "folder":
        lock.mkdir()
    else:
        lock.write_text(text)
    os.utime(lock, (1e9, 1e9))
    return f"the lock holds {text[:30]!r}"


def mark_damaged(run: Path, outside: Path, rng: random.Random) -> str:
    """A damaged mlflow.json of the run or its sweep."""
    path = rng.choice((run, run.parent)) / "mlflow.json"
    text = rng.choice(
        (
            "",
            "{}",
            "[]",
            '{"schema": 2, "identity": "x"}',
            '{"schema": 1}',
            '{"schema": 1, "identity": 5}',
            '{"schema": 1, "identity": "\' or 1=1"}',
            '{"schema": 1, "identity": "", "complete": "yes"}',
            '{"schema": 1, "identity": null}',
            '{"schema": 1, "identity": "' + "x" * 9000 + '"}',
        )
    )
    path.write_text(text)
    return f"{path.parent.name}/mlflow.json is {text[:50]}"


def encoded(run: Path, outside: Path, rng: random.Random) -> str:
    """A text in another encoding, or with a NUL."""
    path = rng.choice(files_in(run, ".json", ".jsonl", ".yaml"))
    text = path.read_text()
    data = rng.choice(
        (
            text.encode("utf-16"),
            b"\xff" + text.encode(),
            text.encode() + b"\0",
            b"\xef\xbb\xbf" + text.encode(),
            b"[" * 5000,
            b'{"a": ' * 5000,
        )
    )
    path.write_bytes(data)
    return f"{path.relative_to(run)} begins with {data[:6]!r}"


def schema_number(run: Path, outside: Path, rng: random.Random) -> str:
    """Another schema number."""
    paths = [path for path in files_in(run, ".json") if "schema" in json.loads(path.read_text())]
    path = rng.choice(paths)
    number = rng.choice((0, 2, 99, "1", None, [1], -1, 10**30))
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": number}))
    return f"{path.relative_to(run)}: schema {number!r}"


def unfinished_damaged(run: Path, outside: Path, rng: random.Random) -> str:
    """Damage in what an unfinished task left."""
    folder = run / "unfinished"
    if not folder.is_dir():
        target = folder / rng.choice(("task_02", "task_07", "x"))
        target.mkdir(parents=True)
        (target / "step_x").write_text("x")
        return f"{target.relative_to(run)} in a finished run"
    inner = rng.choice((truncated, flipped, missing, folder_for_file, linked, json_value, duplicated))
    return f"unfinished: {inner(folder, outside, rng)}"


DAMAGES: tuple[tuple[Damage, int], ...] = (
    (own_json, 30),
    (json_value, 4),
    (rows_value, 12),
    (config_value, 14),
    (config_escape, 8),
    (config_raw, 4),
    (truncated, 10),
    (flipped, 10),
    (missing, 10),
    (duplicated, 8),
    (swapped, 8),
    (folder_for_file, 10),
    (linked, 14),
    (linked_new, 14),
    (lock_damaged, 8),
    (mark_damaged, 8),
    (encoded, 6),
    (schema_number, 6),
    (unfinished_damaged, 16),
)


def damage(run: Path, outside: Path, rng: random.Random) -> str:
    """Do one damage to a run folder; returns what it is, in words."""
    kinds, weights = zip(*DAMAGES, strict=True)
    return str(rng.choices(kinds, weights)[0](run, outside, rng))
