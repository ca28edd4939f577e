"""Variants take turns in rounds, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from safa.devices import wait


class Variant(Protocol):
    """Something that does a number of steps when it is its turn."""

    def turn(self, steps: int) -> float:
        """Do so many steps and say how many seconds they took."""
        ...


@dataclass(frozen=True)
class Spread:
    """A figure over rounds: its median, the lowest and the highest.

    Not to be confused with ``safa.report.spread.Spread``, a mean and deviation over seeds: single rounds that
    another program disturbed would spoil a mean.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.median(values)), float(min(values)), float(max(values)))


def take_turns(variants: Mapping[str, Variant], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every variant in every round; every other round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds):
        order = list(variants.items())
        for name, variant in order if index % 2 == 0 else reversed(order):
            seconds[name].append(variant.turn(steps) / steps)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two variants' times, round by round."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Time so many steps, after one that finds caches, workers and queues as the last variant left them."""
    step()
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return time.perf_counter() - started
