"""Image weights against two backwards through a literal network, differences, the released steps, and hand figures."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.backbones import densenet40, resnet32
from safa.errors import UserError
from safa.methods import LearningToReweight, MetaClassWeight, MetaWeightNet, influence
from safa.types import Lookahead
from tests.reference import meta as reference

per_row = partial(F.cross_entropy, reduction="none")
CLASSES = 3


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The network of the reference, with parameters and running statistics away from their start."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, CLASSES),
    )  # fmt: skip
    for tensor in (*net.parameters(), net[1].running_mean):
        nn.init.normal_(tensor, std=0.5)
    return net.to(dtype).train()


def lookahead(net: nn.Module, n: int = 7, size: int = 6, lr: float = 0.5, seed: int = 2) -> Lookahead:
    torch.manual_seed(seed)
    dtype = next(net.parameters()).dtype
    images, meta_images = (torch.randn(rows, 3, size, size, dtype=dtype) for rows in (n, 5))
    labels, meta_labels = torch.randint(CLASSES, (n,)), torch.arange(5) % CLASSES
    return Lookahead(net, per_row, images, labels, meta_images, meta_labels, lr)


def literally(look: Lookahead) -> tuple[object, ...]:
    """What the reference takes: parameters, batch, meta batch."""
    return dict(look.network.named_parameters()), (look.images, look.labels), (look.meta_images, look.meta_labels)


def learning(net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


def some_weights(n: int) -> Tensor:
    return torch.linspace(0.1, 0.9, n, dtype=torch.float64)


# --- influence ---------------------------------------------------------------------------------------------


def test_influence_is_what_two_backwards_through_the_virtual_step_give():
    look = lookahead(network())
    weights = some_weights(7)
    losses, gradient = influence(look, lambda _: weights)
    expected = reference.influence(*literally(look), weights, look.lr, learning(look.network))
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses, reference.losses(*literally(look)[:2]).detach())


def test_influence_is_the_slope_of_the_meta_loss():
    look = lookahead(network())
    weights = some_weights(7)
    after = partial(reference.meta_loss, *literally(look), lr=look.lr, learning=learning(look.network))
    slopes = reference.finite_differences(lambda w: after(weights=w), weights, 1e-5)
    torch.testing.assert_close(influence(look, lambda _: weights)[1], slopes, rtol=1e-6, atol=1e-8)


def test_influence_without_weights_is_that_of_weights_zero():
    look = lookahead(network())
    zeros = torch.zeros(7, dtype=torch.float64)
    torch.testing.assert_close(influence(look)[1], influence(look, lambda _: zeros)[1])
    expected = reference.influence(*literally(look), zeros, look.lr, learning(look.network))
    torch.testing.assert_close(influence(look)[1], expected, rtol=1e-9, atol=1e-12)


def test_the_weights_of_the_virtual_step_come_from_its_losses():
    look = lookahead(network())
    losses, gradient = influence(look, lambda losses: losses**2)
    torch.testing.assert_close(gradient, influence(look, lambda _: losses**2)[1])


def test_reading_layers_that_stand_still_do_so_in_the_virtual_step():
    look = lookahead(network())
    whole = influence(look, lambda _: some_weights(7))[1]
    look.network[0].requires_grad_(False)
    gradient = influence(look, lambda _: some_weights(7))[1]
    assert not torch.allclose(gradient, whole)
    expected = reference.influence(
        *literally(look), some_weights(7), look.lr, {"1.weight", "1.bias", "5.weight", "5.bias"}
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_influence_is_the_same_where_gradients_are_off():
    look = lookahead(network())
    expected = influence(look, lambda _: some_weights(7))
    with torch.no_grad():
        found = influence(look, lambda _: some_weights(7))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not any(one.requires_grad for one in found)


def test_a_network_of_which_nothing_learns_is_refused():
    with pytest.raises(UserError, match="a step of the parameters that learn, and Sequential has none; let some"):
        influence(lookahead(network().requires_grad_(False)))


def test_reading_layers_run_in_the_mode_they_are_in():
    look = lookahead(network())
    training = influence(look)[1]
    look.network[1].eval()
    assert not torch.allclose(influence(look)[1], training)
    assert [module.training for module in look.network] == [True, False, True, True, True, True]


@pytest.mark.parametrize("method", [LearningToReweight(), MetaWeightNet(), MetaClassWeight([5, 3, 2])])
def test_the_network_is_left_as_it_was(method):
    look = lookahead(network(torch.float32))
    per_row(look.network(look.images), look.labels).mean().backward()
    before = copy.deepcopy(look.network)
    gradients = [p.grad.clone() for p in look.network.parameters()]
    weights = method(look)
    assert (weights.shape, weights.requires_grad) == ((7,), False)
    for name, value in before.state_dict().items():
        assert torch.equal(look.network.state_dict()[name], value), name
    assert all(torch.equal(p.grad, g) for p, g in zip(look.network.parameters(), gradients, strict=True))
    assert all(p.requires_grad for p in look.network.parameters())


@pytest.mark.parametrize("build", [resnet32, densenet40])
def test_networks_of_the_paper_have_a_forward_derivative_in_half_precision_too(build):
    torch.manual_seed(3)
    net = build(CLASSES).to(memory_format=torch.channels_last)
    look = lookahead(net.train(), n=8, size=16, lr=0.1)
    exact = influence(look)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = influence(look)
    assert exact[1].dtype == rounded[1].dtype == torch.float32
    assert F.cosine_similarity(exact[1], rounded[1], dim=0) > 0.98
    torch.testing.assert_close(exact[0], rounded[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm((4, 4, 4))]
)
def test_every_norm_between_half_precision_convolutions_has_a_forward_derivative(norm):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, CLASSES))
    look = lookahead(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = influence(look)[1]
    assert F.cosine_similarity(influence(look)[1], rounded, dim=0) > 0.99


def test_labels_that_are_no_class_ids_are_refused():
    look = lookahead(network())
    soft = F.one_hot(look.labels, CLASSES).double()
    with pytest.raises(UserError, match=r"images are weighed by class ids \(n,\), got probabilities \(7, 3\)"):
        influence(replace(look, labels=soft))


@pytest.mark.parametrize("method", [LearningToReweight(), MetaWeightNet(), MetaClassWeight([5, 3, 2])])
def test_a_loss_that_is_no_loss_of_each_image_is_refused(method):
    look = replace(lookahead(network()), losses=F.cross_entropy)
    with pytest.raises(UserError, match=r'[57] of them have losses of shape \(\); make the loss with reduction="none"'):
        method(look)


class Distances(nn.Module):
    """Logits by an operation that torch cannot differentiate forward."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(CLASSES, 108))

    def forward(self, images: Tensor) -> Tensor:
        return -torch.cdist(images.flatten(1), self.centres)


