"""Groups of classes against their definition."""

from __future__ import annotations

import pytest

from safa.data.groups import shot_groups
from safa.errors import UserError


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


def test_groups_may_leave_no_class_between_them():
    groups = shot_groups([10, 11], many_above=10, few_below=11)
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "many": [False, True],
        "medium": [False, False],
        "few": [True, False],
    }
