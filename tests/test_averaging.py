"""The moving average: the recurrence written out, statistics and counters, and the steps it takes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from safa.averaging import moving_average
from safa.errors import UserError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def passes(model: nn.Module, average, number: int) -> list[dict[str, torch.Tensor]]:
    """The states after steps that move every weight and every statistic."""
    states = []
    for _ in range(number):
        with torch.no_grad():
            model(torch.randn(8, 3, dtype=torch.float64))
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(model)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states


@pytest.mark.parametrize("steps", [1, 2.5, 10])
def test_weights_and_statistics_follow_the_recurrence_from_the_first_step_on(steps):
    model = network()
    average = moving_average(model, steps)
    first, *later = passes(model, average, 5)
    for name, found in average.module.state_dict().items():
        expected = first[name]
        for state in later:
            expected = expected + (state[name] - expected) / steps if expected.is_floating_point() else state[name]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_copy_by_pickle_goes_on_as_the_average_does():
    model = network()
    average = moving_average(model, 3)
    passes(model, average, 2)
    copied = pickle.loads(pickle.dumps(average))
    passes(model, average, 1)
    copied.update_parameters(model)
    assert all(torch.equal(found, average.state_dict()[name]) for name, found in copied.state_dict().items())


def test_over_less_than_a_step_it_is_the_last_weights():
    model = network()
    average = moving_average(model, 0.4)
    *_, last = passes(model, average, 3)
    assert all(torch.equal(found, last[name]) for name, found in average.module.state_dict().items())


def test_its_module_is_saved_and_read_like_the_network(tmp_path):
    model = network()
    average = moving_average(model, 3)
    passes(model, average, 2)
    torch.save(average.module.state_dict(), tmp_path / "model.pt")
    other = network()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(other.eval()(images), average.module.eval()(images))


@pytest.mark.parametrize("steps", [0, -3, float("nan"), float("inf")])
def test_steps_that_average_nothing_are_refused(steps):
    with pytest.raises(UserError, match=f"steps is how many steps are averaged over, .* got {steps}"):
        moving_average(network(), steps)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_weights_in_which_an_average_would_stand_still_are_refused(half):
    with pytest.raises(UserError, match=f"the average of {half} weights would stand still, .* torch.autocast"):
        moving_average(network().to(half), 1000)
