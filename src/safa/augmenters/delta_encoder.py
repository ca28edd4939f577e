"""Delta-encoder: how two images of a class differ, as a short code.  [Schwartz et al., NeurIPS 2018]"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.augmenters.layout import Layout, TailAugmenter, zero_beside, zero_of
from safa.augmenters.pairing import same_class_pairs, spread
from safa.classes import HEAD_RATIO
from safa.devices import placed
from safa.errors import UserError, closest
from safa.precision import lifted
from safa.types import Augmented
from safa.weighting import ClassCounts

Start = Literal["identity", "random"]

_LEAK = 0.2  # of the released code
_EPSILON = 1e-7  # likewise


class DeltaEncoder(TailAugmenter):
    """Rebuild a head feature from another of its class and a short code; decode the code at tail features.

    E([x, ref]) is the code z, a bottleneck too narrow for the feature itself; D([ref, z]) rebuilds x. A
    generated row is D([tail, z]) with the z of a head pair.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).
        code: numbers per code; 16 as published.
        hidden: width of the one hidden layer of E and of D; ``channels`` when left out. Published: 8192 for
            vectors of 2048.
        dropout: on hidden units while rebuilding, never while generating; 0.5 as published.
        reconstruction: weight of the loss.
        start: ``identity``: D adds to the reference and begins by adding nothing. ``random``: as published.
        rectify: generated features do not fall below the smallest real one.

    Reading:
        - Published for pooled vectors. On maps E and D are 3x3 convolutions (1x1 on tokens) and the code is a
          map too: ``code`` numbers per position.
        - Published in two phases, E and D being trained before they generate. Here they learn in every
          training step, also while inactive; generated rows are constants, so that only the reconstruction
          trains E and D, as published. Put an idle stage before the generating one, or use identity start.
        - The weights of the L1 loss, an element's share in the squared error of its row, take part in the
          gradient, as in the released code.
        - E and D learn with the network's optimizer from torch's initial weights; published with Adam at 1e-5, from
          normal weights of deviation 0.01.
        - Every head pair (i, j) gives two codes, ij and ji, and each code one generated row.
        - Features are cut from the layers below, as in RSG and SAFA.

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.

    SAFA adapts the delta to the tail feature by a module of its own and lets the classification loss train
    it; here the decoder alone sees both, and never learns on tail features.
    """

    learns_while_idle = True

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        code: int = 16,
        hidden: int | None = None,
        dropout: float = 0.5,
        reconstruction: float = 1.0,
        start: Start = "identity",
        rectify: bool = True,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        hidden = channels if hidden is None else hidden
        _check(code, hidden, dropout, reconstruction, start)
        self.dropout, self.reconstruction, self.active = dropout, reconstruction, True
        self.start, self.rectify = start, rectify
        self.encoder = _TwoLayers(2 * channels, hidden, code, self.kernel)  # E
        self.decoder = _TwoLayers(channels + code, hidden, channels, self.kernel)  # D
        if start == "identity":
            for parameter in self.decoder.second.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then the generated ones: none in evaluation, or without head pair or tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than this was built for.
        """
        maps = self.as_maps(features)
        if not self.training:
            return Augmented(features, labels, zero_beside(features))
        source, (read, is_head) = maps.detach(), self.labels_and_heads(labels, len(features))
        sample, reference = placed(features.device, *self._head_pairs(read, is_head))
        if len(sample) == 0:
            return Augmented(features, labels, zero_of(self))
        x, ref = source[sample], source[reference]
        rebuilt = self.decode(ref, self.encode(x, ref, self.dropout), self.dropout)
        term = weighted_l1(rebuilt, x)
        loss, terms = self.reconstruction * term, {"reconstruction": term.detach()}
        tail = (~is_head).nonzero().squeeze(1)
        if not self.active or len(tail) == 0:
            return Augmented(features, labels, loss, terms)
        (drawn,) = placed(features.device, tail[spread(len(sample), len(tail))])
        with torch.no_grad():
            generated = self.decode(source[drawn], self.encode(x, ref))
        if self.rectify:
            generated = torch.maximum(generated, source.amin().to(generated.dtype))
        rows = self.grown(features, generated)
        return Augmented(rows, torch.cat([labels, labels[drawn]]), loss, terms)

    def encode(self, sample: Tensor, reference: Tensor, dropout: float = 0.0) -> Tensor:
        """E: what turns the reference into the sample, two of (n, c, h, w) -> (n, code, h, w)."""
        code: Tensor = self.encoder(torch.cat([sample, reference], dim=1), dropout)
        return code

    def decode(self, reference: Tensor, code: Tensor, dropout: float = 0.0) -> Tensor:
        """D: the reference changed by a code, (n, c, h, w) and (n, code, h, w) -> (n, c, h, w)."""
        decoded: Tensor = self.decoder(torch.cat([reference, code], dim=1), dropout)
        return reference + decoded if self.start == "identity" else decoded

    def extra_repr(self) -> str:
        weights = f"dropout={self.dropout}, reconstruction={self.reconstruction}"
        return f"{super().extra_repr()}, {weights}, start={self.start!r}, rectify={self.rectify}"

    def _head_pairs(self, labels: Tensor, is_head: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (sample, reference) of one head class each, every pair in both directions."""
        first, second, _ = same_class_pairs(labels)
        head = is_head[first]
        first, second = first[head], second[head]
        return torch.cat([first, second]), torch.cat([second, first])


def weighted_l1(rebuilt: Tensor, target: Tensor) -> Tensor:
    """L1 error whose elements count by their share in the row's squared error.  [Schwartz et al. 2018]

    Args:
        rebuilt, target: shape (n, c, h, w), n at least 1.

    Returns:
        Scalar: the mean over rows of ``sum_i w_i |d_i|`` with ``w_i = d_i^2 / sum_j d_j^2``.
    """
    error = (lifted(rebuilt) - lifted(target)).abs().flatten(1)
    shares = error.square()
    shares = shares / (shares.sum(dim=1, keepdim=True) + _EPSILON)
    return (shares * error).sum(dim=1).mean()


class _TwoLayers(nn.Module):
    """Conv, leaky ReLU, dropout, conv; the call says how much is dropped, for generating drops nothing."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(hidden, outputs, kernel, padding=kernel // 2)

    def forward(self, inputs: Tensor, dropout: float) -> Tensor:
        hidden = F.leaky_relu(self.first(inputs), _LEAK)
        outputs: Tensor = self.second(F.dropout(hidden, dropout) if dropout else hidden)
        return outputs


def _check(code: int, hidden: int, dropout: float, reconstruction: float, start: str) -> None:
    if code < 1 or hidden < 1:
        raise UserError(f"code and hidden are widths of at least 1, got code={code} and hidden={hidden}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is the share of hidden units left out, in [0, 1), got {dropout}")
    if not 0 <= reconstruction < math.inf:
        raise UserError(f"reconstruction is a weight of at least 0, got {reconstruction}")
    if start not in get_args(Start):
        raise UserError(f"start must be identity or random, got {start!r}{closest(start, get_args(Start))}")
