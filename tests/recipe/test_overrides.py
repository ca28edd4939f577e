"""Overrides reach what they name, and nothing else."""

from __future__ import annotations

import pytest

from safa import recipe as recipes
from safa.errors import UserError
from safa.recipe import Augmenter, Named

TWO_STAGES = "method: x\nstages:\n- {epochs: 1, loss: ldam}\n- {epochs: 2, loss: ldam, augmenter: safa}\n"


def test_an_override_reaches_an_option_of_a_name_inside_a_stage(load):
    recipe = load(TWO_STAGES, "stages.1.augmenter.start=random", "stages.1.loss.max_margin=0.3")
    assert recipe.stages[1].augmenter == Augmenter("safa", options={"start": "random"})
    assert recipe.stages[1].loss == Named("ldam", {"max_margin": 0.3})
    assert recipe.stages[0].loss == Named("ldam")


@pytest.mark.parametrize(
    "path",
    [
        "photos",
        "a b/ 'c' \"d\"",
        "x: y # z",
        "true",
        "12",
        "\\u00e9",
        "né",
        "ph\U0001f600/\U00020bb7",
        "caf\udce9",
        "a\tb\x7f",
        " ".join(100 * ["long"]),
    ],
)
def test_a_text_is_overridden_as_it_is_whatever_its_characters(path, load):
    assert load(TWO_STAGES, recipes.override("data.root", path)).data.root == path


def test_a_number_is_overridden_as_a_number(load):
    assert load(TWO_STAGES, recipes.override("data.imbalance_factor", 50.0)).data.imbalance_factor == 50


def test_an_override_makes_what_is_not_there_yet(load):
    assert load(TWO_STAGES, "data.imbalance_factor=50").data.imbalance_factor == 50
    assert load(TWO_STAGES, "optimizer.weight_decay=5e-4").optimizer.weight_decay == 5e-4


def test_an_override_is_yaml(load):
    recipe = load(
        TWO_STAGES, "schedule.milestones=[3, 4]", "stages.0.weighting={name: effective_number, beta: 0.9}", "clip=null"
    )
    assert recipe.schedule.milestones == (3, 4)
    assert recipe.stages[0].weighting == Named("effective_number", {"beta": 0.9})
    assert recipe.clip is None


def test_stages_are_counted_from_0_or_from_the_end(load):
    assert [s.epochs for s in load(TWO_STAGES, "stages.0.epochs=9").stages] == [9, 2]
    assert [s.epochs for s in load(TWO_STAGES, "stages.-1.epochs=9").stages] == [1, 9]


def test_a_whole_stage_can_be_replaced_even_if_another_is_equal(load):
    text = "method: x\nstages: [{epochs: 1}, {epochs: 1}]"
    assert [s.epochs for s in load(text, "stages.1={epochs: 5}").stages] == [1, 5]


def test_an_override_changes_one_stage_alone_even_if_yaml_repeats_it(load):
    text = "method: x\nstages: [&a {epochs: 1}, *a]"
    assert [s.epochs for s in load(text, "stages.1.epochs=5").stages] == [1, 5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clip", "an override is KEY=VALUE"),
        ("=3", "an override names a key, such as data.imbalance_factor=50, got '=3'"),
        ("stages..epochs=3", "an override names a key"),
        ("stages.2.epochs=1", "'2' is not the number of one of 2 stages, 0-based"),
        ("stages.one.epochs=1", "'one' is not the number"),
        ("schedule.milestones.7=4", "'7' is not the number of one of 2 milestones, 0-based"),
        ("stages.0.loss={name: ldam, name: focal}", "is not valid YAML"),
        ("stages.0.loss=&a [*a]", "is not valid YAML"),
        ("stages.--1.epochs=1", "'--1' is not the number"),
        ("method.x=1", "method must be of type str"),
        ("seed.x=1", "cannot set 'seed.x'"),
        ("loss=[", "'[' is not valid YAML"),
        ("stages.0.los=ldam", "stages[0] has no key 'los'; did you mean 'loss'?"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override, message, load):
    text = TWO_STAGES + "seed: 1\nschedule: {milestones: [1, 2]}\n"
    with pytest.raises(UserError) as error:
        load(text, override)
    assert message in str(error.value)
