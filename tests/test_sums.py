"""Sums of terms and diagnostics: means over the steps they occurred in, broken terms by name, exact in a checkpoint."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from safa.sums import Sums, assigned, weighing
from safa.types import Output


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
        sums.watch({"b": 1 - value, "c": value.sqrt()})
    assert Sums.of(sums.state()).means() == sums.means()
    assert Sums.of(sums.state()).state() == sums.state()


def test_sums_of_an_earlier_version_hold_no_diagnostics_and_go_on():
    sums = Sums()
    sums.add({"a": torch.tensor(1.0)}, torch.tensor(1.0))
    earlier = {key: value for key, value in sums.state().items() if key != "diagnostics"}
    restored = Sums.of(earlier)
    assert restored.means() == sums.means()
    restored.watch({"b": torch.tensor(2.0)})
    assert restored.means()["diagnostics"] == {"b": 2.0}


def test_sums_take_scalars_of_any_type_and_give_the_same_as_one_by_one():
    given = [
        torch.tensor(1 / 3),
        torch.tensor(1 / 3, dtype=torch.float64),
        torch.tensor(0.7).bfloat16(),
        torch.tensor(2),
    ]
    sums = Sums()
    for step, value in enumerate(given):
        sums.add({"a": value} if step % 2 else {"a": value, "b": 2 * value}, value)
        sums.watch({"c": value, "d": torch.tensor(1.0)})
    expected = sum(float(value) for value in given)
    assert sums.means()["terms"] == {"a": expected / 4, "b": float(given[0]) + float(given[2])}
    assert sums.means()["diagnostics"] == {"c": expected / 4, "d": 1.0}


def test_means_of_a_diagnostic_leave_out_steps_that_had_nothing_to_measure():
    sums = Sums()
    for value in (1.0, math.nan, 3.0, math.inf, -math.inf):
        sums.watch({"some": torch.tensor(value), "none": torch.tensor(math.nan)})
    assert sums.means()["diagnostics"] == {"some": 2.0, "none": None}


def test_a_broken_diagnostic_is_no_broken_term():
    sums = Sums()
    sums.add({"a": torch.tensor(1.0)}, torch.tensor(1.0))
    sums.watch({"b": torch.tensor(math.nan)})
    assert sums.broken() is None


def test_the_network_is_watched_on_generated_rows_and_on_real_ones_of_their_classes():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 1, 2, 2, 2])  # six images, four generated rows
    taken_for = torch.tensor([0, 1, 2, 2, 0, 0, 1, 2, 2, 0])
    output = Output(F.one_hot(taken_for, 3).float(), labels, torch.zeros(()))
    found = assigned(output, images=6)
    assert found["assigned_generated"].item() == 75
    assert found["assigned_real"].item() == 40  # two of the five real rows of classes 1 and 2


def test_nothing_is_watched_where_no_row_was_generated():
    assert assigned(Output(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.zeros(())), images=4) == {}
    assert assigned(Output(torch.zeros(4, 3), None, torch.zeros(())), images=4) == {}


def test_a_step_learns_from_as_many_images_as_have_equal_weights():
    assert weighing(torch.tensor([0.5, 0.5, 0.0, 0.0]))["images_weighing"].item() == 50
    assert weighing(torch.full((8,), 0.01, dtype=torch.bfloat16))["images_weighing"].item() == 100
    assert weighing(torch.tensor([3.0, 1.0]))["images_weighing"].item() == 80  # 100 * 16 / (2 * 10)


def test_weights_of_zero_leave_nothing_to_measure():
    sums = Sums()
    sums.watch(weighing(torch.zeros(4)))
    assert sums.means()["diagnostics"] == {"images_weighing": None}
