"""Samplers: what an epoch contains, how processes share it, and that nothing but seed and epoch matters."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from safa.errors import UserError
from safa.sampling import (
    ClassBalanced,
    EffectiveNumber,
    EpochSampler,
    InstanceBalanced,
    PairSampler,
    SquareRoot,
)

COUNTS = [120, 30, 9, 1]
LABELS = np.random.RandomState(0).permutation(np.repeat([7, 0, 3, 5], COUNTS))  # class ids out of order, with gaps
ALL = [InstanceBalanced, ClassBalanced, SquareRoot, EffectiveNumber, PairSampler]
every_sampler = pytest.mark.parametrize("sampler", ALL)


def flat(sampler: EpochSampler) -> list[int]:
    return [index for batch in sampler for index in batch]


def class_shares(sampler: EpochSampler, epochs: int) -> dict[int, float]:
    drawn: Counter[int] = Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn.update(LABELS[flat(sampler)].tolist())
    return {c: count / drawn.total() for c, count in drawn.items()}


# --- what holds for all ------------------------------------------------------------------------------------


@every_sampler
def test_the_order_depends_on_nothing_but_seed_and_epoch(sampler):
    one, other = sampler(LABELS, 16, seed=4), sampler(LABELS, 16, seed=4)
    flat(one)  # an earlier epoch leaves no trace
    np.random.seed(1)
    torch.manual_seed(1)
    for each in (one, other):
        each.set_epoch(3)
    assert list(one) == list(other) == list(one)


@every_sampler
def test_epochs_and_seeds_differ(sampler):
    first = sampler(LABELS, 16, seed=4)
    second = sampler(LABELS, 16, seed=4)
    second.set_epoch(1)
    other_seed = sampler(LABELS, 16, seed=5)
    assert flat(first) != flat(second)
    assert flat(first) != flat(other_seed)
    assert flat(second) != flat(other_seed)  # seed and epoch do not merely add up


@every_sampler
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_rank_gets_as_many_batches_of_the_same_sizes(sampler, world_size, drop_last):
    sizes = set()
    for rank in range(world_size):
        share = sampler(LABELS, 6, rank=rank, world_size=world_size, drop_last=drop_last)
        batches = list(share)
        assert len(share) == len(batches)
        sizes.add(tuple(map(len, batches)))
    assert len(sizes) == 1
    full = sizes.pop()
    assert set(full[:-1]) == {6}
    assert full[-1] == 6 if drop_last else 0 < full[-1] <= 6


@every_sampler
def test_batches_of_the_ranks_together_are_the_batches_of_one_process(sampler):
    whole = list(sampler(LABELS, 8))
    shares = [list(sampler(LABELS, 4, rank=rank, world_size=2)) for rank in range(2)]
    for alone, *parts in zip(whole, *shares, strict=True):
        assert sorted(alone) == sorted(parts[0] + parts[1])


@every_sampler
def test_a_data_loader_takes_it(sampler):
    images = torch.arange(len(LABELS))
    batches = list(DataLoader(images, batch_sampler=sampler(LABELS, 16)))
    assert [batch.tolist() for batch in batches] == list(sampler(LABELS, 16))


@every_sampler
def test_labels_may_be_a_list_or_a_tensor(sampler):
    assert list(sampler(LABELS.tolist(), 16)) == list(sampler(torch.tensor(LABELS), 16)) == list(sampler(LABELS, 16))


@every_sampler
def test_one_image_makes_an_epoch(sampler):
    assert set(flat(sampler([3], 4))) == {0}


# --- InstanceBalanced --------------------------------------------------------------------------------------


def test_instance_balanced_shows_every_image_once():
    assert sorted(flat(InstanceBalanced(LABELS, 16))) == list(range(160))


def test_instance_balanced_ranks_partition_the_epoch():
    shares = [flat(InstanceBalanced(LABELS, 16, rank=rank, world_size=4)) for rank in range(4)]
    assert sorted(chain.from_iterable(shares)) == list(range(160))


def test_instance_balanced_pads_by_starting_over():
    whole = flat(InstanceBalanced(LABELS, 16))
    shares = [flat(InstanceBalanced(LABELS, 16, rank=rank, world_size=7)) for rank in range(7)]
    dealt = [index for row in zip(*shares, strict=True) for index in row]
    assert dealt == whole + whole[:1]  # 161 = 7 * 23


def test_drop_last_leaves_out_the_rest():
    assert list(map(len, InstanceBalanced(LABELS, 50, drop_last=True))) == [50, 50, 50]
    assert list(map(len, InstanceBalanced(LABELS, 50))) == [50, 50, 50, 10]


# --- with replacement --------------------------------------------------------------------------------------


def expected_shares(sampler: type[EpochSampler]) -> dict[int, float]:
    say = {
        InstanceBalanced: [float(n) for n in COUNTS],
        ClassBalanced: [1.0 for _ in COUNTS],
        SquareRoot: [n**0.5 for n in COUNTS],
        EffectiveNumber: [n * (1 - 0.9) / (1 - 0.9**n) for n in COUNTS],
    }[sampler]
    return {c: value / sum(say) for c, value in zip([7, 0, 3, 5], say, strict=True)}


@pytest.mark.parametrize("sampler", [InstanceBalanced, ClassBalanced, SquareRoot, EffectiveNumber])
def test_classes_come_up_as_often_as_defined(sampler):
    settings = {"beta": 0.9} if sampler is EffectiveNumber else {}
    shares = class_shares(sampler(LABELS, 64, **settings), epochs=200)
    for c, p in expected_shares(sampler).items():
        assert shares[c] == pytest.approx(p, abs=4 * (p * (1 - p) / 32000) ** 0.5)


@pytest.mark.parametrize("sampler", [ClassBalanced, SquareRoot, EffectiveNumber])
def test_images_of_one_class_come_up_equally_often(sampler):
    drawn = Counter[int]()
    each = sampler(LABELS, 64)
    for epoch in range(300):
        each.set_epoch(epoch)
        drawn.update(index for index in flat(each) if LABELS[index] == 3)
    expected = drawn.total() / 9
    assert len(drawn) == 9
    assert max(abs(n - expected) for n in drawn.values()) < 4 * expected**0.5


@pytest.mark.parametrize("sampler", [ClassBalanced, SquareRoot, EffectiveNumber])
def test_an_epoch_has_as_many_draws_as_images(sampler):
    assert len(flat(sampler(LABELS, 16))) == 160


def test_effective_number_with_beta_zero_draws_images_uniformly():
    shares = class_shares(EffectiveNumber(LABELS, 64, beta=0.0), epochs=200)
    for c, p in expected_shares(InstanceBalanced).items():
        assert shares[c] == pytest.approx(p, abs=4 * (p * (1 - p) / 32000) ** 0.5)


# --- PairSampler -------------------------------------------------------------------------------------------


def test_partners_are_other_images_of_the_same_class():
    for batch in PairSampler(LABELS, 16):
        half = len(batch) // 2
        for anchor, partner in zip(batch[:half], batch[half:], strict=True):
            assert LABELS[anchor] == LABELS[partner]
            assert anchor != partner or LABELS[anchor] == 5


def test_an_image_alone_in_its_class_is_its_own_partner():
    alone = int(np.flatnonzero(LABELS == 5)[0])
    seen = 0
    sampler = PairSampler(LABELS, 16)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        for batch in sampler:
            half = len(batch) // 2
            seen += batch[:half].count(alone)
            assert batch[:half].count(alone) == batch[half:].count(alone)
    assert seen > 0


def test_every_other_image_of_the_class_is_a_partner_equally_often():
    labels = [0, 1, 1, 1, 1, 0]
    partners: Counter[int] = Counter()
    sampler = PairSampler(labels, 6)
    for epoch in range(3000):
        sampler.set_epoch(epoch)
        (batch,) = sampler
        partners.update(p for a, p in zip(batch[:3], batch[3:], strict=True) if a == 2)
    assert set(partners) == {1, 3, 4}
    assert min(partners.values()) > 440  # of about 1500 in thirds, sd 18


def test_a_pair_epoch_has_as_many_images_as_the_data_and_no_anchor_twice():
    batches = list(PairSampler(LABELS, 16))
    anchors = [index for batch in batches for index in batch[: len(batch) // 2]]
    assert len(anchors) == len(set(anchors)) == 80
    assert sum(map(len, batches)) == 160


def test_an_odd_number_of_images_is_rounded_up_to_whole_pairs():
    assert len(flat(PairSampler([0, 0, 1, 1, 1], 4))) == 6


def test_ranks_share_the_anchors_between_them():
    shares = [list(PairSampler(LABELS, 10, rank=rank, world_size=4)) for rank in range(4)]
    anchors = [index for share in shares for batch in share for index in batch[: len(batch) // 2]]
    assert len(anchors) == len(set(anchors)) == 80


def test_classes_come_in_pairs_as_often_as_they_have_images():
    shares = class_shares(PairSampler(LABELS, 32), epochs=200)
    for c, p in expected_shares(InstanceBalanced).items():
        assert shares[c] == pytest.approx(p, abs=0.01)


# --- errors ------------------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "positive multiple"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, "got rank 2 and world_size 2"),
        ({"rank": -1}, "got rank -1"),
        ({"batch_size": 1000, "drop_last": True}, "drop_last leaves no batch of 1000 from 160 images"),
        ({"labels": [0.0, 1.0]}, "labels must be integers, got float64"),
        ({"labels": ["cat", "dog"]}, "labels must be integers"),
        ({"labels": []}, r"got shape \(0,\)"),
        ({"labels": [[0, 1]]}, r"got shape \(1, 2\)"),
    ],
)
def test_settings_out_of_range_are_refused(sampler, settings, said):
    with pytest.raises(UserError, match=said):
        sampler(**{"labels": LABELS, "batch_size": 8, **settings})


def test_an_odd_batch_of_pairs_is_refused():
    with pytest.raises(UserError, match="batch_size of PairSampler must be a positive multiple of 2, got 7"):
        PairSampler(LABELS, 7)


def test_beta_of_one_is_refused_at_once():
    with pytest.raises(UserError, match="beta must be at least 0 and below 1, got 1"):
        EffectiveNumber(LABELS, 8, beta=1.0)
