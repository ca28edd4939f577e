"""What holds for every loss of the catalog.

| check | for a loss |
|---|---|
| finite and falling | a linear classifier that descends on it |
| gradients | reach every logit |
| state | there is none: it is rebuilt from its settings, and nothing of it is in a checkpoint or an export |
| other class names | permute logits, labels, counts and weights, and the loss stays |
| no tail, no head, one class | rows do not depend on the rows beside them |
| float32 and bf16 | half-precision logits are lifted, to the bit |
| deterministic | the same bits twice, in training and in evaluation |
| a known thing | with ``CASES[name].plain`` it is cross-entropy; it matches ``CASES[name].row``, written out |

Each with class ids and soft labels, with and without class weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.catalog import CATALOG, build
from tests.conformance.toy import CLASSES, COUNTS, NEW_OF_OLD, OLD_OF_NEW, RENAMED_COUNTS, entry, features, one_hot
from tests.reference import losses as literal

WEIGHT = [0.8, 0.3, 1.9]
ONES = [1.0] * CLASSES


@dataclass(frozen=True)
class Case:
    """What a newcomer says of itself.

    Attributes:
        row: the loss of one row of logits, had its label been a class; unweighted, by its definition.
        options: settings to be tested with, at none of which it is simpler than it is.
        plain: settings with which it is cross-entropy.
        plain_counts: class counts with which it is.
        per_image: whether the mean divides by the number of images, not by their weights.
    """

    row: Callable[[list[float], int], float]
    options: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)
    plain_counts: Sequence[int] = tuple(COUNTS)
    per_image: bool = False


CASES = {
    "cross_entropy": Case(lambda row, y: literal.cross_entropy([row], [y], ONES)),
    "focal": Case(
        lambda row, y: literal.focal([row], [y], 1.5, ONES),
        options={"gamma": 1.5},
        plain={"gamma": 0.0},
        per_image=True,
    ),
    "ldam": Case(
        lambda row, y: literal.ldam_from_cosines([[z / 3 for z in row]], [y], COUNTS, 0.4, 3.0, ONES),
        options={"max_margin": 0.4, "scale": 3.0},
        plain={"max_margin": 0.0},
    ),
    "balanced_softmax": Case(lambda row, y: literal.balanced_softmax([row], [y], COUNTS, ONES), plain_counts=[9] * 3),
    "logit_adjustment": Case(
        lambda row, y: literal.logit_adjustment([row], [y], COUNTS, 0.7, ONES),
        options={"tau": 0.7},
        plain={"tau": 0.0},
    ),
}
WANTED = "to CASES its loss of one row, written out, and the settings with which it is cross-entropy"

every_loss = pytest.mark.parametrize("name", CATALOG["loss"])
weighted_or_not = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
hard_or_soft = pytest.mark.parametrize("soft", [False, True], ids=["class ids", "soft labels"])
mean_or_rows = pytest.mark.parametrize("reduction", ["mean", "none"])


def criterion(name: str, weight: list[float] | None = None, counts: Sequence[int] = COUNTS, **options: Any) -> Any:
    given = None if weight is None else torch.tensor(weight)
    options = {**entry(CASES, "loss", name, WANTED).options, **options}
    return build("loss", name, options, class_counts=list(counts), weight=given)


def batch(soft: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(11, CLASSES, generator=generator, dtype=dtype)
    shares = torch.randn(11, CLASSES, generator=generator, dtype=dtype).softmax(1)
    return logits, shares if soft else torch.arange(11) % CLASSES


def close(actual: Tensor, expected: Tensor) -> None:
    # Weights, margins and counts are kept in float32, so seven digits.
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-6, atol=1e-7)


def shares_of(labels: Tensor) -> Tensor:
    return labels if labels.is_floating_point() else one_hot(labels)


# --- by its definition -------------------------------------------------------------------------------------


@every_loss
@weighted_or_not
@hard_or_soft
def test_it_matches_its_definition_written_out(name, weight, soft):
    case = entry(CASES, "loss", name, WANTED)
    logits, labels = batch(soft)
    weights, shares = weight or ONES, shares_of(labels).tolist()
    rows = literal.soft_rows(lambda i, c: case.row(logits[i].tolist(), c), shares, weights)
    mean = sum(rows) / len(rows) if case.per_image else literal.soft_mean(rows, shares, weights)
    close(criterion(name, weight, reduction="none")(logits, labels), torch.tensor(rows))
    close(criterion(name, weight)(logits, labels), torch.tensor(mean, dtype=torch.float64))


@weighted_or_not
@hard_or_soft
def test_label_smoothing_moves_labels_towards_all_classes_alike(weight, soft):
    logits, labels = batch(soft)
    weights, shares = weight or ONES, shares_of(labels).tolist()
    smoothed = [[0.7 * share + 0.3 / CLASSES for share in row] for row in shares]
    rows = literal.soft_rows(lambda i, c: literal.cross_entropy([logits[i].tolist()], [c], ONES), smoothed, weights)
    mean = literal.soft_mean(rows, shares, weights)
    close(criterion("cross_entropy", weight, reduction="none", label_smoothing=0.3)(logits, labels), torch.tensor(rows))
    close(criterion("cross_entropy", weight, label_smoothing=0.3)(logits, labels), torch.tensor(mean).double())


@every_loss
@weighted_or_not
@hard_or_soft
@mean_or_rows
def test_it_reduces_to_cross_entropy(name, weight, soft, reduction):
    case = entry(CASES, "loss", name, WANTED)
    logits, labels = batch(soft)
    plain = criterion(name, weight, case.plain_counts, **case.plain, reduction=reduction)
    weights = torch.tensor(weight or ONES, dtype=torch.float64)
    rows = F.cross_entropy(logits, labels, weights, reduction="none")
    total = 11 if case.per_image else (shares_of(labels) * weights).sum()
    close(plain(logits, labels), rows if reduction == "none" else rows.sum() / total)


@every_loss
def test_it_is_not_tested_at_a_setting_at_which_it_is_simpler(name):
    """Else the definition above would be compared with that of cross-entropy."""
    logits, labels = batch()
    case = entry(CASES, "loss", name, WANTED)
    plain = criterion(name, None, case.plain_counts, **case.plain)(logits, labels)
    same = torch.allclose(criterion(name)(logits, labels), plain, rtol=1e-3)
    assert same == (not case.plain and list(case.plain_counts) == COUNTS)


# --- learning ----------------------------------------------------------------------------------------------


@every_loss
@weighted_or_not
@hard_or_soft
def test_a_classifier_that_descends_on_it_stays_finite_and_brings_it_down(name, weight, soft):
    inputs, ids = features()
    labels = 0.9 * one_hot(ids).float() + 0.1 / CLASSES if soft else ids
    torch.manual_seed(0)
    classifier, loss_of = nn.Linear(6, CLASSES), criterion(name, weight)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        loss = loss_of(classifier(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert torch.stack(losses).isfinite().all()
    assert losses[-1] < 0.7 * losses[0]
    right = classifier(inputs).argmax(1) == ids
    assert min(right[ids == c].float().mean() for c in range(CLASSES)) > 0.5  # of every class, the rarest too


@every_loss
@weighted_or_not
@hard_or_soft
@mean_or_rows
def test_gradients_reach_every_logit(name, weight, soft, reduction):
    logits, labels = batch(soft)
    logits.requires_grad_()
    criterion(name, weight, reduction=reduction)(logits, labels).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).all()


# --- state, names, batches ---------------------------------------------------------------------------------


@every_loss
def test_it_is_rebuilt_from_its_settings_and_leaves_nothing_in_a_checkpoint(name):
    one = criterion(name, WEIGHT)
    assert one.state_dict() == {}
    assert list(one.parameters()) == []
    one(*batch())  # which leaves no trace
    assert torch.equal(one(*batch()), criterion(name, WEIGHT)(*batch()))
    assert torch.equal(copy.deepcopy(one)(*batch()), one(*batch()))


@every_loss
def test_its_tensors_move_with_it(name):
    moved = criterion(name, WEIGHT).to("meta")
    assert {value.device.type for value in vars(moved).values() if isinstance(value, Tensor)} <= {"meta"}
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}


@every_loss
@weighted_or_not
@hard_or_soft
@mean_or_rows
def test_other_class_names_change_nothing(name, weight, soft, reduction):
    logits, labels = batch(soft)
    weights = None if weight is None else [weight[c] for c in OLD_OF_NEW]
    renamed = labels[:, OLD_OF_NEW] if soft else NEW_OF_OLD[labels]
    one = criterion(name, weight, reduction=reduction)(logits, labels)
    close(criterion(name, weights, RENAMED_COUNTS, reduction=reduction)(logits[:, OLD_OF_NEW], renamed), one)


PARTS = {"no tail": [1, 4, 7, 10], "no head": [0, 2, 3, 5], "one tail class": [2, 5, 8], "one image": [6]}


@every_loss
@weighted_or_not
@hard_or_soft
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_rows_of_a_batch_without_some_classes_are_those_of_a_whole_batch(name, weight, soft, part):
    logits, labels = batch(soft)
    rows = criterion(name, weight, reduction="none")
    assert torch.equal(rows(logits[part], labels[part]), rows(logits, labels)[part])
    logits = logits[part].requires_grad_()
    loss = criterion(name, weight)(logits, labels[part])
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


# --- precision, repetition ---------------------------------------------------------------------------------


@every_loss
@weighted_or_not
@hard_or_soft
@mean_or_rows
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_the_float32_loss(name, weight, soft, reduction, half):
    logits, labels = batch(soft, torch.float32)
    loss = criterion(name, weight, reduction=reduction)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(logits.to(half), labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits.to(half).float(), labels))


@every_loss
def test_the_same_batch_loses_the_same_in_training_and_in_evaluation(name):
    loss = criterion(name, WEIGHT)
    first = loss(*batch())
    torch.manual_seed(1)
    assert torch.equal(loss.eval()(*batch()), first)
