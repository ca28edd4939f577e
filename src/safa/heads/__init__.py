"""Classification heads: from features (n, d) to final logits (n, k).

``CosineHead`` and ``LinearHead`` learn from the first epoch on. The others start from a head that was learnt before
them: their ``refit(former, fitting)`` is called once, when their stage begins, and until then all classes score
alike. What they take over is kept in buffers, so a new head of the same sizes is filled by ``load_state_dict``
alone. Classifier re-training (cRT) needs none of them: it is a new ``LinearHead`` on features that stand still.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from safa.heads.adjusted import AdjustedHead
from safa.heads.cosine import CosineHead
from safa.heads.nearest_mean import NearestMeanHead
from safa.heads.scaled import ScaledHead
from safa.heads.tau_normalised import TAUS, TauNormalisedHead, balanced_error, tau_normalised

HeadBuilder = Callable[[int, int], nn.Module]
"""``(in_features, num_classes) -> head``: a class, or for instance ``partial(CosineHead, scale=20.0)``."""

LinearHead = nn.Linear
"""The ordinary head: ``features @ weight.T + bias``."""

__all__ = [
    "TAUS",
    "AdjustedHead",
    "CosineHead",
    "HeadBuilder",
    "LinearHead",
    "NearestMeanHead",
    "ScaledHead",
    "TauNormalisedHead",
    "balanced_error",
    "tau_normalised",
]
