"""The images of a run: a source, the subset drawn from it, and what both add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from safa import recipe as recipes
from safa.data.counts import count_labels
from safa.data.groups import shot_groups
from safa.data.listing import first_few
from safa.data.longtail import draw_subset
from safa.data.sources import load_source
from safa.data.subset import Subset
from safa.data.types import IntArray, Source, Split
from safa.errors import UserError


@dataclass(frozen=True)
class LongTailed:
    """Training, validation, test and meta images with everything a run needs to know of them."""

    source: Source
    subset: Subset
    spec: recipes.Data

    @property
    def num_classes(self) -> int:
        return len(self.source.class_names)

    @property
    def class_counts(self) -> list[int]:
        """Training images per class."""
        return [int(count) for count in self.subset.class_counts]

    @property
    def test_counts(self) -> IntArray:
        """Test images per class."""
        return count_labels(self.source.test.labels, self.num_classes)

    @cached_property
    def train(self) -> Split:
        return self.source.train.take(self.subset.train)

    @cached_property
    def validation(self) -> Split | None:
        """Held out of the images to train on, or the folder's own ``val/``; None when there is neither."""
        return self.source.train.take(self.subset.validation) if len(self.subset.validation) else self.source.validation

    @cached_property
    def meta(self) -> Split | None:
        """As many images of every class, taken out of training, that image weights are learnt on; None without."""
        return self.source.train.take(self.subset.meta) if len(self.subset.meta) else None

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """many, medium, few -> mask over classes."""
        spec = self.spec
        return shot_groups(self.subset.class_counts, many_above=spec.many_above, few_below=spec.few_below)

    @property
    def augmentation(self) -> recipes.Named:
        return self.spec.augmentation or recipes.Named(self.source.default_augmentation)

    @property
    def imbalance_factor(self) -> float:
        """As asked for in a drawn profile; largest over smallest count where the images are taken as found."""
        if self.spec.profile != "as_found":
            return self.spec.imbalance_factor
        return float(self.subset.class_counts.max() / self.subset.class_counts.min())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was decided or left out when the images were read, a sentence each, for the user."""
        remarks = [*self.source.notes]
        own, cut, skipped = self.source.validation, self.subset.validation, self.source.skipped
        if own is not None and len(cut):
            remarks.append(
                f"{len(cut)} training images are held out for validation; the {len(own)} images of the data set's "
                f"own validation split are not used"
            )
        if skipped:
            remarks.append(f"{len(skipped)} unreadable files were left out: {first_few(skipped)}")
        if self.validation is not None:
            unseen = self._absent_from(self.validation)
            if unseen:
                remarks.append(
                    f"{len(unseen)} of {self.num_classes} classes have no validation image, so what is chosen on "
                    f"validation images is blind to them: {first_few(unseen)}"
                )
        untested = self._absent_from(self.source.test)
        if untested:
            remarks.append(
                f"{len(untested)} of {self.num_classes} classes have no test image, so nothing will be known of them: "
                f"{first_few(untested)}"
            )
        return tuple(remarks)

    def _absent_from(self, split: Split) -> list[str]:
        """The names of the classes of which the split has no image."""
        counts = count_labels(split.labels, self.num_classes)
        return [self.source.class_names[c] for c in np.flatnonzero(counts == 0)]

    def facts(self) -> Mapping[str, Any]:
        """What of the data decides the weights: part of a cached stage's address.

        ``validation`` is there where images are held out: it decides what a classifier chooses on them, and nothing
        before it.
        """
        # Only where it differs, like all defaults, so that addresses from before it was listed stay valid.
        ratio = {} if self.spec.head_ratio == recipes.Data.head_ratio else {"head_ratio": self.spec.head_ratio}
        held_out = {"validation": self.subset.sha256} if len(self.subset.validation) else {}
        return {
            "images": self.source.fingerprint,
            "subset": self.subset.trained_on,
            "image_size": self.source.image_size,
            "mean": list(self.source.mean),
            "std": list(self.source.std),
            "augmentation": recipes.to_plain(self.augmentation),
            **ratio,
            **held_out,
        }


def load(spec: recipes.Data) -> LongTailed:
    """Read the images and draw the subset a recipe asks for.

    Raises:
        UserError: when images cannot be had, a class has none or too few, or none has enough to cut a fraction from.
    """
    return draw(source_of(spec), spec)


def source_of(spec: recipes.Data) -> Source:
    """Read the images that a recipe draws from.

    Raises:
        UserError: when they cannot be had.
    """
    return load_source(**read_by(spec))


def read_by(spec: recipes.Data) -> dict[str, Any]:
    """What of a recipe decides how the images of its data set are read; the rest decides what is drawn from them."""
    return {"name": spec.name, "root": spec.root, "image_size": spec.image_size, "on_corrupt": spec.on_corrupt}


def draw(source: Source, spec: recipes.Data) -> LongTailed:
    """Draw the subset a recipe asks for from images that were read for it.

    Raises:
        UserError: when a class has too few images, or none has enough to cut a fraction from.
    """
    subset = draw_subset(
        source.train.labels,
        len(source.class_names),
        profile=spec.profile,
        imbalance_factor=spec.imbalance_factor,
        largest=spec.largest,
        order=spec.order,
        seed=spec.subset_seed,
        validation=spec.validation,
        validation_per_class=spec.validation_per_class,
        validation_from=spec.validation_from,
        meta_per_class=spec.meta_per_class,
        class_names=source.class_names,
    )
    if spec.validation and not len(subset.validation):
        raise UserError(
            f"data.validation={spec.validation:g} of a class is less than one image in every class of {spec.name}; "
            "set data.validation_per_class instead"
        )
    if not len(source.test.labels):
        raise UserError(f"{spec.name} has no test images; nothing could be said about the result")
    return LongTailed(source, subset, spec)
