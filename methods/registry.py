"""Where methods come from: the built-in ``METHODS``, files named by ``--plugin``, and installed entry points.

A built-in method is imported when it is asked for.

Nothing is loaded that was not named: a plugin file by its path, an entry point (group ``clrft.methods``) by the name
of its method. Deliberately absent: a folder that is searched.
"""

import copy
import dataclasses
import hashlib
import os
import re
import sys
from collections import ChainMap
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, get_args

from methods.base import Family, Method
from methods.isolation import CHANGEABLE, PutBack, by_user, copies, words_of
from task_streams.errors import UserError, unknown_name
from task_streams.registry import Registry

GROUP = "clrft.methods"
PREFIX = "clrft_plugin_"  # of the names that plugin files have as modules
NAME = re.compile(r"[a-z][a-z0-9_]*")  # of methods: they name folders, parts of states, and are joined by +

METHODS: Registry[type[Method]] = Registry(
    {
        "zero_shot": "methods.algorithms.frozen:ZeroShot",
        "sft": "methods.algorithms.sft:Sft",
        "grpo": "methods.algorithms.grpo:Grpo",
        "joint_sft": "methods.algorithms.sft:JointSft",
        "joint_grpo": "methods.algorithms.grpo:JointGrpo",
        "rapo": "methods.algorithms.rapo:Rapo",
        "rapo_rr": "methods.algorithms.rapo:RapoRetention",
        "rapo_ctan": "methods.algorithms.rapo:RapoScale",
        "dr_grpo": "methods.algorithms.policy_losses:DrGrpo",
        "dapo": "methods.algorithms.policy_losses:Dapo",
        "gspo": "methods.algorithms.policy_losses:Gspo",
        "sapo": "methods.algorithms.policy_losses:Sapo",
        "anchored_kl": "methods.algorithms.anchored_kl:AnchoredKl",
        "raft": "methods.algorithms.raft:Raft",
        "sdft": "methods.algorithms.sdft:Sdft",
        "l2": "methods.parts.l2:L2",
        "l2_init": "methods.parts.l2:L2Init",
        "ewc": "methods.parts.ewc:Ewc",
        "replay": "methods.parts.replay:Replay",
        "ctan": "methods.parts.ctan:Ctan",
        "lwf": "methods.parts.lwf:Lwf",
        "wise": "methods.parts.wise:Wise",
        "cpo": "methods.parts.cpo:Cpo",
        "derpp": "methods.parts.derpp:Derpp",
        "olora": "methods.parts.olora:Olora",
        "rif": "methods.parts.rif:Rif",
        "retention": "methods.parts.retention:RetentionShaper",
        "gated_retention": "methods.parts.retention:GatedRetention",
        "latent_retention": "methods.parts.latent_retention:LatentRetention",
        "adaptive_weight": "methods.parts.adaptive_weight:AdaptiveWeight",
        "drift_threshold": "methods.parts.drift_threshold:DriftThreshold",
        "par": "methods.parts.par:Par",
        "multiplicative": "methods.parts.multiplicative:Multiplicative",
        "information_gain": "methods.parts.information_gain:InformationGain",
        "gradient_novelty": "methods.parts.gradient_novelty:GradientNovelty",
        "implicit_process": "methods.parts.implicit_process:ImplicitProcess",
        "sweet_spot": "methods.parts.sweet_spot:SweetSpot",
        "matching": "methods.parts.matching:Matching",
        "majority": "methods.parts.majority:Majority",
    }
)
_loaded: dict[str, type[Method]] = {}  # methods of plugin files, by name
_digests: dict[str, str] = {}  # SHA-256 of plugin files as they were loaded
_values: dict[str, dict[str, Any]] = {}  # of plugin files' modules by name: plain values as they were loaded


def load_plugins(paths: Iterable[str]) -> None:
    """Load the methods of plugin files; a file that is loaded already is passed over.

    Raises:
        UserError: a file is missing, fails when it is loaded, holds no method, or a method whose name is taken.
    """
    problems: list[str] = []
    for path in paths:
        try:
            load_plugin(Path(path))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)


