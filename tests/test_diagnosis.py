"""What generated rows are worth: every figure against loops, hand-made cases, or torch's own batch norm."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from safa import diagnosis
from safa.clouds import Rows
from safa.diagnosis import (
    batch_statistics,
    diagnose,
    distance_ratio,
    figures_of,
    nearest_mean,
    over_classes,
)
from safa.machine import Machine, accelerator_for
from safa.recipe import Augmenter, Named, Stage
from safa.train import Trainer
from safa.types import Augmented

CLASSES = [0, 0, 0, 1, 1, 2, 4, 4]  # of the unseen features; class 2 has one, class 3 none


def some(n: int, seed: int) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def distance(first: Tensor, second: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(first.tolist(), second.tolist(), strict=True)) ** 0.5


# --- figures of rows ---------------------------------------------------------------------------------------


def literal_nearest_mean(row: Tensor, label: int, unseen: Tensor, itself: int | None) -> float:
    distances = {}
    for name in set(CLASSES):
        rows = [unseen[k] for k, other in enumerate(CLASSES) if other == name and k != itself]
        if rows:
            distances[name] = distance(row, sum(rows) / len(rows))
    return math.nan if label not in distances else 100.0 * (min(distances, key=distances.get) == label)


def literal_ratio(row: Tensor, label: int, unseen: Tensor, itself: int | None) -> float:
    pairs = [(CLASSES[k] == label, distance(row, unseen[k])) for k in range(len(CLASSES)) if k != itself]
    own, other = ([apart for same, apart in pairs if same == wanted] for wanted in (True, False))
    return min(own) / min(other) if own else math.inf


@pytest.mark.parametrize("at_once", [3, 500])
def test_rows_are_judged_by_loops_over_the_unseen_features(at_once, monkeypatch):
    monkeypatch.setattr(diagnosis, "AT_ONCE", at_once)
    unseen, rows, labels = some(8, seed=0), some(10, seed=1), torch.arange(10) % 5
    place = unseen, torch.tensor(CLASSES)
    means, ratios = nearest_mean(rows, labels, *place), distance_ratio(rows, labels, *place)
    pairs = list(zip(rows, labels.tolist(), strict=True))
    expected = [literal_nearest_mean(row, label, unseen, None) for row, label in pairs]
    assert means.tolist() == pytest.approx(expected, nan_ok=True)
    assert {0.0, 100.0} < set(expected)  # and NaN
    assert ratios.tolist() == pytest.approx([literal_ratio(row, label, unseen, None) for row, label in pairs], rel=1e-4)


def test_an_unseen_feature_is_not_judged_by_itself():
    unseen, itself = some(8, seed=0), torch.tensor([6, 0, 5, 3, 2])
    rows, labels = unseen[itself], torch.tensor(CLASSES)[itself]
    place = unseen, torch.tensor(CLASSES), itself
    means, ratios = nearest_mean(rows, labels, *place), distance_ratio(rows, labels, *place)
    which = list(zip(rows, labels.tolist(), itself.tolist(), strict=True))
    assert means.tolist() == pytest.approx([literal_nearest_mean(r, c, unseen, k) for r, c, k in which], nan_ok=True)
    assert ratios.tolist() == pytest.approx([literal_ratio(r, c, unseen, k) for r, c, k in which], rel=1e-4)
    assert means[2].isnan()  # class 2 has no other
    assert ratios[2].isinf()


def test_near_copies_among_many_rows_keep_their_distances():
    """Far from 0, where a product of matrices has no digits left for them."""
    unseen, classes = 100 + some(40, seed=0), torch.arange(40) % 2
    rows = unseen + 1e-3 * some(40, seed=1)
    expected = []
    for row, label in zip(rows.double(), classes.tolist(), strict=True):
        apart = [(int(c), distance(row, other)) for c, other in zip(classes, unseen.double(), strict=True)]
        own, other = (min(d for c, d in apart if (c == label) == same) for same in (True, False))
        expected.append(own / other)
    assert distance_ratio(rows, classes, unseen, classes).tolist() == pytest.approx(expected, rel=1e-4)
    means = nearest_mean(rows, torch.arange(40), unseen, torch.arange(40))  # every feature is a mean
    assert means.tolist() == [100.0] * 40


def test_no_row_at_all_gives_no_figure():
    none, place = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), (some(8, seed=0), torch.tensor(CLASSES))
    assert nearest_mean(*none, *place).shape == distance_ratio(*none, *place).shape == (0,)


def test_every_class_counts_alike_whatever_its_rows():
    values, labels = np.array([1.0, 3.0, 8.0, np.nan, np.inf]), np.array([0, 0, 1, 1, 2])
    assert over_classes(values, labels, [0, 1, 2, 3]) == (2 + 8) / 2
    assert over_classes(values, labels, [0]) == 2
    assert over_classes(values, labels, [2, 3]) is None


def test_ratios_are_averaged_geometrically_and_a_distance_of_zero_is_left_out():
    values, labels = np.array([1.0, 4.0, 0.5, 0.0]), np.array([0, 0, 1, 1])
    assert over_classes(values, labels, [0, 1], geometric=True) == pytest.approx(math.sqrt(2 * 0.5))


def test_figures_are_of_the_network_the_classifiers_input_and_the_layers_input():
    unseen = Rows(
        torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([[0.0], [8.0]]), torch.tensor([[0.0], [4.0]])
    )
    labels, predictions = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    rows = Rows(labels, predictions, torch.tensor([[2.0], [2.0], [2.0]]), torch.tensor([[1.0], [1.0], [3.0]]))
    found = figures_of(rows, unseen, None, {"all": [0, 1], "few": [1], "many": [2]})
    assert found["all"] == {
        "assigned": 25,
        "nearest_mean": 100,
        "distance_ratio": pytest.approx(1 / 3, abs=1e-4),
        "layer_nearest_mean": 50,
        "layer_distance_ratio": 1,  # of 1/3 and 3
    }
    assert found["few"]["layer_distance_ratio"] == 3
    assert set(found["many"].values()) == {None}


# --- batch norm --------------------------------------------------------------------------------------------


def test_batch_statistics_are_those_torch_normalises_with():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0, eps=0.5), nn.Flatten(), nn.BatchNorm1d(12, momentum=1.0))
    images = 2 + torch.rand(5, 3, 2, 2)
    found = batch_statistics(model, lambda: model(images))
    assert list(found) == ["0", "2"]
    for layer, n, eps in ((model[0], 20, 0.5), (model[2], 5, 1e-5)):
        rows, mean, deviation = found.pop(next(iter(found)))
        assert rows == 5
        torch.testing.assert_close(mean, layer.running_mean)
        # torch keeps the variance with divisor n - 1 and normalises with divisor n.
        torch.testing.assert_close(deviation, (layer.running_var * (n - 1) / n + eps).sqrt())
    assert not any(module._forward_pre_hooks for module in model.modules())


class Silent(nn.Module):
    """As many rows of zeros as there are real ones."""

    active, learns_while_idle = True, False

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        rows = torch.cat([features, torch.zeros_like(features)])
        return Augmented(rows, torch.cat([labels, labels]), features.new_zeros(()))


class Network(nn.Module):
    """Batch norm before and after a place, no weights between the place and the second."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.place, self.bn2 = nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.bn2(self.place(self.bn1(images)))
        return self.fc(features.mean(dim=(2, 3)))


