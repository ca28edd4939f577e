"""The paper's own figures, as data, with remarks where they are doubtful."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from safa.errors import UserError


class Figure(NamedTuple):
    """One figure of the paper.

    Attributes:
        error: top-1 error in per cent; None where the paper has no such figure.
        remark: why the figure is doubtful; mostly empty.
        brief: the remark in a few words.
    """

    error: float | None = None
    remark: str = ""
    brief: str = ""


@cache
def tables() -> dict[str, Any]:
    """Return ``paper_tables.json``.

    Each table has ``caption``, ``epochs``, ``remarks`` and ``errors``: model -> method -> data set -> imbalance
    factor.
    """
    text = resources.files(__package__).joinpath("paper_tables.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def names() -> list[str]:
    """The tables there are: ``table1`` and so on."""
    return [name for name in tables() if name != "aliases"]


def table(name: str) -> dict[str, Any]:
    """Return one table of ``tables()``.

    Raises:
        UserError: if there is no such table.
    """
    if name not in names():
        raise UserError(f"no table {name!r} of the paper; there are {', '.join(names())}")
    content: dict[str, Any] = tables()[name]
    return content


def rows(name: str) -> list[tuple[str, str]]:
    """Model and method of every row of a table, in the paper's order and the paper's words."""
    return [(model, method) for model, methods in table(name)["errors"].items() for method in methods]


def columns(name: str) -> list[tuple[str, float]]:
    """Data set and imbalance factor of every column of a table, in the paper's order; all rows have the same."""
    model, method = rows(name)[0]
    errors = table(name)["errors"][model][method]
    return [(dataset, float(factor)) for dataset, factors in errors.items() for factor in factors]


def figure(name: str, *, model: str, method: str, dataset: str, imbalance_factor: float) -> Figure:
    """Look up one figure of the paper.

    Method names are compared by their ``key``, so ``CE`` finds ``CE loss``.

    Raises:
        UserError: if there is no such table.
    """
    methods = table(name)["errors"].get(model, {})
    named = {key(known): known for known in methods}
    found = named.get(key(method))
    factor = f"{imbalance_factor:g}"
    error = methods[found].get(dataset, {}).get(factor) if found else None
    if error is None:
        return Figure()
    return Figure(error, *_remark(name, model=model, method=found, dataset=dataset, imbalance_factor=factor))


def key(method: str) -> str:
    """The form in which method names are compared: without case, punctuation, the word "loss" and our aliases."""
    words = re.split(r"[^a-z0-9]+", method.lower())
    plain = "-".join(word for word in words if word and word != "loss")
    aliases: dict[str, str] = tables()["aliases"]
    return aliases.get(plain, plain)


def _remark(name: str, **place: str | None) -> tuple[str, str]:
    for remark in table(name)["remarks"]:
        if all(place[where] in values for where, values in remark["where"].items()):
            return str(remark["text"]), str(remark["brief"])
    return "", ""
