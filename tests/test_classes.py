"""Head classes: the top by count, whatever their index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safa.classes import head_classes
from safa.errors import UserError

distinct_counts = st.lists(st.integers(0, 1000), min_size=2, max_size=40, unique=True)
ratios = st.floats(0.01, 0.99)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def head(class_counts, head_ratio=0.2):
    return [c for c, is_head in enumerate(head_classes(class_counts, head_ratio)) if is_head]


def test_the_top_fifth_is_the_default():
    assert head([100 - c for c in range(100)]) == list(range(20))


def test_class_0_may_be_the_rarest():
    assert head([1, 2, 3, 4, 5]) == [4]


def test_ties_go_to_the_lower_index():
    assert head([5, 7, 7, 7, 5, 1], 0.34) == [1, 2]
    assert head([4, 4, 4, 4, 4], 0.4) == [0, 1]


def test_one_class_is_head_even_where_the_share_is_less_than_one():
    assert head([3, 9, 1]) == [1]


@pytest.mark.parametrize(("classes", "ratio", "expected"), [(100, 0.29, 29), (100, 0.57, 57), (50, 0.14, 7)])
def test_the_share_of_classes_is_not_cut_by_rounding_of_floats(classes, ratio, expected):
    assert len(head(list(range(classes)), ratio)) == expected


@unhurried
@given(distinct_counts, ratios, st.randoms())
def test_relabelling_the_classes_permutes_the_mask(counts, ratio, random):
    order = random.sample(range(len(counts)), len(counts))
    permuted = head_classes([counts[c] for c in order], ratio)
    mask = head_classes(counts, ratio)
    assert permuted == [mask[c] for c in order]


@unhurried
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), ratios)
def test_no_tail_class_is_larger_than_a_head_class_and_both_kinds_exist(counts, ratio):
    mask = head_classes(counts, ratio)
    smallest_head = min(n for n, is_head in zip(counts, mask, strict=True) if is_head)
    largest_tail = max(n for n, is_head in zip(counts, mask, strict=True) if not is_head)
    assert smallest_head >= largest_tail


def test_an_array_of_counts_gives_the_same_mask():
    assert head_classes(np.array([1, 9, 3]), 0.4) == [False, True, False]


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2, 20, float("nan")])
def test_a_share_outside_0_to_1_is_refused(ratio):
    with pytest.raises(UserError, match="share of classes that are head"):
        head_classes([3, 2, 1], ratio)


@pytest.mark.parametrize("counts", [[], [7]])
def test_fewer_than_two_classes_are_refused(counts):
    with pytest.raises(UserError, match="at least two classes"):
        head_classes(counts)
