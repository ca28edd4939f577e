"""Recipes to YAML and back, and files that hold none."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safa import library
from safa import recipe as recipes
from safa.errors import UserError
from safa.recipe import Data, Named, Optimizer, Stage
from tests.recipe.conftest import FULL


def test_a_recipe_survives_yaml(load):
    assert load(recipes.dump(FULL)) == FULL


@pytest.mark.parametrize("name", library.names())
def test_the_recipes_of_the_library_load_and_survive_yaml(name, load):
    recipe = recipes.load(library.find(name)[1])
    assert load(recipes.dump(recipe)) == recipe


@settings(deadline=None)  # the machine may be busy
@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    weight_decay=st.floats(0, 10),
    option=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False), st.integers(), st.booleans()
    ),
)
def test_whatever_a_name_or_number_looks_like_it_survives_yaml(name, weight_decay, option, tmp_path_factory):
    recipe = dataclasses.replace(
        FULL,
        data=Data(name),
        optimizer=Optimizer(weight_decay=weight_decay),
        stages=(Stage(1, loss=Named("ldam", {"x": option})),),
    )
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(path) == recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"method: [", "is not valid YAML"),
        (b"method: !!float many", "is not valid YAML"),
        (b"x: &a [*a]", "something in it holds itself"),
        (b"stages: 1\nmethod: x\nstages: 2\n", "the key 'stages' stands twice in one mapping, in lines 1 and 3"),
        (b"stages: [{loss: ldam, epochs: 1, loss: focal}]", "the key 'loss' stands twice in one mapping, in line 1"),
        (b"- a\n", "holds no recipe"),
        (b"", "holds no recipe"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_what_is_no_recipe_is_called_so(content, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        recipes.load(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.epochs=x", "recipe.stages[0].epochs must be of type int, got 'x'"),
        ("stages.-1.epochs=x", "recipe.stages[0].epochs must be of type int, got 'x'"),
        (
            "data.augmentation.flip=false",
            "recipe.data.augmentation must be a name or a mapping with a 'name', got {'flip': False}",
        ),
        ("schedule.milestones.1=x", "recipe.schedule.milestones[1] must be of type int, got 'x'"),
        ("method=' '", "recipe.method is what tables call the run, so it cannot be empty"),
        ("model=3", "recipe.model must be a mapping, got 3"),
        ("model.nme=3", "recipe.model has no key 'nme'"),
        ("nme=3", "recipe has no key 'nme'"),
        ("precision=bf61", "recipe.precision must be one of float32, bf16, fp16, got 'bf61'"),
    ],
)
def test_an_error_in_what_was_set_names_that_and_not_the_file(override, message, load):
    text = "method: x\nstages: [{epochs: 1}]\nschedule: {milestones: [1, 2]}\n"
    with pytest.raises(UserError) as error:
        load(text, "seed=3", override)
    assert str(error.value).startswith(f"{override}: {message}")


@pytest.mark.parametrize("overrides", [(), ("seed=3", "stages.0.evaluate_every=2")])
def test_an_error_in_what_the_file_says_names_the_file(overrides, load):
    with pytest.raises(UserError, match=r"/recipe\.yaml\.stages\[0\]\.epochs must be of type int, got 'x'"):
        load("method: x\nstages: [{epochs: x}]\n", *overrides)


def test_an_error_of_the_file_is_not_that_of_a_key_whose_name_begins_alike(load):
    with pytest.raises(UserError) as error:
        load("method: x\nstages: [{epochs: 1}]\ndata: {validation_per_class: x}\n", "data.validation=0.1")
    assert not str(error.value).startswith("data.validation=0.1")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the recipe .*absent\.yaml"):
        recipes.load(tmp_path / "absent.yaml")