def test_an_operation_without_forward_derivative_is_reported_with_the_network():
    with pytest.raises(UserError, match="images cannot be weighed for Distances, an operation of which has no forward"):
        influence(lookahead(Distances()))


# --- by hand -----------------------------------------------------------------------------------------------


def by_hand() -> Lookahead:
    """One parameter 1 and half squared errors: gradients 1 and -2 in training, 1.0 ahead minus 2 on the meta set."""
    line = nn.Linear(1, 1, bias=False)
    nn.init.ones_(line.weight)

    def half_squares(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0] - labels) ** 2 / 2

    images, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 3])
    return Lookahead(line, half_squares, images, labels, torch.tensor([[1.0]]), torch.tensor([2]), lr=0.1)


def test_influence_by_hand():
    losses, gradient = influence(by_hand(), lambda _: torch.tensor([0.5, 0.5]))
    # ahead = 1 - 0.1 (0.5 * 1 - 0.5 * 2) = 1.05; meta gradient 1.05 - 2 = -0.95
    torch.testing.assert_close(losses, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(gradient, -0.1 * -0.95 * torch.tensor([1.0, -2.0]))


def test_learning_to_reweight_by_hand():
    # gradients -0.1 * (1 - 2) * (1, -2) = (0.1, -0.2): only the second image helps
    torch.testing.assert_close(LearningToReweight()(by_hand()), torch.tensor([0.0, 1.0]))


def test_meta_class_weight_by_hand():
    # w = (1, 1): ahead = 1 - 0.1 (1 - 2) = 1.1, gradients -0.1 * -0.9 * (1, -2) = (0.09, -0.18)
    weights = MetaClassWeight([4, 4, 4, 4])(by_hand())
    torch.testing.assert_close(weights, torch.tensor([(1 - 0.01 * 0.09) / 2, (1 + 0.01 * 0.18) / 2]))


# --- learning to reweight ----------------------------------------------------------------------------------


def test_learning_to_reweight_is_the_positive_part_of_minus_the_gradient_with_sum_one():
    look = lookahead(network())
    gradient = reference.influence(*literally(look), torch.zeros(7).double(), look.lr, learning(look.network))
    expected = reference.normalised((-gradient).clamp(min=0))
    torch.testing.assert_close(LearningToReweight()(look), expected)
    assert (expected == 0).any()
    torch.testing.assert_close(LearningToReweight()(replace(look, lr=0.001)), expected)  # the rate cancels


def test_reading_where_no_image_helps_all_weights_are_zero():
    look = by_hand()
    against = replace(look, images=look.images[:1], labels=look.labels[:1])
    assert LearningToReweight()(against).tolist() == [0.0]


def test_learning_to_reweight_finds_the_mislabelled_images():
    torch.manual_seed(0)
    centres = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    truth = torch.arange(60) % 2
    images, is_wrong = centres[truth] + torch.randn(60, 2), torch.arange(60) % 10 < 3
    meta_labels = torch.arange(40) % 2
    meta_images = centres[meta_labels] + torch.randn(40, 2)
    net = nn.Linear(2, 2)
    look = Lookahead(net, per_row, images, torch.where(is_wrong, 1 - truth, truth), meta_images, meta_labels, lr=0.1)
    optimizer, method = torch.optim.SGD(net.parameters(), lr=0.1), LearningToReweight()
    of_wrong = []
    for _ in range(20):
        weights = method(look)
        of_wrong.append(float(weights[is_wrong].sum()))
        optimizer.zero_grad()
        (weights * per_row(net(images), look.labels)).sum().backward()
        optimizer.step()
    assert max(of_wrong) < 0.1  # they are 30 % of the images
    assert (net(images).argmax(1) == truth).float().mean() > 0.8


# --- meta-weight-net ---------------------------------------------------------------------------------------


def released_steps(look: Lookahead, method: MetaWeightNet, steps: int) -> tuple[list[Tensor], Tensor]:
    """Parameters and last weights after some steps: two backwards to the rule's parameters, torch's SGD."""
    rule = [p.detach().clone().requires_grad_() for p in method.parameters()]
    optimizer = torch.optim.SGD(rule, lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.01)
    parameters, batch, meta_batch = literally(look)
    for _ in range(steps):
        losses = reference.losses(parameters, batch).detach()
        weights = reference.rule(rule, losses)
        loss = reference.meta_loss(parameters, batch, meta_batch, weights, look.lr, learning(look.network))
        optimizer.zero_grad()
        loss.backward(inputs=rule)
        optimizer.step()
        weights = reference.rule(rule, losses)
    return rule, weights.detach()


def test_meta_weight_net_takes_the_steps_of_the_literal_one():
    look = lookahead(network())
    torch.manual_seed(6)
    method = MetaWeightNet(hidden=8, lr=0.5, momentum=0.9, weight_decay=0.01).double()
    rule, expected = released_steps(look, method, steps=3)
    before = [p.detach().clone() for p in method.parameters()]
    for _ in range(3):
        weights = method(look)
    torch.testing.assert_close(weights, expected)
    for parameter, start, literal in zip(method.parameters(), before, rule, strict=True):
        torch.testing.assert_close(parameter, literal)
        assert not torch.equal(parameter, start)


def test_meta_weight_net_weighs_by_loss_alone_and_to_a_sum_of_one():
    torch.manual_seed(7)
    weights = MetaWeightNet().weights(torch.tensor([0.1, 2.0, 0.1]))
    assert weights[0] == weights[2]
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_meta_weight_net_goes_on_bit_for_bit_from_its_state():
    looks = [lookahead(network(torch.float32), seed=seed) for seed in range(6)]
    torch.manual_seed(8)
    method = MetaWeightNet(lr=0.1)
    for look in looks[:3]:
        method(look)
    restored = MetaWeightNet(lr=0.1)
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    for look in looks[3:]:
        assert torch.equal(method(look), restored(look))
    for name, value in method.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name
    assert any(value.any() for name, value in method.state_dict().items() if name.startswith("velocity"))


def test_meta_weight_net_leaves_its_parameters_without_gradients():
    method = MetaWeightNet()
    method(lookahead(network(torch.float32)))
    assert all(p.grad is None for p in method.parameters())


def test_the_rule_is_not_rounded_under_autocast():
    torch.manual_seed(9)
    method, losses = MetaWeightNet(), torch.rand(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = method.weights(losses)
    assert torch.equal(rounded, method.weights(losses))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1 unit, got 0"),
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"momentum": float("nan")}, "momentum must be at least 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
    ],
)
def test_wrong_settings_of_meta_weight_net_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        MetaWeightNet(**wrong)