def load_plugin(path: Path) -> list[type[Method]]:
    """The methods of one plugin file, which become known by their names."""
    if path.suffix != ".py" or not os.path.isfile(os.path.expanduser(path)):  # for a name of any length
        raise UserError(f"--plugin: {str(path)!r} is no Python file; expected a file that holds a method.")
    path = path.expanduser().resolve()
    module = plugin_module(path)
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)]
    own = [one for one in classes if one.__module__ == module.__name__]
    found = [one for one in own if "name" in vars(one)]
    if not found:
        nameless = f" {', '.join(one.__name__ for one in own)} has no name." if own else ""
        raise UserError(
            f"--plugin: {path} holds no method; expected a class that extends methods.base.Method and has a name "
            f"of its own.{nameless}"
        )
    problems = [problem for method in found for problem in class_problems(method, path)]
    names = [str(method.name) for method in found]
    problems += [f"--plugin: {path} has two methods {name!r}." for name in sorted(set(names)) if names.count(name) > 1]
    if problems:
        del sys.modules[module.__name__]  # so that nothing of it counts as loaded
        raise UserError(*problems)
    _loaded.update({method.name: method for method in found})
    return found


def plugin_module(path: Path) -> ModuleType:
    """The module of a plugin file, loaded once; nothing is written beside the file."""
    name = PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        source = path.read_bytes()
        with PutBack(draws=False) as put_back:
            exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if by_user(error):
            raise
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}," if lines else str(path)
        raise UserError(f"--plugin: {place} fails when it is loaded: {words_of(error)}") from error
    if put_back.closed:
        del sys.modules[name]
        raise UserError(f"--plugin: {path} closed {put_back.closed} as it was loaded; expected it open.")
    for what in put_back.changed:
        print(f"warning: --plugin: {path} changed {what} as it was loaded; it was put back as it was.", file=sys.stderr)
    _digests[str(path)] = hashlib.sha256(source).hexdigest()
    _values[name] = copies(vars(module), (*CHANGEABLE, int, float, type(None)))
    return module


def as_loaded(method: type[Method]) -> None:
    """Give a plugin file's module the plain values that it was loaded with: nothing is left over from another run."""
    vars(sys.modules[method.__module__]).update(copy.deepcopy(_values.get(method.__module__, {})))


def class_problems(method: type[Method], path: Path) -> list[str]:
    """Sentences about a plugin's method that cannot work, whatever its hooks do; empty when it can."""
    where = f"--plugin: {path}: {method.__name__}"
    families = get_args(Family)
    problems = []
    if not NAME.fullmatch(str(method.name)):
        problems.append(f"{where}.name is {method.name!r}, expected small letters, digits and _, a letter first.")
    elif (other := known_methods().get(method.name, method)) is not method:
        problems.append(
            f"--plugin: {path} calls its method {method.name!r}, but {source_file(other)} has that name; rename it."
        )
    if getattr(method, "family", None) not in families:
        given = getattr(method, "family", "missing")
        problems.append(f"{where}.family is {given!r}, expected one of {', '.join(families)}.")
    if not frozenset(method.joins) <= frozenset(families):
        problems.append(f"{where}.joins is {sorted(method.joins)}, expected names among {', '.join(families)}.")
    config = getattr(method, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        problems.append(f"{where}.Config is {config!r}, expected a frozen dataclass of its settings.")
    return problems


def known_methods() -> Mapping[str, type[Method]]:
    """Every method by name, imported when it is asked for: built-in, and of the plugins loaded so far.

    Entry points are asked for by name.
    """
    return ChainMap(_loaded, METHODS)


def installed_methods() -> dict[str, str]:
    """Names of methods that installed packages offer, and which package; nothing is loaded."""
    return {point.name: point.dist.name if point.dist else point.value for point in entry_points(group=GROUP)}


def method_class(name: str) -> type[Method]:
    """The method of that name; one of an installed package is loaded now.

    Raises:
        UserError: no method has that name, or the package's fails to load.
    """
    known: Mapping[str, type[Method]] = known_methods()
    if name in known:
        return known[name]
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise UserError(unknown_name("method", name, [*known, *installed_methods()]))
    try:
        with PutBack(draws=False):
            loaded = points[0].load()
    except BaseException as error:
        if by_user(error):
            raise
        raise UserError(f"method {name!r} of {points[0].value} fails to load: {words_of(error)}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method) and loaded.name == name):
        raise UserError(f"method {name!r}: {points[0].value} is no method of that name.")
    _loaded[name] = loaded
    return loaded


def source_file(method: type[Method]) -> str:
    """File that defines a method."""
    module = sys.modules[method.__module__]
    return str(getattr(module, "__file__", None) or method.__module__)


def is_plugin(method: type[Method]) -> bool:
    """Whether a method comes from a plugin file."""
    return method.__module__.startswith(PREFIX)


def plugin_digests(methods: Iterable[type[Method]]) -> dict[str, str]:
    """File and SHA-256 of every method among these that comes from a plugin file, as it was when it was loaded."""
    files = {source_file(one) for one in methods if is_plugin(one)}
    return {file: _digests[file] for file in sorted(files)}
