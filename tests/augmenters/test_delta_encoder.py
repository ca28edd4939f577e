"""The Delta-encoder against its formulae written out: what it rebuilds, and what it makes of tail rows.

What holds for every augmenter is in ``tests/conformance/test_augmenters.py``.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.augmenters.delta_encoder import DeltaEncoder, weighted_l1
from safa.augmenters.pairing import same_class_pairs, spread
from safa.errors import UserError
from safa.types import Augmented
from tests.augmenters import trying

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
LABELS = [1, 0, 3, 1, 2, 3, 0, 1]


def augmenter(channels: int = 3, seed: int = 0, **options) -> DeltaEncoder:
    torch.manual_seed(seed)
    return DeltaEncoder(channels, COUNTS, **{"head_ratio": 0.4, "code": 2, "dropout": 0.0, **options})


def trained(**options) -> DeltaEncoder:
    return trying.moved(augmenter(**options))


def maps(labels: list[int] = LABELS, **options) -> Tensor:
    return trying.post_relu(len(labels), **options)


def run(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


def drawn(labels: list[int] = LABELS, seed: int = 2) -> tuple[list[tuple[int, int]], list[int]]:
    """(sample, reference) of every code, and the tail row it is decoded at; test_pairing checks the draws."""
    torch.manual_seed(seed)
    first, second, _ = same_class_pairs(torch.tensor(labels))
    pairs = [(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True) if labels[i] in (1, 3)]
    pairs += [(j, i) for i, j in pairs]
    tail = [row for row, y in enumerate(labels) if y not in (1, 3)]
    return pairs, [tail[k] for k in spread(len(pairs), len(tail)).tolist()]


def layers(module, inputs: Tensor) -> Tensor:
    """E or D written out for one row."""
    padding = module.first.weight.shape[-1] // 2
    hidden = F.conv2d(inputs[None], module.first.weight, module.first.bias, padding=padding)
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    return F.conv2d(hidden, module.second.weight, module.second.bias, padding=padding)[0]


def decoded(module: DeltaEncoder, sample: Tensor, reference: Tensor, at: Tensor) -> Tensor:
    """D([at, E([sample, reference])])."""
    code = layers(module.encoder, torch.cat([sample, reference]))
    made = layers(module.decoder, torch.cat([at, code]))
    return at + made if module.start == "identity" else made


def error(rebuilt: Tensor, target: Tensor) -> float:
    """The weighted L1 of one row."""
    differences = [abs(a - b) for a, b in zip(rebuilt.flatten().tolist(), target.flatten().tolist(), strict=True)]
    squares = sum(d**2 for d in differences)
    return sum(d**2 / squares * d for d in differences)


# --- the method --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["identity", "random"])
def test_rows_and_loss_follow_the_formulae_written_out(start):
    module, features = trained(start=start, rectify=False), maps()
    out, (pairs, tails) = run(module, features), drawn()
    errors = [error(decoded(module, features[i], features[j], features[j]), features[i]) for i, j in pairs]
    assert out.terms["reconstruction"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)  # epsilon
    rows = [decoded(module, features[i], features[j], features[t]) for (i, j), t in zip(pairs, tails, strict=True)]
    torch.testing.assert_close(out.features[8:], torch.stack(rows).detach())
    assert out.labels.tolist() == LABELS + [LABELS[t] for t in tails]


def test_weighted_l1_counts_large_errors_most():
    target = torch.zeros(2, 2, 1, 1)
    rebuilt = torch.tensor([[1.0, -3.0], [2.0, 2.0]])[..., None, None]
    expected = ((0.1 * 1 + 0.9 * 3) + (0.5 * 2 + 0.5 * 2)) / 2
    assert weighted_l1(rebuilt, target).item() == pytest.approx(expected)


def test_weighted_l1_of_a_perfect_copy_is_zero_with_a_finite_gradient():
    rebuilt = torch.ones(2, 3, 2, 2, requires_grad=True)
    value = weighted_l1(rebuilt, torch.ones(2, 3, 2, 2))
    value.backward()
    assert value.item() == 0
    assert torch.equal(rebuilt.grad, torch.zeros_like(rebuilt))


def test_reading_the_weights_of_the_l1_take_part_in_the_gradient():
    rebuilt = torch.tensor([[1.0, 2.0]], requires_grad=True)
    weighted_l1(rebuilt[..., None, None], torch.zeros(1, 2, 1, 1)).backward()
    # d/da of (a^3 + b^3) / (a^2 + b^2) at (1, 2); with constant weights it would be 1/5
    assert rebuilt.grad[0, 0].item() == pytest.approx((3 * 5 - 9 * 2) / 25, rel=1e-5)


def test_reading_identity_start_copies_tail_rows():
    out, (_, tails) = run(augmenter().double(), maps()), drawn()
    torch.testing.assert_close(out.features[8:], maps()[tails])


def test_reading_generated_features_stay_above_the_smallest_real_one():
    for features in (maps(), maps() - 2):
        smallest = features.min()
        raw, made = (run(trained(rectify=rectify), features).features[8:] for rectify in (False, True))
        assert raw.min() < smallest
        assert torch.equal(made, raw.clamp(min=smallest))


def test_the_smallest_real_feature_may_be_one_of_a_head_row():
    features = maps()
    features[0, 0, 0, 0] = -0.2  # of class 1, a head class
    raw, made = (run(trained(rectify=rectify), features).features[8:] for rectify in (False, True))
    assert ((raw > -0.2) & (raw < 0)).any()
    assert torch.equal(made, raw.clamp(min=-0.2))


def test_reading_generated_rows_are_constants_and_the_reconstruction_trains_everything():
    module, features = trained(), maps().requires_grad_()
    out = run(module, features)
    out.features[8:].sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not features.grad.any()
    out.loss.backward()
    assert all(parameter.grad.any() for parameter in module.parameters())
    assert not features.grad.any()


def test_generated_rows_leave_no_graph_behind():
    module, made = trained(), []
    module.decoder.register_forward_hook(lambda _, given, decoded: made.append(decoded.requires_grad))
    run(module, maps())
    assert made == [True, False]  # rebuilding, then generating


def test_reading_it_learns_while_inactive_and_generates_nothing():
    module, features = trained(), maps()
    active = run(module, features)
    module.active = False
    idle = run(module, features)
    assert idle.features is features
    assert idle.labels.tolist() == LABELS
    torch.testing.assert_close(idle.loss, active.loss)
    assert DeltaEncoder.learns_while_idle


def test_reading_dropout_is_of_the_reconstruction_alone():
    plain, dropping = trained(rectify=False), trained(rectify=False, dropout=0.5, hidden=3)
    dropping.load_state_dict(plain.state_dict())
    one, other = run(plain, maps(LABELS)), run(dropping, maps(LABELS))
    assert one.terms["reconstruction"].item() != pytest.approx(other.terms["reconstruction"].item())
    # Other tail rows may be drawn after the dropout, so each row is looked up among all it could be.
    pairs, _ = drawn()
    tails = [row for row, y in enumerate(LABELS) if y not in (1, 3)]
    for (i, j), row in zip(pairs, other.features[8:], strict=True):
        could = [decoded(plain, maps()[i], maps()[j], maps()[t]) for t in tails]
        assert any(torch.allclose(row, made) for made in could)


def test_a_few_steps_lower_the_reconstruction():
    module, features, labels = augmenter(start="random", hidden=16), maps([1, 3] * 8).float(), [1, 3] * 8
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    values = []
    for step in range(60):
        out = run(module, features, labels, seed=step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(out.terms["reconstruction"].item())
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_the_loss_is_the_weighted_term():
    out = run(trained(reconstruction=3.0), maps())
    torch.testing.assert_close(out.loss.detach(), 3 * out.terms["reconstruction"])


# --- batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 2, 0, 2], [1, 3, 0, 0]], ids=["no head", "no head pair"])
def test_a_batch_without_head_pair_passes_unchanged_with_a_differentiable_zero(labels):
    module, features = trained(), maps(labels)
    out = run(module, features, labels)
    assert out.features is features
    assert out.terms == {}
    out.loss.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.parameters())


def test_a_batch_without_tail_is_rebuilt_and_nothing_generated():
    features = maps([1, 1, 3, 3])
    out = run(trained(), features, [1, 1, 3, 3])
    assert out.features is features
    assert out.loss > 0


# --- layouts and mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tokens", "vector"])
def test_tokens_and_vectors_are_maps_of_another_shape(layout):
    as_map = maps(size=(4, 1) if layout == "tokens" else (1, 1))
    given = as_map[..., 0].transpose(1, 2) if layout == "tokens" else as_map[..., 0, 0]
    module = trained(layout=layout, rectify=False)
    out, (pairs, tails) = run(module, given), drawn()
    rows = torch.stack(
        [decoded(module, as_map[i], as_map[j], as_map[t]) for (i, j), t in zip(pairs, tails, strict=True)]
    ).detach()
    expected = rows[..., 0].transpose(1, 2) if layout == "tokens" else rows[..., 0, 0]
    torch.testing.assert_close(out.features[8:], expected)


def test_tokens_are_mixed_by_channel_alone():
    tokens, order = maps().flatten(2).transpose(1, 2), [3, 0, 5, 1, 4, 2]
    one, other = (run(trained(layout="tokens"), given).features for given in (tokens, tokens[:, order]))
    torch.testing.assert_close(other, one[:, order])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"code": 0}, "code and hidden are widths of at least 1, got code=0 and hidden=3"),
        ({"dropout": 1.0}, r"dropout is the share of hidden units left out, in \[0, 1\), got 1.0"),
        ({"reconstruction": -1}, "reconstruction is a weight of at least 0, got -1"),
        ({"start": "identiti"}, "start must be identity or random, got 'identiti'; did you mean 'identity'"),
        ({"layout": "token"}, "did you mean 'tokens'"),
        ({"head_ratio": 20}, "head_ratio is the share of classes that are head"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        DeltaEncoder(3, COUNTS, **options)
