"""Half types are lifted; whole ones are handed on as they are."""

from __future__ import annotations

import pytest
import torch

from safa.precision import lifted


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_become_float32(half):
    given = torch.tensor([0.1, 3.0], dtype=half)
    assert lifted(given).dtype == torch.float32
    assert lifted(given).tolist() == given.tolist()


@pytest.mark.parametrize("whole", [torch.float32, torch.float64])
def test_float32_and_float64_are_not_even_copied(whole):
    given = torch.ones(2, dtype=whole)
    assert lifted(given) is given
