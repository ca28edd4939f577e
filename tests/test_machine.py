"""The machine: the device that was asked for, and processes that wait, and part."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState

from safa.errors import UserError
from safa.machine import Machine, accelerator_for, processes


def test_a_device_that_was_asked_for_is_taken_whatever_the_run_before_took(tiny_recipe):
    accelerator_for(tiny_recipe, Machine(device="cpu"))
    PartialState._shared_state["device"] = torch.device("meta")  # as after a run on a GPU
    assert accelerator_for(tiny_recipe, Machine(device="cpu")).device.type == "cpu"


def test_processes_wait_for_hours_while_the_first_tests(tiny_recipe, monkeypatch):
    given = {}
    monkeypatch.setattr("safa.machine.Accelerator", lambda **options: given.update(options))
    accelerator_for(tiny_recipe, Machine(device="cpu"))
    (handler,) = given["kwargs_handlers"]
    assert handler.to_kwargs()["timeout"] >= timedelta(hours=1)


def test_the_environment_divides_no_gradient_and_compiles_no_network(tiny_recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    accelerator = accelerator_for(tiny_recipe, Machine(device="cpu"))
    weight = torch.nn.Parameter(torch.ones(()))
    accelerator.backward(3 * weight)
    assert weight.grad == 3
    network = torch.nn.Linear(1, 1)
    assert accelerator.prepare(network) is network


@pytest.mark.parametrize("error", [None, UserError("a mistake")])
def test_a_group_of_processes_is_left_whatever_happens(error):
    with pytest.raises(UserError) if error else nullcontext(), processes():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        if error:
            raise error
    assert not dist.is_initialized()
    with processes():  # without a group there is nothing to leave
        pass


FREED_AGAIN = """
import resource
import torch
from safa.machine import keep_freed_memory
{before}
for step in range(6):
    if step == 3:
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(3 * 2**20) for _ in range(8)]
    large = torch.ones(24 * 2**20)
    del kept, large
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's setting is that of glibc")
def test_memory_that_a_step_has_freed_is_taken_by_the_next_without_the_system():
    def page_faults(before):
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        code = [sys.executable, "-c", FREED_AGAIN.format(before=before)]
        return int(subprocess.run(code, env=settings, capture_output=True, text=True, check=True).stdout)

    assert page_faults("keep_freed_memory()") < page_faults("") / 10
