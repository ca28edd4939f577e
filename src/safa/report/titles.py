"""The first comment line of a recipe of a table: what it is, the paper's figure and ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from safa.report import paper
from safa.report.distinctions import block_of
from safa.report.lines import Line
from safa.report.paper_table import Setting
from safa.report.rows import Row, summarise

# Beside the paper's tables: SAFA before other layers, which the paper asks in its supplement.
GROUPS = (*paper.names(), "insertion")

_FAMILIES = {"resnet": "ResNet", "resnext": "ResNeXt", "densenet": "DenseNet"}


def title(setting: Setting, lines: Sequence[Line]) -> str:
    """Such as ``CIFAR-100-LT, imbalance 100, ResNet-32, LDAM-DRW: paper 57.11 %, ours 56.38 % (n = 1).``

    Ours are the lines of this recipe, whatever folder of recipes it stood in, at its own data set, factor and number
    of epochs.
    """
    what = f"{_dataset(setting.dataset)}, imbalance {setting.imbalance_factor:g}, {_network(setting.model)}"
    return f"{what}, {setting.method}: {_papers(setting)}, {_ours(setting, lines)}."


def _papers(setting: Setting) -> str:
    if setting.group not in paper.names():
        return "not in the paper"
    figure = paper.figure(
        setting.group,
        model=setting.model,
        method=setting.method,
        dataset=setting.dataset,
        imbalance_factor=setting.imbalance_factor,
    )
    if figure.error is None:
        return "not in the paper"
    return f"paper {figure.error:.2f} %{f' ({figure.brief})' if figure.brief else ''}"


def _ours(setting: Setting, lines: Sequence[Line]) -> str:
    place = (setting.dataset, setting.imbalance_factor, setting.model)
    stem = PurePath(setting.recipe).stem
    found = [
        line
        for line in lines
        if block_of(line) == place
        and (line["method"], line["epochs"]) == (setting.method, setting.epochs)
        and PurePath(line["recipe"]).stem == stem
        and not line.get("changes")
    ]
    if not found:
        return "ours not run"
    rows = summarise(found)  # one for each precision
    return "ours " + ", ".join(f"{row.last.text()} % ({_of(row)})" for row in rows)


def _of(row: Row) -> str:
    return ", ".join((f"n = {row.n}", *row.distinctions))


def _dataset(name: str) -> str:
    """``cifar100`` -> ``CIFAR-100-LT``."""
    return re.sub(r"^cifar(\d+)$", r"CIFAR-\1-LT", name)


def _network(name: str) -> str:
    """``resnet32`` -> ``ResNet-32``."""
    family = name.rstrip("0123456789")
    return f"{_FAMILIES[family]}-{name.removeprefix(family)}" if family in _FAMILIES else name
