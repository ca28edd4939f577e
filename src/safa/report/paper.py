"""The paper's own figures, as data, with remarks where they are doubtful."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from safa.errors import UserError


@cache
def tables() -> dict[str, Any]:
    """Return ``paper_tables.json``.

    Each table has ``caption``, ``remarks`` and ``errors``: model -> method -> data set -> imbalance factor.
    """
    text = resources.files(__package__).joinpath("paper_tables.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def figure(table: str, *, model: str, method: str, dataset: str, imbalance_factor: float) -> tuple[float | None, str]:
    """Look up one figure of the paper.

    Method names are compared without case, punctuation and the word "loss", so ``CE`` finds ``CE loss``.

    Returns:
        The top-1 error in per cent, or None where the paper has no such figure, and a remark, mostly empty.

    Raises:
        UserError: if there is no such table.
    """
    methods = _table(table)["errors"].get(model, {})
    named = {normal_form(name): name for name in methods}
    name = named.get(_alias(normal_form(method)))
    error = methods[name].get(dataset, {}).get(f"{imbalance_factor:g}") if name else None
    return error, _remark(table, model, name, dataset) if error is not None else ""


def normal_form(method: str) -> str:
    """``CB Focal loss`` -> ``cb-focal``, the form in which method names are compared."""
    words = re.split(r"[^a-z0-9]+", method.lower())
    return "-".join(word for word in words if word and word != "loss")


def _alias(name: str) -> str:
    aliases: dict[str, str] = tables()["aliases"]
    return aliases.get(name, name)


def _table(table: str) -> dict[str, Any]:
    known = [name for name in tables() if name != "aliases"]
    if table not in known:
        raise UserError(f"no table {table!r} of the paper; there are {', '.join(known)}")
    content: dict[str, Any] = tables()[table]
    return content


def _remark(table: str, model: str, method: str | None, dataset: str) -> str:
    place = {"model": model, "method": method, "dataset": dataset}
    for remark in _table(table)["remarks"]:
        if all(place[key] in values for key, values in remark["where"].items()):
            return str(remark["text"])
    return ""
