"""Names and overrides to one typed, checked run configuration.

Layers, each over the one before: the dataclasses' defaults, the model's YAML, the stream's, the method's, a
sweep's, dotted overrides. A YAML of ``configs/`` may set fields of every section (a 2B model brings its own
learning rate). Everything that is wrong is reported at once, before anything is loaded.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat

from clrft.utils.files import config_root, safe_name
from clrft.utils.plain import SECTIONS, from_yaml, plugins_of, read_yaml, section_of, sections_of
from eval.metrics import METRICS
from methods.compose import composition_problems
from methods.model.config import ModelConfig
from methods.registry import installed_methods, known_methods, load_plugins, method_class
from methods.settings import TrainConfig
from task_streams import STREAMS
from task_streams.config import MAX_SEED, Count, PositiveShare, Settings, typed_section
from task_streams.errors import UserError, brief, unknown_name

Values = dict[str, Any]
GROUPS = {"stream": "streams", "method": "methods", "model": "models"}
LABELLED = ("stream", "method", "model")  # sections that name run folders
JOIN = "+"  # between methods that work together, on the command line
# What a part joins when nothing else is named, by the families that it joins.
DEFAULT_LEARNERS = {"supervised": "sft", "reinforcement": "grpo"}


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """How every seen task is tested after each task."""

    decoding: Literal["greedy", "sampled"] = "greedy"
    """greedy, or sampled (one sample at the temperature and top_p below, as published)."""
    temperature: PositiveFloat = 0.6
    """Temperature of sampled decoding (above 0)."""
    top_p: PositiveShare = 0.95
    """Nucleus of sampled decoding, in (0, 1]."""
    batch_size: Count = 128
    """Test items answered in one batch (at least 1)."""
    future: bool = False
    """Also test the base and tasks not yet learned, which forward transfer needs."""
    probe: NonNegativeInt = 200
    """Items of the general-ability probe outside the stream (0: no probe)."""
    every: Count = 1
    """After every how many tasks those before the newest are tested too (and after the last); 1 = after each."""
    sample: Count | None = None
    """Test items of a task that are asked between its own test and the last one, always the same; null = all."""
    final_list: bool = True
    """Ask each task once more right after it was learned, under the final class list: splits forgetting in two."""
    drift_prompts: NonNegativeInt = 16
    """Test items of a new task whose rollouts tell how far its training moved the policy (0: not measured)."""
    probes: tuple[str, ...] = ()
    """Files of questions outside the stream (JSON lines), asked beside the built-in probe."""
    probe_tokens: Count = 256
    """Longest answer to a question of the files in probes (at least 1)."""
    metrics: tuple[str, ...] = tuple(METRICS)
    """Metrics to compute, by key; all by default."""

    def problems(self) -> list[str]:
        return [f"metrics: {unknown_name('metric', key, METRICS)}" for key in self.metrics if key not in METRICS]


@dataclass(frozen=True)
class RunSection(Settings):
    """Where a run is kept and what is kept of it."""

    output: str = "runs"
    """Folder of all runs."""
    sweep: str = "single"
    """Name of the sweep that the run belongs to; a folder under output."""
    mlflow: bool = True
    """Track the run in MLflow (MLFLOW_TRACKING_URI, else a SQLite store in output)."""
    keep_weights: Literal["all", "last"] = "all"
    """Weights that stay on disk: all (of every task) or last."""
    checkpoint_every: NonNegativeInt = 10
    """Updates of a task between two states of its training on disk, from which a killed run goes on (0: none)."""
    check_memory: bool = True
    """Refuse a run whose estimate exceeds the memory that is there, before any training; false: try all the same."""
    plugins: tuple[str, ...] = ()
    """Python files with methods of your own; code in them runs."""
    name_suffix: str = ""
    """Appended to the run folder's name, to tell settings of one stream, method and order apart."""

    def problems(self) -> list[str]:
        suffix = {"name_suffix": self.name_suffix} if self.name_suffix else {}
        problems = unsafe_names({"sweep": self.sweep, **suffix})
        if not self.output:
            problems.append("output: got an empty text, expected a folder (. is the current one).")
        return problems


