"""What the SAFA paper leaves open: the choices, the readings that set them all, and the checks of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from safa.errors import UserError, closest


@dataclass(frozen=True)
class Reading:
    """What the paper leaves open, chosen. ``docs/paper.md`` says why, and what was measured of each.

    Attributes:
        reconstruction, mode_seeking_tail, mode_seeking_head, contrastive: lambda 1 to 4 of Eq. 1. At 0 a term
            is not even computed.
        start: ``identity``: every module begins as E(x) = x, D(delta, F) = delta, G(h) = h, so that the first
            generated feature is the tail feature plus the raw head delta. ``random``: plain initialisation.
        direction: ``to_partner``: the delta is what to add to i to get j, E(F_j - F_i), the direction in
            which Eq. 4 reads it back, E(generated - tail). ``printed``: E(F_i - F_j), read back the same way.
        rectify: generated features do not fall below the smallest real one, which is a ReLU where the layer's
            real input is post-ReLU.
        target: what the read-back delta must turn head i into in Eq. 5: its ``partner`` j (the text), or
            ``self``, the head feature i (the print).
        reduction: ``mean`` or ``sum`` over pairs and elements in Eq. 4 and 5.
        ratio: mode seeking ``per_pair``, or over the ``batch`` as in the authors' code of mode seeking.
        head_ratio_of: L_ms^h relates the head pair's distance to the ``shift`` of the tail feature, or the
            distance of the deltas ij and ji to that of what they generate (``deltas``), which shrinking the
            deltas games.
        pairs: of Q: ``balanced`` in same-class and random pairs, or ``random`` as printed.
        detach: whether the features are cut from the layers below, as in RSG's code.
        deltas: tail pairs that each head pair of a batch moves, and with them how many rows are generated.
        heads: a tail pair takes the delta of a ``random`` head pair of the batch, or of the ``nearest``.
        tails: all tail pairs of a batch are moved equally often (``rows``), or in inverse proportion to the images
            of their class (``classes``), so that tail classes get about as many rows each. The rarest get fewer:
            shares are of a batch, and a rare class has most of those it is in, which are few.
        moves: pairs of ``tail`` classes are moved, or of ``all`` classes, in the shares that the batch has: then that a
            row was generated does not tell that it is of a tail class, which a network could learn in its place.
        reach: the row that the network gets is the ``whole`` way from the tail feature to the generated one, at a
            point ``drawn`` evenly between them, as far as ``judged`` by Q: by the probability, which learns nothing
            by it, that the two are of one class, or ``growing`` from next to none of it to the whole. The terms see
            the generated one.
        growing_steps: a growing reach is the whole way after so many batches that rows were generated in; a step that
            adds up the gradients of several counts them all.
        practice: whether E, D, G and Q learn by their own terms while the stage generates nothing.
    """

    reconstruction: float = 1.0
    mode_seeking_tail: float = 1e-2
    mode_seeking_head: float = 1e-2
    contrastive: float = 1e-1
    start: Literal["identity", "random"] = "identity"
    direction: Literal["to_partner", "printed"] = "to_partner"
    rectify: bool = True
    target: Literal["partner", "self"] = "partner"
    reduction: Literal["mean", "sum"] = "mean"
    ratio: Literal["per_pair", "batch"] = "per_pair"
    head_ratio_of: Literal["shift", "deltas"] = "shift"
    pairs: Literal["balanced", "random"] = "balanced"
    detach: bool = True
    deltas: int = 1
    heads: Literal["random", "nearest"] = "random"
    tails: Literal["rows", "classes"] = "rows"
    moves: Literal["tail", "all"] = "tail"
    reach: Literal["whole", "drawn", "judged", "growing"] = "whole"
    growing_steps: int = 500
    practice: bool = False


READINGS: dict[str, Reading] = {
    "measured": Reading(),
    # As printed: lambda 1; plain initialisation and random pairs, for the text says no more. lambda 3 is printed
    # 1e2, most likely for 1e-2: an inverse ratio near 1 times 100 would drown the classification loss.
    "paper": Reading(reconstruction=100.0, start="random", pairs="random"),
}


def chosen(reading: str | Reading, choices: Mapping[str, Any]) -> Reading:
    """A reading by name, or one of the caller's, with single choices changed.

    Raises:
        UserError: for an unknown name or choice, with the closest one, or a value out of range.
    """
    if not isinstance(reading, Reading):
        if reading not in list(READINGS):
            known = ", ".join(READINGS)
            hint = closest(reading, READINGS)
            raise UserError(f"no reading {reading!r}{hint}; there are {known}, and single choices are keywords")
        reading = READINGS[reading]
    names = [field.name for field in dataclasses.fields(Reading)]
    for name in choices:
        if name not in names:
            known = ", ".join(names)
            raise UserError(f"SAFA has no option {name!r}{closest(name, names)}; beside its own it takes {known}")
    found = dataclasses.replace(reading, **choices)
    for name in names:
        _check_choice(name, getattr(found, name))
    if "growing_steps" in choices and found.reach != "growing":
        raise UserError(
            f"growing_steps does nothing where the reach is {found.reach}; leave it out, or set reach: growing"
        )
    if found.reach == "judged" and not found.contrastive:
        raise UserError("reach is judged by Q, which there is only with its term; give contrastive a weight above 0")
    return found


def _check_choice(name: str, value: Any) -> None:
    default = getattr(Reading(), name)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, got {value!r}")
    elif isinstance(default, int):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is a whole number of at least 1, got {value!r}")
    elif isinstance(default, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise UserError(f"{name} is a weight of at least 0, got {value!r}")
    else:
        words = get_args(get_type_hints(Reading)[name])
        if value not in words:
            hint = closest(value, words)
            raise UserError(f"{name} must be one of {', '.join(words)}, got {value!r}{hint}")
