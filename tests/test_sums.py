"""Sums of loss terms: means over the steps a term occurred in, broken terms by name, exact in a checkpoint."""

from __future__ import annotations

import math

import torch

from safa.sums import Sums


def test_means_of_a_term_are_over_the_steps_it_occurred_in():
    sums = Sums()
    sums.add({"a": torch.tensor(1.0)}, torch.tensor(1.0))
    sums.add({"a": torch.tensor(3.0), "b": torch.tensor(5.0)}, torch.tensor(8.0))
    means = sums.means()
    assert means["terms"] == {"a": 2.0, "b": 5.0}
    assert means["loss"] == 4.5


def test_the_total_is_called_broken_only_when_no_term_is():
    sums = Sums()
    sums.add({"a": torch.tensor(1.0)}, torch.tensor(math.inf))
    assert sums.broken() == "loss"
    sums.add({"a": torch.tensor(math.nan)}, torch.tensor(1.0))
    assert sums.broken() == "a"


def test_sums_survive_a_checkpoint_exactly():
    sums = Sums()
    for value in torch.rand(50):
        sums.add({"a": value}, value)
    assert Sums.of(sums.state()).means() == sums.means()
