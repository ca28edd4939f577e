"""Tau-normalisation of a linear head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads.features import check_sizes
from safa.heads.former import check_fit, computes_as
from safa.precision import lifted, without_autocast
from safa.types import Fitting

TAUS = tuple(step / 10 for step in range(21))
"""What tau is chosen from, 0 to 2: the released code's ``numpy.linspace(0, 2, 21)``."""


def tau_normalised(weight: Tensor, tau: float | Tensor) -> Tensor:
    """Class vectors over a power of their lengths, ``w_c / |w_c|^tau``.  [Kang et al. 2020]

    Args:
        weight: shape (k, d).
        tau: 0 leaves the vectors as they are, 1 gives all of them length one.

    Returns:
        Shape (k, d). A vector of zeros stays one.
    """
    lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min(1e-12)
    evened: Tensor = weight / lengths**tau
    return evened


def balanced_error(logits: Tensor, labels: Tensor) -> float:
    """Share of misclassified images of a class, averaged over the classes that occur, in [0, 1].

    Shapes: logits (n, k), labels (n,) with n at least 1.
    """
    wrong = labels[logits.argmax(dim=1) != labels]
    counts, wrong_counts = (torch.bincount(found.cpu(), minlength=logits.shape[1]) for found in (labels, wrong))
    occurs = counts > 0
    return float((wrong_counts[occurs] / counts[occurs].double()).mean())


class TauNormalisedHead(nn.Module):
    """The former linear head with class vectors of more even lengths, ``w_c / |w_c|^tau``.  [Kang et al. 2020]

    Args:
        in_features, num_classes: d and k.
        tau: 0 leaves the lengths, 1 makes them one, beyond 1 the rare classes get the longer ones. Chosen from
            ``TAUS`` in ``refit`` when None: the lowest balanced error on the validation images, of equals the
            smallest.

    Shapes:
        features (…, d) -> logits (…, k), in float32 (float64 stays float64).

    Reading:
        The bias is dropped, as in the code of Kang et al. (BagofTricks-LT keeps it). That code prints the whole grid;
        the choice by validation is the paper's, which on iNaturalist made it on the test images. The balanced error,
        since validation images cut from long-tailed ones are long-tailed too. Without a bias the scale of the
        features does not change the ranking; but tau changes the scale of the logits, and so their calibration: a tau
        chosen by error says nothing of confidence. Tau is in the state, nothing here learns.

    Raises:
        UserError: if a size is below 1 or ``tau`` is negative or infinite; in ``refit``, if the former head is not
            linear, or ``tau`` is None and there are no validation images.

    A cosine head has lengths of one from the start. LWS learns the lengths instead of choosing one exponent.
    """

    weight: Tensor
    tau: Tensor

    def __init__(self, in_features: int, num_classes: int, *, tau: float | None = None) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        if tau is not None and not 0 <= tau < math.inf:
            raise UserError(f"tau is the power of a length, at least 0, got {tau}; 0.5 to 1 is usual")
        self.in_features = in_features
        self.num_classes = num_classes
        self.needs_validation = tau is None
        self.register_buffer("weight", torch.zeros(num_classes, in_features))
        self.register_buffer("tau", torch.tensor(0.0 if tau is None else float(tau)))

    @torch.no_grad()
    def refit(self, former: nn.Module, fitting: Fitting) -> None:
        """Take over the former head's class vectors, and choose tau if it was not given."""
        if not computes_as(former, nn.Linear):
            raise UserError(
                f"tau-normalisation changes the lengths of a linear head's class vectors, and {type(former).__name__} "
                "is none; give the stage before head: linear"
            )
        check_fit(self.weight, former.weight)
        self.weight.copy_(former.weight)
        if self.needs_validation:
            self.tau.fill_(self._best_tau(fitting))

    def _best_tau(self, fitting: Fitting) -> float:
        if fitting.validation is None:
            raise UserError(
                "tau is chosen on validation images and there are none; give it, as in "
                "head: {name: tau_normalised, tau: 0.7}, or set data.validation, e.g. to 0.1, to cut some from training"
            )
        features, labels = fitting.validation()
        features = lifted(features)
        weight = self.weight.to(features)

        def error(tau: float) -> float:
            # Rounded, since equal errors that add up from other classes may differ in the last bit.
            return round(balanced_error(F.linear(features, tau_normalised(weight, tau)), labels), 9)

        return min(TAUS, key=error)  # the first, so the smallest, of equals

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            features = lifted(features)
            return F.linear(features, tau_normalised(self.weight.to(features), self.tau.to(features)))

    def extra_repr(self) -> str:
        tau = "on meta" if self.tau.is_meta else f"{float(self.tau):g}"
        return f"in_features={self.in_features}, num_classes={self.num_classes}, tau={tau}"
