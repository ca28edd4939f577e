"""Figures of a result against literal loops and cases done by hand."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from safa import evaluate
from safa.data.batches import Batches, InOrder, Normalise
from safa.data.types import Split
from safa.evaluate import Predictions, error, error_per_class, error_per_group, expected_calibration_error, summary


def some(n: int = 200, classes: int = 5, seed: int = 0) -> Predictions:
    """Labels of all classes but the last, predictions right about half of the time."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes - 1, n)
    predictions = np.where(random.rand(n) < 0.5, labels, random.randint(0, classes, n))
    return Predictions(labels, predictions, (0.2 + 0.8 * random.rand(n)).astype(np.float32))


def by_hand(labels: list[int], predictions: list[int], confidence: list[float]) -> Predictions:
    return Predictions(np.array(labels), np.array(predictions), np.array(confidence, dtype=np.float32))


GROUPS = {
    "many": np.array([True, False, True, False, False]),
    "medium": np.array([False, True, False, True, False]),
    "few": np.array([False, False, False, False, True]),
}


# --- errors ------------------------------------------------------------------------------------------------


def test_the_error_is_the_share_of_wrong_images_in_per_cent():
    assert error(by_hand([0, 1, 2, 0], [0, 1, 1, 1], [1, 1, 1, 1])) == 50.0


def test_the_errors_of_classes_are_counted_one_image_at_a_time():
    predicted = some()
    for c, found in enumerate(error_per_class(predicted, 5)):
        rows = [(t, p) for t, p in zip(predicted.labels, predicted.predictions, strict=True) if t == c]
        if not rows:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(100 * sum(t != p for t, p in rows) / len(rows))


def test_a_class_without_images_has_no_error():
    errors = error_per_class(by_hand([0, 0], [0, 2], [1, 1]), 3)
    assert errors[0] == 50
    assert np.isnan(errors[1:]).all()


def test_the_errors_of_groups_are_over_their_images():
    predicted = some()
    for name, found in error_per_group(predicted, GROUPS).items():
        rows = [t != p for t, p in zip(predicted.labels, predicted.predictions, strict=True) if GROUPS[name][t]]
        assert found == (pytest.approx(100 * sum(rows) / len(rows), abs=1e-4) if rows else None)


def test_a_group_is_an_average_over_images_not_over_classes():
    predicted = by_hand([0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1])
    assert error_per_group(predicted, {"many": np.array([True, True])}) == {"many": 25.0}


def test_the_summary_names_the_figures_as_a_result_line_does():
    predicted = some()
    expected = {f"error_{name}": value for name, value in error_per_group(predicted, GROUPS).items()}
    assert summary(predicted, GROUPS) == {"error": error(predicted), **expected}
    assert summary(predicted, GROUPS)["error_few"] is None


# --- calibration -------------------------------------------------------------------------------------------


def literal_ece(predicted: Predictions, bins: int) -> float:
    """Guo et al. 2017, Eq. 2 and 3, bin after bin."""
    total = 0.0
    rows = list(zip(predicted.labels, predicted.predictions, predicted.confidence.astype(float), strict=True))
    for m in range(1, bins + 1):
        inside = [(t == p, c) for t, p, c in rows if (m - 1) / bins < c <= m / bins]
        if inside:
            accuracy = sum(right for right, _ in inside) / len(inside)
            confidence = sum(c for _, c in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return 100 * total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_matches_the_loop_over_bins(bins, seed):
    predicted = some(seed=seed)
    assert expected_calibration_error(predicted, bins) == pytest.approx(literal_ece(predicted, bins), abs=1e-4)


def test_calibration_has_fifteen_bins_unless_told_otherwise():
    predicted = some()
    assert expected_calibration_error(predicted) == pytest.approx(literal_ece(predicted, 15), abs=1e-4)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    assert expected_calibration_error(by_hand([0, 1], [0, 1], [1, 1])) == 0
    assert expected_calibration_error(by_hand([0, 1], [1, 0], [1, 1])) == 100


def test_calibration_of_two_bins_by_hand():
    # (0, .5]: one right at .5, one wrong at .25: accuracy .5, confidence .375; (.5, 1]: one right at .75.
    predicted = by_hand([0, 0, 0], [0, 1, 0], [0.5, 0.25, 0.75])
    assert expected_calibration_error(predicted, bins=2) == pytest.approx(
        100 * (2 / 3 * 0.125 + 1 / 3 * 0.25), abs=1e-4
    )


def test_gaps_of_opposite_sign_do_not_cancel_between_bins_but_do_within():
    apart = by_hand([0, 0], [0, 1], [0.25, 0.75])  # right though unsure, wrong though sure
    assert expected_calibration_error(apart, bins=2) == 75
    assert expected_calibration_error(apart, bins=1) == 0


# --- predicting --------------------------------------------------------------------------------------------


class Pixel(nn.Module):
    """Logits are the first pixels; counts its calls in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.in_training = 0

    def forward(self, images):
        self.in_training += self.training
        return self.drop(images[:, 0, 0, :3])


@pytest.fixture
def batches():
    images = np.zeros((5, 3, 2, 3), dtype=np.uint8)
    images[range(5), 0, 0, [2, 0, 1, 1, 2]] = 255
    split = Split(np.array([2, 0, 1, 0, 0]), images)
    plain = Normalise((0, 0, 0), (1, 1, 1), torch.device("cpu"))
    return Batches(split, InOrder(5, 2), plain, device=torch.device("cpu"), image_size=3)


def test_predictions_are_in_the_order_of_the_images(batches):
    predicted = evaluate.predict(Pixel(), batches)
    assert predicted.labels.tolist() == [2, 0, 1, 0, 0]
    assert predicted.predictions.tolist() == [2, 0, 1, 1, 2]
    assert predicted.correct.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(predicted.confidence, math.e / (math.e + 2), rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_those_of_evaluation_mode_and_the_network_gets_its_mode_back(training, batches):
    model = nn.Sequential(OrderedDict(pixel=Pixel(), fc=nn.Linear(3, 3))).train(training)
    found, labels = evaluate.features(model, batches.epoch(0))
    assert labels.tolist() == [2, 0, 1, 0, 0]
    assert found.argmax(dim=1).tolist() == [2, 0, 1, 1, 2]
    assert model.pixel.in_training == 0
    assert model.training == model.pixel.training == training


@pytest.mark.parametrize("training", [True, False])
def test_a_network_predicts_in_evaluation_mode_and_gets_its_mode_back(training, batches):
    model = Pixel().train(training)
    evaluate.predict(model, batches)
    assert model.in_training == 0
    assert model.training == training
