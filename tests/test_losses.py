"""Each loss against its definition, against torch, and against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustmentLoss,
    balanced_softmax_loss,
    focal_loss,
    ldam_loss,
    ldam_margins,
    logit_adjustment_loss,
)
from safa.weighting import effective_number_weights
from tests.reference import losses as literal

COUNTS = [500, 60, 7, 1]
WEIGHT = [0.2, 0.8, 1.2, 1.8]
CRITERIA: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": lambda counts=COUNTS, **options: CrossEntropyLoss(**options),
    "smoothed": lambda counts=COUNTS, **options: CrossEntropyLoss(label_smoothing=0.1, **options),
    "focal": lambda counts=COUNTS, **options: FocalLoss(gamma=1.5, **options),
    "ldam": lambda counts=COUNTS, **options: LDAMLoss(counts, scale=3.0, **options),
    "balanced_softmax": lambda counts=COUNTS, **options: BalancedSoftmaxLoss(counts, **options),
    "logit_adjustment": lambda counts=COUNTS, **options: LogitAdjustmentLoss(counts, tau=0.7, **options),
}
ONES = [1.0] * 4
LITERAL: dict[str, Callable[[list[float], int], float]] = {  # one row's loss, by its definition
    "cross_entropy": lambda row, c: literal.cross_entropy([row], [c], ONES),
    "smoothed": lambda row, c: literal.cross_entropy([row], [c], ONES),
    "focal": lambda row, c: literal.focal([row], [c], 1.5, ONES),
    "ldam": lambda row, c: literal.ldam_from_cosines([[z / 3 for z in row]], [c], COUNTS, 0.5, 3.0, ONES),
    "balanced_softmax": lambda row, c: literal.balanced_softmax([row], [c], COUNTS, ONES),
    "logit_adjustment": lambda row, c: literal.logit_adjustment([row], [c], COUNTS, 0.7, ONES),
}
every_criterion = pytest.mark.parametrize("build", CRITERIA.values(), ids=CRITERIA.keys())
with_and_without_weight = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])


def batch(n: int = 11, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(n, len(COUNTS), generator=generator, dtype=dtype)
    return logits, torch.randint(len(COUNTS), (n,), generator=generator)


def soft_labels(n: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return (2 * torch.randn(n, len(COUNTS), generator=generator, dtype=torch.float64)).softmax(1)


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, len(COUNTS)).double()


def tensor_or_none(weight: list[float] | None) -> Tensor | None:
    return None if weight is None else torch.tensor(weight)


def close(actual: Tensor, expected: Tensor | float) -> bool:
    # Weights and margins are kept in float32, so seven digits.
    return torch.allclose(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-6, atol=1e-7)


# --- against the definitions -------------------------------------------------------------------------------


@with_and_without_weight
def test_cross_entropy_matches_torch_and_the_loop(weight):
    logits, labels = batch()
    loss = CrossEntropyLoss(weight=tensor_or_none(weight))(logits, labels)
    torchs = nn.CrossEntropyLoss(weight=None if weight is None else torch.tensor(weight).double())
    assert close(loss, torchs(logits, labels))
    assert close(loss, literal.cross_entropy(logits.tolist(), labels.tolist(), weight or [1.0] * 4))


def test_label_smoothing_is_torchs():
    logits, labels = batch()
    assert close(
        CrossEntropyLoss(label_smoothing=0.2)(logits, labels),
        F.cross_entropy(logits, labels, label_smoothing=0.2),
    )


@with_and_without_weight
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_matches_the_loop(gamma, weight):
    logits, labels = batch()
    loss = FocalLoss(gamma=gamma, weight=tensor_or_none(weight))(logits, labels)
    assert close(loss, literal.focal(logits.tolist(), labels.tolist(), gamma, weight or [1.0] * 4))


@with_and_without_weight
def test_reading_ldam_on_scaled_cosines_is_the_released_loss_on_cosines(weight):
    logits, labels = batch()
    cosines = torch.tanh(logits)
    loss = LDAMLoss(COUNTS, max_margin=0.4, scale=20.0, weight=tensor_or_none(weight))(20 * cosines, labels)
    expected = literal.ldam_from_cosines(cosines.tolist(), labels.tolist(), COUNTS, 0.4, 20.0, weight or [1.0] * 4)
    assert close(loss, expected)


@with_and_without_weight
def test_balanced_softmax_matches_the_loop(weight):
    logits, labels = batch()
    loss = BalancedSoftmaxLoss(COUNTS, weight=tensor_or_none(weight))(logits, labels)
    expected = literal.balanced_softmax(logits.tolist(), labels.tolist(), COUNTS, weight or [1.0] * 4)
    assert close(loss, expected)


@with_and_without_weight
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_matches_the_pairwise_form(tau, weight):
    logits, labels = batch()
    loss = LogitAdjustmentLoss(COUNTS, tau=tau, weight=tensor_or_none(weight))(logits, labels)
    expected = literal.logit_adjustment(logits.tolist(), labels.tolist(), COUNTS, tau, weight or [1.0] * 4)
    assert close(loss, expected)


# --- by hand -----------------------------------------------------------------------------------------------


def test_focal_of_an_undecided_image_by_hand():
    loss = FocalLoss(gamma=2.0)(torch.zeros(1, 2), torch.tensor([0]))
    assert close(loss, 0.25 * log(2))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_released_focal_lets_the_weight_into_the_modulator(gamma):
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.5, 0.1, 0.0]]), torch.tensor([0, 2])
    weight = [0.2, 1.0, 3.0]
    expected = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        ce = -log(exp(row[y]) / sum(exp(z) for z in row))
        expected += (1 - exp(-weight[y] * ce)) ** gamma * weight[y] * ce / 2
    options = {"gamma": gamma, "released": True, "weight": torch.tensor(weight)}
    assert float(focal_loss(logits, labels, **options)) == pytest.approx(expected, rel=1e-5)
    assert float(focal_loss(logits, F.one_hot(labels).float(), **options)) == pytest.approx(expected, rel=1e-5)
    assert float(FocalLoss(**options)(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_reading_focal_weight_stays_out_of_the_modulator():
    loss = FocalLoss(gamma=1.0, weight=torch.tensor([3.0, 1.0]))(torch.zeros(1, 2), torch.tensor([0]))
    assert close(loss, 3 * (1 - 0.5) * log(2))
    released = (1 - exp(-3 * log(2))) * 3 * log(2)
    assert not close(loss, released)


def test_ldam_margins_by_hand():
    assert ldam_margins([256, 16, 1], max_margin=0.5).tolist() == [0.125, 0.25, 0.5]


def test_ldam_by_hand():
    loss = LDAMLoss([16, 1], max_margin=0.5, scale=2.0)(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert close(loss, (log(1 + exp(2 * 0.25)) + log(1 + exp(2 * 0.5))) / 2)


def test_cifar100_factor_100_margins_span_a_factor_of_ten_to_the_half():
    counts = [int(500 * 0.01 ** (c / 99)) for c in range(100)]
    margins = ldam_margins(counts)
    assert margins[-1] == 0.5
    assert close(margins[0], 0.5 * (5 / 500) ** 0.25)  # 0.158


def test_balanced_softmax_of_undecided_logits_is_the_prior():
    loss = BalancedSoftmaxLoss([3, 1])(torch.zeros(1, 2), torch.tensor([1]))
    assert close(loss, -log(1 / 4))


# --- reductions to a known thing ---------------------------------------------------------------------------


@with_and_without_weight
def test_ldam_without_margin_is_cross_entropy_of_the_scaled_logits(weight):
    logits, labels = batch()
    loss = LDAMLoss(COUNTS, max_margin=0.0, weight=tensor_or_none(weight))(30 * logits, labels)
    torch_weight = None if weight is None else torch.tensor(weight).double()
    assert close(loss, F.cross_entropy(30 * logits, labels, weight=torch_weight))


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, labels = batch()
    assert close(FocalLoss(gamma=0.0)(logits, labels), F.cross_entropy(logits, labels))


def test_balanced_softmax_with_equal_counts_is_cross_entropy():
    logits, labels = batch()
    assert close(BalancedSoftmaxLoss([9] * 4)(logits, labels), F.cross_entropy(logits, labels))


def test_logit_adjustment_with_tau_zero_is_cross_entropy():
    logits, labels = batch()
    assert close(LogitAdjustmentLoss(COUNTS, tau=0.0)(logits, labels), F.cross_entropy(logits, labels))


def test_balanced_softmax_is_logit_adjustment_with_tau_one():
    logits, labels = batch()
    assert close(BalancedSoftmaxLoss(COUNTS)(logits, labels), LogitAdjustmentLoss(COUNTS)(logits, labels))


@every_criterion
def test_uniform_weights_change_nothing(build):
    logits, labels = batch()
    assert close(build(weight=torch.ones(4))(logits, labels), build()(logits, labels))


# --- soft labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRITERIA)
@with_and_without_weight
def test_reading_a_soft_label_is_every_class_by_its_share(name, weight):
    logits, labels = batch()[0], soft_labels()
    shares = 0.9 * labels + 0.1 / 4 if name == "smoothed" else labels
    rows = literal.soft_rows(lambda i, c: LITERAL[name](logits[i].tolist(), c), shares.tolist(), weight or ONES)
    criterion = CRITERIA[name](weight=tensor_or_none(weight), reduction="none")
    assert close(criterion(logits, labels), torch.tensor(rows))
    criterion.reduction = "mean"
    over_images = sum(rows) / len(rows)
    expected = over_images if name == "focal" else literal.soft_mean(rows, labels.tolist(), weight or ONES)
    assert close(criterion(logits, labels), expected)


@every_criterion
@with_and_without_weight
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_soft_label_that_is_all_one_class_is_that_class(build, weight, reduction):
    logits, labels = batch()
    criterion = build(weight=tensor_or_none(weight), reduction=reduction)
    assert close(criterion(logits, one_hot(labels)), criterion(logits, labels))


@every_criterion
@with_and_without_weight
def test_reading_a_batch_mixed_with_its_own_permutation_is_the_released_mixture_of_two_means(build, weight):
    logits, labels = batch()
    partner = torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))
    mixed = 0.3 * one_hot(labels) + 0.7 * one_hot(labels[partner])
    criterion = build(weight=tensor_or_none(weight))
    released = 0.3 * criterion(logits, labels) + 0.7 * criterion(logits, labels[partner])
    assert close(criterion(logits, mixed), released)


@every_criterion
def test_rows_that_are_mixed_by_different_shares_are_mixed_each_by_its_own(build):
    logits, labels = batch()
    share = torch.linspace(0, 1, len(labels), dtype=torch.float64)
    other = labels.roll(1)
    mixed = share[:, None] * one_hot(labels) + (1 - share)[:, None] * one_hot(other)
    criterion = build(weight=torch.tensor(WEIGHT), reduction="none")
    expected = share * criterion(logits, labels) + (1 - share) * criterion(logits, other)
    assert close(criterion(logits, mixed), expected)


def test_smoothing_a_soft_label_is_torchs():
    logits, labels = batch()[0], soft_labels()
    assert close(
        CrossEntropyLoss(label_smoothing=0.2)(logits, labels),
        F.cross_entropy(logits, labels, label_smoothing=0.2),
    )


@every_criterion
@with_and_without_weight
def test_gradients_with_soft_labels_are_those_of_finite_differences(build, weight):
    logits, labels = batch(5)[0], soft_labels(5)
    logits[0] += torch.tensor([0.0, 9.0, 0.0, 0.0])  # one class as good as certain
    for reduction in ("mean", "none"):
        criterion = build(weight=tensor_or_none(weight), reduction=reduction)
        assert torch.autograd.gradcheck(lambda z: criterion(z, labels), logits.clone().requires_grad_())  # noqa: B023


def ldam_by_the_loop(logits: Tensor, scale: float) -> Tensor:
    """Losses (n, k) of every class had it been the label."""
    rows = [[z / scale for z in row] for row in logits.tolist()]
    classes = range(logits.shape[1])
    return torch.tensor(
        [[literal.ldam_from_cosines([row], [c], COUNTS, 0.5, scale, ONES) for c in classes] for row in rows]
    )


def test_ldam_with_soft_labels_is_exact_in_float32_where_a_class_is_certain_within_rounding():
    logits = torch.tensor([[30.0, -30, 0, 1], [0, 25, 25, 3], [3, 2, 1, 29.5], [17, 0.5, 0, 16]])
    assert logits.softmax(1).max() == 1
    each = torch.eye(4).repeat_interleave(4, dim=0)  # every row with every label
    losses = LDAMLoss(COUNTS, reduction="none")(logits.repeat(4, 1), each)
    expected = ldam_by_the_loop(logits.double(), 30.0).T.flatten()
    torch.testing.assert_close(losses, expected.float(), rtol=5e-6, atol=0)  # logits of 30 are known to 2e-6


def test_gradients_of_ldam_with_soft_labels_are_exact_in_float32_where_a_class_is_certain_within_rounding():
    logits = torch.tensor([[30.0, -30, 0, 1], [0, 25, 25, 3], [3, 2, 1, 29.5]]).repeat(4, 1)
    labels = torch.arange(4).repeat_interleave(3)
    single, double = logits.requires_grad_(), logits.detach().double().requires_grad_()
    LDAMLoss(COUNTS)(single, F.one_hot(labels, 4).float()).backward()
    LDAMLoss(COUNTS)(double, labels).backward()
    torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-5, atol=1e-14)


def test_ldam_of_a_single_class_loses_nothing_and_has_no_gradient():
    logits = torch.tensor([[2.0], [-50.0]], requires_grad=True)
    loss = LDAMLoss([7])(logits, torch.ones(2, 1))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(2, 1))


@pytest.mark.parametrize("shape", [(11,), (11, 3), (4, 11)])
@every_criterion
def test_soft_labels_of_another_shape_are_refused(build, shape):
    with pytest.raises(UserError, match=r"one probability per row and class, shape \(11, 4\) like the logits, got"):
        build()(batch()[0], torch.ones(shape))


@pytest.mark.parametrize("n", [4, 11])
@every_criterion
def test_one_hot_labels_that_are_integers_are_refused(build, n):
    """With as many rows as classes they would broadcast."""
    logits, labels = batch(n)
    with pytest.raises(
        UserError, match=rf"one number per row, shape \({n},\), got torch.int64 of shape \({n}, 4\); soft"
    ):
        build()(logits, F.one_hot(labels, 4))


@pytest.mark.parametrize("shape", [(1,), (), (12,)])
@every_criterion
def test_another_number_of_class_ids_is_refused(build, shape):
    with pytest.raises(UserError, match=r"one number per row, shape \(11,\), got"):
        build()(batch()[0], torch.ones(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
@every_criterion
def test_logits_that_are_no_rows_are_refused(build, shape):
    with pytest.raises(UserError, match=r"one row per label, shape \(n, k\), got"):
        build()(torch.ones(shape), torch.tensor([0, 1]))


# --- one loss per row --------------------------------------------------------------------------------------


@every_criterion
@with_and_without_weight
def test_losses_per_row_lead_back_to_the_mean(build, weight):
    logits, labels = batch()
    rows = build(weight=tensor_or_none(weight), reduction="none")(logits, labels)
    assert rows.shape == (11,)
    criterion = build(weight=tensor_or_none(weight))
    total = 11 if isinstance(criterion, FocalLoss) else torch.tensor(weight or ONES)[labels].sum()
    assert close(rows.sum() / total, criterion(logits, labels))


@with_and_without_weight
def test_losses_per_row_are_torchs(weight):
    logits, labels = batch()
    rows = CrossEntropyLoss(weight=tensor_or_none(weight), reduction="none")(logits, labels)
    torchs = nn.CrossEntropyLoss(None if weight is None else torch.tensor(weight).double(), reduction="none")
    assert close(rows, torchs(logits, labels))


@every_criterion
@pytest.mark.parametrize("reduction", ["sum", None, "Mean"])
def test_another_reduction_is_refused(build, reduction):
    said = f"reduction must be 'mean' or 'none', got {reduction!r}"
    with pytest.raises(UserError, match=said):
        build(reduction=reduction)
    criterion = build()
    criterion.reduction = reduction
    for labels in (batch()[1], soft_labels()):
        with pytest.raises(UserError, match=said):
            criterion(batch()[0], labels)


# --- what holds for every loss -----------------------------------------------------------------------------


@every_criterion
@with_and_without_weight
def test_gradients_are_those_of_finite_differences(build, weight):
    logits, labels = batch(5)
    criterion = build(weight=tensor_or_none(weight))
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels), logits.requires_grad_())


@every_criterion
def test_renaming_the_classes_changes_nothing(build):
    logits, labels = batch()
    old_of_new = torch.tensor([2, 0, 3, 1])
    new_of_old = torch.argsort(old_of_new)
    criterion = build(weight=torch.tensor(WEIGHT))
    renamed = build(counts=[COUNTS[c] for c in old_of_new], weight=torch.tensor(WEIGHT)[old_of_new])
    assert close(renamed(logits[:, old_of_new], new_of_old[labels]), criterion(logits, labels))
    soft = soft_labels()
    assert close(renamed(logits[:, old_of_new], soft[:, old_of_new]), criterion(logits, soft))


@every_criterion
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_the_float32_loss(build, half):
    logits, labels = batch()
    criterion = build(weight=torch.tensor(WEIGHT))
    for given, in_full in ((labels, labels), (soft_labels().to(half), soft_labels().to(half).float())):
        loss = criterion(logits.to(half), given)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, criterion(logits.to(half).float(), in_full))


@every_criterion
def test_double_logits_give_a_double_loss(build):
    logits, labels = batch()
    for given in (labels, soft_labels(), soft_labels().float()):
        assert build(weight=torch.tensor(WEIGHT))(logits, given).dtype == torch.float64


@every_criterion
def test_weight_can_be_replaced_between_stages(build):
    logits, labels = batch()
    criterion = build()
    deferred = effective_number_weights(COUNTS)
    criterion.weight = deferred
    assert torch.equal(criterion(logits, labels), build(weight=deferred)(logits, labels))
    criterion.weight = None
    assert torch.equal(criterion(logits, labels), build()(logits, labels))


@every_criterion
def test_tensors_are_buffers_that_move_and_are_not_saved(build):
    criterion = build(weight=torch.tensor(WEIGHT))
    assert criterion.state_dict() == {}
    assert not list(criterion.parameters())
    assert all(buffer.device.type == "meta" for buffer in criterion.to("meta").buffers())


@every_criterion
def test_huge_logits_give_finite_losses_and_gradients(build):
    for labels in (torch.tensor([0, 0]), torch.tensor([[1.0, 0, 0, 0], [0.7, 0.3, 0, 0]])):
        logits = torch.tensor([[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]], requires_grad=True)
        loss = build()(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.tensor([[1.0, 0.0]])], ids=["hard", "soft"])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0])
def test_focal_gradient_is_finite_where_the_model_is_certain(gamma, labels):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    FocalLoss(gamma=gamma)(logits, labels).backward()
    assert logits.grad.abs().max() < 1e-6


@every_criterion
def test_compiled_equals_eager(build):
    logits, labels = batch()
    criterion = build(weight=torch.tensor(WEIGHT))
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    for given in (labels, soft_labels()):
        assert close(compiled(logits, given), criterion(logits, given))


@every_criterion
@with_and_without_weight
def test_class_ids_give_the_bits_of_torchs_own_cross_entropy(build, weight):
    logits, labels = batch(dtype=torch.float32)
    criterion = build(weight=tensor_or_none(weight))
    counts = torch.tensor(COUNTS).float()
    if isinstance(criterion, FocalLoss):
        ce = F.cross_entropy(logits, labels, reduction="none")
        loss = (-torch.expm1(-ce)) ** 1.5 * ce
        assert torch.equal(criterion(logits, labels), ((criterion.weight[labels] * loss) if weight else loss).mean())
        return
    smoothing = getattr(criterion, "label_smoothing", 0.0)
    if isinstance(criterion, LDAMLoss):
        logits = logits - 3.0 * ldam_margins(COUNTS)[labels, None] * F.one_hot(labels, 4)
    elif isinstance(criterion, BalancedSoftmaxLoss):
        logits = logits + counts.log()
    elif isinstance(criterion, LogitAdjustmentLoss):
        logits = logits + 0.7 * (counts / counts.sum()).log()
    expected = F.cross_entropy(logits, labels, weight=tensor_or_none(weight), label_smoothing=smoothing)
    assert torch.equal(criterion(batch(dtype=torch.float32)[0], labels), expected)


def test_modules_equal_their_functions():
    logits, labels = batch()
    weight, counts = torch.tensor(WEIGHT), torch.tensor(COUNTS)
    same = [
        (FocalLoss(gamma=2.0, weight=weight), focal_loss(logits, labels, gamma=2.0, weight=weight)),
        (
            LDAMLoss(COUNTS, scale=5.0, weight=weight),
            ldam_loss(logits, labels, ldam_margins(COUNTS), scale=5.0, weight=weight),
        ),
        (
            BalancedSoftmaxLoss(COUNTS, weight=weight),
            balanced_softmax_loss(logits, labels, counts, weight=weight),
        ),
        (
            LogitAdjustmentLoss(COUNTS, tau=0.3, weight=weight),
            logit_adjustment_loss(logits, labels, counts, tau=0.3, weight=weight),
        ),
    ]
    for module, value in same:
        assert torch.equal(module(logits, labels), value)


def test_modules_equal_their_functions_with_soft_labels_row_by_row():
    logits, labels, counts = batch()[0], soft_labels(), torch.tensor(COUNTS)
    options = {"weight": torch.tensor(WEIGHT), "reduction": "none"}
    same = [
        (FocalLoss(**options), focal_loss(logits, labels, **options)),
        (LDAMLoss(COUNTS, **options), ldam_loss(logits, labels, ldam_margins(COUNTS), **options)),
        (BalancedSoftmaxLoss(COUNTS, **options), balanced_softmax_loss(logits, labels, counts, **options)),
        (LogitAdjustmentLoss(COUNTS, **options), logit_adjustment_loss(logits, labels, counts, **options)),
    ]
    for module, value in same:
        assert value.shape == (11,)
        assert torch.equal(module(logits, labels), value)


def test_settings_show_in_the_representation():
    assert repr(LDAMLoss(COUNTS)) == "LDAMLoss(max_margin=0.5, scale=30.0, unweighted)"
    assert repr(FocalLoss(weight=torch.ones(4))) == "FocalLoss(gamma=1.0, weighted)"
    assert repr(BalancedSoftmaxLoss(COUNTS, reduction="none")) == "BalancedSoftmaxLoss(unweighted, reduction='none')"


# --- errors ------------------------------------------------------------------------------------------------


@with_and_without_weight
@pytest.mark.parametrize("name", ["cross_entropy", "balanced_softmax", "logit_adjustment"])
def test_a_row_of_torchs_ignore_index_counts_for_nothing_where_the_loss_ends_in_torchs(name, weight):
    logits, labels = batch()
    criterion, rest = CRITERIA[name](weight=tensor_or_none(weight)), [row for row in range(11) if row != 3]
    ignored = labels.index_fill(0, torch.tensor([3]), -100)
    torch.testing.assert_close(criterion(logits, ignored), criterion(logits[rest], labels[rest]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
@pytest.mark.parametrize("name", CRITERIA)
def test_class_ids_of_another_type_are_refused_before_they_index_as_a_mask(name, dtype):
    logits, labels = batch()
    with pytest.raises(UserError, match=rf"class ids are int64, got {dtype}; pass labels.long\(\)"):
        CRITERIA[name]()(logits, labels.to(dtype))


def test_ldam_has_no_margin_for_torchs_ignore_index():
    logits, labels = batch()
    with pytest.raises(IndexError, match="-100 is out of bounds"):
        LDAMLoss(COUNTS)(logits, torch.full_like(labels, -100))


@pytest.mark.parametrize("loss", [LDAMLoss, BalancedSoftmaxLoss, LogitAdjustmentLoss])
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([5, 0, 3], "got 0 for class 1"),
        ([5, -2], "got -2 for class 1"),
        ([0.6, 0.4], "must be whole numbers, got 0.6 for class 0"),
        ([True, True], "must be whole numbers, got bool"),
        ([[5, 3]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_counts_must_be_one_positive_whole_number_per_class(loss, counts, said):
    with pytest.raises(UserError, match=said):
        loss(counts)


@pytest.mark.parametrize("counts", [COUNTS, tuple(COUNTS), np.array(COUNTS), torch.tensor(COUNTS, dtype=torch.int32)])
def test_counts_may_be_any_kind_of_sequence(counts):
    logits, labels = batch()
    assert torch.equal(LDAMLoss(counts)(logits, labels), LDAMLoss(COUNTS)(logits, labels))


def test_read_only_counts_are_copied():
    counts = np.array(COUNTS)
    counts.flags.writeable = False
    assert BalancedSoftmaxLoss(counts).class_counts.tolist() == COUNTS


@pytest.mark.parametrize("loss", [LDAMLoss, BalancedSoftmaxLoss, LogitAdjustmentLoss])
def test_logits_with_another_number_of_classes_are_refused(loss):
    with pytest.raises(UserError, match=f"{loss.__name__} was built for 4 classes but the logits have 10 columns"):
        loss(COUNTS)(torch.zeros(2, 10), torch.tensor([0, 1]))


@pytest.mark.parametrize("shape", [(9,), (3,), (), (4, 1)])
@pytest.mark.parametrize("labels", [batch()[1], soft_labels()], ids=["class ids", "soft labels"])
@every_criterion
def test_class_weights_of_another_number_of_classes_are_refused(build, labels, shape):
    with pytest.raises(
        UserError, match=r"shape \(4,\) for logits with 4 columns, got .*; pass the class weights of this"
    ):
        build(weight=torch.ones(shape))(batch()[0], labels)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: FocalLoss(gamma=-1.0), "gamma must be at least 0, got -1.0"),
        (lambda: FocalLoss(gamma=float("nan")), "gamma"),
        (lambda: LDAMLoss(COUNTS, max_margin=-0.5), "max_margin must be at least 0, got -0.5"),
        (lambda: LDAMLoss(COUNTS, scale=0.0), "scale must be positive, got 0.0"),
        (lambda: FocalLoss(gamma=float("inf")), "gamma must be at least 0, got inf"),
        (lambda: LDAMLoss(COUNTS, max_margin=float("inf")), "max_margin must be at least 0, got inf"),
        (lambda: LDAMLoss(COUNTS, scale=float("inf")), "scale must be positive, got inf"),
        (lambda: LogitAdjustmentLoss(COUNTS, tau=float("inf")), "tau must be at least 0, got inf"),
        (lambda: LogitAdjustmentLoss(COUNTS, tau=-1.0), "tau must be at least 0, got -1.0"),
        (lambda: CrossEntropyLoss(label_smoothing=1.5), r"in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
