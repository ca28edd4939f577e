"""Batches: contents that only (seed, epoch, step, rank) decide."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from safa.catalog import CATALOG, build
from safa.data.augmentation import CropFlip, ResizedCrop
from safa.data.batches import Batches, InOrder, Normalise
from safa.data.types import Split
from safa.errors import UserError
from safa.sampling import InstanceBalanced
from tests.elsewhere import DEVICE, watched

CPU = torch.device("cpu")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def some_images(n: int = 10, size: int = 8) -> np.ndarray:
    """Random images (n, 3, size, size); no pixel is 0, so padding can be told from content."""
    return np.random.RandomState(0).randint(1, 256, (n, 3, size, size)).astype(np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(
    split: Split, *, augmentation=None, seed: int = 3, rank: int = 0, workers: int = 0, sampler=None, device=CPU
) -> Batches:
    return Batches(
        split,
        sampler or InstanceBalanced(split.labels, 4, seed=seed),
        Normalise(MEAN, STD, device),
        augmentation=augmentation,
        device=device,
        image_size=8,
        seed=seed,
        rank=rank,
        workers=workers,
    )


def epoch(made: Batches, *arguments: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(made.epoch(*arguments))


def equal(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture
def split() -> Split:
    return Split(np.arange(10) % 3, some_images())


@pytest.fixture
def files(split, tmp_path) -> Split:
    """The same images as PNG files."""
    paths = tuple(tmp_path / f"{i}.png" for i in range(len(split)))
    for path, image in zip(paths, split.images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return Split(split.labels, paths=paths)


# --- normalisation -----------------------------------------------------------------------------------------


def test_normalised_is_pixel_over_255_minus_mean_over_deviation(split):
    images = torch.from_numpy(split.images)
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    done = Normalise(MEAN, STD, CPU)(images.permute(0, 2, 3, 1))
    torch.testing.assert_close(done, expected.float(), rtol=0, atol=2e-6)


def test_batches_are_channels_last_in_memory(split):
    images, _ = next(batches(split).epoch(0))
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


# --- what decides a batch ----------------------------------------------------------------------------------


def test_an_epoch_holds_every_image_with_its_label(split):
    plain = Normalise(MEAN, STD, CPU)(torch.from_numpy(split.images).permute(0, 2, 3, 1))
    made = batches(split)
    done = epoch(made, 0)
    assert len(done) == len(made) == 3
    seen = []
    for images, labels in done:
        for image, label in zip(images, labels, strict=True):
            (place,) = [i for i in range(10) if torch.equal(plain[i], image)]
            assert label == split.labels[place]
            seen.append(place)
    assert sorted(seen) == list(range(10))


def test_an_epoch_is_the_same_whatever_was_drawn_before(split):
    first, second = (batches(split, augmentation=CropFlip()) for _ in range(2))
    expected = epoch(first, 2)
    epoch(second, 0)
    torch.manual_seed(99)
    torch.rand(7)
    assert equal(epoch(second, 2), expected)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_from_a_step_on_is_the_tail_of_the_epoch(start, split):
    made = batches(split, augmentation=CropFlip())
    assert equal(epoch(made, 1, start), epoch(made, 1)[start:])


def test_augmentation_differs_by_seed_epoch_step_and_rank(split):
    same_image = InOrder(10, 1)
    split = Split(split.labels, np.repeat(split.images[:1], 10, axis=0))
    seen = [
        image
        for made in ({}, {"seed": 4}, {"rank": 1})
        for index in (0, 1)
        for image, _ in epoch(batches(split, augmentation=CropFlip(), sampler=same_image, **made), index)
    ]
    distinct = len(np.unique(torch.cat(seen).numpy().reshape(60, -1), axis=0))
    assert distinct > 40  # of 60 drawn from 162 placings, mirrored or not


def test_global_random_numbers_are_neither_used_nor_moved(split):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    epoch(batches(split, augmentation=ResizedCrop()), 0)
    assert torch.equal(torch.get_rng_state(), state)


# --- another device ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOG["augmentation"])
def test_batches_on_another_device_are_those_of_the_cpu_and_the_cpu_waits_for_none(name):
    split = Split(np.arange(10) % 3, some_images(size=16))
    expected = epoch(batches(split, augmentation=build("augmentation", name, {})), 1)
    with watched() as seen:
        made = batches(split, augmentation=build("augmentation", name, {}), device=DEVICE)
        seen.clear()
        found = [(images.here, labels.here) for images, labels in made.epoch(1)]
    assert equal(found, expected)
    assert seen["waits"] == 0


@pytest.mark.parametrize(("augmentation", "uploads"), [(None, 1), (CropFlip(), 1 + 3)])
def test_indices_go_to_another_device_once_an_epoch_and_crops_once_a_batch(augmentation, uploads, split):
    with watched() as seen:
        made = batches(split, augmentation=augmentation, device=DEVICE)
        seen.clear()
        epoch(made, 0)
    assert seen["uploads"] == uploads


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_files_give_the_same_batches_as_images_in_memory(workers, files, split):
    in_memory = batches(split, augmentation=CropFlip())
    on_disk = batches(files, augmentation=CropFlip(), workers=workers)
    assert equal(epoch(on_disk, 1), epoch(in_memory, 1))
    assert equal(epoch(on_disk, 1, 2), epoch(in_memory, 1, 2))
    assert epoch(on_disk, 1)[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_files_moves_no_global_random_numbers(workers, files):
    """A step draws them, and may be the first to ask for a batch of the meta set."""
    state = torch.get_rng_state()
    epoch(batches(files, workers=workers), 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_in_training_is_named_in_one_sentence(workers, files):
    files.paths[3].unlink()
    with pytest.raises(UserError) as error:
        epoch(batches(files, workers=workers), 0)
    assert str(error.value) == f"cannot read {files.paths[3]} as an image: there is no such file"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_that_reaches_a_worker_leaves_it_at_work(number, files):
    """Systemd and Slurm send it to every process of a group; the one that trains has a state to save."""
    made = batches(files, workers=1, sampler=InOrder(10, 1)).epoch(0)
    next(made)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len(list(made)) == 9


# --- evaluation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_beyond_the_images_is_named(index, split):
    class Late(InOrder):
        def __iter__(self):
            yield from ([0, 1], [2, index])

    with pytest.raises(UserError, match=rf"the sampler gives the index {index}; those of 10 images are 0 to 9"):
        next(batches(split, sampler=Late(4, 2)).epoch(0))


def test_in_order_is_in_order_whatever_the_epoch():
    sampler = InOrder(10, 4)
    sampler.set_epoch(3)
    assert [list(batch) for batch in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(sampler) == 3
