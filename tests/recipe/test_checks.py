"""Values out of range, and settings that would do nothing, are refused before anything starts."""

from __future__ import annotations

import pytest

from safa.errors import UserError
from tests.recipe.conftest import with_keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: 1", "batch_size must be at least 2"),
        ("clip: 0", "clip is the largest norm of the gradient, above 0, got 0"),
        ("data: {validation: 1}", "validation is a fraction in [0, 1), got 1"),
        ("data: {head_ratio: 1.5}", "head_ratio is the share of classes that are head, in (0, 1), got 1.5"),
        ("data: {many_above: -1}", "data.many_above must be at least 0, got -1"),
        ("data: {few_below: -7, many_above: 3}", "data.few_below must be at least 0, got -7"),
        ("data: {image_size: 0}", "image_size is a number of pixels, got 0"),
        ("data: {imbalance_factor: .nan}", "imbalance_factor is largest over smallest class, so at least 1, got nan"),
        ("schedule: {lr: -0.1}", "schedule.lr must be at least 0, got -0.1"),
        ("schedule: {final: -0.1}", "schedule.final must be at least 0, got -0.1"),
        ("schedule: {factor: -1}", "schedule.factor must be at least 0, got -1"),
        ("schedule: {warmup_epochs: -1}", "schedule.warmup_epochs must be at least 0, got -1"),
        ("optimizer: {momentum: -1}", "optimizer.momentum must be at least 0, got -1"),
        ("optimizer: {weight_decay: .inf}", "optimizer.weight_decay must be at least 0, got inf"),
        ("optimizer: {momentum: 0, nesterov: true}", "nesterov needs a momentum above 0"),
        ("stages: []", "stages is empty; a run needs at least one stage"),
        ("stages: [{epochs: -1}]", "stages[0].epochs must be at least 0, got -1"),
        ("stages: [{epochs: 1, averaged_epochs: .inf}]", "reaches back, above 0, got inf"),
        (
            "stages: [{epochs: 1, averaged_epochs: 0}]",
            "stages[0].averaged_epochs is how many epochs an average of the weights reaches back, above 0, got 0",
        ),
        ("stages: [{epochs: 1, evaluate_every: 0}]", "stages[0].evaluate_every must be at least 1, got 0"),
        ("stages: [{epochs: 1, optimizer: {momentum: -1}}]", "stages[0].optimizer.momentum must be at least 0"),
        ("stages: [{epochs: 1, schedule: {lr: -1}}]", "stages[0].schedule.lr must be at least 0"),
        (
            "stages: [{epochs: 1, augmenter: {name: safa, lr_scale: -3}}]",
            "augmenter.lr_scale must be at least 0, got -3",
        ),
        ("stages: [{epochs: 1, augmenter: {name: safa, lr_scale: .inf}}]", "lr_scale must be at least 0, got inf"),
        ("stages: [{loss: ldam}]", "stages[0] lacks the key 'epochs'"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_starts(text, message, load):
    start = "method: CE\n" if text.startswith("stages") else with_keys()
    with pytest.raises(UserError) as error:
        load(start + text)
    assert message in str(error.value)


def test_a_factor_that_is_asked_for_must_cut_a_tail(load):
    as_found = with_keys("data: {profile: as_found, imbalance_factor: 20}")  # as the folder of a run may name both
    assert load(as_found).data.imbalance_factor == 20
    with pytest.raises(UserError, match="imbalance_factor 50 cuts nothing where data.profile is as_found"):
        load(as_found, "data.imbalance_factor=50")
    with pytest.raises(UserError, match="largest 5 cuts nothing where data.profile is as_found"):
        load(as_found, "data.largest=5")
    assert load(as_found, "data.largest=null").data.largest is None
    assert load(as_found, "data.imbalance_factor=50", "data.profile=step").data.imbalance_factor == 50


def test_an_inverse_imbalance_factor_is_recognised(load):
    with pytest.raises(UserError) as error:
        load(with_keys("data: {imbalance_factor: 0.01}"))
    expected = "imbalance_factor is largest over smallest class, so at least 1, got 0.01; did you mean 100?"
    assert str(error.value) == expected
