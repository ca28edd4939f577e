"""Batches on the device: uint8 images in memory or decoded by workers, augmented a batch at a time."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from safa.data.augmentation import Augmentation
from safa.data.images import decode
from safa.data.types import IntArray, Split
from safa.devices import placed
from safa.errors import UserError
from safa.seeding import seed_for


class BatchSampler(Protocol):
    """Yields the dataset indices of one batch after the other; see ``safa.sampling``."""

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[Sequence[int]]: ...
    def __len__(self) -> int: ...


class Normalise:
    """uint8 (n, h, w, c) -> float32 (n, c, h, w) with the mean and deviation of the training images taken out.

    The result is channels-last in memory, which convolutions on CPU and tensor cores want, without a copy.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std)
        self.factor, self.shift = placed(device, 1 / (255 * deviation), -torch.tensor(mean) / deviation)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.factor).permute(0, 3, 1, 2)


class Batches:
    """The images of one split, batch after batch, as the network wants them.

    Every batch is a pure function of (seed, epoch, step, rank): training resumes at any step of any epoch.

    Args:
        split: images in memory live on ``device`` as uint8; files are decoded by ``workers`` ahead of use.
        sampler: which indices make a batch.
        normalise: last step to float.
        augmentation: on uint8 batches; none for evaluation.
        device: where batches are wanted.
        image_size: side of the square that files are decoded to.
        seed, rank: of the augmentation.
        workers: decoding processes; only used for files.
    """

    def __init__(
        self,
        split: Split,
        sampler: BatchSampler,
        normalise: Normalise,
        *,
        augmentation: Augmentation | None = None,
        device: torch.device,
        image_size: int,
        seed: int = 0,
        rank: int = 0,
        workers: int = 0,
    ) -> None:
        self.sampler, self.normalise, self.augmentation = sampler, normalise, augmentation
        self.device, self.seed, self.rank, self.workers = device, seed, rank, workers
        self.labels = torch.from_numpy(split.labels).to(device)
        self.files = None if split.images is not None else _Files(split, image_size)
        if split.images is not None:
            self.images = torch.from_numpy(np.ascontiguousarray(split.images.transpose(0, 2, 3, 1))).to(device)

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (n, 3, h, w) float32, labels (n,)) of the epoch, from batch ``start`` on."""
        self.sampler.set_epoch(epoch)
        batches = [np.asarray(batch) for batch in self.sampler][start:]
        _refuse_others(batches, len(self.labels))
        rows = placed(self.device, *map(torch.from_numpy, batches)) if batches else ()
        raw = (self.images[indices] for indices in rows) if self.files is None else self._decoded(batches)
        for step, (indices, images) in enumerate(zip(rows, raw, strict=True), start):
            if self.augmentation is not None:
                generator = torch.Generator().manual_seed(seed_for(self.seed, "augmentation", epoch, step, self.rank))
                images = self.augmentation(images, generator)
            yield self.normalise(images), self.labels[indices]

    def _decoded(self, batches: list[IntArray]) -> Iterator[Tensor]:
        assert self.files is not None
        with warnings.catch_warnings():
            # torch advises at most as many workers as cores; decoding waits on the disk, so more may be right.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            loader = DataLoader(
                self.files,
                batch_sampler=[batch.tolist() for batch in batches],
                collate_fn=_stacked,
                num_workers=self.workers,
                worker_init_fn=_heed_no_signal,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # else it draws a number of the steps' when it begins
            )
        for images in loader:
            if isinstance(images, UserError):
                raise images
            yield images.to(self.device, non_blocking=self.device.type == "cuda")


def _refuse_others(batches: list[IntArray], images: int) -> None:
    """A sampler of the user's own is tried before training with its first batch alone."""
    for indices in batches:
        wrong = indices[(indices < 0) | (indices >= images)]
        if len(wrong):
            raise UserError(f"the sampler gives the index {wrong[0]}; those of {images} images are 0 to {images - 1}")


class InOrder:
    """Batches of consecutive indices, for evaluation."""

    def __init__(self, length: int, batch_size: int) -> None:
        self.length, self.batch_size = length, batch_size

    def set_epoch(self, epoch: int) -> None:
        """The order never changes."""

    def __iter__(self) -> Iterator[Sequence[int]]:
        return (
            range(start, min(start + self.batch_size, self.length)) for start in range(0, self.length, self.batch_size)
        )

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)


class _Files(Dataset[Tensor | UserError]):
    """Decodes one file at a time, in a worker.

    An error is handed over as a value: torch would wrap one that is raised in the worker's whole traceback.
    """

    def __init__(self, split: Split, image_size: int) -> None:
        self.paths, self.image_size = split.paths, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | UserError:
        try:
            return torch.from_numpy(decode(self.paths[index], self.image_size).transpose(1, 2, 0).copy())
        except UserError as error:
            return error


def _heed_no_signal(worker: int) -> None:  # noqa: ARG001  (torch gives it)
    """A request to stop may go to the whole group; the process that trains needs its workers until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stacked(images: list[Tensor | UserError]) -> Tensor | UserError:
    wrong = next((image for image in images if isinstance(image, UserError)), None)
    return wrong or torch.stack([image for image in images if isinstance(image, Tensor)])
