"""Hallucinator: a tail feature and noise make another feature of its class.  [Wang et al., CVPR 2018]"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.augmenters.layout import Layout, TailAugmenter, zero_beside, zero_of
from safa.classes import HEAD_RATIO
from safa.devices import CPU, placed
from safa.errors import UserError
from safa.types import Augmented
from safa.weighting import ClassCounts


class Hallucinator(TailAugmenter):
    """Repeat tail features, changed by noise in whatever way helps the classifier.

    G has three layers with ReLUs, starts as a copy of the feature, and is trained by the classification loss
    of the rows it generates and by nothing else.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).
        noise: numbers of standard normal noise per generated row; as many as ``channels`` when left out.
        copies: generated rows per tail row.

    Reading:
        - Wang et al. train G through the test loss of a few-shot learner, end to end. Here there is one
          classifier, and its loss on the generated rows trains G; nothing but that asks for diversity.
        - The paper's G is a perceptron on vectors. On maps its layers are 3x3 convolutions (1x1 on tokens),
          and a row gets one noise vector for all its positions, so that it changes as a whole.
        - "Block diagonal identity matrices" (the paper's start): every layer copies its first c inputs and
          ignores the noise until it has learnt of it.
        - The paper ends in a ReLU since its features are not negative. Features below 0 are shifted above it
          and back, so that the start is a copy at any layer: exact where no feature is negative, else to the rounding
          of that shift, which in half precision is coarse beside a small feature.
        - Features are cut from the layers below, as in RSG and SAFA.

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.

    SAFA and the Delta-encoder take what they add from pairs of head features; this one takes it from noise,
    and so needs no head row in the batch.
    """

    learns_while_idle = False

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        noise: int | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        noise = channels if noise is None else noise
        if noise < 1 or copies < 1:
            raise UserError(f"noise and copies are at least 1, got noise={noise} and copies={copies}")
        self.noise, self.copies, self.active = noise, copies, True
        inputs = (channels + noise, channels, channels)
        self.generator = nn.ModuleList(_copying(c, channels, self.kernel) for c in inputs)  # G

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then ``copies`` rows per tail row: none in evaluation, or without a tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than this was built for.
        """
        maps = self.as_maps(features)
        if not (self.active and self.training):
            return Augmented(features, labels, zero_beside(features))
        _, is_head = self.labels_and_heads(labels, len(features))
        (tail,) = placed(features.device, (~is_head).nonzero().squeeze(1).repeat(self.copies))
        if len(tail) == 0:
            return Augmented(features, labels, zero_of(self))
        source = maps.detach()
        floor = source.amin().clamp(max=0)
        generated = self.generate(source[tail] - floor) + floor
        rows = self.grown(features, generated)
        return Augmented(rows, torch.cat([labels, labels[tail]]), zero_beside(features))

    def generate(self, samples: Tensor) -> Tensor:
        """G(x, z) with fresh noise z: features above 0, (n, c, h, w) -> (n, c, h, w)."""
        noise = torch.randn(len(samples), self.noise, 1, 1, dtype=samples.dtype, device=CPU)
        (noise,) = placed(samples.device, noise)
        hidden = torch.cat([samples, noise.expand(-1, -1, *samples.shape[2:])], dim=1)
        for layer in self.generator:
            hidden = F.relu(layer(hidden))
        return hidden

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise={self.noise}, copies={self.copies}"


def _copying(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that starts by handing on its first inputs as they are."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.dirac_(layer.weight)
    return layer
