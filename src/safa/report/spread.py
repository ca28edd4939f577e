"""A figure over seeds: mean ± sample standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one figure over seeds.

    Attributes:
        mean: the mean.
        sd: the sample standard deviation (divisor n - 1); None for a single seed, whose spread is unknown.
        n: number of seeds.
    """

    mean: float
    sd: float | None
    n: int

    def text(self, digits: int = 2, *, signed: bool = False) -> str:
        """``57.01 ± 0.23``, or ``57.01`` for one seed; ``signed`` puts + or − before what is not 0."""
        mean = f"{self.mean:.{digits}f}"
        if float(mean) == 0:
            mean = f"{0:.{digits}f}"
        elif signed:
            mean = f"{self.mean:+.{digits}f}"
        mean = mean.replace("-", "−")
        return mean if self.sd is None else f"{mean} ± {self.sd:.{digits}f}"


@dataclass(frozen=True)
class Difference(Spread):
    """A paired difference to a baseline over common seeds, in percentage points of error; negative is better.

    Attributes:
        wins: number of seeds where the method's error is lower than the baseline's. A tie is not a win.
    """

    wins: int

    @property
    def is_clear(self) -> bool:
        """Whether the mean is further from 0 than twice its standard error; never for a single seed."""
        return self.sd is not None and abs(self.mean) > 2 * self.sd / math.sqrt(self.n)


def spread(figures: Sequence[float | None]) -> Spread | None:
    """Summarise what there is of these figures; None where there is nothing."""
    known = np.array([figure for figure in figures if figure is not None and math.isfinite(figure)], dtype=float)
    if not len(known):
        return None
    sd = float(known.std(ddof=1)) if len(known) > 1 else None
    return Spread(mean=float(known.mean()), sd=sd, n=len(known))


def difference(figures: Sequence[float | None], baseline: Sequence[float | None]) -> Difference | None:
    """Summarise ``figures - baseline``, seed by seed; None where no seed has both."""
    pairs = zip(figures, baseline, strict=True)
    gaps = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    whole = spread(gaps)
    if whole is None:
        return None
    return Difference(mean=whole.mean, sd=whole.sd, n=whole.n, wins=sum(gap < 0 for gap in gaps))
