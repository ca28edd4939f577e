"""Class weights against their formulas and limits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from safa.errors import UserError
from safa.weighting import (
    checked_counts,
    counts_tensor,
    effective_number_weights,
    effective_numbers,
    inverse_frequency_weights,
)

COUNTS = [5000, 300, 20, 1]
SCHEMES = [inverse_frequency_weights, effective_number_weights]


def test_effective_number_weights_match_the_loop_over_images():
    beta = 0.9
    # 1 + beta + beta^2 + … : each further image adds beta times the previous one's novelty.
    effective = [sum(beta**i for i in range(n)) for n in COUNTS]
    expected = np.array([1 / e for e in effective])
    expected *= len(COUNTS) / expected.sum()
    np.testing.assert_allclose(effective_number_weights(COUNTS, beta).numpy(), expected, rtol=1e-6)


def test_effective_number_weights_of_two_images_by_hand():
    # E = 1 and 1.5, so the weights are as 3 to 2.
    assert torch.allclose(effective_number_weights([1, 2], beta=0.5), torch.tensor([1.2, 0.8]))


def test_effective_numbers_grow_from_one_towards_their_limit():
    np.testing.assert_allclose(effective_numbers(np.array([1, 2, 3, 1000]), beta=0.5), [1, 1.5, 1.75, 2])


def test_beta_zero_is_uniform():
    assert torch.equal(effective_number_weights(COUNTS, beta=0.0), torch.ones(4))


def test_beta_towards_one_is_inverse_frequency():
    weights = effective_number_weights(COUNTS, beta=1 - 1e-9)
    assert torch.allclose(weights, inverse_frequency_weights(COUNTS), rtol=1e-4)


def test_inverse_frequency_gives_every_class_the_same_say():
    say = inverse_frequency_weights(COUNTS) * torch.tensor(COUNTS)
    assert torch.allclose(say, say[0].expand(4))


def test_power_one_half_is_the_square_root():
    assert torch.allclose(inverse_frequency_weights([1, 4], power=0.5), torch.tensor([4 / 3, 2 / 3]))


def test_power_zero_is_uniform():
    assert torch.equal(inverse_frequency_weights(COUNTS, power=0.0), torch.ones(4))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_float32_with_mean_one(scheme):
    weights = scheme(COUNTS)
    assert weights.dtype == torch.float32
    assert weights.shape == (4,)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_counts_have_equal_weights(scheme):
    assert torch.allclose(scheme([70] * 5), torch.ones(5))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_smaller_classes_weigh_more(scheme):
    assert (scheme(COUNTS).diff() > 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_renaming_the_classes_permutes_the_weights(scheme):
    order = [2, 0, 3, 1]
    assert torch.allclose(scheme([COUNTS[c] for c in order]), scheme(COUNTS)[order])


@pytest.mark.parametrize("counts", [np.array(COUNTS), tuple(COUNTS), torch.tensor(COUNTS)])
def test_counts_may_be_arrays_tuples_or_tensors(counts):
    assert torch.equal(effective_number_weights(counts), effective_number_weights(COUNTS))


def test_counts_tensor_is_a_copy():
    given = torch.tensor(COUNTS)
    counts_tensor(given)[0] = 0
    assert given[0] == COUNTS[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_class_without_images_is_named(scheme):
    with pytest.raises(UserError, match="got 0 for class 2; leave out classes without training images"):
        scheme([4, 3, 0])


def test_whole_numbers_of_any_kind_are_taken_as_integers():
    kinds = [
        torch.tensor(COUNTS, dtype=torch.bfloat16),
        [torch.tensor(count) for count in COUNTS],
        np.array(COUNTS, dtype=np.float32),
        np.array(COUNTS, dtype=np.uint16),
        [5000.0, 300, np.int64(20), 1],
    ]
    expected = [4992, 300, 20, 1], *[COUNTS] * 4  # 5000 has too many digits for bfloat16
    assert [checked_counts(kind) for kind in kinds] == [*expected]
    assert all(type(count) is int for kind in kinds for count in checked_counts(kind))


def test_a_class_may_be_without_images_where_that_does_no_harm():
    assert checked_counts([4, 0, 3], least=0) == [4, 0, 3]
    with pytest.raises(UserError, match="at least 0, got -5 for class 1; pass numbers of images"):
        checked_counts([4, -5, 3], least=0)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            Counter({3: 4, 0: 100}),
            "is a Counter, whose order need not be that of the class ids; pass a list by class id",
        ),
        ({0: 5, 1: 3}, "is a dict, .* pass a list by class id"),
        (["60", "40"], "must be whole numbers, got <U2; pass numbers of images"),
        ("60", r"one whole number per class, got shape \(\)"),
        (None, r"got shape \(\)"),
        (7, r"got shape \(\)"),
        ({60, 40}, r"got shape \(\)"),
        ([], r"got shape \(0,\)"),
        (torch.ones(2, 3), r"got shape \(2, 3\)"),
        ([[60], [40, 3]], "one whole number per class, got no array of numbers"),
        ([60, None], "must be whole numbers, got object"),
        ([True, False], "must be whole numbers, got bool"),
        ([0.1, 0.6, 0.3], "got 0.1 for class 0; pass numbers of images, not shares"),
        ([60, float("nan")], "got nan for class 1"),
        ([60, float("inf")], "got inf for class 1"),
        ([60, -1], "at least 1, got -1 for class 1; pass numbers of images"),
    ],
    ids=str,
)
def test_what_is_not_one_number_of_images_per_class_is_refused(counts, said):
    for check in (checked_counts, counts_tensor):
        with pytest.raises(UserError, match=said):
            check(counts)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, float("nan")])
def test_beta_outside_its_range_is_refused(beta):
    with pytest.raises(UserError, match="beta must be at least 0 and below 1"):
        effective_number_weights(COUNTS, beta=beta)


def test_a_power_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="power 400 is too large: n \\*\\* -power is 0 for every class"):
        inverse_frequency_weights([1000, 10], power=400)
    assert inverse_frequency_weights([1000, 1], power=400).tolist() == [0, 2]


def test_a_negative_power_is_refused():
    with pytest.raises(UserError, match="power must be at least 0, got -1"):
        inverse_frequency_weights(COUNTS, power=-1)


def test_powers_beyond_float32_still_give_weights():
    # 1000^-20 and 2000^-20 are 0 in float32, and yet as 2^20 to 1.
    weights = inverse_frequency_weights([1000, 2000], power=20)
    assert weights.tolist() == pytest.approx([2 * 2**20 / (2**20 + 1), 2 / (2**20 + 1)])
