"""Augmentation policies: after crop and mirror, random operations of colour and place, each on the images that drew it.

Reading, of both policies:
    - Strength is linear in the magnitude, from 0 to the strongest at 30. In the TPU release of RandAugment a higher
      magnitude posterizes and solarizes less.
    - Color, contrast, brightness and sharpness blend by 1 ± range, with a random sign, as torchvision has it. The
      releases draw no sign and map magnitudes to [0.1, 1.9] (wide: [0.01, 2]), in the middle of which nothing changes.
    - Solarize inverts from 256 (1 - m / 30) on, rounded up, as AutoAugment and TrivialAugment do; torchvision begins at
      255, so that magnitude 0 turns white black.
    - Posterize rounds the number of lost bits, as torchvision does; TrivialAugment's release rounds it down.
    - Shifts are whole pixels, rounded towards 0. A shear keeps the upper left corner, a rotation the centre. Pixels are
      fetched from the nearest one; Pillow's default, and the releases'.
    - What comes in from outside is black, as with the crop; black too in TrivialAugment's release and in torchvision,
      128 in the TPU release of RandAugment, the mean in that of AutoAugment on CIFAR.
    - Crop and mirror come first, as where long-tailed CIFAR is trained with AutoAugment (PaCo). AutoAugment's release
      has them last; TrivialAugment's knows both.
    - A grey square comes last, as in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from safa.data.augmentation import CropFlip
from safa.data.operations import (
    auto_contrast,
    brightness,
    color,
    contrast,
    cutout,
    equalize,
    posterize,
    sharpness,
    solarize,
    warp,
)
from safa.devices import placed
from safa.errors import UserError

STRONGEST = 30


@dataclass(frozen=True)
class Ranges:
    """How strong each operation is at magnitude 30.

    Attributes:
        rotate: degrees.
        shear: pixels per pixel.
        translate: share of the image's side.
        posterize: bits that are lost.
        enhance: distance of the factor of color, contrast, brightness and sharpness from 1.
    """

    rotate: float
    shear: float
    translate: float
    posterize: float
    enhance: float


# AutoAugment shifts ImageNet's 331 pixels by at most 150; torchvision keeps that share on images of any size.
NARROW = Ranges(rotate=30, shear=0.3, translate=150 / 331, posterize=4, enhance=0.9)
# TrivialAugment's wide space shifts by at most 32 pixels, which is the side of the images it was made for.
WIDE = Ranges(rotate=135, shear=0.99, translate=1, posterize=6, enhance=0.99)


class RandAugment:
    """As many operations as asked for, drawn with replacement, all at one magnitude.  [Cubuk et al. 2020]

    Args:
        operations: how many, one after the other; N in the paper.
        magnitude: of all of them, in [0, 30]; M in the paper.
        cutout: side in pixels of the grey square at last; 0 for none. 16 is common on CIFAR.
        padding, flip: of the crop and the mirror at first, see ``CropFlip``.

    Reading:
        - The ranges are torchvision's, and so is a shift by a share of the image's side. AutoAugment on CIFAR shifts by
          at most 10 pixels, the TPU release by 100 pixels of ImageNet.
        - The strongest magnitude is 30, as in torchvision. The TPU release reaches these ranges at 10, and goes on.
        - The operations are the 14 of the paper. The TPU release has no identity, but inverts, cuts out and adds to
          dark pixels.

    Raises:
        UserError: for settings out of their range; on a call, if the square is larger than the images.

    ``TrivialAugment`` has nothing to set: one operation, every magnitude.
    """

    def __init__(
        self, operations: int = 2, magnitude: float = 10, cutout: int = 0, padding: int = 4, flip: bool = True
    ) -> None:
        if not isinstance(operations, int) or operations < 1:
            raise UserError(
                f"operations says how many follow each other, so a whole number from 1 on, got {operations}; "
                "for none, use crop_flip"
            )
        if not 0 <= magnitude <= STRONGEST:
            raise UserError(f"magnitude is in [0, {STRONGEST}], got {magnitude}; torchvision's default is 9")
        self.operations, self.magnitude, self.cutout = operations, magnitude, _side(cutout)
        self.crop_flip = CropFlip(padding, flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, h, w, c) uint8 -> the same shape and type."""
        images = self.crop_flip(images, generator)
        for _ in range(self.operations):
            drawn = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
            magnitudes = self.magnitude * _signs(len(images), generator)
            images = after(images, drawn, magnitudes, NARROW)
        return _cut_out(images, self.cutout, generator)


