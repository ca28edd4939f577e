"""Which images a run trains on, is validated on and steered by: frozen, hashed, and kept as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safa.data.types import IntArray
from safa.errors import UserError

Indices = Sequence[int] | IntArray


@dataclass(frozen=True, eq=False)
class Subset:
    """A frozen choice of training images.

    Attributes:
        train: indices into the source's training split, shape (n,), int64, class after class; read-only.
        validation: indices held out for validation, shape (m,), int64, disjoint from ``train``; read-only.
        meta: indices of the balanced meta set, class after class, int64, disjoint from both; read-only, and
            empty unless one was asked for.
        class_counts: images of each class in ``train``, that is after the validation images were cut; shape
            (C,), int64.
        sha256: hex digest of the index lists; see ``subset_hash``.
    """

    train: IntArray
    validation: IntArray
    meta: IntArray
    class_counts: IntArray
    sha256: str

    @classmethod
    def of(cls, train: Indices, validation: Indices, class_counts: Any, meta: Indices = ()) -> Subset:
        """Freeze index lists and hash them."""
        kept, cut, apart, counts = (
            np.array(values, dtype=np.int64) for values in (train, validation, meta, class_counts)
        )
        for array in (kept, cut, apart, counts):
            array.setflags(write=False)
        return cls(train=kept, validation=cut, meta=apart, class_counts=counts, sha256=subset_hash(kept, cut, apart))

    @property
    def trained_on(self) -> str:
        """Hex digest of what decides the weights: ``sha256`` without the validation images."""
        return subset_hash(self.train, np.zeros(0, dtype=np.int64), self.meta)

    def to_json(self) -> str:
        """The subset as JSON text, to be stored with the run."""
        lists = {
            "class_counts": self.class_counts.tolist(),
            "train": self.train.tolist(),
            "validation": self.validation.tolist(),
            # Only where there is one, so that a subset without reads as it always did.
            **({"meta": self.meta.tolist()} if len(self.meta) else {}),
        }
        return json.dumps({"sha256": self.sha256, **lists})

    @classmethod
    def from_json(cls, text: str) -> Subset:
        """Read what ``to_json`` wrote.

        Raises:
            UserError: if the text is no subset, or its index lists do not match its hash.
        """
        try:
            stored = json.loads(text)
            subset = cls.of(stored["train"], stored["validation"], stored["class_counts"], stored.get("meta", ()))
            expected = stored["sha256"]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"this is not a stored subset: {error!r}; draw it again") from error
        if subset.sha256 != expected:
            raise UserError(
                f"the stored subset was changed: its index lists hash to {subset.sha256}, "
                f"recorded is {expected}; draw it again"
            )
        return subset


def subset_hash(train: IntArray, validation: IntArray, meta: IntArray) -> str:
    """SHA-256 (hex) of the training indices, the word ``validation`` and the validation indices.

    A meta set adds the word ``meta`` and its indices; without one the digest is what it was before there were
    any. Indices count as little-endian int64, so every machine gets the same digest.
    """
    digest = hashlib.sha256(np.ascontiguousarray(train, dtype="<i8").tobytes())
    digest.update(b"validation")
    digest.update(np.ascontiguousarray(validation, dtype="<i8").tobytes())
    if len(meta):
        digest.update(b"meta")
        digest.update(np.ascontiguousarray(meta, dtype="<i8").tobytes())
    return digest.hexdigest()
