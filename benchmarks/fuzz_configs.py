"""Generated calls of the command line: settings and config files of every shape, valid ones among them.

Deliberately absent: what becomes of a call (``benchmarks/fuzz_call.py``), and files of runs (``fuzz_folders.py``).
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.fuzz_values import NAMES, ODD, RAW
from clrft.config.run_config import EvaluateConfig, RunSection
from clrft.utils.files import config_root
from methods.model.config import ModelConfig
from methods.registry import known_methods
from methods.settings import TrainConfig
from task_streams import STREAMS

STOPPED = ("run.output=out", "run.mlflow=false", "train.max_prompt_tokens=1")  # refused once the data are there
SWEEP_KEYS = ("sweep", "streams", "methods", "models", "seeds", "set", "vary", "per_method", "parts")


@dataclass(frozen=True)
class Given:
    """What a user gives, words and files in the working folder, and what must come of it."""

    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    refused: bool = False  # it says two things, or nothing, where it must say one
    shows: str = ""  # what ``clrft show`` must print of it


def fields_of_sections() -> list[str]:
    """Dotted names of every setting of every section, stream and method."""
    sections: dict[str, list[Any]] = {
        "model": [ModelConfig],
        "train": [TrainConfig],
        "evaluate": [EvaluateConfig],
        "run": [RunSection],
        "stream": [spec.config for spec in STREAMS.values()],
        "method": [method.Config for method in known_methods().values()],
    }
    return sorted(
        {f"{name}.{one.name}" for name, kinds in sections.items() for k in kinds for one in dataclasses.fields(k)}
    )


FIELDS = fields_of_sections()
VALID = (
    "train.updates=5",
    "train.learning_rate=3e-5",
    "train.epochs=2",
    "evaluate.future=true",
    "stream.shots=4",
    "run.name_suffix=a",
    "run.sweep=s",
    "model.adapter=lora",
    "seed=7",
    "method.group_size=4",
    "evaluate.probe=0",
    "method=grpo",
    "method=sft",
    "method=grpo+ewc",
    "stream=digits_cil",
    "model=tiny",
    "train.schedule=cosine",
    "evaluate.metrics=[last_acc]",
    "run.keep_weights=last",
    "train.workers=0",
)


def values() -> st.SearchStrategy[str]:
    """Values as they stand behind ``KEY=``."""
    numbers = st.one_of(st.integers().map(str), st.floats().map(str), st.integers(0, 50).map(str))
    return st.one_of(
        st.sampled_from(ODD),
        st.sampled_from(ODD),
        numbers,
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12),
    )


def keys() -> st.SearchStrategy[str]:
    """Names of settings, most of them known."""
    odd = st.sampled_from(
        (
            "stream",
            "method",
            "model",
            "seed",
            "train",
            "run",
            "run.",
            ".run",
            "a.b.c",
            "train..x",
            "method.parts",
            "method.parts.ewc",
            "method.name",
            "stream.name",
            "__class__",
            "train.updates.x",
        )
    )
    return st.one_of(st.sampled_from(FIELDS), st.sampled_from(FIELDS), odd)


def words() -> st.SearchStrategy[list[str]]:
    """KEY=VALUE words: all valid in one of three, else with odd ones among them."""
    valid = st.lists(st.sampled_from(VALID), max_size=3)
    odd = st.lists(st.tuples(keys(), values()).map("=".join), min_size=1, max_size=3)
    free = st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8).filter(
            lambda word: word[0] != "-"
        ),
        max_size=1,
    )
    return st.one_of(valid, st.tuples(valid, odd, free).map(lambda lists: [word for one in lists for word in one]))


def plain() -> st.SearchStrategy[Any]:
    """Values as YAML has them, nested."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.dates(),
        st.binary(max_size=4),
        st.sampled_from(("digits_cil", "rapo", "grpo", "ewc", "tiny", "../x", "a\0b", "x" * 300)),
    )
    names = st.one_of(
        st.sampled_from(
            [
                *SWEEP_KEYS,
                "stream",
                "method",
                "model",
                "train",
                "run",
                "name",
                "parts",
                "plugins",
                "label",
                "seed",
                "shots",
                "updates",
            ]
        ),
        st.text(max_size=4),
        st.integers(),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
        max_leaves=12,
    )


def shipped(group: str) -> list[str]:
    """Texts of the shipped configs of a kind."""
    return [path.read_text(encoding="utf-8") for path in sorted((config_root() / group).glob("*.yaml"))]


def changed(group: str) -> st.SearchStrategy[bytes]:
    """A shipped config in which the value of one line, or its key, is another, or a line stands twice."""

    def change(text: str, line: int, value: str, key: bool, twice: bool) -> bytes:
        lines = text.splitlines()
        at = line % len(lines)
        name, colon, old = lines[at].partition(":")
        before = lines[at]
        lines[at] = f"{value}:{old}" if key else f"{name}{colon or ':'} {value}"
        if twice:
            lines.insert(at, before)
        return "\n".join(lines).encode("utf-8", "replace")

    return st.builds(
        change, st.sampled_from(shipped(group)), st.integers(0, 40), values(), st.booleans(), st.booleans()
    )


def file_texts(group: str) -> st.SearchStrategy[bytes]:
    """Contents of a config file."""
    dumped = plain().map(lambda data: yaml.safe_dump(data).encode("utf-8", "replace"))
    whole = st.sampled_from(shipped(group)).map(str.encode)
    return st.one_of(changed(group), changed(group), dumped, st.sampled_from(RAW), whole)


