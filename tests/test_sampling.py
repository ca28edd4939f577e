"""What is particular to each sampler; what holds for all of them is in ``tests/conformance/test_samplers.py``."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from safa.errors import UserError
from safa.sampling import ClassBalanced, EffectiveNumber, EpochSampler, InstanceBalanced, PairSampler

COUNTS = [120, 30, 9, 1]
LABELS = np.random.RandomState(0).permutation(np.repeat([7, 0, 3, 5], COUNTS))  # class ids out of order, with gaps


def flat(sampler: EpochSampler) -> list[int]:
    return [index for batch in sampler for index in batch]


def class_shares(sampler: EpochSampler, epochs: int) -> dict[int, float]:
    drawn: Counter[int] = Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn.update(LABELS[flat(sampler)].tolist())
    return {c: count / drawn.total() for c, count in drawn.items()}


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


@pytest.mark.parametrize("sampler", [InstanceBalanced, PairSampler])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"world_size": 3}])
@pytest.mark.parametrize("batch_size", [2, 6, 14, 50, 158])
def test_the_smallest_batch_is_known_beforehand(sampler, options, batch_size):
    made = sampler(LABELS, batch_size, **options)
    assert made.smallest_batch == min(map(len, made))


def test_drop_last_leaves_out_the_rest():
    assert list(map(len, InstanceBalanced(LABELS, 50, drop_last=True))) == [50, 50, 50]
    assert list(map(len, InstanceBalanced(LABELS, 50))) == [50, 50, 50, 10]


# --- with replacement --------------------------------------------------------------------------------------


def test_effective_number_with_beta_zero_draws_images_uniformly():
    shares = class_shares(EffectiveNumber(LABELS, 64, beta=0.0), epochs=200)
    for c, n in zip([7, 0, 3, 5], COUNTS, strict=True):
        p = n / 160
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


# --- errors ------------------------------------------------------------------------------------------------


def test_an_odd_batch_of_pairs_is_refused():
    with pytest.raises(UserError, match="batch_size of PairSampler must be a positive multiple of 2, got 7"):
        PairSampler(LABELS, 7)


@pytest.mark.parametrize("sampler", [InstanceBalanced, ClassBalanced, PairSampler])
@pytest.mark.parametrize(
    "wrong", [{"batch_size": 2.0}, {"batch_size": "4"}, {"seed": 0.5}, {"rank": 0.0}, {"world_size": None}]
)
def test_what_is_no_whole_number_is_refused_before_the_first_epoch(sampler, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} must be a whole number, got {value!r}; pass an int"):
        sampler(LABELS, **{"batch_size": 4, **wrong})


def test_numbers_of_numpy_are_whole_numbers():
    batches = list(ClassBalanced(LABELS, np.int64(16), seed=np.uint8(3)))
    assert batches == list(ClassBalanced(LABELS, 16, seed=3))


def test_beta_of_one_is_refused_at_once():
    with pytest.raises(UserError, match="beta must be at least 0 and below 1, got 1"):
        EffectiveNumber(LABELS, 8, beta=1.0)
