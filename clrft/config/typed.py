"""One section of a config as its dataclass: known keys, right types, possible values, and what each field is for."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clrft.utils.plain import shown
from task_streams.errors import UserError, unknown_name

LARGEST = 2**63  # no setting is as large; NaN is not below it either


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
    accepted: dict[str, Any] = {}
    for key in values.keys() & known.keys():
        try:
            accepted[key] = _converted(schema, key, values[key])
        except (OmegaConfBaseException, ValueError, OverflowError):
            expected = getattr(known[key].type, "__name__", str(known[key].type))
            problems.append(f"{section}.{key}: got {shown(values[key])}, expected {expected}.")
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
    """A value as its field's type, by OmegaConf's rules.

    Raises:
        OmegaConfBaseException, ValueError: it is of another type, stands for another value (``${…}``, ``???``), or is a
            number that cannot be computed with.
    """
    node = OmegaConf.structured(_alone(schema, key))
    OmegaConf.update(node, key, value)
    if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
        raise ValueError("it stands for another value")
    converted = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
    if isinstance(converted, int | float) and not abs(converted) < LARGEST:
        raise ValueError("it is no finite number, or a huge one")
    return tuple(converted) if isinstance(converted, list) else converted


@cache
def _alone(schema: type, key: str) -> type:
    """A dataclass of one field alone."""
    return dataclasses.make_dataclass("Field", [(key, get_type_hints(schema)[key])])


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