@dataclass(frozen=True)
class RunConfig:
    """One cell: a stream in one order, learned by one method from one model.

    Attributes:
        stream_name: key in ``STREAMS``; ``stream`` holds its settings.
        stream_label: name of the stream's YAML, which names run folders and tables.
        method_name: name of the method that learns; ``method`` holds its settings.
        parts: names and settings of the parts that join it.
        method_label: name of the method's YAML or of the methods, which names run folders and tables.
        model_label: name of the model's YAML.
        seed: seed of the class (or domain) order and of the training.

    Raises:
        UserError: images and clips do not stand where the prompt's style needs them.
    """

    stream_name: str
    stream_label: str
    stream: Any
    method_name: str
    method_label: str
    method: Any
    parts: tuple[tuple[str, Any], ...]
    model_label: str
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    run: RunSection
    seed: int

    def __post_init__(self) -> None:
        if self.stream.style.media_first and self.model.media != "first":
            raise UserError(
                f"model.media: got {self.model.media}, but prompts of the style {self.stream.style.name!r} have images "
                "and clips before their text; expected first, or another stream.prompt."
            )

    @property
    def cell(self) -> str:
        """Name of the run folder: ``<stream>-<method>-<order>``, with a suffix if settings differ."""
        suffix = f"-{self.run.name_suffix}" if self.run.name_suffix else ""
        return f"{self.stream_label}-{self.method_label}-{self.seed}{suffix}"

    @property
    def folder(self) -> Path:
        """Run folder."""
        return Path(self.run.output) / self.run.sweep / self.cell

    def to_dict(self) -> Values:
        """Everything resolved, as plain values, in the layout of a config file."""
        return {
            "stream": {"name": self.stream_name, "label": self.stream_label, **_plain(self.stream)},
            "method": {
                "name": self.method_name,
                "label": self.method_label,
                **_plain(self.method),
                "parts": {name: _plain(part) for name, part in self.parts},
            },
            "model": {"label": self.model_label, **_plain(self.model)},
            "train": _plain(self.train),
            "evaluate": _plain(self.evaluate),
            "run": _plain(self.run),
            "seed": self.seed,
        }


def _plain(section: Any) -> Values:
    values = dataclasses.asdict(section)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def build_config(
    stream: str, method: str, model: str = "tiny", seed: int = 1993, *layers: Mapping[str, Any]
) -> RunConfig:
    """The checked configuration of one cell.

    Args:
        stream: name of a YAML file in ``configs/streams``, of a stream, or a path to a YAML file.
        method: likewise.
        model: likewise.
        seed: seed of the class order and the training.
        layers: nested overrides, later ones win.

    Raises:
        UserError: with every problem found.
    """
    for layer in layers:
        sections_of(layer)
    load_plugins(plugins_of(merge(*layers)))
    problems: list[str] = []
    named: dict[str, Values] = {}
    for group, name in (("model", model), ("stream", stream), ("method", method)):
        try:
            named[group] = load_group(group, name)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    merged = merge(*map(filled, (*named.values(), *layers)))
    labels = {"stream": Path(stream).stem, "method": method_label(method), "model": Path(model).stem}
    return typed_config(merged, labels, seed)


def typed_config(values: Values, labels: Mapping[str, str], seed: Any) -> RunConfig:
    """Nested plain values to a checked configuration; all problems at once."""
    problems = [unknown_name("section", name, (*SECTIONS, "seed")) for name in values if name not in SECTIONS]
    schemas = {"model": ModelConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "run": RunSection}
    sections = sections_of(values)
    stream_name, method_name = (written(sections[group].pop("name", None)) for group in ("stream", "method"))
    part_values = section_of(sections["method"], "parts")
    sections["method"].pop("parts", None)
    if stream_name in STREAMS:
        schemas["stream"] = STREAMS[stream_name].config
    elif stream_name:
        problems.append(unknown_name("stream", stream_name, STREAMS))
    else:
        problems.append(f"stream.name: a value is needed. Known: {', '.join(sorted(STREAMS))}.")
    try:
        methods = [method_class(name) for name in (method_name, *part_values)]
        problems += composition_problems(methods[0], methods[1:])
        schemas["method"] = methods[0].Config
        sections |= {f"method.parts.{name}": section_of(part_values, name) for name in part_values}
        schemas |= {f"method.parts.{one.name}": one.Config for one in methods[1:]}
    except UserError as error:
        problems += error.problems
    typed: Values = {}
    for name, schema in schemas.items():
        try:
            typed[name] = typed_section(name, schema, sections[name])
        except UserError as error:
            problems += error.problems
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        problems.append(f"seed: got {brief(seed)}, expected a whole number from 0 to {MAX_SEED}.")
    problems += unsafe_names(labels, " Rename its file.")
    if problems:
        raise UserError(*problems)
    config = RunConfig(
        stream_name=stream_name,
        stream_label=labels["stream"],
        method_name=method_name,
        method_label=labels["method"],
        model_label=labels["model"],
        seed=int(seed),
        parts=tuple((name, typed.pop(f"method.parts.{name}")) for name in part_values),
        **typed,
    )
    safe_name(config.cell)
    return config


def with_defaults(settings: Values) -> Values:
    """Plain settings with the defaults of what they lack; those of unknown streams and methods as they are.

    Raises:
        UserError: a section is no mapping.
    """
    sections, methods = sections_of(settings), known_methods()
    stream, method = str(sections["stream"].get("name")), sections["method"]
    if parts := section_of(method, "parts"):
        parts = method["parts"] = {name: section_of(parts, name) for name in parts}
    schemas: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    schemas |= {"stream": STREAMS[stream].config} if stream in STREAMS else {}
    schemas |= {"method": methods[method["name"]].Config} if method.get("name") in methods else {}
    places = [(sections, name, schema) for name, schema in schemas.items()]
    places += [(parts, name, methods[name].Config) for name in parts if name in methods]
    for within, name, schema in places:
        known = {one.name: one.default for one in dataclasses.fields(schema) if one.default is not dataclasses.MISSING}
        plain = {key: list(one) if isinstance(one, tuple) else one for key, one in known.items()}
        within[name] = {**plain, **within[name]}
    return {**settings, **sections}


