"""Where and how to run: the device, the processes, the folders; nothing of what is computed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

from safa import recipe as recipes
from safa.errors import UserError

Say = Callable[[str], None]

GROUP_TIMEOUT = timedelta(hours=12)
"""How long processes wait for the first, which alone tests and diagnoses; NCCL would end the run after ten minutes."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # settings of mallopt(3), as <malloc.h> numbers them
_NEVER = -1
_GROWTH = 64 * 2**20  # bytes that the heap grows by at least


@dataclass(frozen=True)
class Machine:
    """Where and how to run. Nothing here changes what a run is asked to compute.

    Device and number of threads change how sums are rounded, as the version of torch does. Weights of the same
    address may then differ, in the last bits at first and by more the longer they are trained.

    Attributes:
        device: auto, cpu or cuda.
        cache: folder of states shared between runs; none when empty.
        results: file that result lines are appended to; none when empty.
        workers: processes that decode images too many for memory.
        track: log to TensorBoard in the run's folder.
        progress: draw a bar; where standard error is a terminal by default.
        say: what to do with a sentence for the user.
    """

    device: str = "auto"
    cache: Path | None = None
    results: Path | None = None
    workers: int = 0
    track: bool = False
    progress: bool | None = None
    say: Say = field(default=lambda _: None)


def accelerator_for(recipe: recipes.Recipe, machine: Machine) -> Accelerator:
    """Accelerate on the machine's device, in the recipe's precision.

    Raises:
        UserError: if there is no such device, or it has no such precision.
    """
    if machine.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got {machine.device!r}")
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch finds none; pass --device cpu")
    if recipe.precision == "fp16" and on_cpu(machine):
        raise UserError("precision fp16 needs a GPU; use bf16 or float32 on the CPU")
    mixed = "no" if recipe.precision == "float32" else recipe.precision
    # Accelerate allows one precision and one device per process, and a comparison or a notebook may need two.
    AcceleratorState._reset_state(reset_partial_state=not _is_distributed())
    waiting = InitProcessGroupKwargs(timeout=GROUP_TIMEOUT)
    return Accelerator(
        mixed_precision=mixed,
        cpu=on_cpu(machine),  # without a GPU, it forms a group of processes only where the CPU is asked for
        # Both are said, for else Accelerate takes them from the environment, and no recipe would tell.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[waiting],
    )


@contextmanager
def processes() -> Iterator[None]:
    """Leave the group of processes that a distributed run forms; at the interpreter's end its threads may abort."""
    try:
        yield
    finally:
        if _is_distributed():
            torch.distributed.destroy_process_group()


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors on the CPU free, for those of the next step.

    glibc gives blocks of many MiB back to the system as soon as they are free, and the next step takes each of them
    anew, a page fault per 4 KiB. The process stays as large as it once was, and it is one setting for all of it: so it
    is for a process that trains and ends, and no library call makes it. With another C library it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_TOP_PAD, _GROWTH)


def on_cpu(machine: Machine) -> bool:
    """Whether training runs on the CPU there."""
    return machine.device == "cpu" or not torch.cuda.is_available()


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
