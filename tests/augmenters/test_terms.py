"""Each term against the double loop of its equation, in simple cases by hand, and in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safa.augmenters import terms
from tests.reference import safa as literal

RATIOS = {"per_pair": terms.mode_seeking, "batch": terms.mode_seeking_over_batch}
every_ratio = pytest.mark.parametrize("ratio", RATIOS)


def maps(count: int, n: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 2, 3, 2, generator=generator, dtype=torch.float64) for _ in range(count)]


def rows(tensors: list[Tensor]) -> list[literal.Rows]:
    return [literal.rows(each) for each in tensors]


# --- Eq. 4 and 5 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cycle_delta_matches_the_double_loop_of_eq_4(reduction):
    pair = maps(2)
    expected = literal.cycle_delta(*rows(pair), reduction).item()
    assert terms.cycle_delta(*pair, reduction).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cycle_features_matches_the_double_loop_of_eq_5(reduction):
    pair = maps(2)
    expected = literal.cycle_features(*rows(pair), reduction).item()
    assert terms.cycle_features(*pair, reduction).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("term", [terms.cycle_delta, terms.cycle_features])
def test_reading_reduction_mean_ignores_the_size_of_batch_and_map(term):
    a, b = maps(2)
    larger = [each.repeat(2, 1, 4, 5) for each in (a, b)]
    torch.testing.assert_close(term(*larger), term(a, b))


def test_reading_reduction_sum_grows_with_batch_and_map():
    a, b = maps(2)
    larger = [each.repeat(2, 1, 4, 1) for each in (a, b)]
    torch.testing.assert_close(terms.cycle_delta(*larger, "sum"), 4 * terms.cycle_delta(a, b, "sum"))
    torch.testing.assert_close(terms.cycle_features(*larger, "sum"), 8 * terms.cycle_features(a, b, "sum"))


def test_reading_reduction_sum_of_a_resnet_map_weighs_8192_times_more_in_eq_5():
    a, b = torch.randn(2, 1, 32, 16, 16, dtype=torch.float64)
    ratio = terms.cycle_features(a, b, "sum") / terms.cycle_features(a, b)
    assert ratio.item() == pytest.approx(8192)


def test_cycle_delta_of_equal_deltas_is_zero_with_a_gradient_of_zeros():
    delta = maps(1)[0].requires_grad_()
    loss = terms.cycle_delta(delta, delta.detach())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(delta.grad, torch.zeros_like(delta))


# --- Eq. 6 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("same", [[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], ids=str)
def test_contrastive_matches_the_loop_of_eq_6(balanced, same):
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -0.7], dtype=torch.float64)
    expected = literal.contrastive(list(logits), [bool(y) for y in same], balanced).item()
    actual = terms.contrastive(logits, torch.tensor(same, dtype=torch.bool), balanced)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_reading_both_kinds_of_pairs_weigh_the_same_whatever_their_numbers():
    same = torch.tensor([True] + 99 * [False])
    logits = torch.zeros(100, requires_grad=True)
    terms.contrastive(logits, same).backward()
    torch.testing.assert_close(logits.grad[same].sum(), -logits.grad[~same].sum())


@pytest.mark.parametrize("same", [True, False])
def test_pairs_of_one_kind_alone_have_the_gradient_of_half_their_mean(same):
    logits = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64, requires_grad=True)
    terms.contrastive(logits, torch.full((3,), same)).backward()
    torch.testing.assert_close(logits.grad, (logits.detach().sigmoid() - float(same)) / 6)


def test_a_sure_and_wrong_pair_classifier_costs_its_logit_and_no_infinity():
    loss = terms.contrastive(torch.tensor([-500.0, 500.0]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(500)


# --- Eq. 7 -------------------------------------------------------------------------------------------------


@every_ratio
def test_mode_seeking_matches_the_double_loop_of_eq_7(ratio):
    four = maps(4)
    expected = literal.mode_seeking(*rows(four), ratio).item()
    assert RATIOS[ratio](*four).item() == pytest.approx(expected, rel=1e-12)


@every_ratio
def test_reading_norm_is_mean_over_feature_map(ratio):
    four = maps(4)
    larger = [each.repeat(1, 3, 2, 2) for each in four]
    torch.testing.assert_close(RATIOS[ratio](*larger), RATIOS[ratio](*four))


@every_ratio
def test_reading_the_inverse_ratio_is_minimised(ratio):
    a, b, c, d = maps(4)
    term = RATIOS[ratio]
    middle = (c + d) / 2
    apart = term(a, b, middle + 2 * (c - middle), middle + 2 * (d - middle))
    assert apart < term(a, b, c, d)


@every_ratio
def test_outputs_as_far_apart_as_their_inputs_cost_one(ratio):
    a, b = maps(2)
    assert RATIOS[ratio](a, b, a + 5, b + 5).item() == pytest.approx(1, abs=1e-4)


@every_ratio
def test_mode_seeking_of_a_feature_with_itself_is_zero_with_finite_gradients(ratio):
    four = [each.requires_grad_() for each in maps(4)]
    loss = RATIOS[ratio](four[0], four[0], four[2], four[2])
    loss.backward()
    assert loss.item() == 0
    assert all(each.grad is None or each.grad.isfinite().all() for each in four)


@every_ratio
def test_outputs_that_fell_together_cost_much_but_no_infinity(ratio):
    a, b, c, _ = maps(4)
    assert 1e4 < RATIOS[ratio](a, b, c, c).item() < 1e6


@every_ratio
def test_no_pair_is_refused_rather_than_nan(ratio):
    with pytest.raises(ValueError, match="at least one pair"):
        RATIOS[ratio](*maps(4, n=0))


def test_reading_ratio_per_pair_and_batch_differ_where_pairs_differ():
    four = maps(4)
    assert terms.mode_seeking(*four).item() != pytest.approx(terms.mode_seeking_over_batch(*four).item())
    one = [each[:1] for each in four]
    assert terms.mode_seeking(*one).item() == pytest.approx(terms.mode_seeking_over_batch(*one).item(), rel=1e-4)


# --- what holds for all ------------------------------------------------------------------------------------

SAME = torch.tensor([True, False, False])
TERMS = {
    "cycle_delta": (terms.cycle_delta, 2),
    "cycle_features": (terms.cycle_features, 2),
    "contrastive": (lambda logits: terms.contrastive(logits[:, 0, 0, 0], SAME), 1),
    "mode_seeking": (terms.mode_seeking, 4),
    "mode_seeking_over_batch": (terms.mode_seeking_over_batch, 4),
}
every_term = pytest.mark.parametrize(("term", "inputs"), TERMS.values(), ids=TERMS.keys())


@every_term
def test_gradients_are_those_of_finite_differences(term, inputs):
    assert torch.autograd.gradcheck(term, [each.requires_grad_() for each in maps(inputs)])


@every_term
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(term, inputs, half):
    given = [each.to(half) for each in maps(inputs)]
    expected = term(*(each.float() for each in given))
    assert term(*given).dtype == torch.float32
    assert torch.equal(term(*given), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term(*given), expected)


@every_term
def test_float64_stays_float64(term, inputs):
    assert term(*maps(inputs)).dtype == torch.float64
