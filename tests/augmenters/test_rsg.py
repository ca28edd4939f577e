"""RSG against its formulae written out, in both phases.

What holds for every augmenter is in ``tests/conformance/test_augmenters.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from safa.augmenters.pairing import random_pairs
from safa.augmenters.rsg import RSG, centers_loss, maximized_vector
from safa.errors import UserError
from safa.plugin import PlugIn
from safa.types import Augmented, Augmenter
from tests.augmenters import trying
from tests.reference import rsg as literal

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
HEAD = {1, 3}
MORE_HEAD = [1, 0, 3, 1, 2, 3, 1]  # 5 head rows, 2 tail rows: two segments
MORE_TAIL = [0, 1, 2, 4, 0, 3, 0]  # 2 head rows, 5 tail rows


def augmenter(channels: int = 3, seed: int = 0, active: bool = True, **options) -> RSG:
    torch.manual_seed(seed)
    settings = {"head_ratio": 0.4, "num_centers": 4, "contrastive_dim": 6}
    rsg = RSG(channels, COUNTS, **{**settings, **options})
    rsg.active = active
    return rsg


def trained(**options) -> RSG:
    return trying.moved(augmenter(**options))


def maps(labels: list[int] = MORE_HEAD, **options) -> Tensor:
    return trying.post_relu(len(labels), **options)


def run(module, features: Tensor, labels: list[int] = MORE_HEAD, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


def weights(rsg: RSG) -> literal.Weights:
    return {name: tensor.detach() for name, tensor in rsg.state_dict().items()}


# --- the formulae ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [MORE_HEAD, MORE_TAIL], ids=["more head", "more tail"])
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.1])
def test_generated_rows_and_both_losses_follow_the_formulae_written_out(labels, strength):
    rsg, features = trained(transfer_strength=strength), maps(labels)
    out = run(rsg, features, labels)
    active = literal.Active(weights(rsg), features, labels, HEAD, strength)
    rows, classes = active.generated()
    torch.testing.assert_close(out.features[len(labels) :], rows)
    assert out.labels.tolist() == labels + classes
    cesc = literal.center_estimation(weights(rsg), features, labels, pairs=[])
    assert out.terms["cesc"].item() == pytest.approx(cesc)
    assert out.terms["mv"].item() == pytest.approx(active.maximized_vector())


def test_idle_nothing_is_generated_and_q_learns_on_pairs_of_the_batch():
    rsg, features = trained(active=False), maps()
    out = run(rsg, features)
    assert out.features is features
    torch.manual_seed(2)
    first, second = random_pairs(len(MORE_HEAD))
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    expected = literal.center_estimation(weights(rsg), features, MORE_HEAD, pairs)
    assert {name: term.item() for name, term in out.terms.items()} == pytest.approx({"cesc": expected})


@pytest.mark.parametrize("active", [True, False])
def test_what_stood_still_stands_still_in_a_loop_that_sets_gradients_to_0(active):
    rsg = trained(active=not active)
    optimizer = torch.optim.SGD(rsg.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        out = run(rsg, maps())
        (out.features.square().mean() + out.loss).backward()
        optimizer.step()

    step()
    rsg.active = active
    frozen = rsg.pair_classifier if active else rsg.transformation
    before = [parameter.clone() for parameter in frozen.parameters()]
    step()
    assert all(torch.equal(was, now) for was, now in zip(before, frozen.parameters(), strict=True))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    out = run(trained(cesc=3.0, mv=5.0), maps())
    torch.testing.assert_close(out.loss.detach(), 3 * out.terms["cesc"] + 5 * out.terms["mv"])


def test_a_term_of_weight_zero_is_not_computed():
    assert list(run(trained(cesc=0.0), maps()).terms) == ["mv"]
    out = run(trained(mv=0.0), maps())
    assert list(out.terms) == ["cesc"]
    assert len(out.labels) == 11


def test_centers_loss_equals_the_differences_built_whole():
    features, centers = maps(), torch.randn(7, 4, 3, dtype=torch.float64)
    assignment = torch.rand(7, 4, dtype=torch.float64)  # need not sum to 1
    differences = features[:, None] - centers[..., None, None]
    whole = (assignment * differences.square().sum(dim=(2, 3, 4))).sum(dim=1).mean()
    torch.testing.assert_close(centers_loss(features, centers, assignment), whole)


def test_parameters_start_as_released():
    rsg = augmenter(channels=16, num_centers=15)
    assert rsg.centers.shape == (5, 15, 16)
    assert not rsg.centers.any()
    assert (rsg.assignment_bias == 1).all()
    assert rsg.assignment_weight.std().item() == pytest.approx(1, abs=0.1)
    assert not rsg.transformation.bias.any()
    assert rsg.transformation.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)


# --- the readings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [MORE_HEAD, MORE_TAIL], ids=["more head", "more tail"])
def test_reading_released_groups_memory_and_compares_elements(labels):
    rsg, features = trained(released=True), maps(labels)
    active = literal.Active(weights(rsg), features, labels, HEAD)
    assert run(rsg, features, labels).terms["mv"].item() == pytest.approx(active.maximized_vector(released=True))
    assert active.maximized_vector(released=True) != pytest.approx(active.maximized_vector())


def test_reading_elements_instead_of_a_cosine_add_a_constant_and_leave_the_gradient():
    """At a single position the released grouping is that of the formula, so that only the elements differ."""
    variation, direction = (torch.randn(5, 3, 1, 1, dtype=torch.float64) for _ in range(2))
    moved = torch.randn(5, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    values = [maximized_vector(variation, moved, direction, released) for released in (False, True)]
    gradients = [torch.autograd.grad(value, moved)[0] for value in values]
    assert (values[1] - values[0]).item() == pytest.approx(3 - 1)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_reading_released_grouping_is_that_of_memory_in_rows_even_for_channels_last():
    variation, moved, direction = (maps(size=(4, 4), channels=4) + 0.1 * k for k in (1, 2, 3))
    plain = maximized_vector(variation, moved, direction, released=True)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (variation, moved, direction)]
    torch.testing.assert_close(maximized_vector(*last, released=True), plain)


def test_reading_strength_above_one_uses_head_rows_again():
    out = run(trained(transfer_strength=3.0), maps())
    assert out.labels.tolist()[7:] == [0, 2] * 7  # int(5 * 3 / 2) segments
    rows = out.features[7:]
    torch.testing.assert_close(rows[::10], rows[:1].expand(2, -1, -1, -1))  # 5 head rows with 2 tail rows


def test_reading_pairs_of_q_are_not_those_of_a_pair_sampler():
    """There row i + n/2 is the partner of row i, and pairing the halves would show Q one class at a time."""
    rsg, labels, shown = trained(active=False), [0, 1, 2, 3, 4] * 2, []
    rsg.pair_classifier.register_forward_hook(lambda _, given, made: shown.append(given[0]))
    features = maps(labels)
    run(rsg, features, labels)
    halves = [(half[:, None] == features[None]).flatten(2).all(2).int().argmax(1) for half in shown[0].chunk(2, 1)]
    classes = [torch.tensor(labels)[rows] for rows in halves]
    assert sorted(torch.cat(halves).tolist()) == list(range(10))
    assert (classes[0] != classes[1]).any()


def test_reading_active_decides_what_learns_and_weight_decay_leaves_the_rest_alone():
    rsg = augmenter(active=False)
    optimizer = torch.optim.SGD(rsg.parameters(), lr=0.1, weight_decay=0.1)
    t, q = rsg.transformation, rsg.pair_classifier
    for active, frozen, learning in ((False, t, q), (True, q, t), (False, t, q)):
        rsg.active = active
        still, moving = ([parameter.clone() for parameter in part.parameters()] for part in (frozen, learning))
        optimizer.zero_grad()
        learn(run(rsg, maps().float()))
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(still, frozen.parameters(), strict=True))
        assert all(not torch.equal(a, b) for a, b in zip(moving, learning.parameters(), strict=True))


def test_reading_maximised_vectors_train_t_alone():
    rsg = trained(cesc=0.0)
    run(rsg, maps()).loss.backward()
    moved = {name for name, p in rsg.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"transformation.weight", "transformation.bias"}


# --- learning ----------------------------------------------------------------------------------------------


def learn(out: Augmented) -> None:
    (out.features.square().mean() + out.loss).backward()


def test_features_are_detached_and_real_rows_pass_their_gradient_on_whole():
    features = maps().requires_grad_()
    out = run(trained(), features)
    (out.features[7:].square().sum() + out.loss).backward(retain_graph=True)
    assert not features.grad.any()
    out.features[:7].sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))


def test_centers_find_the_means_of_their_classes():
    rsg, features, labels = augmenter(active=False, num_centers=1, cesc=1.0).double(), maps(), MORE_HEAD
    optimizer = torch.optim.SGD(rsg.parameters(), lr=0.1)
    for step in range(60):
        optimizer.zero_grad()
        run(rsg, features, labels, seed=step).loss.backward()
        optimizer.step()
    for y in set(labels):
        mean = features[[row for row, other in enumerate(labels) if other == y]].mean(dim=(0, 2, 3))
        torch.testing.assert_close(rsg.centers[y, 0].detach(), mean, atol=1e-3, rtol=0)


# --- head and tail -----------------------------------------------------------------------------------------


NOTHING_TO_GENERATE = {
    "no tail": [1, 1, 3, 3, 3],
    "no head": [0, 2, 0, 2, 4],
    "one class": [1, 1, 1, 1],
    "a single image": [0],
    "no image": [],
}


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("labels", NOTHING_TO_GENERATE.values(), ids=NOTHING_TO_GENERATE.keys())
def test_a_batch_with_nothing_to_generate_still_trains_the_centers(labels, active):
    rsg, features = trained(active=active), maps(labels)
    out = run(rsg, features, labels)
    assert out.features is features
    assert out.labels.tolist() == labels
    assert set(out.terms) == ({"cesc"} if labels else set())
    out.loss.backward()
    for parameter in rsg.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or parameter.grad.isfinite().all()


# --- layouts, the slot, mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tokens", "vector"])
def test_tokens_and_vectors_are_maps_of_another_shape(layout):
    as_map = maps(size=(4, 1) if layout == "tokens" else (1, 1))
    given = as_map[..., 0].transpose(1, 2) if layout == "tokens" else as_map[..., 0, 0]
    rsg = trained(layout=layout)
    out, active = run(rsg, given), literal.Active(weights(rsg), as_map, MORE_HEAD, HEAD)
    rows = active.generated()[0]
    expected = rows[..., 0].transpose(1, 2) if layout == "tokens" else rows[..., 0, 0]
    torch.testing.assert_close(out.features[7:], expected)
    assert out.terms["mv"].item() == pytest.approx(active.maximized_vector())


def test_tokens_are_mixed_by_channel_alone():
    tokens, order = maps().flatten(2).transpose(1, 2), [3, 0, 5, 1, 4, 2]
    one, other = (run(trained(layout="tokens"), given).features for given in (tokens, tokens[:, order]))
    torch.testing.assert_close(other, one[:, order])


def test_in_the_slot_it_learns_while_idle_and_grows_the_batch_when_active():
    class Small(nn.Module):
        before = "head"

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = (
                nn.Conv2d(3, 4, 3),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
            )

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.stem(images).relu())

    plug, labels = PlugIn(Small(), augmenter=augmenter(channels=4)), torch.tensor(MORE_HEAD)
    assert isinstance(plug.augmenter, Augmenter)
    plug.active = False
    assert not plug.augmenter.transformation.weight.requires_grad
    idle = plug(torch.rand(7, 3, 6, 6), labels)
    assert len(idle.logits) == 7
    assert set(idle.terms) == {"cesc"}
    plug.active = True
    assert len(plug(torch.rand(7, 3, 6, 6), labels).logits) == 11
    assert len(plug.eval()(torch.rand(7, 3, 6, 6)).logits) == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_centers": 0}, "num_centers must be at least 1, got 0"),
        ({"contrastive_dim": 0}, "contrastive_dim must be at least 1, got 0"),
        ({"transfer_strength": 0}, "transfer_strength is generated rows per row, above 0, got 0"),
        ({"cesc": -1}, "cesc is a weight of at least 0, got -1"),
        ({"mv": float("nan")}, "mv is a weight of at least 0, got nan"),
        ({"layout": "mop"}, "layout must be map, tokens or vector, got 'mop'; did you mean 'map'"),
        ({"head_ratio": 20}, "head_ratio is the share of classes that are head"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        RSG(3, COUNTS, **options)


def test_reading_neither_generated_rows_nor_l_mv_move_centres_or_assignments():
    rsg = trained(cesc=0.0)
    out = run(rsg, maps())
    (out.features[7:].square().sum() + out.loss).backward()
    assert not rsg.centers.grad.any()
    assert not rsg.assignment_weight.grad.any()