def test_shift_and_factor_of_rows_of_zeros_are_as_by_hand(begun, monkeypatch):
    trainer, (images, labels) = begun(Stage(1)), (torch.rand(6, 3, 2, 2), torch.arange(6))
    monkeypatch.setattr(trainer.learner, "model", Network())
    monkeypatch.setattr(trainer.learner, "plug_before", "place")
    monkeypatch.setattr(diagnosis, "_training_batches", lambda *_: iter([(images, labels), (3 * images, labels)]))
    found = diagnosis.batch_norm_shifts(trainer.learner, Stage(1), Silent())
    assert list(found) == ["bn2"]
    # The first batch norm takes scale and mean away, so both batches have the same features.
    mean, deviation = images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0).sqrt()
    features = ((images - mean[:, None, None]) / deviation[:, None, None]).clamp(min=0)
    first, second = features.mean((0, 2, 3)), features.square().mean((0, 2, 3))
    real, grown = (second - first**2).sqrt(), (second / 2 - first**2 / 4).sqrt()
    assert found["bn2"]["shift"] == pytest.approx((first / 2 / real).mean().item(), abs=2e-3)
    assert found["bn2"]["factor"] == pytest.approx((grown / real).mean().item(), abs=2e-3)


# --- a run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tiny_recipe, tiny_data, tmp_path_factory):
    """Trainers that stand at the beginning of their last stage."""

    def begin(*stages: Stage) -> Trainer:
        recipe = replace(tiny_recipe, stages=stages)
        folder = tmp_path_factory.mktemp("run")
        trainer = Trainer(recipe, tiny_data, folder, accelerator_for(recipe, Machine()))
        trainer.learner.enter_up_to(trainer.plan, len(stages) - 1)
        return trainer

    return begin


