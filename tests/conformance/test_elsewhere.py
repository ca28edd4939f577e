"""What holds for every augmenter, loss and head on a device that is not the CPU: ``tests.elsewhere`` stands for a GPU.

| check | for |
|---|---|
| no mixing of devices | augmenters, losses and heads: what comes out is there, gradients are too |
| the same as on the CPU | all of them, to the bit, as the arithmetic is the same; a number drawn there would show |
| few waits | augmenters read the labels back once a step; losses and heads wait for nothing |
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from safa.errors import UserError
from safa.types import Augmented
from tests.conformance import test_augmenters as augmenters
from tests.conformance import test_heads as heads
from tests.conformance import test_losses as losses
from tests.elsewhere import DEVICE, There, watched

NOISE = "noise"  # draws there, for every element of features
MIXING = {name for name, mixes in augmenters.mixing.items() if mixes}


# --- the device --------------------------------------------------------------------------------------------


def test_a_tensor_of_the_cpu_meets_none_of_the_device_unless_it_is_a_scalar():
    with watched():
        there = torch.ones(2).to(DEVICE)
        assert (there + torch.tensor(1.0)).here.tolist() == [2, 2]
        with pytest.raises(RuntimeError, match=r"aten.add.Tensor mixes devices: \[\(2,\), \(2,\)\]"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match=r"aten.index.Tensor mixes devices"):
            there[torch.tensor([0])]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.cpu(),
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.ones(3).copy_(x),
    ],
)
def test_what_the_cpu_reads_is_a_wait(read):
    with watched() as seen:
        there = torch.arange(3.0).to(DEVICE)
        (there * 2)[torch.ones(2, dtype=torch.int64, device=DEVICE)].sum().clone()
        assert (seen["uploads"], seen["waits"]) == (1, 0)
        read(there)
        assert (seen["uploads"], seen["waits"]) == (1, 1)


def test_random_numbers_of_the_device_are_its_own():
    before = torch.get_rng_state()
    with watched():
        there = torch.rand(4, device=DEVICE)
        assert isinstance(there, There)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(there.here, torch.rand(4))


# --- augmenters --------------------------------------------------------------------------------------------


def on_both(name: str, active: bool) -> tuple[Augmented, Augmented, dict[str, int]]:
    """A step on the CPU and the same there, differentiated, and what was seen of the latter."""
    module, features = augmenters.off_start(name, active=active), augmenters.maps()
    module.dropout = 0.0  # the Delta-encoder's is drawn there
    twin = copy.deepcopy(module)
    one = augmenters.run(module, features.requires_grad_())
    augmenters.differentiate(one)
    with watched() as seen:
        twin, labels = twin.to(DEVICE), torch.tensor(augmenters.LABELS).to(DEVICE)
        there = features.detach().to(DEVICE).requires_grad_()
        seen.clear()
        torch.manual_seed(2)
        other = twin(there, labels)
        augmenters.differentiate(other)
    if name != NOISE:
        for own, given in zip((there, *twin.parameters()), (features, *module.parameters()), strict=True):
            assert (own.grad is None) == (given.grad is None)
            assert own.grad is None or same(own.grad, given.grad)
    return one, other, seen


def same(there: Tensor, here: Tensor) -> bool:
    return isinstance(there, There) and torch.equal(there.here, here)


@augmenters.every_augmenter
@augmenters.in_whatever_phase
def test_a_seed_makes_of_a_batch_on_another_device_what_it_makes_of_it_on_the_cpu(name, active):
    one, other, _ = on_both(name, active)
    assert same(other.labels, one.labels)
    assert same(other.features, one.features) == (name != NOISE or not active)
    assert same(other.loss, one.loss)
    for values in (other.terms, other.diagnostics):
        assert all(isinstance(value, There) for value in values.values())


@augmenters.every_augmenter
@augmenters.in_whatever_phase
def test_a_step_waits_for_another_device_once_at_most(name, active):
    seen = on_both(name, active)[2]
    decomposes = name == "feature_transfer"  # in its first step, and every hundredth
    assert seen["waits"] <= (name not in MIXING) + decomposes
    shares = name == augmenters.OTHER_PAIRS and active  # how far rows reach: fractions, no indices
    assert seen["uploads"] <= 3 + shares


@pytest.mark.parametrize("name", sorted(set(augmenters.mixing) - MIXING))
def test_a_label_beyond_the_class_counts_is_refused_on_every_device(name):
    with watched():
        module, features = augmenters.augmenter(name).to(DEVICE), torch.rand(3, 8, 2, 2).to(DEVICE)
        with pytest.raises(UserError, match="labels are 0 to 2, got 7"):
            module(features, torch.tensor([0, 7, 1]).to(DEVICE))


# --- losses and heads --------------------------------------------------------------------------------------


@losses.every_loss
@losses.weighted_or_not
@losses.hard_or_soft
def test_a_loss_is_the_same_on_every_device_and_waits_for_none(name, weight, soft):
    criterion, (logits, labels) = losses.criterion(name, weight), losses.batch(soft)
    expected = criterion(logits, labels)
    with watched() as seen:
        found = criterion.to(DEVICE)(logits.to(DEVICE), labels.to(DEVICE))
    assert same(found, expected)
    assert seen["waits"] == 0


@heads.every_head
def test_a_head_is_the_same_on_every_device_and_waits_for_none(name):
    head = heads.head_of(name)
    expected = head(heads.some())
    with watched() as seen:
        found = head.to(DEVICE)(heads.some().to(DEVICE))
    assert same(found, expected)
    assert seen["waits"] == 0
