"""Operations on whole batches against Pillow, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from safa.data import operations
from safa.errors import UserError

N = 24
FACTORS = torch.linspace(0, 2, N)


def some_images(channels: int = 3, size: int = 32) -> Tensor:
    """Noise of many ranges, ramps and a flat image, shape (N, size, size, channels), uint8."""
    draw = np.random.RandomState(0)
    low = draw.randint(0, 128, (N, 1, 1, channels))
    noise = low + draw.randint(0, 1000, (N, size, size, channels)) % draw.randint(2, 129, (N, 1, 1, channels))
    ramp = np.linspace(0, 255, size)[None, :, None, None] * np.linspace(0.2, 1, channels)
    noise[::3] = (noise[::3] + ramp) / 2
    noise[1::6] = ramp
    noise[5] = 77
    return torch.from_numpy(noise.clip(0, 255).astype(np.uint8))


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.numpy().squeeze())


def as_pillow_does(images: Tensor, of_one) -> Tensor:
    """What a function of (Pillow image, number of the image) makes of every image."""
    done = [np.asarray(of_one(pil(image), n)).reshape(image.shape) for n, image in enumerate(images)]
    return torch.from_numpy(np.stack(done))


def difference(first: Tensor, second: Tensor) -> int:
    assert first.dtype == second.dtype == torch.uint8
    assert first.shape == second.shape
    return int((first.int() - second.int()).abs().max())


both = pytest.mark.parametrize("channels", [1, 3])


# --- colour ------------------------------------------------------------------------------------------------


@both
def test_auto_contrast_is_pillows_but_for_its_products_just_below_a_whole_number(channels):
    images = some_images(channels)
    done, expected = operations.auto_contrast(images), as_pillow_does(images, lambda i, n: ImageOps.autocontrast(i))
    assert difference(done, expected) <= 1
    assert (done >= expected).all()
    assert (done != expected).float().mean() < 0.01


def test_auto_contrast_is_exact_integer_arithmetic():
    images = some_images()
    low = images.amin((1, 2), keepdim=True).long()
    span = (images.amax((1, 2), keepdim=True).long() - low).clamp(min=1)
    flat = images.amax((1, 2), keepdim=True) == images.amin((1, 2), keepdim=True)
    expected = torch.where(flat, images, (images.long() - low) * 255 // span)
    assert torch.equal(operations.auto_contrast(images).long(), expected)


@both
@pytest.mark.parametrize("size", [8, 19, 32])
def test_equalize_is_pillows(channels, size):
    images = some_images(channels, size)
    assert torch.equal(operations.equalize(images), as_pillow_does(images, lambda i, n: ImageOps.equalize(i)))


@both
def test_solarize_is_pillows(channels):
    images, thresholds = some_images(channels), torch.arange(N) * 256 // (N - 1)
    expected = as_pillow_does(images, lambda i, n: ImageOps.solarize(i, int(thresholds[n])))
    assert torch.equal(operations.solarize(images, thresholds), expected)


def test_solarize_from_0_on_inverts_all_and_from_256_on_none():
    images = some_images()
    assert torch.equal(operations.solarize(images, torch.zeros(N)), 255 - images)
    assert torch.equal(operations.solarize(images, torch.full((N,), 256.0)), images)


@both
def test_posterize_is_pillows(channels):
    images, lost = some_images(channels), torch.arange(N) % 8
    expected = as_pillow_does(images, lambda i, n: ImageOps.posterize(i, 8 - int(lost[n])))
    assert torch.equal(operations.posterize(images, lost.float()), expected)


@both
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancers_are_pillows_but_for_the_last_bit_of_the_blend(name, channels):
    images = some_images(channels)
    enhancer = getattr(ImageEnhance, name.capitalize())
    expected = as_pillow_does(images, lambda i, n: enhancer(i).enhance(float(FACTORS[n])))
    done = getattr(operations, name)(images, FACTORS)
    assert difference(done, expected) <= 1  # a product that is a whole number but for a rounding of float32
    assert (done != expected).float().mean() < 0.01


@both
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_a_factor_of_one_changes_nothing(name, channels):
    images = some_images(channels)
    assert torch.equal(getattr(operations, name)(images, torch.ones(N)), images)


def test_colour_leaves_grey_images_as_they_are():
    grey = some_images(1)
    assert torch.equal(operations.color(grey, FACTORS), grey)
    assert torch.equal(operations.color(grey.expand(-1, -1, -1, 3), FACTORS), grey.expand(-1, -1, -1, 3))


def test_colours_of_two_channels_are_refused():
    with pytest.raises(UserError, match="images of 1 or 3 channels, got 2; use crop_flip instead"):
        operations.color(torch.zeros(4, 8, 8, 2, dtype=torch.uint8), torch.ones(4))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sharpness_leaves_the_outermost_pixels(size):
    images = some_images(3, size)
    done = operations.sharpness(images, torch.zeros(N))
    expected = as_pillow_does(images, lambda i, n: ImageEnhance.Sharpness(i).enhance(0.0)) if size > 2 else images
    assert torch.equal(done, expected)


# --- place -------------------------------------------------------------------------------------------------


def matrices(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64).view(1, 2, 3).expand(N, 2, 3)


@both
@pytest.mark.parametrize("right", [-3, 0, 5])
@pytest.mark.parametrize("down", [-32, 0, 2])
def test_a_warp_by_whole_pixels_is_a_shift_that_leaves_black(right, down, channels):
    images = some_images(channels)
    expected = torch.zeros_like(images)
    for y in range(32):
        for x in range(32):
            if 0 <= x - right < 32 and 0 <= y - down < 32:
                expected[:, y, x] = images[:, y - down, x - right]
    assert torch.equal(operations.warp(images, matrices(1, 0, -right, 0, 1, -down)), expected)


@both
def test_a_warp_is_pillows_affine_transform(channels):
    images = some_images(channels)
    matrix = torch.eye(3)[:2] + torch.from_numpy(np.random.RandomState(1).uniform(-0.9, 0.9, (N, 2, 3)))
    matrix[:, :, 2] *= 10
    expected = as_pillow_does(
        images, lambda i, n: i.transform((32, 32), Image.Transform.AFFINE, matrix[n].flatten().tolist())
    )
    assert torch.equal(operations.warp(images, matrix), expected)


def test_a_warp_keeps_height_and_width_apart():
    images = some_images()[:, :20]
    assert torch.equal(operations.warp(images, matrices(1, 0, 0, 0, 1, 0)), images)
    expected = as_pillow_does(images, lambda i, n: i.transform((32, 20), Image.Transform.AFFINE, (1, 0.5, 0, 0, 1, 3)))
    assert torch.equal(operations.warp(images, matrices(1, 0.5, 0, 0, 1, 3)), expected)


# --- cutout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 16, 32])
def test_cutout_greys_out_a_square_around_its_centre_and_keeps_the_rest(size):
    images = some_images() // 2
    centre = torch.from_numpy(np.random.RandomState(2).randint(0, 32, (2, N)))
    done = operations.cutout(images, size, centre)
    for n in range(N):
        expected = images[n].clone()
        top, left = int(centre[0, n]) - size // 2, int(centre[1, n]) - size // 2
        expected[max(top, 0) : top + size, max(left, 0) : left + size] = 128
        assert torch.equal(done[n], expected)


def test_cutout_larger_than_the_images_is_refused():
    message = "cutout is the side of a square in pixels, at most that of the images, 20, got 21"
    with pytest.raises(UserError, match=message):
        operations.cutout(some_images()[:, :20], 21, torch.zeros(2, N, dtype=torch.int64))


# --- all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
def test_batches_of_none_and_one_come_back(name, n):
    images = some_images()[:n]
    assert getattr(operations, name)(images).shape == images.shape


@both
def test_the_images_given_are_not_changed(channels):
    images = some_images(channels)
    before = images.clone()
    operations.auto_contrast(images)
    operations.equalize(images)
    for name in ("color", "contrast", "brightness", "sharpness", "solarize", "posterize"):
        getattr(operations, name)(images, FACTORS)
    operations.warp(images, matrices(1, 0, 3, 0, 1, 3))
    operations.cutout(images, 9, torch.full((2, N), 7))
    assert torch.equal(images, before)
