"""What generated rows are worth: who takes them for their class, where they lie among test features, and what they
do to batch norm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from safa import assembly
from safa import recipe as recipes
from safa.clouds import Rows, generated_rows, look
from safa.data.types import Split
from safa.learner import Learner
from safa.plugin import PlugIn
from safa.seeding import seed_for
from safa.types import mixes

BATCHES = 20  # to generate rows from
NORMED_BATCHES = 10
IMAGES = 2000  # of the training set, and of the test set, at most
AT_ONCE = 500  # rows of a matrix of distances

Statistics = tuple[int, Tensor, Tensor]


def diagnose(learner: Learner) -> dict[str, Any] | None:
    """What a result line says of the rows that a run's last stage generates; None where it generates none.

    Three kinds of rows are compared, all of unaugmented images and of the classes that rows are generated of:
    ``generated`` rows, of batches drawn as in training, and ``training`` and ``test`` images.

    Returns:
        ``rows``: kind -> how many there are.
        ``figures``: kind -> group -> figure -> mean over classes, None where there is nothing to measure; see
            ``figures_of``.
        ``batch_norm``: see ``batch_norm_shifts``.
    """
    stage, augmenter = learner.stage, copy.deepcopy(learner.augmenter)  # some augmenters learn while they look
    if stage is None or augmenter is None or not stage.generate or mixes(augmenter):
        return None
    augmenter.active = True
    seed = seed_for(learner.recipe.seed, "diagnosis")
    torch.manual_seed(seed)
    generated = generated_rows(learner, islice(_training_batches(learner, stage), BATCHES), augmenter)
    if not len(generated.labels):
        return None
    classes, random = torch.unique(generated.labels).tolist(), np.random.default_rng(seed)
    train, test = learner.data.train, learner.data.source.test
    training = _looked_at(learner, train.take(_some(random, train.labels, classes)))
    unseen = _looked_at(learner, test)
    itself = torch.from_numpy(_some(random, test.labels, classes)).to(learner.device)
    kinds = {"generated": (generated, None), "training": (training, None), "test": (unseen.take(itself), itself)}
    groups = {"all": classes, **{name: np.flatnonzero(mask).tolist() for name, mask in learner.data.groups.items()}}
    return {
        "rows": {kind: len(rows.labels) for kind, (rows, _) in kinds.items()},
        "figures": {kind: figures_of(rows, unseen, which, groups) for kind, (rows, which) in kinds.items()},
        "batch_norm": batch_norm_shifts(learner, stage, augmenter),
    }


def figures_of(
    rows: Rows, unseen: Rows, itself: Tensor | None, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float | None]]:
    """Who takes rows for their class, and how near to the test features of that class they are.

    Args:
        unseen: all test images.
        itself: shape (n,), which of these each row is, where it is one; that one does not judge it.
        groups: name -> class ids.

    Returns:
        group -> figure -> mean over the classes of a class's mean. ``assigned``: in per cent, by the network to their
        class. ``nearest_mean`` and ``distance_ratio``: see the functions of these names, of what enters the
        classifier; with ``layer_`` before, of what enters the augmented layer.

    Reading:
        Test features are the yardstick, for neither network nor augmenter has seen their images. What enters the
        classifier has passed layers that learnt to put generated rows into their class; what enters the augmented
        layer has not.
    """
    values = {"assigned": 100.0 * (rows.predictions == rows.labels)}
    for prefix, place in (("", "classifier"), ("layer_", "layer")):
        pair = getattr(rows, place), rows.labels, getattr(unseen, place), unseen.labels
        values[f"{prefix}nearest_mean"] = nearest_mean(*pair, itself)
        values[f"{prefix}distance_ratio"] = distance_ratio(*pair, itself)
    labels = rows.labels.cpu().numpy()
    return {
        group: {
            # Among images are near copies with a huge ratio, so ratios are averaged as logarithms.
            name: over_classes(value.cpu().numpy(), labels, chosen, geometric=name.endswith("ratio"))
            for name, value in values.items()
        }
        for group, chosen in groups.items()
    }


def nearest_mean(
    features: Tensor, labels: Tensor, unseen: Tensor, classes: Tensor, itself: Tensor | None = None
) -> Tensor:
    """A held-out classifier: 100 where the nearest mean of a class's unseen features is the own class's, else 0.

    Args:
        features, labels: shapes (n, d) and (n,).
        unseen, classes: the same of the features to judge by, shapes (m, d) and (m,).
        itself: shape (n,), which of these each row is, where it is one; its class's mean is taken without it.

    Returns:
        Shape (n,), NaN where the own class has no mean.
    """
    names, place, counts = torch.unique(classes, return_inverse=True, return_counts=True)
    sums = unseen.new_zeros(len(names), unseen.shape[1]).index_add_(0, place, unseen)
    distances, own = _distances(features, sums / counts[:, None]), labels[:, None] == names
    if itself is not None:  # without x, the mean of n lies n / (n - 1) times as far from x
        distances = torch.where(own, distances * (counts / (counts - 1)), distances)
    known = (own & (counts > (0 if itself is None else 1))).any(dim=1)
    hit = own.gather(1, distances.argmin(dim=1, keepdim=True)).squeeze(1)
    return torch.where(known, 100.0 * hit, torch.nan)


def distance_ratio(
    features: Tensor, labels: Tensor, unseen: Tensor, classes: Tensor, itself: Tensor | None = None
) -> Tensor:
    """Distance to the nearest unseen feature of the own class, over that to the nearest of any other class.

    Args:
        features, labels, unseen, classes, itself: as for ``nearest_mean``. Distances are Euclidean.

    Returns:
        Shape (n,), infinite or NaN where there is no feature of the own class.
    """
    ratios = [features.new_zeros(0)]
    for rows in torch.split(torch.arange(len(features), device=features.device), AT_ONCE):
        distances = _distances(features[rows], unseen)
        if itself is not None:
            distances.scatter_(1, itself[rows, None], torch.inf)
        same = labels[rows, None] == classes
        own, other = (distances.masked_fill(hidden, torch.inf).amin(dim=1) for hidden in (~same, same))
        ratios.append(own / other)
    return torch.cat(ratios)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, (n, d) and (m, d) -> (n, m)."""
    # By default torch multiplies matrices where there are more than 25 rows, which gives near copies any distance.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def over_classes(
    values: NDArray[Any], labels: NDArray[Any], classes: Sequence[int], *, geometric: bool = False
) -> float | None:
    """Mean over classes of the mean over a class's rows; None where these classes have no row.

    Args:
        values, labels: shape (n,); a value that is not finite is left out.
        geometric: of logarithms.
    """
    with np.errstate(divide="ignore"):
        values = np.log(values) if geometric else values
    known = np.isfinite(values)
    means = [values[rows].mean() for c in classes if (rows := known & (labels == c)).any()]
    if not means:
        return None
    mean = float(np.mean(means))
    return round(math.exp(mean) if geometric else mean, 4)


