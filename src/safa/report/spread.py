"""A figure over seeds: mean ± sample standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# By degrees of freedom from 1 to 30: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2, upper 0.025.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
EQUAL_AND_CLEAR = 6  # seeds; a sign test of five equal signs has p = 0.06
EQUAL = 1e-3  # points; errors have four decimals, and no test image is as little


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
    def is_alike(self) -> bool:
        """Whether all seeds, several, differ by the same."""
        return self.sd is not None and self.sd < EQUAL

    @property
    def is_clear(self) -> bool:
        """Whether the 95 % confidence interval of the mean leaves out 0; never for a single seed.

        Where a few test images make all seeds differ alike, there is no interval, and a sign test has its place.
        """
        if self.is_alike:
            return abs(self.mean) >= EQUAL and self.n >= EQUAL_AND_CLEAR
        return self.sd is not None and abs(self.mean) > t_975(self.n - 1) * self.sd / math.sqrt(self.n)


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t for at least 1 degree of freedom; beyond 30, that of 30."""
    return T_975[min(degrees, len(T_975)) - 1]


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
    return Difference(mean=whole.mean, sd=whole.sd, n=whole.n, wins=sum(gap <= -EQUAL for gap in gaps))
