"""Names and overrides to one typed, checked run configuration.

Layers, each over the one before: the dataclasses' defaults, the model's YAML, the stream's, the method's, a
sweep's, dotted overrides. A YAML of ``configs/`` may set fields of every section (a 2B model brings its own
learning rate). Everything that is wrong is reported at once, before anything is loaded.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clrft.files import config_root, safe_name
from eval.metrics import METRICS
from methods import METHODS
from methods.model_config import ModelConfig
from methods.settings import TrainConfig, require
from task_streams import STREAMS
from task_streams.errors import UserError, unknown_name

Values = dict[str, Any]
GROUPS = {"stream": "streams", "method": "methods", "model": "models"}
SECTIONS = ("stream", "method", "model", "train", "evaluate", "run")


@dataclass(frozen=True)
class EvaluateConfig:
    """How every seen task is tested after each task."""

    decoding: str = "greedy"
    """greedy, or sampled (one sample at the temperature and top_p below, as published)."""
    temperature: float = 0.6
    """Temperature of sampled decoding (above 0)."""
    top_p: float = 0.95
    """Nucleus of sampled decoding, in (0, 1]."""
    batch_size: int = 128
    """Test items answered in one batch (at least 1)."""
    future: bool = False
    """Also test the base and tasks not yet learned, which forward transfer needs."""
    probe: int = 200
    """Items of the general-ability probe outside the stream (0: no probe)."""
    metrics: tuple[str, ...] = tuple(METRICS)
    """Metrics to compute, by key; all by default."""

    def __post_init__(self) -> None:
        require(
            "evaluate",
            decoding=(self.decoding in ("greedy", "sampled"), self.decoding, "greedy or sampled"),
            temperature=(self.temperature > 0, self.temperature, "a number above 0"),
            top_p=(0 < self.top_p <= 1, self.top_p, "a number above 0, at most 1"),
            batch_size=(self.batch_size >= 1, self.batch_size, "a whole number from 1"),
            probe=(self.probe >= 0, self.probe, "a whole number from 0"),
        )
        unknown = [unknown_name("metric", key, METRICS) for key in self.metrics if key not in METRICS]
        if unknown:
            raise UserError(*(f"evaluate.metrics: {problem}" for problem in unknown))


@dataclass(frozen=True)
class RunSection:
    """Where a run is kept and what is kept of it."""

    output: str = "runs"
    """Folder of all runs."""
    sweep: str = "single"
    """Name of the sweep that the run belongs to; a folder under output."""
    mlflow: bool = True
    """Track the run in MLflow (MLFLOW_TRACKING_URI, else a SQLite store in output)."""
    keep_weights: str = "all"
    """Weights that stay on disk: all (of every task) or last."""
    name_suffix: str = ""
    """Appended to the run folder's name, to tell settings of one stream, method and order apart."""

    def __post_init__(self) -> None:
        require("run", keep_weights=(self.keep_weights in ("all", "last"), self.keep_weights, "all or last"))
        safe_name(self.sweep)
        if self.name_suffix:
            safe_name(self.name_suffix)


@dataclass(frozen=True)
class RunConfig:
    """One cell: a stream in one order, learned by one method from one model.

    Attributes:
        stream_name: key in ``STREAMS``; ``stream`` holds its settings.
        stream_label: name of the stream's YAML, which names run folders and tables.
        method_name: key in ``METHODS``; ``method`` holds its settings.
        method_label: name of the method's YAML or the method itself, which names run folders and tables.
        model_label: name of the model's YAML.
        seed: seed of the class (or domain) order and of the training.
    """

    stream_name: str
    stream_label: str
    stream: Any
    method_name: str
    method_label: str
    method: Any
    model_label: str
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    run: RunSection
    seed: int

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
            "method": {"name": self.method_name, "label": self.method_label, **_plain(self.method)},
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
    problems: list[str] = []
    named: dict[str, Values] = {}
    for group, name in (("model", model), ("stream", stream), ("method", method)):
        try:
            named[group] = load_group(group, name)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    merged = merge(*named.values(), *layers)
    labels = {"stream": Path(stream).stem, "method": Path(method).stem, "model": Path(model).stem}
    return typed_config(merged, labels, seed)


