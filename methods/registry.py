"""Where methods come from: the built-in ``METHODS``, files named by ``--plugin``, and installed entry points.

Nothing is loaded that was not named: a plugin file by its path, an entry point (group ``clrft.methods``) by the name
of its method. Deliberately absent: a folder that is searched.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from methods.base import Method
from task_streams.errors import UserError, unknown_name

GROUP = "clrft.methods"
PREFIX = "clrft_plugin_"  # of the names that plugin files have as modules

_loaded: dict[str, type[Method]] = {}  # methods of plugin files, by name


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
    path = path.expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--plugin: {str(path)!r} is no Python file; expected a file that holds a method.")
    found = own_methods(plugin_module(path))
    if not found:
        raise UserError(f"--plugin: {path} holds no method; expected a class that extends methods.base.Method.")
    for method in found:
        if problem := name_problem(method, path):
            raise UserError(problem)
        _loaded[method.name] = method
    return found


def plugin_module(path: Path) -> ModuleType:
    """The module of a plugin file, loaded once."""
    name = PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin: {path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--plugin: {path} fails when it is loaded: {type(error).__name__}: {error}") from error
    return module


def own_methods(module: ModuleType) -> list[type[Method]]:
    """Methods that a module defines itself, with a name of their own."""
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)]
    return [one for one in classes if one.__module__ == module.__name__ and "name" in vars(one)]


def name_problem(method: type[Method], path: Path) -> str | None:
    """Why a plugin's method cannot have its name."""
    other = known_methods().get(method.name)
    if other is not None and other is not method:
        return f"--plugin: {path} calls its method {method.name!r}, but {source_file(other)} has that name; rename it."
    return None


def known_methods() -> dict[str, type[Method]]:
    """Every method by name: built-in, and of the plugins loaded so far; entry points are asked for by name."""
    from methods import METHODS

    return {**METHODS, **_loaded}


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
        loaded = points[0].load()
    except Exception as error:
        raise UserError(f"method {name!r} of {points[0].value} fails to load: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method) and loaded.name == name):
        raise UserError(f"method {name!r}: {points[0].value} is no method of that name.")
    _loaded[name] = loaded
    return loaded


def source_file(method: type[Method]) -> str:
    """File that defines a method."""
    module = sys.modules[method.__module__]
    return str(getattr(module, "__file__", None) or method.__module__)


def plugin_digests(methods: Iterable[type[Method]]) -> dict[str, str]:
    """File and SHA-256 of every method among these that comes from a plugin file."""
    files = {source_file(one) for one in methods if one.__module__.startswith(PREFIX)}
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(files)}