def batch_norm_shifts(learner: Learner, stage: recipes.Stage, augmenter: Any) -> dict[str, dict[str, float]]:
    """What generated rows do to the statistics that each batch norm after them sees, in the order they are reached.

    Returns:
        Name of the layer -> ``shift``, mean over channels of |mean with - mean without| / deviation without, and
        ``factor``, mean over channels of deviation with / deviation without. Means over ten training batches.

    Reading:
        In training every batch norm works with the statistics of its batch, so a copy of network and augmenter is
        in training mode, and "without" is the pass of the real rows alone. A deviation is sqrt(variance + eps), what
        the layer divides by.
    """
    model, augmenter = copy.deepcopy((learner.model, augmenter))
    plug = PlugIn(model, learner.plug_before, augmenter).train()
    assembly.train_mode(model, stage.trainable)
    shifts: dict[str, list[tuple[float, float]]] = {}
    for images, labels in islice(_training_batches(learner, stage), NORMED_BATCHES):
        grown = batch_statistics(model, partial(plug, images, labels))
        alone = batch_statistics(model, partial(model, images))
        for name, (rows, mean, deviation) in grown.items():
            if rows > len(images):
                _, real_mean, real_deviation = alone[name]
                shift, factor = (mean - real_mean).abs() / real_deviation, deviation / real_deviation
                shifts.setdefault(name, []).append((float(shift.mean()), float(factor.mean())))
    means = {name: np.mean(found, axis=0).round(4).tolist() for name, found in shifts.items()}
    return {name: {"shift": shift, "factor": factor} for name, (shift, factor) in means.items()}


@torch.no_grad()
def batch_statistics(model: nn.Module, forward: Callable[[], Any]) -> dict[str, Statistics]:
    """Of what enters every batch norm in one forward pass: rows, and mean and deviation (c,) of its channels."""
    found: dict[str, Statistics] = {}

    def note(name: str, norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        maps = inputs[0].float()
        variance, mean = torch.var_mean(maps, dim=[0, *range(2, maps.dim())], correction=0)
        found[name] = len(maps), mean, (variance + norm.eps).sqrt()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(partial(note, name)))
        forward()
    return found


def _training_batches(learner: Learner, stage: recipes.Stage) -> Iterator[tuple[Tensor, Tensor]]:
    """Unaugmented images and labels of the batches that further epochs of the stage would draw, without end."""
    sampler = learner.parts.sampler(stage)
    for epoch in count(learner.recipe.epochs):
        sampler.set_epoch(epoch)
        for indices in sampler:
            yield learner.parts.images_of(learner.data.train, np.asarray(indices))


def _looked_at(learner: Learner, split: Split) -> Rows:
    return Rows.joined([look(learner, *batch) for batch in learner.parts.in_order(split).epoch(0)])


def _some(random: np.random.Generator, labels: NDArray[np.int64], classes: list[int]) -> NDArray[np.int64]:
    """Indices of at most ``IMAGES`` images of these classes."""
    rows = np.flatnonzero(np.isin(labels, classes))
    return np.sort(random.permutation(rows)[:IMAGES])
