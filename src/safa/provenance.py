"""What a state was made with and its log measured on: told beside the weights, and no part of their address."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from safa import recipe as recipes
from safa.data.dataset import LongTailed


def made_with(device: torch.device) -> dict[str, Any]:
    """The code that made the weights, and what their last bits depend on; training makes differences in these grow."""
    on_cpu = device.type == "cpu"
    return {
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "instructions": torch.backends.cpu.get_cpu_capability() if on_cpu else None,
        "threads": torch.get_num_threads() if on_cpu else None,
        "torch": str(torch.__version__),
        "commit": commit_of_process(),
    }


def other_than_here(theirs: Mapping[str, Any], device: torch.device) -> str:
    """What of ``theirs`` differs from ``made_with(device)``, in words; empty where nothing does."""
    here = made_with(device)
    return ", ".join(f"{name} {value}" for name, value in theirs.items() if value != here[name])


def commit() -> str | None:
    """Commit of the code that runs, with ``+changes`` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A package that is installed into an environment lies in the checkout of whatever that is for.
        if Path(git("rev-parse", "--show-toplevel"), "src", "safa").resolve() != here:
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def commit_of_process() -> str | None:
    """``commit`` as it was when first asked: a checkout may move while what was loaded from it runs on."""
    return commit()


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
