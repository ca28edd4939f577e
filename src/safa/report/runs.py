"""A run folder as the report sees it: the result line, and whatever else was left in the folder."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from safa.classes import HEAD_RATIO
from safa.errors import UserError
from safa.files import FEATURES, LOG, PREDICTIONS, RECIPE, RESULT, REWRITE, resumed_by
from safa.report import lines

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """What the network said about every test image at the last epoch.

    Attributes:
        labels, predictions: class ids, shape (n,).
    """

    labels: IntArray
    predictions: IntArray


@dataclass(frozen=True)
class Features:
    """A sample of penultimate features.

    Attributes:
        features: shape (n, d).
        labels: class ids, shape (n,).
        kind: shape (n,): 0 real training image, 1 generated, 2 test image.
    """

    features: FloatArray
    labels: IntArray
    kind: IntArray


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: the folder's name; the page never prints where the folder lies.
        result: the result line.
        log: one object per epoch, in order, each epoch once.
        predictions, features: None when the file is missing or broken.
        recipe: the text of ``recipe.yaml``, with ``…`` for where images lie; empty when missing.
        head_ratio: share of the classes, by count, that the recipe calls head, its augmenter before its data; the
            paper's where it does not say.
        missing: file name -> why there is nothing from it, for the sections that need the file.
    """

    name: str
    result: lines.Line
    log: tuple[lines.Line, ...] = ()
    predictions: Predictions | None = None
    features: Features | None = None
    recipe: str = ""
    head_ratio: float = HEAD_RATIO
    missing: dict[str, str] = field(default_factory=dict)


def read_run(folder: Path | str) -> Run:
    """Read a run folder; every file but ``result.json`` may be missing.

    Raises:
        UserError: if the folder or its ``result.json`` is missing, or the result line is incomplete.
    """
    folder = Path(folder)
    result = _result(folder)
    missing: dict[str, str] = {}
    log = _log(folder / LOG, missing)
    predictions = _arrays(folder / PREDICTIONS, ("labels", "predictions"), missing)
    features = _arrays(folder / FEATURES, ("features", "labels", "kind"), missing)
    classes = len(result["class_counts"])
    recipe = _recipe(folder / RECIPE)
    return Run(
        name=folder.resolve().name,
        result=result,
        log=log,
        predictions=_predictions(predictions, classes, missing),
        features=_features(features, classes, missing),
        recipe=_without_paths(recipe),
        head_ratio=_head_ratio(recipe),
        missing=missing,
    )


def _result(folder: Path) -> lines.Line:
    if not folder.is_dir():
        raise UserError(f"no run folder {folder}; give a folder that a training run wrote")
    file = folder / RESULT
    if not file.exists():
        raise UserError(f"no {RESULT} in {folder}: the run is not finished; go on with: {resumed_by(folder)}")
    result = lines.of_run(file)
    if wrong := _wrong_of_classes(result):
        raise UserError(f"{file}: {wrong}; {REWRITE}")
    return result


def _wrong_of_classes(result: lines.Line) -> str | None:
    """What is wrong with the lists of classes: the page draws per class, so they must agree in length."""
    lengths = {}
    for key in ("class_counts", "class_names", "error_per_class"):
        if not isinstance(result.get(key), list):
            return f"{key} is a list by class id, got {result.get(key)!r}"
        lengths[key] = len(result[key])
    if len(set(lengths.values())) != 1:
        return f"these lists differ in length: {lengths}"
    groups, known = result.get("groups"), range(len(result["class_counts"]))
    members = list(groups.values()) if isinstance(groups, dict) else []
    all_known = all(isinstance(group, list) and all(member in known for member in group) for group in members)
    if not any(members) or not all_known:
        return f"groups maps many, medium, few to class ids, got {groups!r}"
    return None


def _log(file: Path, missing: dict[str, str]) -> tuple[lines.Line, ...]:
    if not file.exists():
        missing[file.name] = f"the run wrote no {file.name}"
        return ()
    try:
        objects = lines.read_objects(file)
    except UserError as error:
        # The message names the whole path; the page may leave the machine, so only the file's name stays.
        missing[file.name] = str(error).replace(str(file), file.name)
        return ()
    # A run that was killed and resumed may log an epoch twice; the later line is the one that counts.
    by_epoch = {line["epoch"]: line for _, line in objects if isinstance(line.get("epoch"), int)}
    if not by_epoch:
        missing[file.name] = f"{file.name} holds no epoch"
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


def _arrays(file: Path, keys: tuple[str, ...], missing: dict[str, str]) -> dict[str, npt.NDArray[Any]] | None:
    if not file.exists():
        missing[file.name] = f"the run wrote no {file.name}"
        return None
    try:
        # Opened here, for np.load leaves a broken file open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {key: np.asarray(stored[key]) for key in keys}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        missing[file.name] = f"{file.name} is broken ({type(error).__name__})"
        return None
    except KeyError:
        missing[file.name] = f"{file.name} lacks one of {', '.join(keys)}"
        return None
    if len({len(array) for array in arrays.values()}) != 1:
        missing[file.name] = f"the arrays of {file.name} differ in length"
        return None
    return arrays


def _predictions(
    arrays: dict[str, npt.NDArray[Any]] | None, classes: int, missing: dict[str, str]
) -> Predictions | None:
    if arrays is None:
        return None
    labels, predictions = arrays["labels"].astype(np.int64), arrays["predictions"].astype(np.int64)
    if _out_of_range(labels, classes) or _out_of_range(predictions, classes):
        missing[PREDICTIONS] = f"{PREDICTIONS} holds class ids outside 0…{classes - 1}"
        return None
    return Predictions(labels, predictions)


def _features(arrays: dict[str, npt.NDArray[Any]] | None, classes: int, missing: dict[str, str]) -> Features | None:
    if arrays is None:
        return None
    features, labels = arrays["features"].astype(np.float64), arrays["labels"].astype(np.int64)
    if features.ndim != 2 or not np.isfinite(features).all() or _out_of_range(labels, classes):
        missing[FEATURES] = f"{FEATURES} does not hold finite features of shape (n, d) with class ids"
        return None
    return Features(features, labels, arrays["kind"].astype(np.int64))


def _out_of_range(ids: IntArray, classes: int) -> bool:
    return bool(len(ids) and (ids.min() < 0 or ids.max() >= classes))


def _recipe(file: Path) -> dict[str, Any]:
    """What ``recipe.yaml`` says, its ``data`` a mapping; empty where the file is missing or no recipe."""
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return recipe if isinstance(recipe, dict) and isinstance(recipe.get("data"), dict) else {}


def _without_paths(recipe: dict[str, Any]) -> str:
    """The recipe as YAML; of the paths of its images the last part is left."""
    if not recipe:
        return ""
    paths = {key: recipe["data"][key] for key in ("name", "root") if isinstance(recipe["data"].get(key), str)}
    shown = {key: path if path == PurePath(path).name else f"…/{PurePath(path).name}" for key, path in paths.items()}
    masked = {**recipe, "data": {**recipe["data"], **shown}}
    return yaml.safe_dump(masked, sort_keys=False, allow_unicode=True, width=110)


def _head_ratio(recipe: dict[str, Any]) -> float:
    """That of the last augmenter that has one of its own, else that of the data."""
    stages = recipe.get("stages")
    named = [recipe.get("data")]
    for stage in stages if isinstance(stages, list) else []:
        named.append(stage.get("augmenter") if isinstance(stage, dict) else None)
    stated = [part["head_ratio"] for part in named if isinstance(part, dict) and "head_ratio" in part]
    return stated[-1] if stated and isinstance(stated[-1], float) else HEAD_RATIO
