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
from safa.weighting import effective_number_weights, uniform_weights
from tests.reference import losses as literal

COUNTS = [500, 60, 7, 1]
WEIGHT = [0.2, 0.8, 1.2, 1.8]
CRITERIA: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": lambda counts=COUNTS, **weight: CrossEntropyLoss(**weight),
    "smoothed": lambda counts=COUNTS, **weight: CrossEntropyLoss(label_smoothing=0.1, **weight),
    "focal": lambda counts=COUNTS, **weight: FocalLoss(gamma=1.5, **weight),
    "ldam": lambda counts=COUNTS, **weight: LDAMLoss(counts, scale=3.0, **weight),
    "balanced_softmax": lambda counts=COUNTS, **weight: BalancedSoftmaxLoss(counts, **weight),
    "logit_adjustment": lambda counts=COUNTS, **weight: LogitAdjustmentLoss(counts, tau=0.7, **weight),
}
every_criterion = pytest.mark.parametrize("build", CRITERIA.values(), ids=CRITERIA.keys())
with_and_without_weight = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])


def batch(n: int = 11, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(n, len(COUNTS), generator=generator, dtype=dtype)
    return logits, torch.randint(len(COUNTS), (n,), generator=generator)


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
    assert close(build(weight=uniform_weights(COUNTS))(logits, labels), build()(logits, labels))


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
    renamed = build(counts=[COUNTS[c] for c in old_of_new], weight=torch.tensor(WEIGHT)[old_of_new])(
        logits[:, old_of_new], new_of_old[labels]
    )
    assert close(renamed, build(weight=torch.tensor(WEIGHT))(logits, labels))


@every_criterion
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_the_float32_loss(build, half):
    logits, labels = batch()
    criterion = build(weight=torch.tensor(WEIGHT))
    loss = criterion(logits.to(half), labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, criterion(logits.to(half).float(), labels))


@every_criterion
def test_double_logits_give_a_double_loss(build):
    assert build(weight=torch.tensor(WEIGHT))(*batch()).dtype == torch.float64


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
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]], requires_grad=True)
    loss = build()(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0])
def test_focal_gradient_is_finite_where_the_model_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    FocalLoss(gamma=gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad.abs().max() < 1e-6


@every_criterion
def test_compiled_equals_eager(build):
    logits, labels = batch()
    criterion = build(weight=torch.tensor(WEIGHT))
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    assert close(compiled(logits, labels), criterion(logits, labels))


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


def test_settings_show_in_the_representation():
    assert repr(LDAMLoss(COUNTS)) == "LDAMLoss(max_margin=0.5, scale=30.0, unweighted)"
    assert repr(FocalLoss(weight=torch.ones(4))) == "FocalLoss(gamma=1.0, weighted)"


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [LDAMLoss, BalancedSoftmaxLoss, LogitAdjustmentLoss])
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([5, 0, 3], "got 0 for class 1"),
        ([5, -2], "got -2 for class 1"),
        ([0.6, 0.4], "must be integers"),
        ([True, True], "must be integers"),
        ([[5, 3]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_counts_must_be_one_positive_integer_per_class(loss, counts, said):
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


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: FocalLoss(gamma=-1.0), "gamma must be at least 0, got -1.0"),
        (lambda: FocalLoss(gamma=float("nan")), "gamma"),
        (lambda: LDAMLoss(COUNTS, max_margin=-0.5), "max_margin must be at least 0, got -0.5"),
        (lambda: LDAMLoss(COUNTS, scale=0.0), "scale must be positive, got 0.0"),
        (lambda: LogitAdjustmentLoss(COUNTS, tau=-1.0), "tau must be at least 0, got -1.0"),
        (lambda: CrossEntropyLoss(label_smoothing=1.5), r"in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
