"""What a step and an inference of every method cost, beside those of plain cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safa.bench import memory
from safa.bench.inference import Inference, noise
from safa.bench.methods import Method
from safa.bench.setting import Setting
from safa.bench.stage import Stage
from safa.bench.turns import Spread, ratios, take_turns


@dataclass(frozen=True)
class Cost:
    """One method; spreads are over rounds.

    Attributes:
        step: time of a training step over that of the first method; None where nothing is trained.
        step_memory: MiB that training needs at its peak; None where nothing is trained.
        inference: time of a pass of the final network over that of the first method's.
        inference_memory: MiB that such a pass needs at its peak.
    """

    step: Spread | None
    step_memory: float | None
    inference: Spread
    inference_memory: float


@dataclass(frozen=True)
class Costs:
    """All methods, in milliseconds of the first one.

    Attributes:
        base: name of the first method.
        step_milliseconds: of a training step of it.
        image_milliseconds: of its network for one image at inference, in batches of the training's size.
        methods: by name.
    """

    base: str
    step_milliseconds: Spread
    image_milliseconds: Spread
    methods: dict[str, Cost]


def measure(setting: Setting, methods: Sequence[Method], rounds: int, steps: int) -> Costs:
    """Training of all methods in turn, then inference, then memory; the first method must train."""
    stages = {method.name: Stage(setting, method) for method in methods}
    trained = {method.name: stages[method.name] for method in methods if method.trains}
    seconds = take_turns(trained, rounds, steps)
    images = noise(setting)
    passes = take_turns({name: Inference(stages[name].network.eval(), images) for name in stages}, rounds, steps)
    del stages, trained  # their memory is wanted for the processes that measure it
    peaks = {name: memory.peak_of_steps(setting, name) for name in seconds}
    inference_peaks = {name: memory.peak_of_inference(setting, name) for name in passes}
    base = methods[0].name
    return Costs(
        base,
        Spread.of([1e3 * second for second in seconds[base]]),
        Spread.of([1e3 * second / setting.batch_size for second in passes[base]]),
        {
            name: Cost(
                step=ratios(seconds[name], seconds[base]) if name in seconds else None,
                step_memory=peaks.get(name),
                inference=ratios(passes[name], passes[base]),
                inference_memory=inference_peaks[name],
            )
            for name in passes
        },
    )
