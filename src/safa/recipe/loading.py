"""Recipes from files and mappings, and back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from safa.errors import UserError
from safa.recipe.checks import check, refuse_idle_cuts
from safa.recipe.fields import Recipe
from safa.recipe.overrides import apply_override, is_at
from safa.recipe.plain import read, to_plain
from safa.recipe.text import dumped, parsed


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, with ``key=value`` overrides such as ``data.imbalance_factor=50``.

    Raises:
        UserError: for a missing file, broken YAML, an unknown key (with the closest existing one), a wrong type, or
            an override that would change nothing.
    """
    try:
        plain = parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8, so it is no recipe") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds no recipe; it must be a mapping with at least 'method' and 'stages'")
    for override in overrides:
        apply_override(plain, override)
    keys = [override.partition("=")[0] for override in overrides]
    try:
        recipe = from_plain(plain, str(path))
    except UserError as error:
        place = str(error).removeprefix(str(path))
        given = [override for override in overrides if is_at(place, override)]
        if not given:
            raise
        # It must not send a user to the file for a value that came from elsewhere.
        raise UserError(f"{given[-1]}: recipe{place}") from error
    refuse_idle_cuts(recipe.data, [key.removeprefix("data.") for key in keys if key.startswith("data.")])
    return recipe


def from_plain(plain: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Recipe from nested mappings, lists and scalars, as YAML gives them."""
    recipe = read(Recipe, plain, where)
    assert isinstance(recipe, Recipe)
    check(recipe, where)
    return recipe


def dump(recipe: Recipe, defaults: bool = False) -> str:
    """The recipe as YAML, with or without what stands at its default; ``load`` gives it back."""
    return dumped(to_plain(recipe, defaults))
