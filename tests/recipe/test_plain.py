"""Recipes from mappings: defaults, names with options, and a clear word about whatever does not fit."""

from __future__ import annotations

import pytest

from safa import recipe as recipes
from safa.errors import UserError
from safa.recipe import Augmenter, Recipe, Stage
from tests.recipe.conftest import with_keys


def test_defaults_are_left_out():
    assert recipes.dump(Recipe("CE", (Stage(3),))) == "method: CE\nstages:\n- epochs: 3\n"


def test_a_name_alone_and_a_mapping_with_a_name_are_the_same(load):
    short = load(with_keys("model: {backbone: resnet20}"))
    assert short == load(with_keys("model: {backbone: {name: resnet20}}"))


def test_of_an_augmenter_all_but_its_own_keys_are_options():
    plain = {"name": "safa", "before": "layer2", "lr_scale": 0.5, "start": "random"}
    recipe = recipes.from_plain({"method": "x", "stages": [{"epochs": 1, "augmenter": plain}]})
    assert recipe.stages[0].augmenter == Augmenter("safa", "layer2", 0.5, {"start": "random"})


def test_a_whole_number_stands_for_a_real_one_but_not_the_other_way_round(load):
    assert load(with_keys("clip: 1")).clip == 1.0
    with pytest.raises(UserError, match="batch_size must be of type int, got 64.0"):
        load(with_keys("batch_size: 64.0"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 3", "has no key 'sede'; did you mean 'seed'?"),
        ("data: {imbalance: 100}", "data has no key 'imbalance'; did you mean 'imbalance_factor'?"),
        ("model: {bakbone: resnet32}", "model has no key 'bakbone'; did you mean 'backbone'?"),
        ("optimizer: {momentun: 0.9}", "optimizer has no key 'momentun'; did you mean 'momentum'?"),
        ("schedule: {warmup: 5}", "schedule has no key 'warmup'; did you mean 'warmup_epochs'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest(text, message, load):
    with pytest.raises(UserError) as error:
        load(with_keys(text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("{epochs: 1, wieghting: x}", "stages[0] has no key 'wieghting'; did you mean 'weighting'?"),
        ("{epochs: 1, optimizer: {lr: 1}}", "stages[0].optimizer has no key 'lr'"),
        (
            "{epochs: 1, schedule: {milestone: [1]}}",
            "stages[0].schedule has no key 'milestone'; did you mean 'milestones'?",
        ),
    ],
)
def test_an_unknown_key_inside_a_stage_is_refused_with_the_closest(stage, message, load):
    with pytest.raises(UserError) as error:
        load(f"method: x\nstages: [{stage}]")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: one", "seed must be of type int, got 'one'"),
        ("seed: true", "seed must be of type int, got True"),
        ("optimizer: {nesterov: 1}", "optimizer.nesterov must be of type bool, got 1"),
        ("schedule: {milestones: 160}", "schedule.milestones must be a list, got 160"),
        ("schedule: {milestones: [a]}", "schedule.milestones[0] must be of type int, got 'a'"),
        (
            "schedule: {kind: multistp}",
            "schedule.kind must be one of multistep, cosine, got 'multistp'; did you mean 'multistep'?",
        ),
        ("precision: bf15", "precision must be one of float32, bf16, fp16, got 'bf15'; did you mean 'bf16'?"),
        ("data: cifar10", "data must be a mapping, got 'cifar10'"),
        ("model: {backbone: 32}", "model.backbone must be a name or a mapping with a 'name', got 32"),
        ("model: {head: {name: cosine, 1: 2}}", "model.head has the key 1; names of options are text"),
        ("model: {head: {scale: 30}}", "model.head must be a name or a mapping with a 'name'"),
        ("data: {imbalance_factor: many}", "data.imbalance_factor must be of type float, got 'many'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(text, message, load):
    with pytest.raises(UserError) as error:
        load(with_keys(text))
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["method: x", "stages: [{epochs: 1}]"])
def test_a_missing_key_is_named(text, load):
    with pytest.raises(UserError, match=r"lacks the key '(method|stages)'"):
        load(text)
