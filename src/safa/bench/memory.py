"""Peak memory of training and inference, each in a fresh process: what one leaves behind, the next would be charged."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from safa.bench.inference import Inference, noise
from safa.bench.loop import Loop
from safa.bench.methods import Method, methods
from safa.bench.setting import Setting
from safa.bench.stage import Stage
from safa.errors import UserError

STEPS = 4  # momentum and the allocator's caches are all there after two
WARM_BATCH = 8
# glibc gives a tensor's memory back as soon as it is freed, so that what is resident is what is in use. It is slow, and
# makes the peak of a method the same in every process to within a MiB.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def peak(setting: Setting, *, safa: bool) -> float:
    """Peak memory in MiB of a process that trains a few steps: ``kind(device)`` says of what."""
    return _asked("answer", setting, {}, safa=safa)


def peak_of_steps(setting: Setting, method: str) -> float:
    """What a few steps of a method need at their peak, in MiB, beside the process, its images and the weights."""
    return _asked("answer_of_steps", setting, EXACT, method=method)


def peak_of_inference(setting: Setting, method: str) -> float:
    """What a pass of a method's final network needs at its peak, in MiB, beside the process, the weights and images."""
    return _asked("answer_of_inference", setting, EXACT, method=method)


def kind(device: torch.device) -> str:
    """What ``peak`` measures."""
    return "tensors on the GPU" if device.type == "cuda" else "whole process, resident"


def kind_beyond(device: torch.device) -> str:
    """What ``peak_of_steps`` and ``peak_of_inference`` measure."""
    held = "tensors on the GPU" if device.type == "cuda" else "resident"
    return f"{held}, beyond what the process holds before its first step or pass"


def _asked(answer: str, setting: Setting, environment: Mapping[str, str], **what: Any) -> float:
    asked = json.dumps({"setting": dataclasses.asdict(setting), "threads": torch.get_num_threads(), **what})
    code = f"from safa.bench.memory import {answer}; {answer}()"
    command, variables = [sys.executable, "-c", code, asked], {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"the process that measures memory failed: {last}")
    return float(done.stdout.splitlines()[-1])


def answer() -> None:
    """The measuring process of ``peak``: train, then print the peak in MiB."""
    setting, asked = _question()
    _train(Loop(setting, safa=asked["safa"]))
    sys.stdout.write(f"{_peak(setting.device)}\n")


def answer_of_steps() -> None:
    """The measuring process of ``peak_of_steps``.

    It trains a few images first: what a first step loads and compiles belongs to no method, and would be charged to
    the one that happens to need it.
    """
    setting, asked = _question()
    method = _named(asked["method"])
    _train(Stage(_warm(setting), method))
    stage = Stage(setting, method)
    before = _held(setting.device)
    _train(stage)
    sys.stdout.write(f"{_peak(setting.device) - before}\n")


def answer_of_inference() -> None:
    """The measuring process of ``peak_of_inference``; a few images go first, as in ``answer_of_steps``."""
    setting, asked = _question()
    network = Stage(setting, _named(asked["method"])).network.eval()
    Inference(network, noise(_warm(setting))).turn(STEPS)
    passes = Inference(network, noise(setting))
    before = _held(setting.device)
    passes.turn(STEPS)
    sys.stdout.write(f"{_peak(setting.device) - before}\n")


def _question() -> tuple[Setting, dict[str, Any]]:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked.pop("threads"))
    return Setting(**asked.pop("setting")), asked


def _named(name: str) -> Method:
    return next(method for method in methods() if method.name == name)


def _warm(setting: Setting) -> Setting:
    return dataclasses.replace(setting, batch_size=WARM_BATCH)


def _train(variant: Loop | Stage) -> None:
    for _ in range(STEPS):
        variant.step()


def _held(device: torch.device) -> float:
    """MiB held now; from here on peaks are counted anew, where the system can do that."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated() / 2**20)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS; see proc(5)
    return resident_peak()


def _peak(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else resident_peak()


def resident_peak() -> float:
    """Most memory this process ever held, in MiB.

    Linux counts in ``ru_maxrss`` what the parent held when it started this process, so it is read from
    ``/proc`` there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
