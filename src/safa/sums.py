"""Running sums of what one epoch's log line says."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from safa.precision import lifted
from safa.types import Output


class Sums:
    """Running sums of one epoch's loss terms and diagnostics, of this process alone.

    They stay on the device, since reading one would wait for it.
    """

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.diagnostics: dict[str, Tensor] = {}  # sum, and number of steps that are in it
        self.images, self.seconds = 0, 0.0

    def add(self, terms: dict[str, Tensor], loss: Tensor) -> None:
        for name, value in {**terms, "loss": loss}.items():
            self.terms[name] = self.terms[name] + value.double() if name in self.terms else value.double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def watch(self, diagnostics: dict[str, Tensor]) -> None:
        """Add what is only looked at. A value that is not finite is left out: a step may have nothing to measure."""
        for name, value in diagnostics.items():
            known = torch.isfinite(value)
            pair = torch.stack([torch.where(known, value, 0.0), known]).double()
            before = self.diagnostics.get(name)
            self.diagnostics[name] = pair if before is None else before.to(pair.device) + pair

    def broken(self) -> str | None:
        """First term whose sum is not finite; the total comes last, for it is broken whenever another is."""
        names = [*(name for name in self.terms if name != "loss"), *(["loss"] if "loss" in self.terms else [])]
        return next((name for name in names if not math.isfinite(float(self.terms[name]))), None)

    def means(self) -> dict[str, Any]:
        """What the log says of an epoch."""
        means = {name: float(total) / self.counts[name] for name, total in self.terms.items()}
        loss = means.pop("loss", None)
        speed = self.images / self.seconds if self.seconds else None
        pairs = {name: pair.tolist() for name, pair in self.diagnostics.items()}
        return {
            "loss": loss,
            "terms": means,
            "diagnostics": {name: total / steps if steps else None for name, (total, steps) in pairs.items()},
            "images_per_second": speed,
            "seconds": self.seconds,
        }

    def state(self) -> dict[str, Any]:
        terms = {name: float(total) for name, total in self.terms.items()}
        return {
            "terms": terms,
            "counts": self.counts,
            "diagnostics": {name: pair.tolist() for name, pair in self.diagnostics.items()},
            "images": self.images,
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Sums:
        sums = cls()
        sums.terms = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["terms"].items()}
        watched = state.get("diagnostics", {})  # a checkpoint of an earlier version has none
        sums.diagnostics = {name: torch.tensor(pair, dtype=torch.float64) for name, pair in watched.items()}
        sums.counts, sums.images, sums.seconds = dict(state["counts"]), state["images"], state["seconds"]
        return sums


@torch.no_grad()
def assigned(output: Output, images: int) -> dict[str, Tensor]:
    """How many per cent of rows the network assigns to their class in training; nothing where no row was generated.

    Args:
        output: of a forward pass with so many images.

    Returns:
        ``assigned_generated`` of the generated rows, ``assigned_real`` of the real rows of the same classes.
    """
    logits, labels = output.logits, output.labels
    if labels is None or len(logits) == images:
        return {}
    right = logits.argmax(dim=1) == labels
    of_generated = torch.zeros(logits.shape[1], dtype=torch.bool, device=labels.device)
    of_generated[labels[images:]] = True
    real = of_generated[labels[:images]]
    return {
        "assigned_generated": 100 * right[images:].float().mean(),
        "assigned_real": 100 * (right[:images] & real).sum() / real.sum(),
    }


@torch.no_grad()
def weighing(weights: Tensor) -> dict[str, Tensor]:
    """How many per cent of a batch a step with such weights of its images learns from, in effect.

    Args:
        weights: shape (n,), at least one of them above 0, or there is nothing to measure.

    Returns:
        ``images_weighing``, ``100 (sum w)^2 / (n sum w^2)``: with k equal weights and zeros, k / n.  [Kish 1965]
    """
    known = lifted(weights)
    return {"images_weighing": 100 * known.sum().square() / (len(known) * known.square().sum())}
