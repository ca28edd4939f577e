"""The features behind Fig. 1: of which classes, of which kinds, and of an unchanged network."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from safa import clouds, recipe
from safa.clouds import GENERATED, REAL, TEST, chosen_classes
from safa.machine import Machine, accelerator_for
from safa.train import Trainer
from safa.types import Augmented


@pytest.fixture(scope="module")
def trainer(tiny_recipe, tiny_data, tmp_path_factory) -> Trainer:
    stages = tuple(replace(stage, epochs=1) for stage in tiny_recipe.stages)
    short = replace(tiny_recipe, stages=stages)
    made = Trainer(short, tiny_data, tmp_path_factory.mktemp("run"), accelerator_for(short, Machine()))
    made.run()
    return made


@pytest.fixture(scope="module")
def found(trainer) -> dict[str, np.ndarray]:
    return clouds.features(trainer.learner)


def test_classes_are_the_three_largest_head_and_the_two_rarest_tail_classes():
    counts = [1, 50, 3, 40, 2, 30, 20, 10, 60, 5]
    assert chosen_classes(counts, head_ratio=0.4) == ([8, 1, 3], [4, 0])
    assert chosen_classes(counts, head_ratio=0.1) == ([8], [4, 0])
    assert chosen_classes([3, 2], head_ratio=0.5) == ([0], [1])


def test_every_row_has_features_a_label_and_a_kind(found, trainer):
    n = len(found["labels"])
    assert found["features"].shape == (n, trainer.learner.model.fc.in_features)
    assert found["features"].dtype == np.float32
    assert found["kind"].shape == found["is_head"].shape == (n,)
    assert np.isfinite(found["features"]).all()


def test_real_and_unseen_rows_are_the_images_of_the_chosen_classes(found, trainer):
    head, tail = chosen_classes(trainer.data.class_counts, trainer.data.spec.head_ratio)
    for kind, split in ((REAL, trainer.data.train), (TEST, trainer.data.source.test)):
        expected = [min(100, int((split.labels == c).sum())) for c in head + tail]
        assert [int((found["labels"][found["kind"] == kind] == c).sum()) for c in head + tail] == expected
    assert found["is_head"].tolist() == np.isin(found["labels"], head).tolist()


def test_no_class_has_more_rows_of_a_kind_than_are_drawn(trainer, monkeypatch):
    monkeypatch.setattr(clouds, "SHOWN_PER_CLASS", 2)
    few = clouds.features(trainer.learner)
    for kind in (REAL, TEST, GENERATED):
        assert np.unique(few["labels"][few["kind"] == kind], return_counts=True)[1].max() == 2


def test_generated_rows_are_of_tail_classes(found, trainer):
    _, tail = chosen_classes(trainer.data.class_counts, trainer.data.spec.head_ratio)
    generated = found["labels"][found["kind"] == GENERATED]
    assert len(generated)
    assert set(generated) <= set(tail)


def test_features_are_what_enters_the_classifier(found, trainer):
    rows = found["kind"] == TEST
    logits = trainer.learner.model.eval().fc(torch.from_numpy(found["features"][rows]))
    split = trainer.data.source.test
    head, tail = chosen_classes(trainer.data.class_counts, trainer.data.spec.head_ratio)
    chosen = np.concatenate([np.flatnonzero(split.labels == c)[:100] for c in head + tail])
    images, _ = trainer.learner.parts.images_of(split, chosen)
    with torch.no_grad():
        torch.testing.assert_close(logits, trainer.learner.model(images))


@pytest.mark.parametrize("name", ["safa", "feature_transfer", "rsg", "delta_encoder"])  # all but the first learn idle
def test_looking_changes_neither_network_nor_augmenter(name, tiny_recipe, tiny_data, tmp_path):
    one = replace(tiny_recipe, stages=(recipe.Stage(1, augmenter=recipe.Augmenter(name)),))
    trainer = Trainer(one, tiny_data, tmp_path, accelerator_for(one, Machine()))
    trainer.learner.enter_up_to(trainer.plan, 0)
    parts = trainer.learner.model, trainer.learner.augmenter
    before = copy.deepcopy([part.state_dict() for part in parts])
    training = [module.training for module in trainer.learner.augmenter.modules()]
    assert GENERATED in clouds.features(trainer.learner)["kind"]
    for first, part in zip(before, parts, strict=True):
        second = part.state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert [module.training for module in trainer.learner.augmenter.modules()] == training
    assert not trainer.learner.model.fc._forward_pre_hooks


class Twice(nn.Module):
    """Every row once more, moved by one."""

    active, learns_while_idle = True, False

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        return Augmented(torch.cat([features, features + 1]), torch.cat([labels, labels]), features.new_zeros(()))


def test_rows_are_those_of_the_images_and_then_those_made_of_them(trainer, monkeypatch):
    images, labels = trainer.learner.parts.images_of(trainer.data.train, np.arange(5))
    alone = clouds.look(trainer.learner, images, labels)
    entered: list[Tensor] = []
    with (
        trainer.learner.model.layer3.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])),
        torch.no_grad(),
    ):
        logits = trainer.learner.model.eval()(images)
    torch.testing.assert_close(alone.layer, entered[0].mean((2, 3)))
    torch.testing.assert_close(trainer.learner.model.fc(alone.classifier), logits)
    assert torch.equal(alone.predictions, logits.argmax(1))
    both = clouds.look(trainer.learner, images, labels, Twice())
    torch.testing.assert_close(both.layer, torch.cat([alone.layer, alone.layer + 1]))
    torch.testing.assert_close(both.classifier[:5], alone.classifier)
    assert both.labels.tolist() == 2 * labels.tolist()
    idle = Twice()
    idle.active = False
    assert torch.equal(clouds.look(trainer.learner, images, labels, idle).layer, alone.layer)
    # Before the classifier itself, both places are one.
    monkeypatch.setattr(trainer.learner, "plug_before", "fc")
    both = clouds.look(trainer.learner, images, labels, Twice())
    torch.testing.assert_close(both.classifier, torch.cat([alone.classifier, alone.classifier + 1]))
    assert torch.equal(both.layer, both.classifier)


def test_looking_twice_gives_the_same_features(found, trainer):
    again = clouds.features(trainer.learner)
    assert all(np.array_equal(found[key], again[key]) for key in found)


def test_images_that_do_not_fit_at_once_have_the_same_features_and_rows_of_every_tail_class(
    found, trainer, monkeypatch
):
    monkeypatch.setattr(type(trainer.learner.parts), "evaluation_batch", 20)
    parts = clouds.features(trainer.learner)
    for kind in (REAL, TEST):
        whole, part = (rows["features"][rows["kind"] == kind] for rows in (found, parts))
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)
    generated = [set(rows["labels"][rows["kind"] == GENERATED]) for rows in (found, parts)]
    assert generated[0] == generated[1]


def test_without_an_augmenter_there_are_no_generated_rows(tiny_recipe, tiny_data, tmp_path):
    plain = replace(tiny_recipe, stages=(recipe.Stage(1),))
    trainer = Trainer(plain, tiny_data, tmp_path, accelerator_for(plain, Machine()))
    trainer.run()
    assert set(clouds.features(trainer.learner)["kind"]) == {REAL, TEST}


def test_a_kind_without_images_of_the_chosen_classes_is_left_out(trainer, monkeypatch):
    source = trainer.data.source
    head, tail = chosen_classes(trainer.data.class_counts, trainer.data.spec.head_ratio)
    others = np.flatnonzero(~np.isin(source.test.labels, head + tail))
    monkeypatch.setattr(
        trainer.learner, "data", replace(trainer.data, source=replace(source, test=source.test.take(others)))
    )
    assert set(clouds.features(trainer.learner)["kind"]) == {REAL, GENERATED}
