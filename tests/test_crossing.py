"""Doubling the rows before a layer tells whether every path crosses it, and leaves no trace in the network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.crossing import Crossing, logits_of
from safa.errors import UserError

OFF = {"rounds": 2.2e-3, "leaks": 0.05}
"""How far logits are off beside other rows, as a share of the largest. TF32 rounds 32 to 56 layers by 2.2e-3 at most.
"""

IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Shortcut(nn.Module):
    """A stem, a block of a branch beside a shortcut, and a classifier; ``how`` says what else goes on."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.stem, self.branch, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
        self.again = self.branch
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.stem(images))
        features = features + self.branch(features)
        if self.how == "draws":
            features = F.dropout(features)
        if self.how == "compares rows":
            features = features - features.sum(0)
        if self.how == "fails on many rows" and len(images) < len(features):
            raise torch.OutOfMemoryError("there is no room for more rows")
        logits = self.fc(features.mean(dim=(2, 3)))
        if self.how in OFF and len(images) < len(features):  # for another number of rows
            logits = logits + OFF[self.how] * logits.abs().amax() * torch.tensor([1, -1, 1, -1, 1])
        return logits

    def eval(self) -> Shortcut:
        raise AssertionError("more than a flag may hang on eval()")


@pytest.mark.parametrize("exact", [True, False])
def test_all_paths_cross_what_is_around_a_branch_and_not_what_is_inside(exact):
    crossing = Crossing(Shortcut(), IMAGES)
    crossed = {name: crossing.is_crossed(name, exact=exact) for name in ("", "stem", "norm", "branch", "fc")}
    assert crossed == {"": True, "stem": True, "norm": True, "branch": False, "fc": True}


@pytest.mark.parametrize("how", ["draws", "compares rows"])
def test_logits_that_change_with_the_rows_beside_them_count_only_when_exact(how):
    crossing = Crossing(Shortcut(how), IMAGES + torch.arange(2)[:, None, None, None])
    assert crossing.is_crossed("stem", exact=False)
    assert not crossing.is_crossed("stem", exact=True)


def test_logits_that_overflow_are_no_sign_of_another_path():
    model = Shortcut()
    model.fc.bias.data[0] = torch.nan
    crossing = Crossing(model, IMAGES)
    assert crossing.is_crossed("stem")
    assert not crossing.is_crossed("branch")


def test_a_logit_near_0_may_be_rounded_as_the_large_ones_beside_it_are():
    model = Shortcut("rounds")
    model.fc.weight.data[0] = model.fc.bias.data[0] = 0
    crossing = Crossing(model, IMAGES)
    assert crossing.logits.abs().amax() > 0.1
    assert crossing.is_crossed("stem")


def test_logits_that_are_off_by_more_than_rounding_are_a_sign_of_another_path():
    crossing = Crossing(Shortcut("leaks"), IMAGES)
    assert crossing.is_crossed("stem", exact=False)
    assert not crossing.is_crossed("stem")


def test_running_out_of_memory_is_not_taken_for_another_path():
    with pytest.raises(torch.OutOfMemoryError):
        Crossing(Shortcut("fails on many rows"), IMAGES).is_crossed("stem")


@pytest.mark.parametrize("how", ["", "draws"])
def test_looking_leaves_modes_statistics_hooks_and_random_numbers_alone(how):
    model = Shortcut(how)
    model.norm.train(False)
    modes, state = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    crossing = Crossing(model, IMAGES)
    crossing.is_crossed("branch")
    crossing.can_be_mixed("branch")
    crossing.inputs_of_layers()
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_modes_are_given_back_after_an_error():
    model = Shortcut()
    with pytest.raises(RuntimeError, match="channels"):
        Crossing(model, IMAGES[:, :2])
    assert all(module.training for module in model.modules())


def test_logits_are_those_of_evaluation_in_the_type_of_the_network():
    model, plain = Shortcut(), Shortcut()
    plain.training = plain.norm.training = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = Crossing(model, IMAGES.bfloat16()).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, plain(IMAGES.bfloat16().float()))


def test_whole_numbers_enter_as_they_are():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5))
    assert Crossing(model, torch.tensor([[1, 2, 3], [4, 5, 6]])).is_crossed("1")


def test_inputs_of_layers_are_those_of_every_call_under_every_name():
    assert Crossing(Shortcut(), IMAGES).inputs_of_layers() == {
        "": [(2, 3, 6, 6)],
        "stem": [(2, 3, 6, 6)],
        "norm": [(2, 4, 4, 4)],
        "branch": [(2, 4, 4, 4)],
        "again": [(2, 4, 4, 4)],
        "fc": [(2, 4)],
    }


def test_logits_are_one_tensor():
    assert logits_of(nn.Identity(), IMAGES) is IMAGES
    with pytest.raises(UserError, match="Identity returns dict, not logits; wrap it in a module that returns"):
        logits_of(nn.Identity(), {"logits": IMAGES})
