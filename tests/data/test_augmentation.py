"""Augmentations against a loop over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safa.data.augmentation import CropFlip, ResizedCrop, Shift, Unchanged
from safa.errors import UserError


def some_images(n: int = 10, size: int = 8) -> np.ndarray:
    """Random images (n, 3, size, size); no pixel is 0, so padding can be told from content."""
    return np.random.RandomState(0).randint(1, 256, (n, 3, size, size)).astype(np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [1, 4])
def test_crop_flip_is_pad_crop_and_mirror_image_by_image(padding, flip):
    images = torch.from_numpy(some_images(40)).permute(0, 2, 3, 1)
    done = CropFlip(padding, flip)(images, generator(5))

    draws = generator(5)
    corner = torch.randint(0, 2 * padding + 1, (2, 40, 1), generator=draws)
    mirrored = torch.rand(40, 1, generator=draws) < 0.5 if flip else torch.zeros(40, 1)
    for n, image in enumerate(images.numpy()):
        canvas = np.zeros((8 + 2 * padding, 8 + 2 * padding, 3), dtype=np.uint8)
        canvas[padding : padding + 8, padding : padding + 8] = image
        top, left = corner[0, n].item(), corner[1, n].item()
        expected = canvas[top : top + 8, left : left + 8]
        expected = expected[:, ::-1] if mirrored[n] else expected
        np.testing.assert_array_equal(done[n].numpy(), expected)
    assert done.dtype == torch.uint8


def test_crop_flip_reaches_every_corner_and_mirrors_about_half():
    images = torch.from_numpy(some_images(1)).permute(0, 2, 3, 1).expand(4000, 8, 8, 3)
    done = CropFlip(padding=1)(images, generator())
    kinds, counts = np.unique(done.numpy().reshape(4000, -1), axis=0, return_counts=True)
    assert len(kinds) == 3 * 3 * 2
    assert counts.min() > 150  # of 222 expected


def test_a_shift_never_mirrors():
    images = torch.from_numpy(some_images(1)).permute(0, 2, 3, 1).expand(500, 8, 8, 3)
    assert len(np.unique(Shift(padding=1)(images, generator()).numpy().reshape(500, -1), axis=0)) == 3 * 3


def test_a_resized_crop_of_everything_is_the_image():
    images = torch.from_numpy(some_images()).permute(0, 2, 3, 1)
    assert torch.equal(ResizedCrop(scale=(1, 1), ratio=(1, 1), flip=False)(images, generator()), images)


def test_a_resized_crop_of_everything_mirrors_half():
    images = torch.from_numpy(some_images(100)).permute(0, 2, 3, 1)
    done = ResizedCrop(scale=(1, 1), ratio=(1, 1))(images, generator())
    mirrored = [torch.equal(after, before.flip(1)) for after, before in zip(done, images, strict=True)]
    same = [torch.equal(after, before) for after, before in zip(done, images, strict=True)]
    assert sum(mirrored) + sum(same) == 100
    assert 30 < sum(mirrored) < 70


def test_a_resized_crop_keeps_shape_type_range_and_flat_colour():
    images = torch.full((50, 8, 8, 3), 77, dtype=torch.uint8)
    done = ResizedCrop()(images, generator())
    assert done.shape == images.shape
    assert torch.equal(done, images)


def test_a_resized_crop_shows_a_part_of_the_image_and_nothing_beside():
    ramp = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 64, 1).expand(200, 64, 64, 3)
    done = ResizedCrop(scale=(0.25, 0.25), ratio=(1, 1), flip=False)(ramp, generator()).float()
    width = done[:, 0, -1, 0] - done[:, 0, 0, 0]
    assert ((width - 31.5).abs() <= 1).all()  # half of 64 columns, from centre to centre of the outer ones
    assert done.min() < 3
    assert done.max() > 60
    assert torch.equal(done[:, 0], done[:, -1])


def places(n: int) -> torch.Tensor:
    """Images of 64 × 64 pixels whose first channel is the column of a pixel, and whose second one is its row."""
    columns = torch.arange(64, dtype=torch.uint8)
    return torch.stack([columns.expand(64, 64), columns[:, None].expand(64, 64)], dim=-1).expand(n, 64, 64, 2)


def test_a_resized_crop_may_be_wider_than_high_and_lies_anywhere():
    done = ResizedCrop(scale=(0.25, 0.25), ratio=(4, 4), flip=False)(places(200), generator()).float()
    left, right, top, bottom = done[:, 0, 0, 0], done[:, 0, -1, 0], done[:, 0, 0, 1], done[:, -1, 0, 1]
    assert (right - left == 63).all()  # the whole width
    assert ((bottom - top - 15.75).abs() <= 1).all()  # and a quarter of the height
    assert top.min() < 3
    assert top.max() > 44


def test_a_resized_crop_draws_across_and_down_apart():
    left, top = ResizedCrop(scale=(0.25, 0.25), ratio=(1, 1), flip=False)(places(400), generator()).float()[:, 0, 0].T
    assert abs(torch.corrcoef(torch.stack([left, top]))[0, 1]) < 0.2  # four deviations of the chance of 400


def test_area_and_aspect_of_a_resized_crop_are_drawn_from_their_whole_ranges():
    done = ResizedCrop(scale=(0.1, 0.4), ratio=(0.5, 2), flip=False)(places(400), generator()).float()
    width, height = (done[:, -1, -1] - done[:, 0, 0]).T / 63
    area, aspect = (width * height).sort().values, (width / height).log().sort().values
    torch.testing.assert_close(area, torch.linspace(0.1, 0.4, 400), rtol=0, atol=0.05)
    torch.testing.assert_close(aspect, torch.linspace(-0.69, 0.69, 400), rtol=0, atol=0.2)


def test_a_resized_crop_has_the_ranges_that_the_page_of_recipes_names():
    crop = ResizedCrop()
    assert (crop.scale, crop.ratio) == ((0.2, 1), (3 / 4, 4 / 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CropFlip(padding=-1), "padding is a number of whole pixels on every side, at least 0, got -1"),
        (lambda: CropFlip(padding=2.5), "padding is a number of whole pixels on every side, at least 0, got 2.5"),
        (lambda: CropFlip(flip=0.3), "flip is true or false, got 0.3"),
        (lambda: ResizedCrop(flip="no"), "flip is true or false, got no"),
        (lambda: Shift("much"), "padding is a number of whole pixels on every side, at least 0, got much"),
        (lambda: ResizedCrop(scale=0.5), "scale is a range of two numbers above 0, the smaller one first, got 0.5"),
        (lambda: ResizedCrop(scale=[1.0, 0.2]), "scale is a range of two numbers above 0, the smaller one first, got"),
        (lambda: ResizedCrop(scale=[0.2, 1.5]), "scale is a range of shares of the image's area, at most 1, got"),
        (lambda: ResizedCrop(ratio=[0, 1]), "ratio is a range of two numbers above 0, the smaller one first, got"),
        (lambda: ResizedCrop(ratio=[1, 1, 1]), "ratio is a range of two numbers above 0, the smaller one first, got"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value).startswith(message)


def test_unchanged_is_unchanged():
    images = torch.from_numpy(some_images())
    assert Unchanged()(images, generator()) is images
