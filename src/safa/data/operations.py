"""Changes of colour and place, each of a whole uint8 batch at once, with a strength per image.

They do what Pillow does to one image, rounding included: the released augmentation policies are defined by it.
Images are uint8 of shape (n, h, w, c) with c = 1 (grey) or 3, on any device; a strength has the shape (n,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from safa.devices import placed
from safa.errors import UserError

GREY = 128


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch every channel so that its darkest pixel is 0 and its brightest 255; a flat channel stays.

    Reading:
        Values are rounded down. Pillow does so too, but from a product that may fall just short of a whole
        number, so that it may be 1 less.
    """
    low = images.amin((1, 2), keepdim=True)
    span = images.amax((1, 2), keepdim=True) - low
    stretched = (images - low).float().mul_(255).div_(span.clamp(min=1)).to(torch.uint8)
    return torch.where(span > 0, stretched, images)


def equalize(images: Tensor) -> Tensor:
    """Make the histogram of every channel as even as a map of its values can; fewer than 256 pixels may stay."""
    n, height, width, channels = images.shape
    values = images.permute(0, 3, 1, 2).reshape(n * channels, height * width).long()
    counts = values.new_zeros(n * channels, 256).scatter_add_(1, values, values.new_ones(()).expand_as(values))
    below = counts.cumsum(1) - counts
    step = torch.where(counts > 0, below, 0).amax(1, keepdim=True) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device)).to(torch.uint8)
    return table.gather(1, values).view(n, channels, height, width).permute(0, 2, 3, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from ``threshold`` on, channel by channel; 256 inverts none, 0 all."""
    return torch.where(images < _each(threshold, images), images, 255 - images)


def posterize(images: Tensor, lost: Tensor) -> Tensor:
    """Set the lowest ``lost`` bits of every value to 0; in [0, 8]."""
    return images & (256 - 2 ** _each(lost, images)).to(torch.uint8)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image: factor 0 is grey, 1 the image, 2 twice as colourful. Grey images stay."""
    return _blend(_luma(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image: factor 0 is flat, 1 the image."""
    pixels = images.shape[1] * images.shape[2]
    total = _luma(images).sum((1, 2), keepdim=True)
    return _blend((2 * total + pixels) // (2 * pixels), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black: factor 0 is black, 1 the image."""
    return (images * _each(factor, images)).clamp_(0, 255).to(torch.uint8)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 window, its centre counting five times: factor 0 is smooth, 1 the image.

    The outermost pixels stay.
    """
    wide = images.to(torch.int16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    window = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    inner = images[:, 1:-1, 1:-1]
    result = images.clone()
    result[:, 1:-1, 1:-1] = _blend((window / 13).round_(), inner, factor)
    return result


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Fetch every pixel from where its matrix says, the nearest one; black where that is outside of the image.

    Args:
        images: shape (n, h, w, c), uint8.
        matrix: shape (n, 2, 3), float64, on the CPU: row 0 times (x, y, 1) is the source's x, row 1 its y, in pixels
            from the upper left corner of the image, so that the first pixel's centre is at (0.5, 0.5).

    Places are whole multiples of 1 / 65536 of a pixel, as in Pillow: they are then the same on every device, also on
    the border of two pixels.
    """
    n, height, width, channels = images.shape
    corner = matrix[:, :, 2] + 0.5 * matrix[:, :, 0] + 0.5 * matrix[:, :, 1]  # the source of the first pixel's centre
    fixed = torch.stack([matrix[:, :, 0], matrix[:, :, 1], corner], dim=2).mul_(65536).add_(0.5).floor_().long()
    (fixed,) = placed(images.device, fixed)
    by_x, by_y, start = fixed[:, :, :, None, None].unbind(2)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device).unsqueeze(1)
    column, row = (by_x * x + (by_y * y + start)).bitwise_right_shift_(16).unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = torch.arange(0, n * height * width, height * width, device=images.device)[:, None, None]
    index = torch.where(inside, row.mul_(width).add_(column).add_(first), 0)
    fetched = images.reshape(-1, channels).index_select(0, index.flatten())
    return fetched.view(images.shape).mul_(inside.unsqueeze(-1))


def cutout(images: Tensor, size: int, centre: Tensor) -> Tensor:
    """Grey out one square of ``size`` x ``size`` pixels per image.  [DeVries and Taylor 2017]

    Args:
        images: shape (n, h, w, c), uint8.
        size: side of the square, in pixels.
        centre: shape (2, n), int64, the row and the column of the square's centre; what sticks out is cut off.

    Reading:
        The paper fills with the mean of the data set, as 0 after normalisation. An augmentation sees no mean, so the
        square is 128, which on CIFAR is within a quarter of a standard deviation of it.

    Raises:
        UserError: if the square is larger than the images.
    """
    height, width = images.shape[1:3]
    if size > min(height, width):
        raise UserError(
            f"cutout is the side of a square in pixels, at most that of the images, {min(height, width)}, got {size}; "
            "half of it is common"
        )
    top, left = placed(images.device, *(centre - size // 2).unsqueeze(2))
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    down = (rows >= top) & (rows < top + size)
    across = (columns >= left) & (columns < left + size)
    return images.masked_fill((down.unsqueeze(2) & across.unsqueeze(1)).unsqueeze(3), GREY)


def _blend(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """``plain + factor * (images - plain)``, cut off at 0 and 255 and rounded down."""
    plain = plain.float()
    return (images - plain).mul_(_each(factor, images)).add_(plain).clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """Brightness as the eye sees it, shape (n, h, w, 1), int32.  [ITU-R BT.601, in 16-bit fixed point as in Pillow]"""
    channels = images.shape[3]
    if channels == 1:
        return images.int()
    if channels != 3:
        raise UserError(f"colours are changed in images of 1 or 3 channels, got {channels}; use crop_flip instead")
    red, green, blue = images.int().unsqueeze(3).unbind(4)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _each(strength: Tensor, images: Tensor) -> Tensor:
    """One strength per image, shape (n, 1, 1, 1), float32 where the images are."""
    (there,) = placed(images.device, strength.float())
    return there.view(-1, 1, 1, 1)
