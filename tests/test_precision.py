"""Half types are lifted; whole ones are handed on as they are."""

from __future__ import annotations

import pytest
import torch

from safa import precision
from safa.precision import lifted, without_autocast


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_become_float32(half):
    given = torch.tensor([0.1, 3.0], dtype=half)
    assert lifted(given).dtype == torch.float32
    assert lifted(given).tolist() == given.tolist()


@pytest.mark.parametrize("whole", [torch.float32, torch.float64])
def test_float32_and_float64_are_not_even_copied(whole):
    given = torch.ones(2, dtype=whole)
    assert lifted(given) is given


def test_without_autocast_products_are_those_of_float32():
    given = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with without_autocast(given):
            assert torch.equal(given @ given, torch.mm(given, given))
            assert (given @ given).dtype == torch.float32
        assert (given @ given).dtype == torch.bfloat16


def test_a_device_that_has_no_autocast_is_as_it_is():
    given = torch.ones(2, 2, device="meta")
    with without_autocast(given):
        assert (given @ given).dtype == torch.float32


def test_the_cost_of_bf16_is_that_of_its_convolution_over_that_in_float32(monkeypatch):
    """By a clock on which every convolution in bf16 takes seven seconds, and one in float32 two."""
    now = [0.0]

    def convolved(maps, weight, padding):
        now[0] += {torch.bfloat16: 7.0, torch.float32: 2.0}[maps.dtype]
        return torch.nn.functional.conv2d(maps, weight, padding=padding)

    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(precision, "conv2d", convolved)
    assert precision.bf16_cost() == 3.5


def test_the_cost_of_bf16_can_be_measured_here_and_now():
    assert 0 < precision.bf16_cost() < 1000