# --- meta-class-weight -------------------------------------------------------------------------------------


def test_meta_class_weight_corrects_class_weights_by_a_step_on_the_meta_loss():
    look, counts = lookahead(network()), [50, 20, 3]
    of_classes = torch.tensor([(1 - 0.999) / (1 - 0.999**n) for n in counts], dtype=torch.float64)
    of_rows = (of_classes / of_classes.sum() * 3)[look.labels]
    gradient = reference.influence(*literally(look), of_rows, look.lr, learning(look.network))
    expected = (of_rows - 0.2 * gradient) / 7
    weights = MetaClassWeight(counts, beta=0.999, step=0.2)(look)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(expected, of_rows / 7, rtol=1e-3)


def test_meta_class_weight_without_a_step_is_the_class_weight():
    look = lookahead(network(torch.float32))
    counts = torch.tensor([50, 20, 3])
    loss = (MetaClassWeight(counts, step=0.0)(look) * per_row(torch.zeros(7, 3), look.labels)).sum()
    weight = (1 - 0.9999) / (1 - 0.9999 ** counts.double())
    weight = (weight / weight.mean()).float()
    torch.testing.assert_close(loss, (weight[look.labels] * per_row(torch.zeros(7, 3), look.labels)).mean())


def test_meta_class_weight_takes_class_ids_of_any_integer_type():
    look, method = lookahead(network()), MetaClassWeight([5, 3, 1])
    narrow = replace(look, labels=look.labels.to(torch.uint8))
    assert torch.equal(method(narrow), method(look))


def test_meta_class_weight_keeps_nothing():
    assert MetaClassWeight([3, 2]).state_dict() == {}


def test_a_negative_step_is_refused():
    with pytest.raises(UserError, match=r"step must be at least 0, got -0.01; Jamal et al. use 0.01"):
        MetaClassWeight([3, 2], step=-0.01)


def test_settings_are_shown():
    assert "lr=1e-05, momentum=0.9, weight_decay=0.0005" in repr(MetaWeightNet())
    assert repr(MetaClassWeight([3, 2])) == "MetaClassWeight(beta=0.9999, step=0.01)"
