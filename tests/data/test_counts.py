"""Counts of a long tail against the published tables and the released formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.data.counts import count_labels, exponential_counts, step_counts
from safa.data.groups import shot_groups
from safa.errors import UserError

# imbalance factor -> total, many, medium, few of CIFAR-100-LT; the table in LDAM-DRW's and RSG's data sets.
CIFAR100 = {
    200: (9502, 30, 31, 39),
    100: (10847, 35, 35, 30),
    50: (12608, 41, 41, 18),
    20: (15907, 53, 47, 0),
    10: (19573, 69, 31, 0),
}
CIFAR10 = {
    200: (11203, [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25]),
    100: (12406, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    50: (13996, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
    20: (17023, [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250]),
    10: (20431, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
}


@pytest.mark.parametrize(("factor", "row"), CIFAR100.items())
def test_cifar100_counts_and_groups_are_the_published_ones(factor, row):
    counts = exponential_counts(500, 100, factor)
    groups = shot_groups(counts)
    assert (counts.sum(), *(groups[name].sum() for name in ("many", "medium", "few"))) == row


def test_cifar100_factor_100_has_10847_images_and_35_35_30_groups():
    counts = exponential_counts(500, 100, 100)
    assert counts.sum() == 10847
    assert counts[:5].tolist() == [500, 477, 455, 434, 415]
    assert counts[-5:].tolist() == [6, 5, 5, 5, 5]
    assert {name: int(mask.sum()) for name, mask in shot_groups(counts).items()} == {
        "many": 35,
        "medium": 35,
        "few": 30,
    }


@pytest.mark.parametrize(("factor", "row"), CIFAR10.items())
def test_cifar10_counts_are_the_published_ones(factor, row):
    counts = exponential_counts(5000, 10, factor)
    assert (counts.sum(), counts.tolist()) == row


@pytest.mark.parametrize(("largest", "num_classes"), [(5000, 10), (500, 100)])
@pytest.mark.parametrize("factor", [200, 100, 50, 20, 10])
def test_exponential_counts_match_the_released_formula(largest, num_classes, factor):
    released = [int(largest * (1 / factor) ** (c / (num_classes - 1.0))) for c in range(num_classes)]
    assert exponential_counts(largest, num_classes, factor).tolist() == released


@given(largest=st.integers(1, 5000), num_classes=st.integers(2, 300), share=st.floats(0, 1))
def test_counts_fall_from_largest_to_largest_over_factor(largest, num_classes, share):
    factor = 1 + share * (largest - 1)
    for counts in (
        exponential_counts(largest, num_classes, factor),
        step_counts(largest, num_classes, factor),
    ):
        assert counts[0] == largest
        assert counts[-1] == int(largest / factor)
        assert (np.diff(counts) <= 0).all()


def test_reading_last_class_is_largest_over_factor_exactly():
    assert int(49 * 49**-1.0) == 0  # what the negative power would give
    assert exponential_counts(49, 5, 49)[-1] == 1


def test_factor_one_is_balanced():
    assert exponential_counts(30, 4, 1).tolist() == step_counts(30, 4, 1).tolist() == [30] * 4


def test_step_counts_have_two_heights_and_a_small_middle_class():
    assert step_counts(500, 4, 100).tolist() == [500, 500, 5, 5]
    assert step_counts(500, 5, 100).tolist() == [500, 500, 5, 5, 5]


@pytest.mark.parametrize("counts", [exponential_counts, step_counts])
def test_an_inverted_factor_is_refused_with_the_likely_meaning(counts):
    with pytest.raises(UserError, match=r"at least 1, got 0\.01; did you mean 100\?"):
        counts(500, 100, 0.01)


@pytest.mark.parametrize(
    ("largest", "num_classes", "factor", "message"),
    [
        (0, 10, 2, "largest"),
        (10**20, 10, 2, "at least 1 and below 2\\*\\*53, got 1000"),
        (5, 0, 2, "num_classes"),
        (5, 10, float("nan"), "got nan"),
        (5, 10, float("inf"), "got inf"),
        (5, 10, -3, "got -3"),
        (134, 10, 500, "without an image when the largest has 134; use at most 134"),
    ],
)
def test_impossible_profiles_are_refused(largest, num_classes, factor, message):
    with pytest.raises(UserError, match=message):
        exponential_counts(largest, num_classes, factor)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(UserError, match=rf"label {label} is out of range: 3 classes have labels 0 to 2"):
        count_labels(np.array([0, 1, label]), 3)