def sweeps() -> st.SearchStrategy[bytes]:
    """Sweep files: their keys with values of every kind."""
    fitting = {"streams": ["digits_cil"], "methods": ["sft", "grpo"], "seeds": [1, 2], "models": ["tiny"]}
    names = st.sampled_from(SWEEP_KEYS)
    return st.dictionaries(names, plain(), max_size=3).map(
        lambda odd: yaml.safe_dump({**fitting, **odd}).encode("utf-8", "replace")
    )


def repeated_keys() -> st.SearchStrategy[Given]:
    """Shipped configs in which a key stands twice."""

    def twice(text: str, line: int, value: str, name: str, key: str) -> Given:
        lines = text.splitlines()
        places = [i for i, one in enumerate(lines) if re.match(r" *[\w.]+: *[^\s#|>&]", one)]
        at = places[line % len(places)]
        lines.insert(at + 1, f"{lines[at].partition(':')[0]}: {value}")
        return Given(("show", f"{key}={name}" if key else name), {name: "\n".join(lines).encode()}, refused=True)

    groups = (("streams", "stream"), ("methods", "method"), ("models", "model"), ("sweeps", ""))
    kinds = []
    for group, key in groups:
        texts = [text for text in shipped(group) if re.search(r"^ *[\w.]+: *[^\s#|>&]", text, re.MULTILINE)]
        values = st.sampled_from(("x", "1", "null"))
        kinds.append(
            st.builds(twice, st.sampled_from(texts), st.integers(0, 40), values, st.just("a.yaml"), st.just(key))
        )
    return st.one_of(kinds)


# What is written for a seed or a rate, and what that is by YAML 1.2.
NUMBERS = (("010", "10"), ("0o17", "15"), ("0x10", "16"), ("7", "7"), ("+7", "7"))
NEITHER = ("1_000", "12:30", "yes", "on", "no", "~", "", "0b11", "'7'", '"7"', ".inf", "1.0")  # are no whole numbers


def plain_corners() -> st.SearchStrategy[Given]:
    """Words and files whose meaning is fixed: numbers by YAML 1.2, names of methods, settings left empty."""
    sweep = {"streams": ["digits_cil"], "methods": ["sft", "grpo"], "seeds": [1]}
    typo = st.sampled_from(("rapo", "grp", "SFT", "sft ", "grpo+ewc", ""))
    given = [
        st.sampled_from(NUMBERS).map(lambda one: Given(("show", f"seed={one[0]}"), shows=f"seed {one[1]}")),
        st.sampled_from(NEITHER).map(lambda word: Given(("show", f"seed={word}"), refused=True)),
        st.sampled_from(NEITHER).map(
            lambda word: Given(
                ("show", "stream=a.yaml"), {"a.yaml": f"seed: {word}\nstream: {{name: digits_cil}}".encode()}
            )
        ),
        typo.map(
            lambda name: Given(
                ("show", "a.yaml"),
                {"a.yaml": yaml.safe_dump({**sweep, "per_method": {name: {"train": {"updates": 3}}}}).encode()},
                refused=True,
            )
        ),
        st.sampled_from(("streams", "methods", "seeds")).map(
            lambda key: Given(
                ("show", "a.yaml"), {"a.yaml": yaml.safe_dump({**sweep, key: None}).encode()}, refused=True
            )
        ),
        st.sampled_from(("stream", "method", "stream.root")).map(
            lambda key: Given(("show", "stream=folder_cil", f"{key}="), refused=True)
        ),
    ]
    return st.one_of(given)


def calls() -> st.SearchStrategy[Given]:
    """Calls of every kind."""
    named = st.sampled_from(NAMES)

    def with_file(command: tuple[str, ...], prefix: str = "") -> Any:
        return lambda name, data, more: Given((*command, f"{prefix}{name}", *more), {name: data})

    settings = words().map(lambda more: Given(("show", *more)))
    files = [
        st.builds(with_file(("show",), f"{key}="), named, file_texts(group), words())
        for key, group in (("stream", "streams"), ("method", "methods"), ("model", "models"))
    ]
    files += [st.builds(with_file(("show",)), named, file_texts(group), words()) for group in ("methods", "sweeps")]
    swept = st.builds(with_file(("show",)), named, sweeps(), words())
    looked = st.builds(with_file(("status",)), named, st.one_of(sweeps(), file_texts("sweeps")), st.just([]))
    checked = st.builds(
        lambda name, data, more: Given(("data", "check", name, *more, "run.output=out"), {name: data}),
        named,
        file_texts("streams"),
        st.just([]),
    )
    run = words().map(lambda more: Given(("run", "stream=digits_cil", "method=sft", *more, *STOPPED)))
    odd_path = st.one_of(
        named, st.sampled_from(("", ".", "..", "/", "x" * 300, "x/" * 3000, "out", "\udcff", "/dev/null", "é\n"))
    )
    paths = st.builds(
        lambda command, path: Given((*command, path)),
        st.sampled_from(
            (
                ("run", "--resume"),
                ("status",),
                ("compare",),
                ("rewards",),
                ("sync", "--dry-run"),
                ("list", "methods", "--plugin"),
                ("show", "--plugin"),
                ("sweep",),
                ("method", "check"),
                ("data", "check"),
            )
        ),
        odd_path,
    )
    corners = (repeated_keys(), plain_corners())
    return st.one_of(settings, settings, *files, swept, swept, looked, checked, run, paths, *corners)


def lay(given: Given, work: Path) -> None:
    """Put the files of a call into the working folder."""
    for name, data in given.files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
