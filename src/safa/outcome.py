"""What comes out of a trained run: its result line, its predictions and its features."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import safa
from safa import clouds, diagnosis, evaluate, provenance
from safa import recipe as recipes
from safa.data.dataset import LongTailed
from safa.files import FEATURES, PREDICTIONS, write_atomically
from safa.job import Job, dataset_name, recipe_sha256
from safa.train import Trainer

# Keys of a recipe that have their own in the line; and where the images lie changes no run.
_TOLD_ELSEWHERE = ("seed", "precision", "data.name", "data.imbalance_factor", "data.root")


def result(job: Job, data: LongTailed, trainer: Trainer) -> dict[str, Any]:
    """The result line; also leaves predictions and features in the run's folder."""
    predicted = trainer.predict("test")
    _save_arrays(job.folder / PREDICTIONS, vars(predicted))
    _save_arrays(job.folder / FEATURES, clouds.features(trainer.learner))
    found = figures(predicted, data)
    return {
        "recipe": job.name,
        "changes": [change for change in job.changes if change.partition("=")[0] not in _TOLD_ELSEWHERE],
        "dataset": dataset_name(data),
        "imbalance_factor": data.imbalance_factor,
        "model": job.recipe.model.backbone.name,
        "method": job.recipe.method,
        "seed": job.recipe.seed,
        "epochs": job.recipe.epochs,
        "error_last": found.pop("error"),
        **best(trainer.history, job.recipe),
        **found,
        **_of_validation(trainer, data),
        "groups": {name: np.flatnonzero(mask).tolist() for name, mask in data.groups.items()},
        **({"diagnostics": diagnosed} if (diagnosed := diagnosis.diagnose(trainer.learner)) else {}),
        "recipe_sha256": recipe_sha256(job.recipe),
        "subset_sha256": data.subset.sha256,
        "images_sha256": data.source.fingerprint,
        "precision": job.recipe.precision,
        "batch_size": job.recipe.batch_size,
        "processes": trainer.accelerator.num_processes,
        "version": safa.__version__,
        **provenance.made_with(trainer.device),
        "seconds": round(sum(entry["seconds"] for entry in trainer.history), 1),
        "reused_epochs": trainer.reused_epochs,
        "reused_of": trainer.reused_of,
        "run": job.folder.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def figures(predicted: evaluate.Predictions, data: LongTailed) -> dict[str, Any]:
    """Errors in per cent, of all images, of groups and of classes, with the names and counts of the classes."""
    per_class = evaluate.error_per_class(predicted, data.num_classes)
    return {
        **evaluate.summary(predicted, data.groups),
        "error_per_class": [None if np.isnan(value) else round(float(value), 4) for value in per_class],
        "balanced_error": round(float(np.nanmean(per_class)), 4),
        "ece": evaluate.expected_calibration_error(predicted),
        "class_counts": data.class_counts,
        "class_names": list(data.source.class_names),
    }


def best(history: Sequence[Mapping[str, Any]], recipe: recipes.Recipe) -> dict[str, Any]:
    """The epoch that the test set itself would choose, among those with the final network's classifier.

    It is only for comparison with papers that select so.
    """
    renewed = max((index for index, stage in enumerate(recipe.stages) if stage.head is not None), default=0)
    tested = [entry for entry in history if entry.get("test") and entry["stage"] >= renewed]
    best = min(tested, key=lambda entry: entry["test"]["error"], default=None)
    return {"error_best": best["test"]["error"] if best else None, "error_best_epoch": best["epoch"] if best else None}


def _of_validation(trainer: Trainer, data: LongTailed) -> dict[str, float]:
    if data.validation is None:
        return {}
    found = figures(trainer.predict("validation"), data)
    return {"error_validation": found["error"], "balanced_error_validation": found["balanced_error"]}


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
