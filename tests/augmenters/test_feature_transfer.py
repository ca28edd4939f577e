"""Feature transfer against running means, covariance and projection written out over several batches.

What holds for every augmenter is in ``tests/conformance/test_augmenters.py``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from safa.augmenters.feature_transfer import FeatureTransfer, leading_projection
from safa.errors import UserError
from safa.types import Augmented
from tests.augmenters import trying

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
LABELS = [1, 0, 3, 1, 2, 3, 0, 1]
HEAD_ROWS = [0, 2, 3, 5, 7]


def augmenter(channels: int = 3, **options) -> FeatureTransfer:
    return FeatureTransfer(channels, COUNTS, **{"head_ratio": 0.4, **options}).double()


def maps(labels: list[int] = LABELS, **options) -> Tensor:
    return trying.post_relu(len(labels), **options)


def run(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


def statistics(batches, momentum: float, covariance_momentum: float, head=(1, 3)):
    """Means and covariance after some batches, one vector at a time."""
    means: dict[int, np.ndarray] = {}
    covariance = np.zeros((batches[0][0].shape[1],) * 2)
    for features, labels in batches:
        for y in set(labels):
            members = [features[row].mean(dim=(1, 2)).numpy() for row, other in enumerate(labels) if other == y]
            mean = sum(members) / len(members)
            means[y] = momentum * means[y] + (1 - momentum) * mean if y in means else mean
        total, vectors = np.zeros_like(covariance), 0
        for one, y in zip(features, labels, strict=True):
            for position in one.flatten(1).T.numpy() if y in head else ():
                total += np.outer(position - means[y], position - means[y])
                vectors += 1
        if vectors:
            covariance = covariance_momentum * covariance + (1 - covariance_momentum) * total / vectors
    return means, covariance


def principal(covariance: np.ndarray, energy: float) -> np.ndarray:
    """Q Q^T, one eigenvector after the other until the share is reached."""
    values, vectors = np.linalg.eigh(covariance)
    projection, reached = np.zeros_like(covariance), 0.0
    for value, vector in sorted(zip(values, vectors.T, strict=True), key=lambda pair: -pair[0]):
        if reached >= energy * values.sum():
            break
        projection += np.outer(vector, vector)
        reached += value
    return projection


# --- the method --------------------------------------------------------------------------------------------


def test_means_covariance_and_rows_follow_the_formulae_written_out():
    options = {"momentum": 0.7, "covariance_momentum": 0.8, "energy": 0.6}
    module = augmenter(refresh_every=1, rectify=False, **options)
    labels_of = [LABELS, [1, 1, 2, 4], [0, 2], LABELS]
    batches = [(maps(labels, seed=seed), labels) for seed, labels in enumerate(labels_of)]
    for features, labels in batches:
        out = run(module, features, labels)
    means, covariance = statistics(batches, 0.7, 0.8)
    for y, mean in means.items():
        np.testing.assert_allclose(module.means[y], mean)
    np.testing.assert_allclose(module.covariance, covariance)
    projection = principal(covariance, 0.6)
    assert np.linalg.matrix_rank(projection) < 3
    for head, row, y in zip(HEAD_ROWS, out.features[8:], out.labels[8:].tolist(), strict=True):
        for at in np.ndindex(2, 3):
            g_head = batches[-1][0][(head, slice(None), *at)].numpy()
            expected = means[y] + projection @ (g_head - means[LABELS[head]])
            np.testing.assert_allclose(row[(slice(None), *at)], expected, atol=1e-12)


@pytest.mark.parametrize(("energy", "rank"), [(1.0, 3), (0.95, 2), (0.8, 1), (0.01, 1)])
def test_the_projection_keeps_the_fewest_directions_that_hold_the_energy(energy, rank):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    covariance = turn @ torch.diag(torch.tensor([0.05, 0.85, 0.10], dtype=torch.float64)) @ turn.T
    projection = leading_projection(covariance, energy)
    np.testing.assert_allclose(projection, principal(covariance.numpy(), energy), atol=1e-12)
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-12)
    assert projection.trace().item() == pytest.approx(rank)


def test_without_variance_nothing_is_kept_and_what_is_not_finite_breaks_nothing():
    assert not leading_projection(torch.zeros(3, 3), 0.95).any()
    assert leading_projection(torch.full((3, 3), torch.nan), 0.95).isfinite().all()


def test_with_all_directions_a_head_map_moves_by_the_difference_of_the_means():
    module, features = augmenter(energy=1.0, rectify=False), maps()
    out = run(module, features)
    shift = module.means[out.labels[8:]] - module.means[torch.tensor(LABELS)[HEAD_ROWS]]
    torch.testing.assert_close(out.features[8:], features[HEAD_ROWS] + shift[:, :, None, None])


def test_a_class_mean_of_one_batch_is_taken_whole_the_first_time():
    module = augmenter()
    run(module, maps())
    torch.testing.assert_close(module.means[2], maps()[4].mean(dim=(1, 2)))
    assert not module.means[4].any()
    assert module.seen.tolist() == [True, True, True, True, False]


def test_reading_every_head_row_gives_one_row_of_a_class_of_the_tail_rows():
    out = run(augmenter(), maps())
    assert len(out.labels) == 8 + 5
    assert set(out.labels[8:].tolist()) <= {0, 2}


def test_reading_statistics_run_along_while_inactive():
    active, idle = augmenter(), augmenter()
    idle.active = False
    assert len(run(active, maps()).labels) == 13
    out = run(idle, maps())
    assert len(out.labels) == 8
    for name, buffer in active.named_buffers():
        assert torch.equal(buffer, idle.get_buffer(name)), name
    assert FeatureTransfer.learns_while_idle


def test_reading_generated_features_stay_above_the_smallest_real_one():
    for features in (maps(), maps() - 2):
        smallest = features.min()
        raw, made = (run(augmenter(rectify=rectify), features).features[8:] for rectify in (False, True))
        assert raw.min() < smallest
        assert torch.equal(made, raw.clamp(min=smallest))


def test_the_smallest_real_feature_may_be_one_of_a_head_row():
    features = maps()
    features[HEAD_ROWS[0], 0, 0, 0] = -0.2
    raw, made = (run(augmenter(rectify=rectify), features).features[8:] for rectify in (False, True))
    assert ((raw > -0.2) & (raw < 0)).any()
    assert torch.equal(made, raw.clamp(min=-0.2))


def test_the_projection_is_refreshed_every_so_many_steps():
    module, seen = augmenter(refresh_every=3), []
    for step in range(7):
        run(module, maps(seed=step))
        seen.append(module.projection.clone())
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [False, False, True, False, False, True]


# --- learning nothing --------------------------------------------------------------------------------------


def test_there_are_no_parameters_and_the_zero_loss_is_differentiable_whatever_the_features():
    module, features = augmenter(), maps()
    features[0, 0, 0, 0] = torch.inf
    out = run(module, features)
    assert list(module.parameters()) == []
    assert out.terms == {}
    assert out.loss.item() == 0
    out.loss.backward()
    (torch.ones((), requires_grad=True) + run(module, maps()).loss).backward()


def test_an_optimizer_takes_its_empty_group():
    weight = torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [weight]}, {"params": list(augmenter().parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_real_rows_pass_their_gradient_on_and_generated_rows_none():
    features = maps().requires_grad_()
    out = run(augmenter(), features)
    out.features.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))


# --- batches -----------------------------------------------------------------------------------------------


def test_a_batch_without_head_leaves_the_covariance_as_it_was():
    module = augmenter()
    run(module, maps())
    before = module.covariance.clone()
    run(module, maps([0, 2, 4]), [0, 2, 4])
    assert torch.equal(module.covariance, before)


# --- layouts, precision, mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tokens", "vector"])
def test_tokens_and_vectors_are_maps_of_another_shape(layout):
    as_map = maps(size=(4, 1) if layout == "tokens" else (1, 1))
    given = as_map[..., 0].transpose(1, 2) if layout == "tokens" else as_map[..., 0, 0]
    rows, expected = run(augmenter(layout=layout), given).features, run(augmenter(), as_map).features
    back = expected[..., 0].transpose(1, 2) if layout == "tokens" else expected[..., 0, 0]
    torch.testing.assert_close(rows, back)


@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16])
def test_under_bf16_autocast_statistics_stay_float32(entering):
    module, features = augmenter().float(), maps().to(entering)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(module, features)
    plain = augmenter().float()
    assert out.features.dtype == entering
    assert out.loss.dtype == module.covariance.dtype == torch.float32
    assert torch.equal(out.features[:8], features)
    assert torch.equal(out.features, run(plain, features).features)
    assert torch.equal(module.covariance, plain.covariance)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_half_precision_statistics_stay_float32_and_do_not_overflow(half):
    module, plain, features = augmenter().to(half), augmenter().float(), 4000 * maps().to(half)
    assert module.means.dtype == module.covariance.dtype == module.projection.dtype == torch.float32
    out = run(module, features)
    assert torch.equal(out.features, run(plain, features).features)
    assert out.features.isfinite().all()
    assert module.covariance.max() > torch.finfo(torch.float16).max / 100  # whose rate is a hundredth
    assert torch.equal(module.covariance, plain.covariance)
    assert augmenter().double().means.dtype == torch.float64


def test_statistics_that_were_seen_are_not_rounded_by_half_precision():
    module = augmenter().float()
    run(module, maps().float())
    module.covariance.fill_(1e5)  # more than float16 holds
    before = {name: tensor.clone() for name, tensor in module.named_buffers()}
    module.half()
    after = dict(module.named_buffers())
    assert not torch.equal(before["means"], before["means"].half().float())  # so there was something to round
    for name in ("means", "covariance", "projection"):
        assert torch.equal(after[name], before[name]), name


def test_the_seed_fixes_the_classes():
    draws = [run(augmenter(), maps(LABELS * 4), LABELS * 4, seed).labels for seed in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"energy": 0}, r"energy is the share of the variance kept, in \(0, 1\], got 0"),
        ({"momentum": 1.0}, r"momentum is what a running average keeps per batch, in \[0, 1\), got 1.0"),
        ({"covariance_momentum": -0.1}, "covariance_momentum is what .* got -0.1"),
        ({"refresh_every": 0}, "refresh_every is a number of steps of at least 1, got 0"),
        ({"layout": "token"}, "did you mean 'tokens'"),
        ({"head_ratio": 20}, "head_ratio is the share of classes that are head"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        FeatureTransfer(3, COUNTS, **options)
