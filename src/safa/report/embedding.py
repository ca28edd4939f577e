"""The paper's Fig. 1: a t-SNE of real, generated and test features of three head and two tail classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safa.classes import GENERATED, REAL, SHOWN_HEADS, SHOWN_PER_CLASS, SHOWN_TAILS, TEST
from safa.report.comparison import Comparison
from safa.report.runs import Features, FloatArray, IntArray

KINDS = {REAL: "real training image", GENERATED: "generated", TEST: "test image"}
FEWEST_POINTS = 10


@dataclass(frozen=True)
class Embedding:
    """Points in the plane, shape (n, 2), with class ids and kinds, shape (n,)."""

    points: FloatArray
    labels: IntArray
    kind: IntArray


def shown_classes(comparison: Comparison) -> tuple[list[int], list[int]]:
    """Choose by a fixed rule, so that nothing is picked by its looks.

    Returns:
        The three largest head classes, and the two tail classes with the most generated features (ties: the
        rarer class), among the classes with stored features.
    """
    stored = [run.features for run in comparison.runs if run.features is not None]
    labels = np.concatenate([features.labels for features in stored])
    generated = np.concatenate([features.labels[features.kind == GENERATED] for features in stored])
    present = set(np.unique(labels).tolist())
    is_head = comparison.head_classes()
    ordered = [class_id for class_id in comparison.order.tolist() if class_id in present]
    heads = [class_id for class_id in ordered if is_head[class_id]][:SHOWN_HEADS]
    rare = set(comparison.groups[comparison.rare_group].tolist())
    rest = [class_id for class_id in reversed(ordered) if class_id not in heads]
    amount = np.bincount(generated, minlength=len(comparison.counts))
    # sorted is stable: the rarest group first, then the most generated, then the rarest class.
    tails = sorted(rest, key=lambda class_id: (class_id not in rare, -int(amount[class_id])))[:SHOWN_TAILS]
    return heads, tails


def inks(heads: list[int], tails: list[int]) -> dict[int, str]:
    """Class id -> name of a colour: cool ones for heads, warm ones for tails, also where there are fewer heads."""
    cool = {class_id: f"class-{number}" for number, class_id in enumerate(heads)}
    return cool | {class_id: f"class-{number}" for number, class_id in enumerate(tails, start=SHOWN_HEADS)}


def stored(comparison: Comparison, methods: Sequence[str]) -> dict[str, Features]:
    """Features of each method's first seed that stored some."""
    found = {method: [run.features for run in comparison.runs_of(method)] for method in methods}
    return {method: next(filter(None, features)) for method, features in found.items() if any(features)}


def sample(features: Features, classes: list[int]) -> IntArray:
    """Indices of at most 100 features per class and kind, always the same ones, in stored order."""
    generator = np.random.default_rng(0)
    chosen = [np.zeros(0, dtype=np.int64)]
    for class_id in classes:
        for kind in KINDS:
            rows = np.flatnonzero((features.labels == class_id) & (features.kind == kind))
            amount = min(len(rows), SHOWN_PER_CLASS)
            chosen.append(np.sort(generator.permutation(rows)[:amount]))
    return np.concatenate(chosen)


def embed(features: Features, classes: list[int]) -> Embedding | str:
    """Embed a sample of the features of these classes in the plane, the same way every time.

    Returns:
        The embedding, or the reason why there is none.
    """
    rows = sample(features, classes)
    points = features.features[rows]
    if len(rows) < FEWEST_POINTS:
        return f"only {len(rows)} features are stored for the classes shown, too few to embed"
    if np.ptp(points, axis=0).max() == 0:
        return "all stored features are the same point"
    # Takes seconds to import, and only this needs it.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    start = "pca" if points.shape[1] >= 2 else "random"
    method = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init=start, random_state=0)
    # Few points: threads would only wait for each other, for minutes where other work keeps the cores busy.
    with threadpool_limits(1):
        plane = np.asarray(method.fit_transform(points), dtype=np.float64)
    return Embedding(plane, features.labels[rows], features.kind[rows])
