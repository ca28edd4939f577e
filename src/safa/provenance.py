"""What a state was made with and its log measured on: told beside the weights, and no part of their address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from safa import recipe as recipes
from safa.data.dataset import LongTailed


def made_with(device: torch.device) -> dict[str, Any]:
    """What the last bits of the weights depend on."""
    on_cpu = device.type == "cpu"
    return {
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads() if on_cpu else None,
        "torch": str(torch.__version__),
    }


def other_than_here(theirs: Mapping[str, Any], device: torch.device) -> str:
    """What of ``theirs`` differs from ``made_with(device)``, in words; empty where nothing does."""
    here = made_with(device)
    return ", ".join(f"{name} {value}" for name, value in theirs.items() if value != here[name])


def tested_on(data: LongTailed) -> dict[str, Any]:
    """What decides the figures of the log: the bounds of the groups, and the validation images."""
    return {"groups": [data.spec.many_above, data.spec.few_below], "validation": data.facts().get("validation")}


def own_log(state: Mapping[str, Any], data: LongTailed) -> list[dict[str, Any]]:
    """The log of a cached state without what was measured of other groups, or on validation images not ours.

    A state that does not say what it was tested on is of a time when hardly any run had bounds of its own.
    """
    usual = {"groups": [recipes.Data.many_above, recipes.Data.few_below], "validation": None}
    theirs, ours = state.get("tested_on", usual), tested_on(data)
    log = [dict(entry) for entry in state["history"]]
    for entry in log:
        if data.validation is None or theirs["validation"] != ours["validation"]:
            entry.pop("validation", None)
        for split in ("test", "validation"):
            if theirs["groups"] != ours["groups"] and entry.get(split):
                entry[split] = {name: value if name == "error" else None for name, value in entry[split].items()}
    return log
