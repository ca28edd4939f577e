"""Running sums of what one epoch's log line says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
        self.terms, self.diagnostics = _Totals(), _Totals()
        self.images, self.seconds = 0, 0.0

    def add(self, terms: dict[str, Tensor], loss: Tensor) -> None:
        values = {**terms, "loss": loss}
        stacked = _stacked(values)
        self.terms.add(values, stacked, torch.ones_like(stacked))

    def watch(self, diagnostics: dict[str, Tensor]) -> None:
        """Add what is only looked at. A value that is not finite is left out: a step may have nothing to measure."""
        if not diagnostics:
            return
        stacked = _stacked(diagnostics)
        known = torch.isfinite(stacked)
        self.diagnostics.add(diagnostics, torch.where(known, stacked, 0.0), known)

    def broken(self) -> str | None:
        """First term whose sum is not finite; the total comes last, for it is broken whenever another is."""
        found = [name for name, (total, _) in self.terms.read().items() if not math.isfinite(total)]
        return next((name for name in found if name != "loss"), found[0] if found else None)

    def means(self) -> dict[str, Any]:
        """What the log says of an epoch."""
        terms, diagnostics = self.terms.means(), self.diagnostics.means()
        loss = terms.pop("loss", None)
        speed = self.images / self.seconds if self.seconds else None
        return {
            "loss": loss,
            "terms": terms,
            "diagnostics": diagnostics,
            "images_per_second": speed,
            "seconds": self.seconds,
        }

    def state(self) -> dict[str, Any]:
        terms = self.terms.read()
        return {
            "terms": {name: total for name, (total, _) in terms.items()},
            "counts": {name: int(steps) for name, (_, steps) in terms.items()},
            "diagnostics": self.diagnostics.read(),
            "images": self.images,
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Sums:
        sums = cls()
        sums.terms = _Totals({name: (total, state["counts"][name]) for name, total in state["terms"].items()})
        sums.diagnostics = _Totals(state.get("diagnostics"))  # a checkpoint of an earlier version has none
        sums.images, sums.seconds = state["images"], state["seconds"]
        return sums


class _Totals:
    """Sum of the values of each name, and of how many steps they are, in float64.

    All values of a step are added at once: on an accelerator an operation costs the same for one number as for ten.

    Args:
        read: what ``read`` gave.
    """

    def __init__(self, read: Mapping[str, Sequence[float]] | None = None) -> None:
        self.row_of = {name: row for row, name in enumerate(read or {})}
        self.totals = torch.tensor(list((read or {}).values()), dtype=torch.float64).reshape(-1, 2)
        self._rows: dict[tuple[str, ...], Tensor] = {}

    def add(self, names: Iterable[str], values: Tensor, steps: Tensor) -> None:
        """Values and steps of as many names, shape (n,)."""
        key = tuple(names)
        if key not in self._rows:
            self._rows[key] = self._placed(key, values.device)
        self.totals.index_add_(0, self._rows[key], torch.stack([values, steps.to(values)], dim=1).double())

    def read(self) -> dict[str, list[float]]:
        """Name -> sum and number of steps. Waits for the device."""
        return dict(zip(self.row_of, self.totals.tolist(), strict=True))

    def means(self) -> dict[str, float | None]:
        return {name: total / steps if steps else None for name, (total, steps) in self.read().items()}

    def _placed(self, names: tuple[str, ...], device: torch.device) -> Tensor:
        """The rows of these names, new ones at the end, all on the device."""
        for name in names:
            self.row_of.setdefault(name, len(self.row_of))
        new = self.totals.new_zeros(len(self.row_of) - len(self.totals), 2)
        self.totals = torch.cat([self.totals, new]).to(device)
        return torch.tensor([self.row_of[name] for name in names], device=device)


def _stacked(values: Mapping[str, Tensor]) -> Tensor:
    """Scalars of any type as one vector, at least float32."""
    device = next(iter(values.values())).device
    return torch.stack([lifted(value.to(device)) for value in values.values()])


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
