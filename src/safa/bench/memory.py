"""Peak memory of training, each variant in a fresh process, since a peak never goes down again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import torch

from safa.bench.loop import Loop
from safa.bench.setting import Setting
from safa.errors import UserError

STEPS = 4  # momentum and the allocator's caches are all there after two


def peak(setting: Setting, *, safa: bool) -> float:
    """Peak memory in MiB of a process that trains a few steps: ``kind(device)`` says of what."""
    asked = json.dumps({**dataclasses.asdict(setting), "safa": safa, "threads": torch.get_num_threads()})
    code = "from safa.bench.memory import answer; answer()"
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"the process that measures memory failed: {last}")
    return float(done.stdout.splitlines()[-1])


def kind(device: torch.device) -> str:
    """What ``peak`` measures."""
    return "tensors on the GPU" if device.type == "cuda" else "whole process, resident"


def answer() -> None:
    """The measuring process: train, then print the peak in MiB."""
    asked = json.loads(sys.argv[1])
    safa, threads = asked.pop("safa"), asked.pop("threads")
    torch.set_num_threads(threads)
    setting = Setting(**asked)
    loop = Loop(setting, safa=safa)
    for _ in range(STEPS):
        loop.step()
    on_gpu = setting.device.type == "cuda"
    sys.stdout.write(f"{torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_peak()}\n")


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
