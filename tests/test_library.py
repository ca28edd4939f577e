"""The recipes that come with the library: each can be found, is titled, and names only what there is."""

from __future__ import annotations

import dataclasses

import pytest

from safa import library
from safa import recipe as recipes
from safa.catalog import resolve
from safa.errors import UserError


@pytest.mark.parametrize("name", library.names())
def test_every_recipe_names_only_what_the_catalog_has(name):
    recipe = recipes.load(library.find(name)[1])
    resolve("backbone", recipe.model.backbone.name)
    resolve("head", recipe.model.head.name)
    for stage in recipe.stages:
        for kind in ("loss", "weighting", "sampler", "augmenter"):
            named = getattr(stage, kind)
            if named is not None:
                resolve(kind, named.name)


@pytest.mark.parametrize("name", library.names())
def test_every_recipe_is_titled_and_named_after_its_method(name):
    path = library.find(name)[1]
    assert library.title(path)
    assert path.stem.startswith(recipes.load(path).method.lower().split("-")[0])


@pytest.mark.parametrize("name", [name for name in library.names() if name.startswith("cifar")])
def test_the_recipes_for_cifar_are_those_of_200_epochs(name):
    recipe = recipes.load(library.find(name)[1])
    assert recipe.epochs == 200
    assert recipe.schedule == recipes.Schedule()
    assert recipe.optimizer == recipes.Optimizer()
    assert recipe.batch_size == 128


def test_what_belongs_together_differs_by_what_its_name_says():
    drw, safa = (recipes.load(library.find(f"digits/{name}")[1]) for name in ("ldam-drw", "ldam-drw-safa"))
    assert dataclasses.replace(safa, method=drw.method, stages=drw.stages) == drw
    plain = dataclasses.replace(safa.stages[1], augmenter=None, sampler=drw.stages[1].sampler)
    assert (safa.stages[0], plain) == drw.stages


def test_a_recipe_is_found_by_name_or_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: x")
    assert library.find(str(path)) == ("mine", path)
    name, found = library.find("digits/ldam-drw")
    assert name == "digits/ldam-drw"
    assert found.is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits/ldam-drv", "no recipe is called 'digits/ldam-drv'; did you mean 'digits/ldam-drw'?"),
        ("nothing", "no recipe is called 'nothing'"),
        ("absent.yaml", "there is no recipe file absent.yaml"),
        (".", "no recipe is called '.'"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_closest(name, message):
    with pytest.raises(UserError) as error:
        library.find(name)
    assert message in str(error.value)


def test_a_recipe_without_a_comment_has_no_title(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: x")
    assert library.title(path) == ""
