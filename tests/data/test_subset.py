"""A subset is hashed over its index lists, stays as it is, and comes back from its text or not at all."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from safa.data.longtail import draw_subset
from safa.data.subset import Subset
from safa.errors import UserError
from tests.data.test_longtail import balanced_labels, released_code


def test_a_subset_is_hashed_over_its_index_lists():
    labels = balanced_labels(4, 30)
    counts = [int(30 * (1 / 10) ** (c / 3.0)) for c in range(4)]
    literal = np.array(released_code(labels, counts, 0), dtype="<i8").tobytes()
    subset = draw_subset(labels, 4, imbalance_factor=10)
    assert subset.sha256 == hashlib.sha256(literal + b"validation").hexdigest()
    # Frozen: an index list that changes would silently change every result line.
    assert subset.sha256 == "c2ae673f5d46439d1ee24ae684fc44135464ec84cce62cff95fd94bc08abbb6f"


def test_a_subset_cannot_be_changed():
    subset = draw_subset(balanced_labels(3, 10), 3, imbalance_factor=2)
    for array in (subset.train, subset.validation, subset.class_counts):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_subset_survives_json():
    subset = draw_subset(balanced_labels(5, 40), 5, imbalance_factor=8, validation=0.1)
    again = Subset.from_json(subset.to_json())
    assert again.sha256 == subset.sha256
    for name in ("train", "validation", "class_counts"):
        assert np.array_equal(getattr(again, name), getattr(subset, name))


def test_a_tampered_subset_is_refused():
    content = json.loads(draw_subset(balanced_labels(5, 40), 5, imbalance_factor=8).to_json())
    content["train"][0] += 1
    with pytest.raises(UserError, match="was changed"):
        Subset.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": "x", "validation": [], "class_counts": [], "sha256": ""}'])
def test_text_that_is_no_subset_is_refused(text):
    with pytest.raises(UserError, match="not a stored subset"):
        Subset.from_json(text)


def test_a_meta_set_is_part_of_the_hash_and_survives_json():
    labels = balanced_labels(4, 30)
    subset = draw_subset(labels, 4, imbalance_factor=10, meta_per_class=3)
    lists = [np.array(part, dtype="<i8").tobytes() for part in (subset.train, subset.meta)]
    assert subset.sha256 == hashlib.sha256(lists[0] + b"validation" + b"meta" + lists[1]).hexdigest()
    again = Subset.from_json(subset.to_json())
    assert (again.sha256, again.meta.tolist()) == (subset.sha256, subset.meta.tolist())
    with pytest.raises(ValueError, match="read-only"):
        again.meta[...] = 0


def test_without_a_meta_set_a_stored_subset_is_what_it_was():
    subset = draw_subset(balanced_labels(4, 30), 4, imbalance_factor=10)
    stored = json.loads(subset.to_json())
    assert list(stored) == ["sha256", "class_counts", "train", "validation"]
    assert Subset.from_json(json.dumps(stored)).meta.size == 0
