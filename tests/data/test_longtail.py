"""Counts against the published table, subsets against the released code, groups against their definition."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.data.longtail import (
    Subset,
    count_labels,
    draw_subset,
    exponential_counts,
    head_classes,
    rank_by_count,
    shot_groups,
    step_counts,
    stratified_split,
)
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


def balanced_labels(num_classes: int, each: int, seed: int = 7) -> np.ndarray:
    return np.random.RandomState(seed).permutation(np.repeat(np.arange(num_classes), each))


def released_code(labels: np.ndarray, counts: list[int], seed: int) -> list[int]:
    """LDAM-DRW's imbalance_cifar.py, line by line."""
    np.random.seed(seed)
    chosen: list[int] = []
    for the_class, the_img_num in zip(np.unique(labels), counts, strict=True):
        idx = np.where(labels == the_class)[0]
        np.random.shuffle(idx)
        chosen.extend(idx[:the_img_num].tolist())
    return chosen


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


def test_rank_by_count_is_stable():
    assert rank_by_count(np.array([0, 1, 1, 2, 2, 3, 3, 3]), 5).tolist() == [3, 1, 2, 0, 4]


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(UserError, match=rf"label {label} is out of range: 3 classes have labels 0 to 2"):
        count_labels(np.array([0, 1, label]), 3)


@pytest.mark.parametrize("seed", [0, 3])
def test_ldam_order_draws_the_images_of_the_released_code(seed):
    labels = balanced_labels(10, 60)
    subset = draw_subset(labels, 10, imbalance_factor=20, seed=seed)
    counts = [int(60 * (1 / 20) ** (c / 9.0)) for c in range(10)]
    assert subset.class_counts.tolist() == counts
    assert subset.train.tolist() == released_code(labels, counts, seed)


def test_rsg_order_draws_the_first_images_of_each_class():
    labels = balanced_labels(10, 60)
    subset = draw_subset(labels, 10, imbalance_factor=20, order="rsg")
    for c, n in enumerate(subset.class_counts):
        assert subset.train[labels[subset.train] == c].tolist() == np.where(labels == c)[0][:n].tolist()


def test_a_subset_is_hashed_over_its_index_lists():
    labels = balanced_labels(4, 30)
    counts = [int(30 * (1 / 10) ** (c / 3.0)) for c in range(4)]
    literal = np.array(released_code(labels, counts, 0), dtype="<i8").tobytes()
    subset = draw_subset(labels, 4, imbalance_factor=10)
    assert subset.sha256 == hashlib.sha256(literal + b"validation").hexdigest()
    # Frozen: an index list that changes would silently change every result line.
    assert subset.sha256 == "c2ae673f5d46439d1ee24ae684fc44135464ec84cce62cff95fd94bc08abbb6f"


def test_a_subset_is_a_pure_function_of_its_arguments_and_leaves_the_global_generator_alone():
    labels = balanced_labels(5, 40)
    np.random.seed(11)
    expected = np.random.RandomState(11).rand()
    first, second = (draw_subset(labels, 5, imbalance_factor=8, seed=2, validation=0.2) for _ in range(2))
    assert first.sha256 == second.sha256
    assert np.random.rand() == expected
    assert first.sha256 != draw_subset(labels, 5, imbalance_factor=8, seed=3, validation=0.2).sha256


def test_a_subset_cannot_be_changed():
    subset = draw_subset(balanced_labels(3, 10), 3, imbalance_factor=2)
    for array in (subset.train, subset.validation, subset.class_counts):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_subset_survives_json():
    subset = draw_subset(balanced_labels(5, 40), 5, imbalance_factor=8, validation=0.1)
    again = Subset.from_json(subset.to_json())
    assert again.sha256 == subset.sha256
    for name in ("train", "validation", "class_counts"):
        assert np.array_equal(getattr(again, name), getattr(subset, name))