class TrivialAugment:
    """One operation at one magnitude, both drawn for every image, of a wide range.  [Müller and Hutter 2021]

    Args:
        cutout: side in pixels of the grey square at last; 0 for none. The authors take 16 on CIFAR.
        padding, flip: of the crop and the mirror at first, see ``CropFlip``.

    Reading:
        A shift is at most the side of the image, as it is with the released 32 pixels on CIFAR.

    Raises:
        UserError: if ``cutout`` is no side of a square; on a call, if the square is larger than the images.

    ``RandAugment`` wants its number of operations and its magnitude tuned.
    """

    def __init__(self, cutout: int = 0, padding: int = 4, flip: bool = True) -> None:
        self.cutout, self.crop_flip = _side(cutout), CropFlip(padding, flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, h, w, c) uint8 -> the same shape and type."""
        images = self.crop_flip(images, generator)
        drawn = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
        magnitudes = torch.randint(STRONGEST + 1, (len(images),), generator=generator)
        images = after(images, drawn, magnitudes * _signs(len(images), generator), WIDE)
        return _cut_out(images, self.cutout, generator)


def after(images: Tensor, drawn: Tensor, magnitudes: Tensor, ranges: Ranges) -> Tensor:
    """Every image after the operation it drew.

    Args:
        images: shape (n, h, w, c), uint8, on any device.
        drawn: numbers of ``OPERATIONS``, shape (n,), on the CPU: how many drew which then waits for no device.
        magnitudes: in [-30, 30], shape (n,), on the CPU; operations without a direction take the distance from 0.
        ranges: of the policy.
    """
    order = drawn.argsort(stable=True)
    counts = drawn.bincount(minlength=len(OPERATIONS)).tolist()
    by_operation = torch.split(magnitudes[order].double(), counts)
    height, width = images.shape[1:3]
    moves = zip(MOVES.values(), by_operation[len(COLOURS) :], strict=True)
    matrices = torch.cat([move(some, ranges, height, width) for move, some in moves])

    # Sorted by operation, the images of each are one slice; selecting whole rows costs no more than a copy.
    there, back = placed(images.device, order, order.argsort())
    ordered = images.index_select(0, there)
    *coloured, moved = torch.split(ordered, [*counts[: len(COLOURS)], len(matrices)])
    done = [
        colour(some, magnitude, ranges)
        for colour, some, magnitude in zip(COLOURS.values(), coloured, by_operation, strict=False)
    ]
    done.append(warp(moved, matrices))
    return torch.cat(done).index_select(0, back)


def _signs(n: int, generator: torch.Generator) -> Tensor:
    """-1 or 1, shape (n,)."""
    return 2 * torch.randint(2, (n,), generator=generator) - 1


def _cut_out(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One grey square per image, its centre anywhere in the image."""
    if size == 0:
        return images
    n, height, width, _ = images.shape
    rows = torch.randint(height, (n,), generator=generator)
    columns = torch.randint(width, (n,), generator=generator)
    return cutout(images, size, torch.stack([rows, columns]))


def _side(cutout: int) -> int:
    if not isinstance(cutout, int) or cutout < 0:
        raise UserError(f"cutout is the side of a square in whole pixels, 0 for none, got {cutout}")
    return cutout


def _identity(images: Tensor, _magnitude: Tensor, _ranges: Ranges) -> Tensor:
    return images


def _auto_contrast(images: Tensor, _magnitude: Tensor, _ranges: Ranges) -> Tensor:
    return auto_contrast(images)


def _equalize(images: Tensor, _magnitude: Tensor, _ranges: Ranges) -> Tensor:
    return equalize(images)


def _solarize(images: Tensor, magnitude: Tensor, _ranges: Ranges) -> Tensor:
    return solarize(images, 256 - _scaled(magnitude.abs(), 256).floor())


def _posterize(images: Tensor, magnitude: Tensor, ranges: Ranges) -> Tensor:
    return posterize(images, _scaled(magnitude.abs(), ranges.posterize).round())


def _enhanced(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Ranges], Tensor]:
    return lambda images, magnitude, ranges: by(images, 1 + _scaled(magnitude, ranges.enhance))


def _rotation(magnitude: Tensor, ranges: Ranges, height: int, width: int) -> Tensor:
    angle = _scaled(magnitude, ranges.rotate).deg2rad()
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    return _matrix(cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos)


def _shear_x(magnitude: Tensor, ranges: Ranges, _height: int, _width: int) -> Tensor:
    zero, one = torch.zeros_like(magnitude), torch.ones_like(magnitude)
    return _matrix(one, _scaled(magnitude, ranges.shear), zero, zero, one, zero)


def _shear_y(magnitude: Tensor, ranges: Ranges, _height: int, _width: int) -> Tensor:
    zero, one = torch.zeros_like(magnitude), torch.ones_like(magnitude)
    return _matrix(one, zero, zero, _scaled(magnitude, ranges.shear), one, zero)


def _shift_x(magnitude: Tensor, ranges: Ranges, _height: int, width: int) -> Tensor:
    zero, one = torch.zeros_like(magnitude), torch.ones_like(magnitude)
    return _matrix(one, zero, _scaled(magnitude, width * ranges.translate).trunc(), zero, one, zero)


def _shift_y(magnitude: Tensor, ranges: Ranges, height: int, _width: int) -> Tensor:
    zero, one = torch.zeros_like(magnitude), torch.ones_like(magnitude)
    return _matrix(one, zero, zero, zero, one, _scaled(magnitude, height * ranges.translate).trunc())


def _scaled(magnitude: Tensor, strongest: float) -> Tensor:
    """The strength at a magnitude; multiplied first, so that whole numbers stay whole."""
    return magnitude * strongest / STRONGEST


def _matrix(*entries: Tensor) -> Tensor:
    """Matrices (n, 2, 3) of ``warp``, from six columns (n,)."""
    return torch.stack(entries, dim=1).view(-1, 2, 3)


COLOURS: dict[str, Callable[[Tensor, Tensor, Ranges], Tensor]] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "color": _enhanced(color),
    "contrast": _enhanced(contrast),
    "brightness": _enhanced(brightness),
    "sharpness": _enhanced(sharpness),
}
MOVES: dict[str, Callable[[Tensor, Ranges, int, int], Tensor]] = {
    "rotate": _rotation,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _shift_x,
    "translate_y": _shift_y,
}
OPERATIONS = (*COLOURS, *MOVES)