SAFA = Stage(1, loss=Named("ldam"), sampler=Named("pairs"), augmenter=Augmenter("safa"))


@pytest.fixture(scope="module")
def trainer(begun) -> Trainer:
    trained = begun(SAFA)
    trained.run()
    return trained


@pytest.fixture(scope="module")
def found(trainer) -> dict:
    return diagnose(trainer.learner)


def test_three_kinds_of_rows_have_every_figure_in_the_groups_of_the_classes_generated(found):
    kinds = ["generated", "training", "test"]
    assert [*found["rows"]] == [*found["figures"]] == kinds
    assert all(found["rows"].values())
    for kind in kinds:
        groups = found["figures"][kind]
        assert list(groups) == ["all", "many", "medium", "few"]
        assert len(groups["all"]) == 5
        assert all(value is not None and math.isfinite(value) for value in groups["all"].values())
        assert set(groups["many"].values()) == {None}  # 30 images are no many-shot class
    json.dumps(found, allow_nan=False)


def test_training_rows_are_the_images_trained_on_of_the_classes_generated(trainer, monkeypatch):
    generated, made = diagnosis.generated_rows, []
    monkeypatch.setattr(diagnosis, "generated_rows", lambda *given: made.append(generated(*given)) or made[0])
    found, data = diagnose(trainer.learner), trainer.data
    tail = made[0].labels.unique().numpy()
    trained_on = data.train.take(np.flatnonzero(np.isin(data.train.labels, tail)))
    unseen = int(np.isin(data.source.test.labels, tail).sum())
    assert (found["rows"]["training"], found["rows"]["test"]) == (len(trained_on), unseen)
    images, labels = trainer.learner.parts.images_of(trained_on, np.arange(len(trained_on)))
    with torch.no_grad():
        right = (trainer.learner.model.eval()(images).argmax(1) == labels).float()
    expected = np.mean([100 * right[labels == c].mean().item() for c in tail])
    assert found["figures"]["training"]["all"]["assigned"] == pytest.approx(expected, abs=1e-2)


def test_batch_norms_after_the_rows_are_told_in_their_order(found):
    assert list(found["batch_norm"]) == ["layer3.0.bn1", "layer3.0.bn2"]
    assert all(figure > 0 for figures in found["batch_norm"].values() for figure in figures.values())


def test_looking_changes_nothing_and_gives_the_same_twice(trainer, found):
    before = copy.deepcopy([trainer.learner.model.state_dict(), trainer.learner.augmenter.state_dict()])
    assert diagnose(trainer.learner) == found
    after = [trainer.learner.model.state_dict(), trainer.learner.augmenter.state_dict()]
    for first, second in zip(before, after, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_whose_training_was_whole_before_it_was_killed_says_the_same(trainer, found):
    resumed = Trainer(trainer.recipe, trainer.data, trainer.folder, trainer.accelerator)
    resumed.run()
    assert diagnose(resumed.learner) == found


@pytest.mark.parametrize(
    "last",
    [
        Stage(1),
        Stage(1, augmenter=Augmenter("rsg"), generate=False),
        Stage(1, augmenter=Augmenter("mixup")),
    ],
    ids=["no augmenter", "an idle one", "one that mixes"],
)
def test_a_run_whose_last_stage_generates_nothing_has_no_diagnostics(begun, last):
    assert diagnose(begun(SAFA, last).learner) is None


def test_an_augmenter_that_finds_nothing_to_generate_has_no_diagnostics(trainer, monkeypatch):
    class Idle(nn.Module):
        learns_while_idle = False

        def forward(self, features: Tensor, labels: Tensor) -> Augmented:
            return Augmented(features, labels, features.new_zeros(()))

    monkeypatch.setattr(trainer.learner, "augmenter", Idle())
    assert diagnose(trainer.learner) is None
