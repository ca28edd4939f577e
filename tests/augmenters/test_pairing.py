"""Random pairs: who may meet whom, and that every meeting is possible."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safa.augmenters.pairing import (
    Match,
    match_tail_to_head,
    random_pairs,
    rows_of,
    same_class_pairs,
    spread,
    with_nearest_head,
)
from tests.elsewhere import DEVICE, watched

label_vectors = st.lists(st.integers(0, 6), max_size=60)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def drawn(labels: list[int]) -> tuple[list[int], list[int], list[int]]:
    first, second, single = same_class_pairs(torch.tensor(labels, dtype=torch.int64))
    return first.tolist(), second.tolist(), single.tolist()


@unhurried
@given(label_vectors)
def test_every_row_is_in_one_pair_or_left_over_once(labels):
    first, second, single = drawn(labels)
    assert sorted(first + second + single) == list(range(len(labels)))


@unhurried
@given(label_vectors)
def test_the_rows_of_a_pair_share_their_class(labels):
    first, second, _ = drawn(labels)
    assert [labels[i] for i in first] == [labels[j] for j in second]


@unhurried
@given(label_vectors)
def test_one_row_is_left_over_for_every_class_with_an_odd_number(labels):
    odd = [c for c, count in Counter(labels).items() if count % 2]
    assert sorted(labels[i] for i in drawn(labels)[2]) == sorted(odd)


def test_no_labels_give_no_pairs():
    assert drawn([]) == ([], [], [])


def test_every_two_rows_of_a_class_meet_sooner_or_later_in_both_orders():
    torch.manual_seed(0)
    met = set()
    for _ in range(200):
        first, second, single = drawn([4, 4, 4])
        met.add((first[0], second[0], single[0]))
    assert len(met) == 6


def test_the_seed_fixes_the_pairs():
    labels = torch.arange(40) % 3
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch.cat(same_class_pairs(labels)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@unhurried
@given(st.integers(0, 40))
def test_random_pairs_use_every_row_but_an_odd_last_one_once(n):
    first, second = random_pairs(n)
    assert len(first) == len(second) == n // 2
    assert len(set(torch.cat([first, second]).tolist())) == n // 2 * 2


@unhurried
@given(st.integers(0, 40), st.integers(1, 12))
def test_spread_uses_no_index_twice_before_all_were_used(n, over):
    times = Counter(spread(n, over).tolist())
    counts = [times[index] for index in range(over)]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("n", "over"), [(1, 4), (3, 5), (7, 5)])
def test_spread_uses_every_index_equally_often_over_many_draws(n, over):
    torch.manual_seed(0)
    times = Counter(index for _ in range(1000) for index in spread(n, over).tolist())
    assert all(abs(times[index] - 1000 * n / over) < 70 for index in range(over))  # sd at most 16


IS_HEAD = torch.tensor([False, True, False, True, False, False, False])


def matched(labels: list[int], positions: int = 4, **options) -> Match | None:
    ids = torch.tensor(labels, dtype=torch.int64)
    return match_tail_to_head(ids, IS_HEAD[ids], positions, **options)


@unhurried
@given(label_vectors)
def test_every_head_pair_of_a_match_gets_a_tail_pair_of_one_class(labels):
    match, times = matched(labels), Counter(labels)
    pairs = sum(times[c] // 2 for c in (1, 3))
    tail = {c: times[c] for c in (0, 2, 4, 5, 6) if times[c]}
    assert (match is None) == (not pairs or not tail)
    if match is None:
        return
    heads = list(zip(match.head_i.tolist(), match.head_j.tolist(), strict=True))
    tails = list(zip(match.tail_i.tolist(), match.tail_k.tolist(), strict=True))
    assert len(heads) == len(tails) == pairs
    assert len({row for pair in heads for row in pair}) == 2 * pairs
    assert all(labels[i] == labels[j] and labels[i] in (1, 3) for i, j in heads)
    assert all(labels[i] == labels[k] and labels[i] in tail for i, k in tails)
    # A tail row is alone where its class has an odd number of rows.
    assert {labels[i] for i, k in tails if i == k} <= {c for c, count in tail.items() if count % 2}
    used = Counter(tails).values()
    assert max(used) - (min(used) if len(used) == sum((n + 1) // 2 for n in tail.values()) else 0) <= 1
    assert match.partnered.tolist() == [p for p, (i, k) in enumerate(tails) if i != k]


def test_every_tail_pair_meets_a_single_head_pair_equally_often_over_many_draws():
    torch.manual_seed(0)
    labels, classes = [1, 1, 0, 0, 2, 2, 4, 5, 5, 6], Counter()
    for _ in range(500):
        classes.update(labels[row] for row in matched(labels).tail_i.tolist())
    assert set(classes) == {0, 2, 4, 5, 6}
    assert all(abs(times - 100) < 45 for times in classes.values())  # sd 9


def test_every_head_pair_gets_as_many_tail_pairs_as_are_asked_for_and_all_before_any_twice():
    match = matched([1, 1, 3, 3, 0, 0, 2, 2, 4, 4, 5, 5, 6, 6], times=3)
    assert Counter(frozenset(pair) for pair in zip(match.head_i.tolist(), match.head_j.tolist(), strict=True)) == {
        frozenset((0, 1)): 3,
        frozenset((2, 3)): 3,
    }
    assert sorted(Counter(match.tail_i.tolist()).values()) == [1, 1, 1, 1, 2]  # six tail pairs of five


def test_tail_pairs_are_drawn_in_proportion_to_the_share_of_their_class_whatever_the_others_got():
    torch.manual_seed(0)
    labels, classes, twice = [1, 1, 3, 3, 0, 0, 2, 2, 2, 2], Counter(), 0
    for _ in range(500):
        drawn = matched(labels, shares=torch.tensor([3.0, 9.0, 1.0, 9.0, 9.0, 9.0, 9.0])).tail_i
        classes.update(labels[row] for row in drawn.tolist())
        twice += len(drawn.unique()) == 1
    assert set(classes) == {0, 2}
    assert classes[0] == pytest.approx(600, abs=75)  # one pair of share 3 and two of share 1, sd 15
    assert twice == pytest.approx(500 * (9 + 1 + 1) / 25, abs=55)  # sd 11


def test_pairs_of_all_classes_are_moved_equally_often_where_head_pairs_are_moved_too():
    torch.manual_seed(0)
    labels, moved = [1, 1, 1, 3, 3, 0, 0, 2], Counter()
    for _ in range(500):
        match = matched(labels, heads_too=True)
        assert sorted(labels[row] for row in match.head_i.tolist()) == [1, 3]  # deltas are of heads alone
        assert all(labels[i] == labels[k] for i, k in zip(match.tail_i.tolist(), match.tail_k.tolist(), strict=True))
        moved.update((labels[i], i != k) for i, k in zip(match.tail_i.tolist(), match.tail_k.tolist(), strict=True))
    expected = {(1, True), (1, False), (3, True), (0, True), (2, False)}  # row 2 of class 1 has no partner, or 0, or 1
    assert set(moved) == expected
    assert all(moved[pair] == pytest.approx(200, abs=60) for pair in expected)  # sd 13


def test_a_batch_of_head_rows_alone_gives_a_match_where_these_are_moved_too():
    assert matched([1, 1, 3, 3]) is None
    assert matched([1, 1, 3, 3], heads_too=True) is not None


def test_the_nearest_head_pair_is_that_whose_first_feature_has_the_nearest_mean():
    maps = torch.zeros(8, 1, 1, 2)
    for row, value in enumerate([0.0, 50.0, 10.0, 50.0, 4.0, 6.0, 9.0, -3.0]):
        spread = 1 if row % 2 else 20  # which a mean over positions does not see
        maps[row] = torch.tensor([value - spread, value + spread])
    pairs = torch.tensor([[0, 2, 0, 2], [1, 3, 1, 3], [4, 5, 6, 7], [4, 5, 6, 7]])
    nearest = with_nearest_head(Match(*pairs, torch.tensor([], dtype=torch.int64)), maps)
    assert nearest.head_i.tolist() == [0, 2, 2, 0]
    assert nearest.head_j.tolist() == [1, 3, 3, 1]
    assert nearest.tail_i.tolist() == [4, 5, 6, 7]


def test_rows_of_a_match_are_the_first_tail_rows_then_the_second_of_those_that_have_one():
    i, j, tail_i, tail_k = torch.tensor([[0, 2, 4], [1, 3, 5], [6, 8, 9], [7, 8, 10]])
    match = Match(i, j, tail_i, tail_k, torch.tensor([0, 2]))
    assert match.rows.tolist() == [6, 8, 9, 7, 10]
    assert match.pairs.tolist() == [0, 1, 2, 0, 2]


def test_a_match_goes_to_another_device_in_one_copy():
    match = Match(*torch.tensor([[0, 2, 4], [1, 3, 5], [6, 8, 9], [7, 8, 10]]), torch.tensor([0, 2]))
    with watched() as seen:
        there = match.to(DEVICE)
    assert (seen["uploads"], seen["waits"]) == (1, 0)
    assert {name: part.here.tolist() for name, part in vars(there).items()} == {
        name: part.tolist() for name, part in vars(match).items()
    }


def test_features_of_one_position_want_two_head_pairs():
    assert matched([1, 1, 0], positions=1) is None
    assert matched([1, 1, 0], positions=2) is not None
    assert matched([1, 1, 3, 3, 0], positions=1) is not None


@pytest.mark.parametrize("rows", [[2, 0, 2, 1], [], [3]], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_of_maps_and_their_gradients_are_those_of_indexing(rows, layout):
    maps = torch.rand(4, 3, 2, 5).contiguous(memory_format=layout)
    taken, index = [], torch.tensor(rows, dtype=torch.int64)
    for take in (rows_of, lambda features, index: features[index]):
        features = maps.clone().requires_grad_()
        chosen = take(features, index)
        chosen.square().sum().backward()
        taken.append((chosen, features.grad))
    assert torch.equal(taken[0][0], taken[1][0])
    assert torch.equal(taken[0][1], taken[1][1])
    assert taken[0][0].is_contiguous(memory_format=torch.channels_last)