def typed_config(values: Values, labels: Mapping[str, str], seed: Any) -> RunConfig:
    """Nested plain values to a checked configuration; all problems at once."""
    problems = [unknown_name("section", name, (*SECTIONS, "seed")) for name in values if name not in SECTIONS]
    schemas = {"model": ModelConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "run": RunSection}
    sections = {name: dict(values.get(name) or {}) for name in SECTIONS}
    stream_name = str(sections["stream"].pop("name", ""))
    method_name = str(sections["method"].pop("name", ""))
    if stream_name in STREAMS:
        schemas["stream"] = STREAMS[stream_name].config
    else:
        problems.append(unknown_name("stream", stream_name, STREAMS))
    if method_name in METHODS:
        schemas["method"] = METHODS[method_name].Config
    else:
        problems.append(unknown_name("method", method_name, METHODS))
    typed: Values = {}
    for name, schema in schemas.items():
        try:
            typed[name] = typed_section(name, schema, sections[name])
        except UserError as error:
            problems += error.problems
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        problems.append(f"seed: got {seed!r}, expected a whole number from 0 to {2**32 - 1}.")
    if problems:
        raise UserError(*problems)
    return RunConfig(
        stream_name=stream_name,
        stream_label=labels["stream"],
        method_name=method_name,
        method_label=labels["method"],
        model_label=labels["model"],
        seed=seed,
        **typed,
    )


def typed_section(section: str, schema: type, values: Mapping[str, Any]) -> Any:
    """One section's values as its dataclass.

    Raises:
        UserError: unknown keys, wrong types or impossible values, all of them.
    """
    known = {field.name: field for field in fields(schema)}
    problems = [
        unknown_name("key", f"{section}.{key}", [f"{section}.{name}" for name in known])
        for key in values
        if key not in known
    ]
    accepted: Values = {}
    for key in values.keys() & known.keys():
        try:
            accepted[key] = _converted(schema, key, values[key])
        except OmegaConfBaseException:
            expected = getattr(known[key].type, "__name__", str(known[key].type))
            problems.append(f"{section}.{key}: got {values[key]!r}, expected {expected}.")
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    problems += [f"{section}.{name}: a value is needed." for name in missing]
    if missing:
        raise UserError(*problems)
    try:
        made = schema(**accepted)
    except UserError as error:
        problems += [p if p.startswith(f"{section}.") else f"{section}: {p}" for p in error.problems]
    if problems:
        raise UserError(*problems)
    return made


def _converted(schema: type, key: str, value: Any) -> Any:
    """A value as its field's type, by OmegaConf's rules."""
    node = OmegaConf.structured(dataclasses.make_dataclass("Field", [(key, get_type_hints(schema)[key])]))
    OmegaConf.update(node, key, value)
    converted = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
    return tuple(converted) if isinstance(converted, list) else converted


def load_group(group: str, name: str) -> Values:
    """The YAML of a stream, method or model by name or path; a registered name needs no YAML.

    Raises:
        UserError: no such name or file, or the file is not a mapping of sections.
    """
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name))
    folder = config_root() / GROUPS[group]
    known = {path.stem for path in folder.glob("*.yaml")}
    if name in known:
        return read_yaml(folder / f"{name}.yaml")
    registered = {"stream": set(STREAMS), "method": set(METHODS)}.get(group, set())
    if name in registered:
        return {group: {"name": name}}
    raise UserError(unknown_name(group, name, known | registered))


def read_yaml(path: Path) -> Values:
    """A YAML file as nested plain values.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no config file {str(path)!r}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read config file {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"config file {str(path)!r}: expected sections ({', '.join(SECTIONS)}), got {values!r}.")
    return values


def merge(*layers: Mapping[str, Any]) -> Values:
    """Nested mappings merged, later layers over earlier ones; lists are replaced, not joined."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            both = isinstance(value, Mapping) and isinstance(old, Mapping)
            merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


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
            problems.append(f"got {word!r}, expected key=value (e.g. train.learning_rate=1e-4).")
            continue
        try:
            value = _scalar(text)
        except yaml.YAMLError:
            problems.append(f"{key}: {text!r} cannot be read as a YAML value.")
            continue
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    if problems:
        raise UserError(*problems)
    return nested


def _scalar(text: str) -> Any:
    """A YAML value; unlike YAML 1.1, ``1e-4`` is a number."""
    value = yaml.safe_load(text) if text else ""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def field_docs(schema: type) -> dict[str, str]:
    """The one-line docstring of every field of a config dataclass, inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[statement.target.id] = following.value.value  # type: ignore[union-attr, attr-defined]
    return {field.name: docs.get(field.name, "") for field in fields(schema)}
