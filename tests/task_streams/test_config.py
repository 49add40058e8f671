import ast
import inspect
from dataclasses import MISSING, FrozenInstanceError, fields
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from task_streams import STREAMS
from task_streams.datasets.digits import DigitsCilConfig, DigitsDilConfig

CLASSES: set[type] = {cls for spec in STREAMS.values() for cls in spec.config.__mro__ if cls is not object}


# What a stream's settings must say although each of them has a default.
NEEDED: dict[str, dict[str, Any]] = {
    "questions_til": {"tasks": ["one", "two"]},
    "table_cil": {"train": "x.parquet"},
    "table_dil": {"hub": "owner/name"},
}


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_every_stream_config_goes_through_yaml_and_back(name: str) -> None:
    cls: Any = STREAMS[name].config
    required = dict.fromkeys((f.name for f in fields(cls) if f.default is MISSING), "some/folder")
    given = required | NEEDED.get(name, {})
    node = OmegaConf.merge(OmegaConf.structured(cls), given)
    again = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(OmegaConf.to_yaml(node)))
    assert OmegaConf.to_object(again) == OmegaConf.to_object(node)


def test_overrides_are_typed_and_null_means_all() -> None:
    node = OmegaConf.merge(
        OmegaConf.structured(DigitsDilConfig), OmegaConf.from_dotlist(["domains=[clean,noisy]", "shots=null"])
    )
    config = OmegaConf.to_object(node)
    assert isinstance(config, DigitsDilConfig)
    assert (tuple(config.domains), config.shots) == (("clean", "noisy"), None)
    with pytest.raises(ValidationError):
        OmegaConf.merge(OmegaConf.structured(DigitsCilConfig), {"tasks": "many"})
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(OmegaConf.structured(DigitsCilConfig), {"task": 5})


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        DigitsCilConfig().shots = 3  # type: ignore[misc]


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: str(cls)))
def test_every_field_has_a_one_line_docstring_or_that_of_its_base(cls: type) -> None:
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(following.value, ast.Constant)
            assert isinstance(following.value.value, str) and "\n" not in following.value.value
        elif isinstance(statement, ast.AnnAssign):
            assert statement.target.id in inherited  # type: ignore[union-attr]
