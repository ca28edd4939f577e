"""A run before it is trained: its recipe, its folder, and what the folder says of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safa import recipe as recipes
from safa.catalog import own_code, source_hash, with_own_code
from safa.data.dataset import LongTailed
from safa.errors import UserError
from safa.files import CARD, RECIPE, REWRITE, SUBSET, expanded, read_json, readable, write_atomically


@dataclass(frozen=True)
class Job:
    """One run to be done: a recipe under the name its line will carry, and its folder.

    Attributes:
        name: of the recipe as it stands in its file.
        recipe: what is run.
        folder: where.
        changes: what was set otherwise than in the file, ``key=value``; a run with changes is another table row.
    """

    name: str
    recipe: recipes.Recipe
    folder: Path
    changes: tuple[str, ...] = ()


def dataset_name(data: LongTailed) -> str:
    """The data set as tables and pages call it: of a path the last part, for they may leave the machine."""
    path = expanded(data.source.name)
    return readable(path.name if path.name not in ("", "..") else path.resolve().name)


def job_of(folder: Path, root: str | None = None) -> Job:
    """The job a run folder was made for.

    Raises:
        UserError: if it is not the folder of a run.
    """
    _check_folder(folder)
    recipe = recipes.load(folder / RECIPE, [recipes.override("data.root", root)] if root else [])
    described = read_json(folder / CARD)
    changes = tuple(_list_in(folder / CARD, described, "changes", []))
    return Job(str(described.get("recipe", folder.name)), recipe, folder, changes)


def _list_in(card: Path, described: dict[str, Any], key: str, default: list[str]) -> list[str]:
    found = described.get(key, default)
    if not isinstance(found, list):
        raise UserError(f"{card}: {key} is a list, got {found!r}; {REWRITE}")
    return found


def _check_folder(run: Path) -> None:
    if not run.is_dir():
        wrong = "is a file" if run.exists() else "does not exist"
        raise UserError(f"{run} {wrong}; give the folder that a training run wrote")
    lacking = [name for name in (RECIPE, CARD) if not (run / name).is_file()]
    if lacking:
        runs = sorted(path.parent.name for path in run.glob(f"*/{RECIPE}"))
        inside = f" (did you mean one of those inside: {', '.join(runs[:5])}?)" if runs else ""
        raise UserError(
            f"{run} is no run folder: it has no {' and no '.join(lacking)}; give the folder that a training "
            f"run wrote{inside}"
        )


def kept_options(folder: Path) -> dict[str, Any]:
    """What a resumed run takes from its beginning where it is not said otherwise: ``results`` and ``track``."""
    described = read_json(folder / CARD)
    results = described.get("results")
    return {"results": results if isinstance(results, str) else None, "track": described.get("track") is True}


def describe(job: Job, data: LongTailed, *, results: Path | None = None, track: bool = False) -> None:
    """Write into the folder everything the run can be repeated, resumed, evaluated and deployed from.

    Args:
        job, data: the run and its images.
        results, track: as ``Machine`` has them.

    Raises:
        UserError: if the folder holds a run of another recipe.
    """
    refuse_another_recipe(job)
    source = data.source
    described = {
        "recipe": job.name,
        "changes": list(job.changes),
        "results": None if results is None else str(results.absolute()),
        "track": track,
        "own_code": own_code(_essence(job.recipe)),
        "name": source.name,
        "class_names": list(source.class_names),
        "class_counts": data.class_counts,
        "image_size": source.image_size,
        "mean": list(source.mean),
        "std": list(source.std),
        "subset_sha256": data.subset.sha256,
        "images_sha256": source.fingerprint,
        "skipped": list(source.skipped),
        "notes": list(source.notes),
    }
    write_atomically(job.folder / RECIPE, recipes.dump(job.recipe, defaults=True).encode())
    write_atomically(job.folder / CARD, json.dumps(described).encode())
    write_atomically(job.folder / SUBSET, data.subset.to_json().encode())


def refuse_other_images(job: Job, data: LongTailed, way_out: str) -> None:
    """Raise a UserError, with the way out, unless the data are those that the job's folder was made for."""
    described = read_json(job.folder / CARD)
    known = {"subset_sha256": data.subset.sha256, "images_sha256": data.source.fingerprint}
    if any(described.get(name) != value for name, value in known.items()):
        raise UserError(
            f"the images of {data.source.name} differ from those {job.folder} was trained on; {way_out} (where a file "
            "was renamed, they may come in another order, which counts)"
        )


def refuse_other_names(job: Job, data: LongTailed, way_out: str) -> None:
    """Raise a UserError, with the way out, if classes were called otherwise when the job's run was trained.

    A page has one name for each, and so has a network in use.
    """
    now, card = list(data.source.class_names), job.folder / CARD
    then = _list_in(card, read_json(card), "class_names", now)
    if then != now:
        old, new = next((old, new) for old, new in zip(then, now, strict=True) if old != new)
        raise UserError(
            f"the class {new!r} of {data.source.name} was called {old!r} when {job.folder} was trained; {way_out}"
        )


def refuse_another_recipe(job: Job) -> None:
    """Raise a UserError if the folder holds a run of another recipe, or of other code or weights of the user's own.

    Where the images lie and how often it is tested may differ.
    """
    path, card, essence = job.folder / RECIPE, job.folder / CARD, _essence(job.recipe)
    way_out = "name another folder with --out, or delete it"
    if path.exists() and _essence(recipes.load(path)) != essence:
        raise UserError(f"{job.folder} holds a run of another recipe; {way_out}")
    code = own_code(essence)
    known = read_json(card).get("own_code", code) if code and card.exists() else code
    edited = [name for name in code if known.get(name, code[name]) != code[name]]
    if edited:
        raise UserError(f"{job.folder} holds a run with another {edited[0]}, which was changed since; {way_out}")
    appeared = [name for name in code if name not in known]
    if appeared:
        raise UserError(
            f"an option names the file {appeared[0]}, which was not there when the run in {job.folder} began; move it "
            f"away, and the run goes on, or {way_out}"
        )


def edited_since(folder: Path, model: recipes.Model) -> str | None:
    """The user's own backbone or head whose file is no longer the one that a run was trained with, if there is one."""
    trained_with = read_json(folder / CARD).get("own_code", {})
    for name in (model.backbone.name, model.head.name):
        now = source_hash(name)
        if now is not None and trained_with.get(name, now) != now:
            return name
    return None


def recipe_sha256(recipe: recipes.Recipe) -> str:
    """Hash of what a line says nothing else of: runs of an edited recipe are not averaged with those of before.

    Seed, precision and images have their own keys in the line.
    """
    data = replace(recipe.data, name=recipes.Data.name)
    essence = _essence(replace(recipe, seed=recipes.Recipe.seed, precision=recipes.Recipe.precision, data=data))
    return hashlib.sha256(json.dumps(with_own_code(essence), sort_keys=True).encode()).hexdigest()


def _essence(recipe: recipes.Recipe) -> Any:
    stages = tuple(replace(stage, evaluate_every=1) for stage in recipe.stages)
    return recipes.to_plain(replace(recipe, data=replace(recipe.data, root=None), stages=stages))
