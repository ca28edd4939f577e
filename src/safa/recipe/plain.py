"""Dataclasses to and from the mappings, lists and scalars that YAML gives: what does not fit is told with its place."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from safa.errors import UserError, closest
from safa.recipe.fields import Augmenter, Named


def to_plain(value: Any, defaults: bool = False) -> Any:
    """Nested mappings, lists and scalars, without whatever stands at its default.

    Leaving defaults out keeps recipes short, and keeps the address of a cached stage when a later version adds a key.
    With ``defaults`` they are kept: what a run's own folder must say, since a later version may change one.
    """
    if dataclasses.is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        kept = {n: item for n, item in items.items() if defaults or item != _default(type(value), n)}
        options = kept.pop("options", {})  # of a ``Named`` or an ``Augmenter``; they stand beside its own keys
        return {key: to_plain(item, defaults) for key, item in (kept | dict(options)).items()}
    if isinstance(value, Mapping):
        return {key: to_plain(item, defaults) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, defaults) for item in value]
    return value


def read(kind: Any, plain: Any, where: str) -> Any:
    """One value of the annotated type ``kind``, or an error that says where it stood."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if plain is None and type(None) in arguments:
            return None
        return read(next(a for a in arguments if a is not type(None)), plain, where)
    if origin is Literal:
        if plain not in arguments:
            raise UserError(
                f"{where} must be one of {', '.join(map(str, arguments))}, got {plain!r}{closest(plain, arguments)}"
            )
        return plain
    if origin is tuple:
        if not isinstance(plain, (list, tuple)):
            raise UserError(f"{where} must be a list, got {plain!r}")
        return tuple(read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(plain))
    if kind in (Named, Augmenter):
        return _read_named(kind, plain, where)
    if dataclasses.is_dataclass(kind):
        return _read_mapping(kind, plain, where)
    return _read_scalar(kind, plain, where)


def _read_scalar(kind: Any, plain: Any, where: str) -> Any:
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if kind is Any or (isinstance(plain, kind) and not (isinstance(plain, bool) and kind is not bool)):
        return plain
    raise UserError(f"{where} must be of type {kind.__name__}, got {plain!r}")


def _read_named(kind: Any, plain: Any, where: str) -> Any:
    if isinstance(plain, str):
        return kind(plain)
    if not isinstance(plain, Mapping) or not isinstance(plain.get("name"), str):
        raise UserError(f"{where} must be a name or a mapping with a 'name', got {plain!r}")
    strange = next((key for key in plain if not isinstance(key, str)), None)
    if strange is not None:
        raise UserError(f"{where} has the key {strange!r}; names of options are text")
    hints = typing.get_type_hints(kind)
    own = {f.name for f in dataclasses.fields(kind)} - {"options"}
    known = {key: read(hints[key], value, f"{where}.{key}") for key, value in plain.items() if key in own}
    return kind(**known, options={key: value for key, value in plain.items() if key not in own})


def _read_mapping(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} must be a mapping, got {plain!r}")
    hints = typing.get_type_hints(kind)
    for key in plain:
        if key not in hints:
            raise UserError(f"{where} has no key {key!r}{closest(key, hints)}; its keys are {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(kind) if _default(kind, f.name) is dataclasses.MISSING]
    for key in required:
        if key not in plain:
            raise UserError(f"{where} lacks the key {key!r}")
    return kind(**{key: read(hints[key], value, f"{where}.{key}") for key, value in plain.items()})


def _default(kind: type, name: str) -> Any:
    spec = next(f for f in dataclasses.fields(kind) if f.name == name)
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default