def config_of(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that ``RunConfig.to_dict`` told in plain values, maybe in another process."""
    plain = {**values, **sections_of(values)}
    seed = plain.pop("seed", None)
    labels = {name: str(plain[name].pop("label", name)) for name in LABELLED}
    return typed_config(plain, labels, seed)


def unsafe_names(names: Mapping[str, str], remedy: str = "") -> list[str]:
    """Sentences for the names, by what they name, that cannot be part of a run folder's path."""
    problems = []
    for what, name in names.items():
        try:
            safe_name(name)
        except UserError as error:
            problems += [f"{what}: {problem}{remedy}" for problem in error.problems]
    return problems


def load_group(group: str, name: str) -> Values:
    """The YAML of a stream, method or model by name or path; a registered name needs no YAML.

    Several methods are joined by ``+``: the first learns, the others are parts; a part alone joins sft or grpo.

    Raises:
        UserError: no such name or file, or the file is not a mapping of sections.
    """
    if group != "method":
        return load_named(group, name)
    first, *others = names = name.split(JOIN)
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UserError(*(f"method {name!r}: {one!r} is named more than once; expected it once." for one in twice))
    values = load_named("method", first)
    method = as_one(values.get("method"), name)
    part = method_class(str(method.get("name")))
    if part.family == "part":
        learner = next(one for family, one in DEFAULT_LEARNERS.items() if family in part.joins)
        method = {"name": learner, "parts": {method.pop("name"): method}}
    for other in others:
        method_class(other)
        parts = section_of(method, "parts")
        method = {**method, "parts": {**parts, other: parts.get(other, {})}}
    return {**values, "method": method}


def load_named(group: str, name: str) -> Values:
    """The YAML of one name."""
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name))
        for section in SECTIONS:
            if section != "method":  # which may be a name or a list
                section_of(values, section)
        return values
    folder = config_root() / GROUPS[group]
    known = {path.stem for path in folder.glob("*.yaml")}
    if name in known:
        return read_yaml(folder / f"{name}.yaml")
    known = known | {"stream": set(STREAMS), "method": set(known_methods())}.get(group, set())
    if name not in known and group == "method":
        known = known | set(installed_methods())  # which takes a while to find
    if name in known:
        return {group: {"name": name}}
    raise UserError(f"{unknown_name(group, name, known)} A path that ends in .yaml is taken as a file.")


def as_one(method: Any, words: str) -> Values:
    """A method's section; a list of methods becomes the first with the others as parts.

    Raises:
        UserError: neither a mapping with a name nor a list of such.
    """
    listed = method if isinstance(method, list) else [method]
    each = [{"name": one} if isinstance(one, str) else one for one in listed]
    if not each or not all(isinstance(one, dict) and one.get("name") for one in each):
        raise UserError(f"method {words!r}: got {brief(method)}, expected a name, or a list of names and settings.")
    first, *others = (dict(one) for one in each)
    if others:
        first["parts"] = {**section_of(first, "parts"), **{str(one.pop("name")): one for one in others}}
    return first


def method_label(words: str) -> str:
    """Name of a method in run folders and tables: its YAML's, or the names joined by ``+``."""
    return JOIN.join(Path(word).stem for word in words.split(JOIN))


def merge(*layers: Mapping[str, Any]) -> Values:
    """Nested mappings merged, later layers over earlier ones; lists are replaced, not joined."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            both = isinstance(value, Mapping) and isinstance(old, Mapping)
            merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def filled(layer: Mapping[str, Any]) -> Values:
    """A layer without sections that are left empty, which set nothing."""
    return {name: section for name, section in layer.items() if section is not None or name not in SECTIONS}


def written(value: Any) -> str:
    """A name as it was written, be it read as a number; empty for nothing."""
    return "" if value is None else str(getattr(value, "written", value))


def parse_overrides(arguments: Sequence[str]) -> Values:
    """``section.key=value`` words to nested values; values are read as YAML.

    Raises:
        UserError: a word without ``=``, or a value that is not YAML; all of them.
    """
    problems: list[str] = []
    nested: Values = {}
    for word in arguments:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems.append(f"got {brief(word)}, expected key=value (e.g. train.learning_rate=1e-4).")
            continue
        try:
            value: Any = from_yaml(text) if text else ""
        except ValueError as error:
            problems.append(f"{key}: {brief(text)} cannot be read as a YAML value: {error}.")
            continue
        nested = merge(nested, nested_value(key, value))
    if problems:
        raise UserError(*problems)
    return nested


def nested_value(key: str, value: Any) -> Values:
    """The value of a dotted key, nested: ``train.updates`` and 3 to {"train": {"updates": 3}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]
