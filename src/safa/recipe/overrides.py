"""``key=value``: other values than a recipe's file has."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from safa.errors import UserError
from safa.recipe.text import parsed

_QUOTED = '"'  # PyYAML's style of a text in double quotes, with escapes


def override(key: str, value: str | float) -> str:
    """``key=value`` as ``load`` takes it, for a value that must come back as it is: a path of any characters, too."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    # YAML's own quoting: of what lies beyond U+FFFF, JSON makes two characters that YAML does not put together.
    return f"{key}={yaml.safe_dump(value, default_style=_QUOTED, width=math.inf).rstrip()}"


def apply_override(plain: dict[str, Any], override: str) -> None:
    """Change a recipe's mapping at the place that ``key.key=value`` names, or make the place.

    Raises:
        UserError: if there can be no such place, or the value is no YAML.
    """
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"an override is KEY=VALUE, such as data.imbalance_factor=50, got {override!r}")
    if not all(key.split(".")):
        raise UserError(f"an override names a key, such as data.imbalance_factor=50, got {override!r}")
    *parents, last = key.split(".")
    place: Any = plain
    name = "items"  # of the list that ``place`` is
    for parent in parents:
        if isinstance(place, list):
            place = _item(place, parent, key, name)
        else:
            if isinstance(place.get(parent), str):  # "loss: ldam" becomes "loss: {name: ldam}" to take an option
                place[parent] = {"name": place[parent]}
            place = place.setdefault(parent, {})
        if not isinstance(place, (dict, list)):
            raise UserError(f"cannot set {key!r}: {parent!r} is a single value")
        name = parent
    try:
        value = parsed(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot set {key!r}: {text!r} is not valid YAML") from error
    if isinstance(place, list):
        _item(place, last, key, name)
        place[int(last)] = value
    else:
        place[last] = value


def is_at(place: str, override: str) -> bool:
    """Whether what a message begins with, such as ``.stages[1].epochs must be``, is what an override has set."""
    *parents, last = override.partition("=")[0].split(".")
    inside = "".join(map(_place_of, parents))
    # A key may have made what is around it a mapping that it must not be.
    rest = rf"({_place_of(last)}(?!\w)| has no key {re.escape(repr(last))}| must be a name or a mapping)"
    return re.match(inside + rest, place) is not None


def _place_of(part: str) -> str:
    """Pattern of what a message calls a part of a key; an index may count from the end, which a message never does."""
    return r"\[\d+\]" if re.fullmatch(r"-\d+", part) else rf"\[{part}\]" if part.isdigit() else rf"\.{re.escape(part)}"


def _item(items: list[Any], index: str, key: str, name: str) -> Any:
    if not re.fullmatch(r"-?\d+", index) or not -len(items) <= int(index) < len(items):
        raise UserError(f"cannot set {key!r}: {index!r} is not the number of one of {len(items)} {name}, 0-based")
    return items[int(index)]
