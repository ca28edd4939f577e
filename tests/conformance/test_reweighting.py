"""What holds for every reweighting of the catalog: what weighs single images by looking one step ahead.

| check | for a reweighting |
|---|---|
| finite and falling | a network that descends on the weighted losses |
| gradients | every parameter of its own moves, and none of the network's |
| state | saved in the middle and restored, it goes on bit for bit |
| other class names | leave the weight of every image |
| no tail, no head, one class | there is a finite weight per image |
| float32 and bf16 | near each other under autocast |
| deterministic | the same bits twice; the network is as it was, hooks included, so nothing is left to export |
| a known thing | it matches ``CASES[name].weights``, written out with two backward passes for one forward derivative |
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.catalog import CATALOG, build
from safa.types import Lookahead
from safa.weighting import effective_number_weights
from tests.conformance import toy

LR = 0.1
every_reweighting = pytest.mark.parametrize("name", CATALOG["reweighting"])


def per_row(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


def reweighter(name: str, counts: list[int] = toy.COUNTS, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build("reweighting", name, toy.entry(CASES, "reweighting", name, WANTED).options, class_counts=counts)


def look(net: toy.Network, counts: tuple[int, ...] = (5, 8, 3), seed: int = 2) -> Lookahead:
    images, labels = toy.batch(counts, seed)
    return Lookahead(net, per_row, images, labels, *toy.batch((2, 2, 2), seed + 50), LR)


def train(net: toy.Network, method: Any, steps: range) -> list[Tensor]:
    """Weights of every step."""
    optimizer, weights = torch.optim.SGD(net.parameters(), lr=LR), []
    for step in steps:
        ahead = look(net, seed=step)
        weights.append(method(ahead))
        optimizer.zero_grad()
        (weights[-1] * per_row(net(ahead.images), ahead.labels)).sum().backward()
        optimizer.step()
    return weights


# --- by its definition -------------------------------------------------------------------------------------


def influence(ahead: Lookahead, weights: Tensor) -> Tensor:
    """Gradient of the meta loss by the weights of a virtual step, through that step."""
    net, weights = copy.deepcopy(ahead.network), weights.clone().requires_grad_()
    names = [name for name, _ in net.named_parameters()]
    here = [parameter.detach().requires_grad_() for parameter in net.parameters()]
    losses = per_row(torch.func.functional_call(net, dict(zip(names, here, strict=True)), ahead.images), ahead.labels)
    slopes = torch.autograd.grad((weights * losses).sum(), here, create_graph=True)
    there = {name: p - ahead.lr * g for name, p, g in zip(names, here, slopes, strict=True)}
    meta = per_row(torch.func.functional_call(net, there, ahead.meta_images), ahead.meta_labels).mean()
    return torch.autograd.grad(meta, weights)[0]


def l2rw(ahead: Lookahead, _: Any) -> Tensor:
    """Ren et al. 2018, Eq. 12 to 14."""
    kept = (-influence(ahead, torch.zeros(16))).clamp_min(0)
    return kept / kept.sum()


def meta_weight_net(ahead: Lookahead, method: Any) -> Tensor:
    """Shu et al. 2019, Eq. 3 to 5; the first of its steps, of Nesterov's momentum."""
    rule = copy.deepcopy(method.rule)
    losses = per_row(copy.deepcopy(ahead.network)(ahead.images), ahead.labels).detach()
    optimizer = torch.optim.SGD(rule.parameters(), method.lr, method.momentum, 0, method.weight_decay, nesterov=True)
    weights = rule(losses[:, None]).squeeze(1)
    weights = weights / weights.sum()
    weights.backward(influence(ahead, weights.detach()))
    optimizer.step()
    weights = rule(losses[:, None]).squeeze(1).detach()
    return weights / weights.sum()


def meta_class_weight(ahead: Lookahead, _: Any) -> Tensor:
    """Jamal et al. 2020, algorithm 1: one step from corrections of 0."""
    of_classes = effective_number_weights(toy.COUNTS)[ahead.labels]
    return (of_classes - 1.0 * influence(ahead, of_classes)) / 16


@dataclass(frozen=True)
class Case:
    """What a newcomer says of itself.

    Attributes:
        weights: look ahead and reweighting -> weights of its first step, by its definition.
        options: settings at which a step is large enough to be seen, and of nothing but a gradient.
    """

    weights: Callable[[Lookahead, Any], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "l2rw": Case(l2rw),
    "meta_weight_net": Case(meta_weight_net, {"lr": 10.0, "weight_decay": 0.0}),
    "meta_class_weight": Case(meta_class_weight, {"step": 1.0}),
}
WANTED = "to CASES its weights of a batch, written out"


