"""Long-tailed image classification: SAFA, the methods it is compared with, and an honest bench.

Table of contents; a name is imported when it is first used, so that ``import safa`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safa import augmenters, averaging, backbones, data, heads, losses, methods, report, sampling, weighting
    from safa.augmenters import SAFA
    from safa.errors import UserError
    from safa.plugin import PlugIn
    from safa.types import Augmented, Augmenter, Output

__version__ = "0.1.0"

_HOMES = {
    "PlugIn": "safa.plugin",
    "SAFA": "safa.augmenters",
    "Augmented": "safa.types",
    "Augmenter": "safa.types",
    "Output": "safa.types",
    "UserError": "safa.errors",
}
_MODULES = (
    "augmenters", "averaging", "backbones", "data", "heads", "losses", "methods", "report", "sampling", "weighting",
)  # fmt: skip

__all__ = [
    "SAFA", "Augmented", "Augmenter", "Output", "PlugIn", "UserError",
    "augmenters", "averaging", "backbones", "data", "heads", "losses", "methods", "report", "sampling", "weighting",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"safa.{name}")
    raise AttributeError(f"module 'safa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
