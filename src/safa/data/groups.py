"""Groups of classes as masks: many, medium and few, which results are reported in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.errors import UserError

BoolArray = NDArray[np.bool_]


def shot_groups(class_counts: Any, *, many_above: int = 100, few_below: int = 20) -> dict[str, BoolArray]:
    """Classes by their training images: many > 100, medium 20 to 100, few < 20.  [Liu et al. 2019]

    Returns:
        ``many``, ``medium``, ``few`` -> mask over the classes, shape (C,). Each class is in exactly one.
    """
    if few_below > many_above + 1:
        raise UserError(f"few_below={few_below} exceeds many_above + 1 = {many_above + 1}: the groups overlap")
    counts = np.asarray(class_counts)
    many, few = counts > many_above, counts < few_below
    return {"many": many, "medium": ~many & ~few, "few": few}