@every_reweighting
def test_weights_match_their_definition_written_out(name):
    net, method = toy.network(), reweighter(name)
    train(net, method, range(2))
    method = reweighter(name)  # whose first step the definition takes
    expected = toy.entry(CASES, "reweighting", name, WANTED).weights(look(net), method)
    torch.testing.assert_close(method(look(net)), expected, rtol=1e-4, atol=1e-6)


# --- learning ----------------------------------------------------------------------------------------------


@every_reweighting
def test_a_network_that_descends_on_the_weighted_losses_learns_the_toy(name):
    net, (images, labels) = toy.network(), toy.batch((12, 12, 12), seed=99)
    before = per_row(net(images), labels).mean()
    weights = train(net, reweighter(name), range(15))
    assert torch.stack(weights).isfinite().all()
    assert per_row(net(images), labels).mean() < 0.8 * before


@every_reweighting
def test_every_parameter_of_its_own_moves_and_none_of_the_networks(name):
    net, method = toy.network(), reweighter(name)
    own, nets = copy.deepcopy(dict(method.named_parameters())), copy.deepcopy(dict(net.named_parameters()))
    weights = method(look(net))
    assert not weights.requires_grad
    assert all(not torch.equal(parameter, own[key]) for key, parameter in method.named_parameters())
    toy.assert_same(dict(net.named_parameters()), nets)


# --- state, names, batches ---------------------------------------------------------------------------------


@every_reweighting
def test_saved_in_the_middle_and_restored_it_goes_on_bit_for_bit(name):
    net, method, file = toy.network(), reweighter(name), io.BytesIO()
    train(net, method, range(3))
    torch.save((net.state_dict(), method.state_dict()), file)
    file.seek(0)
    other, restored = toy.network(seed=9), reweighter(name, seed=9)
    for module, state in zip((other, restored), torch.load(file, weights_only=True), strict=True):
        module.load_state_dict(state)
    steps = range(3, 6)
    for first, second in zip(train(net, method, steps), train(other, restored, steps), strict=True):
        assert torch.equal(first, second)
    toy.assert_same(toy.tensors_of(method), toy.tensors_of(restored))
    toy.assert_same(toy.tensors_of(net), toy.tensors_of(other))


@every_reweighting
def test_other_class_names_leave_the_weight_of_every_image(name):
    net = toy.network()
    train(net, reweighter(name), range(2))
    renamed = copy.deepcopy(net)
    toy.renamed_rows(renamed.fc)
    ahead, other = look(net), look(renamed)
    names = {"labels": toy.NEW_OF_OLD[ahead.labels], "meta_labels": toy.NEW_OF_OLD[ahead.meta_labels]}
    other = Lookahead(**{**vars(other), **names})
    weights = reweighter(name)(ahead)
    assert len(weights.unique()) > toy.CLASSES  # a weight per image, not per class
    torch.testing.assert_close(reweighter(name, toy.RENAMED_COUNTS)(other), weights, rtol=1e-4, atol=1e-6)


PARTS = {"no tail": (0, 6, 0), "no head": (3, 0, 2), "one tail class": (0, 0, 4), "one image": (0, 1, 0)}


@every_reweighting
@pytest.mark.parametrize("counts", PARTS.values(), ids=PARTS.keys())
def test_every_image_of_a_batch_without_some_classes_gets_a_finite_weight(name, counts):
    weights = reweighter(name)(look(toy.network(), counts))
    assert weights.shape == (sum(counts),)
    assert weights.isfinite().all()


# --- precision, repetition, what is left -------------------------------------------------------------------


@every_reweighting
def test_under_bf16_autocast_weights_are_float32_and_near_those_without(name):
    net = toy.network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = reweighter(name)(look(net))
    assert weights.dtype == torch.float32
    assert F.cosine_similarity(weights, reweighter(name)(look(net)), dim=0) > 0.97


@every_reweighting
def test_the_same_look_gives_the_same_bits_and_leaves_the_network_as_it_was(name):
    net, images = toy.network(), toy.batch()[0]
    per_row(net(images), toy.batch()[1]).mean().backward()
    before, gradients = toy.tensors_of(net), [parameter.grad.clone() for parameter in net.parameters()]
    first = reweighter(name)(look(net))
    torch.manual_seed(5)
    assert torch.equal(copy.deepcopy(reweighter(name))(look(net)), first)
    toy.assert_same(toy.tensors_of(net), before)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert all(module.training for module in net.modules())
    assert toy.hooks_of(net) == []
