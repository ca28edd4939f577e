"""Augmentations: random changes of a whole uint8 batch at once, a pure function of the generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.devices import placed
from safa.errors import UserError

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


class CropFlip:
    """Zero-pad, crop back at a random place, mirror half of the images.  [He et al. 2016, section 4.2]"""

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if not isinstance(padding, int) or padding < 0:
            raise UserError(f"padding is a number of whole pixels on every side, at least 0, got {padding}")
        self.padding, self.flip = padding, _whether("flip", flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, h, w, c) uint8 -> the same shape and type, in one gather for the whole batch."""
        n, height, width, channels = images.shape
        pad = self.padding
        padded = F.pad(images, (0, 0, pad, pad, pad, pad))
        corner = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5 if self.flip else torch.zeros(n)
        # Few numbers cross to the device, what they mean for every pixel is worked out there.
        top, left, mirrored = placed(images.device, corner[0], corner[1], mirrored.long())
        image, row, column = (torch.arange(size, device=images.device) for size in (n, height, width))
        columns = left[:, None] + torch.where(mirrored[:, None] > 0, column.flip(0), column)
        # Selecting whole pixels from the flattened batch is about four times as quick as indexing with three tensors.
        rows = (width + 2 * pad) * (top[:, None] + row + (height + 2 * pad) * image[:, None])
        pixels = rows[:, :, None] + columns[:, None, :]
        return padded.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)


class Shift(CropFlip):
    """Zero-pad and crop back at a random place, never mirrored: for digits and other signs with a handedness."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__(padding, flip=False)


class ResizedCrop:
    """Crop a random area and aspect ratio, resize it to the full square, mirror half.  [Szegedy et al. 2015]"""

    def __init__(
        self,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        self.scale, self.ratio, self.flip = _range("scale", scale), _range("ratio", ratio), _whether("flip", flip)
        if self.scale[1] > 1:
            raise UserError(f"scale is a range of shares of the image's area, at most 1, got {list(scale)}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, h, w, c) uint8 -> the same shape and type, by bilinear sampling of the whole batch."""
        n = len(images)
        area, aspect, x, y, mirror = torch.rand(5, n, generator=generator)
        area = self.scale[0] + area * (self.scale[1] - self.scale[0])
        low, high = np.log(self.ratio)
        aspect = torch.exp(low + aspect * (high - low))
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        sign = torch.where(mirror < 0.5, -1.0, 1.0) if self.flip else torch.ones(n)
        zero = torch.zeros(n)
        across = torch.stack([width * sign, zero, (2 * x - 1) * (1 - width)], dim=1)
        down = torch.stack([zero, height, (2 * y - 1) * (1 - height)], dim=1)
        planes = images.permute(0, 3, 1, 2).float()
        (transform,) = placed(images.device, torch.stack([across, down], dim=1))
        grid = F.affine_grid(transform, list(planes.shape), align_corners=False)
        cropped = F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return cropped.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _whether(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name} is true or false, got {value}")
    return value


def _range(name: str, bounds: Any) -> tuple[float, float]:
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 < low <= high < float("inf"):
        raise UserError(f"{name} is a range of two numbers above 0, the smaller one first, got {bounds}")
    return low, high


class Unchanged:
    """The images as they are."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002  (one signature for all)
        """Images (n, h, w, c) uint8 -> themselves."""
        return images
