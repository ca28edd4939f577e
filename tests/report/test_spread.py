"""When a difference over seeds is called clear."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from safa.report.spread import difference, t_975


@pytest.mark.parametrize("degrees", range(1, 31))
def test_the_quantiles_of_t_are_those_of_scipy(degrees):
    assert t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=5e-4)


def test_beyond_the_table_the_quantile_stays_so_that_nothing_is_called_clear_too_early():
    assert t_975(31) == t_975(1000) == t_975(30) > stats.t.ppf(0.975, 31)


@pytest.mark.parametrize(("seeds", "clear"), [(2, False), (5, False), (6, True)])
def test_equal_differences_are_clear_where_a_sign_test_is(seeds, clear):
    assert (stats.binomtest(0, seeds).pvalue < 0.05) == clear
    assert difference([9.375] * seeds, [10.0] * seeds).is_clear is clear
    assert not difference([10.0] * seeds, [10.0] * seeds).is_clear


@pytest.mark.parametrize(
    ("ours", "theirs"), [([4.25, 71.67], [4.35, 71.77]), ([33.3333, 66.6667], [0.0, 33.3333])], ids=["binary", "thirds"]
)
def test_differences_that_are_equal_but_for_rounding_are_equal(ours, theirs):
    found = difference(ours, theirs)
    assert found.sd > 0
    assert found.is_alike
    assert not found.is_clear


def test_a_tie_but_for_rounding_is_no_win():
    assert difference([0.1 + 0.2], [0.3]).wins == difference([0.3], [0.1 + 0.2]).wins == 0


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_without_an_effect_one_in_twenty_differences_is_called_clear(seeds):
    gaps = np.random.default_rng(seeds).normal(size=(4000, seeds))
    share = np.mean([difference(row, np.zeros(seeds)).is_clear for row in gaps])
    assert share == pytest.approx(0.05, abs=0.012)  # three and a half standard errors


def test_a_single_seed_makes_nothing_clear():
    assert not difference([50.0], [60.0]).is_clear
