"""RandAugment and TrivialAugment: which operation, how strong, and Pillow's result for every image that drew it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from safa.catalog import build
from safa.data.augmentation import CropFlip
from safa.data.batches import Batches, Normalise
from safa.data.policies import NARROW, OPERATIONS, WIDE, RandAugment, Ranges, TrivialAugment, after
from safa.data.types import Split
from safa.errors import UserError
from safa.sampling import InstanceBalanced

STILL = {"padding": 0, "flip": False}
MAGNITUDES = [-30, -17, -10, -1, 0, 1, 9, 10, 20, 30]
RELEASED = {  # at magnitude 30 on 32 x 32 pixels: (rotate, shear, translate, posterize, enhance)
    "narrow": (NARROW, (30, 0.3, 32 * 150 / 331, 4, 0.9)),
    "wide": (WIDE, (135, 0.99, 32, 6, 0.99)),
}
BOTH = {"rand_augment": RandAugment, "trivial_augment": TrivialAugment}
both = pytest.mark.parametrize("policy", BOTH.values(), ids=BOTH)


def some_images(n: int = 10, channels: int = 3, size: int = 32) -> Tensor:
    """Noise on a ramp, each image of other darkness; (n, size, size, channels) uint8, no pixel 0."""
    draw = np.random.RandomState(0)
    ramp = np.linspace(0, 100, size)[None, :, None, None] * np.linspace(0.3, 1, channels)
    images = ramp + draw.randint(1, 90, (n, 1, 1, channels)) + draw.randint(0, 60, (n, size, size, channels))
    return torch.from_numpy(images.astype(np.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_pillow_does(name: str, image: Image.Image, magnitude: int, maxima: tuple[float, ...]) -> Image.Image:
    """One operation on one image, at a signed magnitude of 30."""
    rotate, shear, translate, posterize, enhance = (magnitude * maximum / 30 for maximum in maxima)
    affine = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, int(translate), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(translate)),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name])
    plain = {
        "identity": lambda: image,
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(rotate),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(256 * abs(magnitude) / 30)),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(abs(posterize))),
    }
    return plain[name]() if name in plain else getattr(ImageEnhance, name.capitalize())(image).enhance(1 + enhance)


# --- one operation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("ranges", "maxima"), RELEASED.values(), ids=RELEASED)
def test_every_operation_at_every_magnitude_is_pillows(ranges: Ranges, maxima, name, channels):
    images = some_images(len(MAGNITUDES), channels)
    drawn = torch.full((len(images),), OPERATIONS.index(name))
    done = after(images, drawn, torch.tensor(MAGNITUDES), ranges)
    for image, magnitude, result in zip(images, MAGNITUDES, done.numpy(), strict=True):
        pil = as_pillow_does(name, Image.fromarray(image.numpy().squeeze()), magnitude, maxima)
        expected = np.asarray(pil).reshape(image.shape)
        rounded = name in ("auto_contrast", "color", "contrast", "brightness", "sharpness")  # see test_operations
        assert np.abs(expected.astype(int) - result).max() <= rounded
        assert (expected != result).mean() < 0.01


@pytest.mark.parametrize("ranges", [NARROW, WIDE])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("auto_contrast", "equalize")])
def test_at_magnitude_0_nothing_changes_but_by_auto_contrast_and_equalize(name, ranges):
    images = some_images()
    drawn = torch.full((len(images),), OPERATIONS.index(name))
    assert torch.equal(after(images, drawn, torch.zeros(len(images)), ranges), images)


def test_every_image_gets_its_own_operation_whatever_the_others_drew():
    images, n = some_images(60), 60
    drawn, magnitudes = torch.arange(n) * 5 % len(OPERATIONS), torch.arange(n) % 61 - 30
    together = after(images, drawn, magnitudes, WIDE)
    for i in range(n):
        one = slice(i, i + 1)
        assert torch.equal(together[one], after(images[one], drawn[one], magnitudes[one], WIDE))


@pytest.mark.parametrize("side", [8, 28, 30, 32, 96])
def test_reading_a_wide_shift_of_magnitude_30_leaves_nothing_and_one_of_15_half_the_image(side):
    images = some_images(2, size=side)
    drawn = torch.full((2,), OPERATIONS.index("translate_x"))
    assert not after(images, drawn, torch.tensor([30, -30]), WIDE).any()
    halves = after(images, drawn, torch.tensor([15, -15]), WIDE)
    assert torch.equal(halves[0, :, : side // 2], images[0, :, side // 2 :])
    assert torch.equal(halves[1, :, side // 2 :], images[1, :, : side // 2])


# --- policies ----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("cutout", [0, 4])
@pytest.mark.parametrize("shape", [(50, 32, 32, 3), (50, 32, 32, 1), (50, 8, 12, 3), (1, 32, 32, 3)])
def test_shape_and_type_stay(policy, cutout, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    done = policy(cutout=cutout)(images, generator())
    assert done.shape == images.shape
    assert done.dtype == torch.uint8


@both
def test_images_on_another_device_stay_there_and_are_never_waited_for(policy):
    elsewhere = torch.empty(50, 32, 32, 3, dtype=torch.uint8, device="meta")  # which refuses to be read or mixed
    assert policy(cutout=8)(elsewhere, generator()).device == elsewhere.device


@both
def test_the_generator_alone_decides(policy):
    images, made = some_images(40), policy(cutout=8)
    first = made(images, generator(5))
    torch.manual_seed(9)
    assert torch.equal(policy(cutout=8)(images, generator(5)), first)
    assert not torch.equal(made(images, generator(6)), first)
    assert torch.equal(images, some_images(40))


@both
def test_every_operation_is_drawn_equally_often(policy, monkeypatch):
    seen: list[Tensor] = []
    signed: list[Tensor] = []

    def watched(images, drawn, magnitudes, ranges):
        seen.append(drawn)
        signed.append(magnitudes)
        return images

    monkeypatch.setattr("safa.data.policies.after", watched)
    policy()(some_images(1, size=2).expand(14_000, 2, 2, 3), generator())
    for drawn, magnitudes in zip(seen, signed, strict=True):
        counts = drawn.bincount(minlength=14)
        assert len(counts) == 14
        assert (counts - 1000).abs().max() < 150  # five standard deviations of about 30
        assert 0.45 < (magnitudes > 0).sum() / (magnitudes != 0).sum() < 0.55
    if policy is RandAugment:
        assert set(torch.cat(signed).tolist()) == {-10, 10}
    else:
        counts = torch.cat(signed).abs().bincount()
        assert len(counts) == 31
        assert (counts - 14_000 / 31).abs().max() < 120


def test_rand_augment_is_crop_flip_and_then_its_operations_one_after_the_other():
    images = some_images(80)
    done = RandAugment(operations=3, magnitude=7)(images, generator(2))
    draws = generator(2)
    expected = CropFlip()(images, draws)
    for _ in range(3):
        drawn = torch.randint(14, (80,), generator=draws)
        sign = 2 * torch.randint(2, (80,), generator=draws) - 1
        expected = after(expected, drawn, 7 * sign, NARROW)
    assert torch.equal(done, expected)


def test_trivial_augment_is_crop_flip_and_then_one_operation_of_any_magnitude():
    images = some_images(80)
    draws = generator(3)
    expected = CropFlip(2, False)(images, draws)
    drawn = torch.randint(14, (80,), generator=draws)
    magnitude = torch.randint(31, (80,), generator=draws) * (2 * torch.randint(2, (80,), generator=draws) - 1)
    expected = after(expected, drawn, magnitude, WIDE)
    assert torch.equal(TrivialAugment(padding=2, flip=False)(images, generator(3)), expected)


@both
def test_cutout_comes_last_and_greys_out_at_most_its_square(policy):
    images = some_images(300)
    plain, cut = policy()(images, generator(4)), policy(cutout=6)(images, generator(4))
    changed = (plain != cut).any(3)
    assert (cut[changed] == 128).all()
    areas = (cut == 128).all(3).sum((1, 2))
    assert changed.sum((1, 2)).max() == 36
    assert (areas >= 9).all()  # a square around a corner's pixel keeps at least a quarter
    assert (changed.flatten(1).any(1)).all()
    centre = changed.float().mean(0)
    assert centre[8:24, 8:24].mean() == pytest.approx(36 / 1024, rel=0.15)


def test_two_operations_at_magnitude_0_change_what_auto_contrast_and_equalize_change():
    images = some_images(200)
    done = RandAugment(operations=1, magnitude=0, **STILL)(images, generator())
    same = (done == images).flatten(1).all(1).float().mean()
    assert same == pytest.approx(12 / 14, abs=0.08)


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rand_augment", {"magnitude": 31}, r"magnitude is in \[0, 30\], got 31; torchvision's default is 9"),
        ("rand_augment", {"magnitude": -1}, r"magnitude is in \[0, 30\], got -1"),
        ("rand_augment", {"magnitude": math.nan}, r"magnitude is in \[0, 30\], got nan"),
        ("rand_augment", {"operations": 0}, "a whole number from 1 on, got 0; for none, use crop_flip"),
        ("rand_augment", {"operations": 1.5}, "a whole number from 1 on, got 1.5"),
        ("rand_augment", {"cutout": -2}, "cutout is the side of a square in whole pixels, 0 for none, got -2"),
        ("trivial_augment", {"cutout": 2.5}, "cutout is the side of a square in whole pixels, 0 for none, got 2.5"),
        ("trivial_augment", {"magnitude": 3}, "'trivial_augment' has no option 'magnitude'"),
        ("rand_augment", {"operations": math.inf}, "a whole number from 1 on, got inf"),
        ("rand_augment", {"magnitude": "ten"}, "'rand_augment' cannot be made with {'magnitude': 'ten'}"),
    ],
)
def test_options_out_of_range_are_refused_with_the_way_out(name, options, message):
    with pytest.raises(UserError, match=message):
        build("augmentation", name, options)


@both
def test_a_square_larger_than_the_images_is_refused(policy):
    with pytest.raises(UserError, match="at most that of the images, 32, got 33"):
        policy(cutout=33)(some_images(), generator())


# --- batches -----------------------------------------------------------------------------------------------


def batches(**options) -> Batches:
    images = some_images(50, size=16).permute(0, 3, 1, 2).numpy()
    split = Split(np.arange(50) % 3, images)
    return Batches(
        split,
        InstanceBalanced(split.labels, 8, seed=3),
        Normalise((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), torch.device("cpu")),
        augmentation=build("augmentation", "rand_augment", options),
        device=torch.device("cpu"),
        image_size=16,
        seed=3,
    )


@pytest.mark.parametrize("start", range(8))
def test_batches_with_rand_augment_are_the_same_bit_for_bit_from_any_step_on(start):
    options = {"operations": 2, "magnitude": 10, "cutout": 8}
    whole = list(batches(**options).epoch(1))
    torch.manual_seed(start)
    rest = list(batches(**options).epoch(1, start))
    assert len(rest) == 7 - start if start < 7 else rest == []
    for (images, labels), (again, same) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
