"""The four measurements of ``safa bench``, each as a few spreads over rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safa.bench import memory
from safa.bench.inference import gives_the_same_bits, with_and_without
from safa.bench.loop import Loop
from safa.bench.ordinary import OrdinaryLoop
from safa.bench.setting import Setting
from safa.bench.turns import Spread, Variant, ratios, take_turns

ORDINARY = "ordinary loop, float32"
MEMORY_PROCESSES = 3  # per variant at most; peaks vary by a few MiB only


@dataclass(frozen=True)
class Figures:
    """What was measured; spreads are over rounds.

    Attributes:
        images_per_second: of every way of plain training.
        speed: its ratio to the ordinary loop.
        safa_step: time of a step with SAFA over that of a plain one of the same precision.
        generated_rows: per step with SAFA, on average.
        memory: MiB at the peak, ``plain`` and ``SAFA``; the spread is over processes.
        inference: time of a pass with the plug-in attached over that of the bare network.
        identical: whether both passes gave the same bits.
        workers: of the ordinary loop.
    """

    images_per_second: dict[str, Spread]
    speed: dict[str, Spread]
    safa_step: Spread
    generated_rows: float
    memory: dict[str, Spread]
    inference: Spread
    identical: bool
    workers: int


def measure(setting: Setting, rounds: int, steps: int) -> Figures:
    """All variants of training in turn, then inference, then memory."""
    ordinary, plain, with_safa = OrdinaryLoop(setting), _plain_loops(setting), Loop(setting, safa=True)
    ours = list(plain)[-1]
    training: dict[str, Variant] = {ORDINARY: ordinary, **plain, "SAFA": with_safa}
    seconds = take_turns(training, rounds, steps)
    safa_step = ratios(seconds.pop("SAFA"), seconds[ours])
    pair = with_and_without(setting, with_safa)
    passes = take_turns(pair, rounds, steps)
    return Figures(
        images_per_second={name: Spread.of([setting.batch_size / s for s in seconds[name]]) for name in seconds},
        speed={name: ratios(seconds[ORDINARY], seconds[name]) for name in plain},
        safa_step=safa_step,
        generated_rows=float(np.mean(with_safa.generated_rows)),
        memory=_memory(setting, min(rounds, MEMORY_PROCESSES)),
        inference=ratios(passes["with"], passes["without"]),
        identical=gives_the_same_bits(pair),
        workers=ordinary.workers,
    )


def _plain_loops(setting: Setting) -> dict[str, Loop]:
    """From the ordinary loop to ours, one change at a time; the last is what the setting asks for."""
    loops = {
        "our batches, float32": Loop(setting, precision="float32", channels_last=False),
        "+ channels-last": Loop(setting, precision="float32"),
    }
    return loops if setting.precision == "float32" else {**loops, "+ bf16": Loop(setting)}


def _memory(setting: Setting, processes: int) -> dict[str, Spread]:
    return {
        name: Spread.of([memory.peak(setting, safa=safa) for _ in range(processes)])
        for name, safa in (("plain", False), ("SAFA", True))
    }
