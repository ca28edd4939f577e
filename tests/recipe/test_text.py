"""YAML 1.2 where recipes need it, and keys that come once."""

from __future__ import annotations

import pytest

from tests.recipe.conftest import with_keys


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "+2e-4", ".2e-3", "2.e-4", "0.0002"])
def test_a_number_needs_no_dot(text, load):
    assert load(with_keys(f"optimizer: {{weight_decay: {text}}}")).optimizer.weight_decay == 2e-4


@pytest.mark.parametrize("text", ["2020-01-01", "2020-99-99", "2001-12-14t21:59:43.10-05:00"])
def test_a_date_is_a_text(text, load):
    assert load(with_keys(f"data: {{name: {text}}}")).data.name == text


def test_a_key_that_stands_in_a_merged_mapping_too_stands_once(load):
    text = "method: x\nstages: [&a {epochs: 1, loss: ldam}, &b {<<: *a, epochs: 2}, {<<: *b, epochs: 3}]"
    assert [(s.epochs, s.loss.name) for s in load(text).stages] == [(1, "ldam"), (2, "ldam"), (3, "ldam")]
