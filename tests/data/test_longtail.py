"""Subsets against the released code: which images are drawn, and which are set aside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.data.counts import count_labels
from safa.data.longtail import draw_subset, stratified_split
from safa.errors import UserError
from tests.data.test_counts import CIFAR10

# data set, imbalance factor -> total, largest and smallest class beside a meta set of 10 per class, as
# get_img_num_per_cls of the released Meta-Weight-Net prints them.
BESIDE_META = {
    ("cifar10", 200): (11177, 4990, 24),
    ("cifar10", 100): (12380, 4990, 49),
    ("cifar100", 200): (9304, 490, 2),
    ("cifar100", 100): (10626, 490, 4),
}
AVAILABLE = {"cifar10": (10, CIFAR10[10][1]), "cifar100": (100, [int(500 * 0.1 ** (c / 99.0)) for c in range(100)])}


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


def test_a_subset_is_a_pure_function_of_its_arguments_and_leaves_the_global_generator_alone():
    labels = balanced_labels(5, 40)
    np.random.seed(11)
    expected = np.random.RandomState(11).rand()
    first, second = (draw_subset(labels, 5, imbalance_factor=8, seed=2, validation=0.2) for _ in range(2))
    assert first.sha256 == second.sha256
    assert np.random.rand() == expected
    assert first.sha256 != draw_subset(labels, 5, imbalance_factor=8, seed=3, validation=0.2).sha256


def test_the_seed_decides_which_images_are_set_aside():
    labels = balanced_labels(5, 40)
    first, second = (draw_subset(labels, 5, profile="as_found", seed=seed, validation=0.25) for seed in (0, 1))
    assert set(first.validation) != set(second.validation)


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


def test_errors_call_classes_by_their_names_where_they_are_given():
    def drawn(counts: list[int], **choices: object) -> None:
        draw_subset(np.repeat([0, 1, 2], counts), 3, class_names=("ant", "bee", "cat"), **choices)

    with pytest.raises(UserError, match="class 'bee' needs 50 images for this profile but has 10 "):
        drawn([100, 10, 5], imbalance_factor=4)
    with pytest.raises(UserError, match="class 'cat' has no training image"):
        drawn([1, 1, 0], profile="as_found")
    with pytest.raises(UserError, match="class 'bee' has 2 images: with validation_per_class=3 none is left"):
        drawn([9, 2, 9], profile="as_found", validation_per_class=3)


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
        (
            {"validation_per_class": -1},
            "validation_per_class is a number of images of each class, so at least 0, got -1",
        ),
        ({"validation": 0.1, "validation_per_class": 2}, "both say what to hold out; leave one of them out"),
        ({"validation_from": "left"}, "validation_from is any or left_out, got 'left'"),
        ({"validation_from": "left_out"}, "needs validation_per_class, the most images of one class"),
        (
            {"validation_from": "left_out", "validation_per_class": 2, "profile": "as_found"},
            "profile 'as_found' leaves no image out to validate on",
        ),
        ({"validation_per_class": 10}, "class 0 has 10 images: with validation_per_class=10 none is left to train on"),
        (
            {"validation_per_class": 6, "meta_per_class": 4},
            "with validation_per_class=6 and meta_per_class=4 none is left to train on .3 of 3 classes are short",
        ),
        ({"meta_per_class": -1}, "meta_per_class is a number of images of each class, so at least 0, got -1"),
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


def test_a_fraction_that_floats_fall_short_of_takes_what_it_says():
    assert 100 * 0.29 < 29  # in floating point
    labels = balanced_labels(2, 100)
    _, cut = stratified_split(labels, 2, 0.29, seed=0)
    assert count_labels(labels[cut], 2).tolist() == [29, 29]


def test_a_validation_split_does_not_change_which_images_are_drawn():
    labels = balanced_labels(5, 40)
    without = draw_subset(labels, 5, imbalance_factor=8)
    split = draw_subset(labels, 5, imbalance_factor=8, validation=0.25)
    assert sorted([*split.train, *split.validation]) == sorted(without.train)
    assert split.class_counts.sum() == len(split.train)


@pytest.mark.parametrize(("data", "factor"), BESIDE_META)
def test_counts_beside_a_meta_set_are_those_of_the_released_protocol(data, factor):
    num_classes, available = AVAILABLE[data]
    labels = np.random.RandomState(7).permutation(np.repeat(np.arange(num_classes), available))
    subset = draw_subset(labels, num_classes, imbalance_factor=factor, meta_per_class=10)
    largest = 50000 / num_classes - 10
    released = [int(largest * (1 / factor) ** (c / (num_classes - 1.0))) for c in range(num_classes)]
    assert subset.class_counts.tolist() == released
    assert (subset.class_counts.sum(), max(released), min(released)) == BESIDE_META[data, factor]
    assert count_labels(labels[subset.meta], num_classes).tolist() == [10] * num_classes


@given(
    spare=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    meta_per_class=st.integers(0, 5),
    validation=st.floats(0, 0.9),
    order=st.sampled_from(["ldam", "rsg"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_meta_set_is_balanced_and_disjoint_from_training_and_validation(spare, meta_per_class, validation, order, seed):
    available = [n + meta_per_class for n in spare]
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(spare)), available))
    options = {"meta_per_class": meta_per_class, "validation": validation, "order": order, "seed": seed}
    subset = draw_subset(labels, len(spare), profile="as_found", **options)
    assert sorted([*subset.train, *subset.validation, *subset.meta]) == list(range(len(labels)))
    assert count_labels(labels[subset.meta], len(spare)).tolist() == [meta_per_class] * len(spare)
    assert count_labels(labels[subset.train], len(spare)).tolist() == subset.class_counts.tolist()
    assert subset.class_counts.min() >= 1


def test_validation_images_alike_of_every_class_are_first_those_that_the_tail_leaves_out():
    labels = balanced_labels(3, 20)  # of which the tail draws 20, 10 and 5
    whole = draw_subset(labels, 3, imbalance_factor=4)
    subset = draw_subset(labels, 3, imbalance_factor=4, validation_per_class=12)
    assert subset.class_counts.tolist() == [8, 8, 5]
    assert count_labels(labels[subset.validation], 3).tolist() == [12] * 3
    assert set(subset.train) <= set(whole.train)
    taken = set(whole.train) - set(subset.train)
    assert taken <= set(subset.validation)
    assert count_labels(labels[sorted(taken)], 3).tolist() == [12, 2, 0]


def test_validation_of_left_out_images_alone_takes_none_from_training():
    labels = balanced_labels(3, 20)  # of which the tail draws 20, 10 and 5
    whole = draw_subset(labels, 3, imbalance_factor=4)
    subset = draw_subset(labels, 3, imbalance_factor=4, validation_per_class=12, validation_from="left_out")
    assert subset.train.tolist() == whole.train.tolist()
    assert count_labels(labels[subset.validation], 3).tolist() == [0, 10, 12]
    assert not set(subset.train) & set(subset.validation)
    assert subset.trained_on == whole.sha256 != subset.sha256


def test_validation_images_alike_of_counts_as_found_are_no_tail_of_the_files():
    labels = np.repeat([0, 1], [50, 20])
    subset = draw_subset(labels, 2, profile="as_found", validation_per_class=5)
    assert set(subset.validation) != {*range(45, 50), *range(65, 70)}
    assert subset.class_counts.tolist() == [45, 15]


@given(number=st.integers(1, 6), meta_per_class=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_validation_images_alike_are_beside_training_and_the_meta_set(number, meta_per_class, seed):
    labels = balanced_labels(4, 16)
    subset = draw_subset(
        labels, 4, imbalance_factor=5, validation_per_class=number, meta_per_class=meta_per_class, seed=seed
    )
    parts = [subset.train, subset.validation, subset.meta]
    assert [count_labels(labels[part], 4).tolist() for part in parts[1:]] == [[number] * 4, [meta_per_class] * 4]
    assert len(set(np.concatenate(parts))) == sum(map(len, parts))
    assert subset.class_counts.min() >= 1


@pytest.mark.parametrize("order", ["ldam", "rsg"])
def test_reading_meta_set_leaves_the_front_of_every_class_to_training(order):
    labels = balanced_labels(5, 40)
    without = draw_subset(labels, 5, imbalance_factor=8, order=order)
    beside = draw_subset(labels, 5, imbalance_factor=8, order=order, meta_per_class=4)
    for c in range(5):
        kept, before = (s.train[labels[s.train] == c].tolist() for s in (beside, without))
        assert kept == before[: len(kept)]
    assert not set(beside.meta) & set(beside.train)


def test_reading_meta_set_of_counts_as_found_is_no_tail_of_the_files():
    labels = np.repeat([0, 1], [50, 20])
    subset = draw_subset(labels, 2, profile="as_found", meta_per_class=5)
    assert set(subset.meta) != {*range(45, 50), *range(65, 70)}
    in_order = draw_subset(labels, 2, profile="as_found", meta_per_class=5, order="rsg")
    assert set(in_order.meta) == {*range(45, 50), *range(65, 70)}


def test_a_meta_set_that_leaves_a_class_nothing_is_refused_with_the_class():
    labels = np.repeat([0, 1, 2], [30, 4, 3])
    with pytest.raises(UserError, match=r"class 1 has 4 images: with meta_per_class=4 none is left .* \(2 of 3"):
        draw_subset(labels, 3, profile="as_found", meta_per_class=4)


def test_a_class_that_falls_short_beside_the_meta_set_is_named():
    labels = np.repeat([0, 1], [100, 50])  # a tail of factor 2 already
    message = r"class 1 needs 45 images for this profile but has 40 beside the 10 of the meta set .* or meta_per_class"
    with pytest.raises(UserError, match=message):
        draw_subset(labels, 2, imbalance_factor=2, meta_per_class=10)


def test_a_stratified_split_keeps_the_file_order():
    labels = np.tile(np.arange(3), 10)
    kept, cut = stratified_split(labels, 3, 0.2, seed=1)
    assert count_labels(labels[cut], 3).tolist() == [2, 2, 2]
    assert (np.diff(kept) > 0).all()
    assert (np.diff(cut) > 0).all()
    assert sorted([*kept, *cut]) == list(range(30))