def test_a_tampered_subset_is_refused():
    content = json.loads(draw_subset(balanced_labels(5, 40), 5, imbalance_factor=8).to_json())
    content["train"][0] += 1
    with pytest.raises(UserError, match="was changed"):
        Subset.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": "x", "validation": [], "class_counts": [], "sha256": ""}'])
def test_text_that_is_no_subset_is_refused(text):
    with pytest.raises(UserError, match="not a stored subset"):
        Subset.from_json(text)


def test_the_profile_follows_the_available_counts_whatever_the_class_ids():
    labels = np.repeat([0, 1, 2], [5, 100, 40])
    subset = draw_subset(labels, 3, imbalance_factor=25)
    assert subset.class_counts.tolist() == [4, 100, 20]
    assert count_labels(labels[subset.train], 3).tolist() == [4, 100, 20]


def test_as_found_takes_every_image():
    labels = np.array([2, 0, 1, 0, 2, 2])
    subset = draw_subset(labels, 3, profile="as_found")
    assert subset.class_counts.tolist() == [2, 1, 3]
    assert sorted(subset.train) == list(range(6))


def test_a_class_with_too_few_images_is_named_with_what_it_needs_and_has():
    labels = np.repeat([0, 1, 2], [100, 10, 5])
    with pytest.raises(UserError, match=r"class 1 needs 50 images for this profile but has 10 \(2 of 3"):
        draw_subset(labels, 3, imbalance_factor=4)


def test_a_class_without_an_image_is_named():
    with pytest.raises(UserError, match="class 1 has no training image"):
        draw_subset(np.array([0, 0, 2]), 3, profile="as_found")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "linear"}, "no profile named 'linear'"),
        ({"order": "random"}, "no order named 'random'"),
        ({"seed": -1}, "seed"),
        ({"validation": 1.0}, "validation"),
        ({"imbalance_factor": None}, "needs an imbalance_factor"),
        ({"largest": 11}, "class 0 needs 11 images"),
    ],
)
def test_wrong_choices_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        draw_subset(balanced_labels(3, 10), 3, **{"imbalance_factor": 2, **wrong})


@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=8),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_validation_is_disjoint_stratified_and_never_the_last_image(counts, fraction, seed):
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    subset = draw_subset(labels, len(counts), profile="as_found", seed=seed, validation=fraction)
    assert sorted([*subset.train, *subset.validation]) == list(range(len(labels)))
    held_out = count_labels(labels[subset.validation], len(counts))
    for n, kept, aside in zip(counts, subset.class_counts, held_out, strict=True):
        assert kept + aside == n
        assert kept >= 1
        assert aside == min(int(round(n * fraction, 9)), n - 1)


def test_a_validation_split_does_not_change_which_images_are_drawn():
    labels = balanced_labels(5, 40)
    without = draw_subset(labels, 5, imbalance_factor=8)
    split = draw_subset(labels, 5, imbalance_factor=8, validation=0.25)
    assert sorted([*split.train, *split.validation]) == sorted(without.train)
    assert split.class_counts.sum() == len(split.train)


def test_a_stratified_split_keeps_the_file_order():
    labels = np.tile(np.arange(3), 10)
    kept, cut = stratified_split(labels, 3, 0.2, seed=1)
    assert count_labels(labels[cut], 3).tolist() == [2, 2, 2]
    assert (np.diff(kept) > 0).all()
    assert (np.diff(cut) > 0).all()
    assert sorted([*kept, *cut]) == list(range(30))


def test_group_bounds_are_those_of_the_papers():
    groups = shot_groups([101, 100, 20, 19])
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "many": [True, False, False, False],
        "medium": [False, True, True, False],
        "few": [False, False, False, True],
    }


def test_overlapping_groups_are_refused():
    with pytest.raises(UserError, match="overlap"):
        shot_groups([5], many_above=10, few_below=12)


def test_head_classes_are_the_top_by_count_with_ties_to_the_lower_id():
    assert head_classes(np.array([5, 9, 9, 9, 1]), 0.4).tolist() == [False, True, True, False, False]
    assert head_classes([3, 2], 0.2).tolist() == [True, False]
