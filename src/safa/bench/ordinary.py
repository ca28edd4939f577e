"""The ordinary loop: PIL transforms in a DataLoader, float32, as LDAM-DRW's released code trains.

Written out, because torchvision is no dependency. What its loop does besides training, an accuracy meter,
is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from safa.bench import setting as settings
from safa.bench.setting import Setting
from safa.bench.turns import seconds_of
from safa.data.cifar import MEAN, STD
from safa.losses import LDAMLoss

PADDING = 4
RELEASED_WORKERS = 4


class OrdinaryLoop:
    """float32, convolutions in the memory format torch starts with, images from ``workers`` processes."""

    def __init__(self, setting: Setting) -> None:
        self.device, self.batch_size = setting.device, setting.batch_size
        self.workers = min(RELEASED_WORKERS, settings.cores())
        self.dataset = PillowImages()
        self.model = settings.network(setting)
        self.criterion = LDAMLoss(settings.COUNTS).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.LEARNING_RATE,
            momentum=settings.MOMENTUM,
            weight_decay=settings.WEIGHT_DECAY,
        )

    def turn(self, steps: int) -> float:
        """Seconds of so many steps, with the workers at work from before the first to after the last."""
        batches = iter(self._loader(1 + steps + 2 * self.workers))
        return seconds_of(lambda: self._step(*next(batches)), steps, self.device)

    def _loader(self, length: int) -> DataLoader[tuple[Tensor, int]]:
        shuffled = RandomSampler(self.dataset, num_samples=length * self.batch_size)
        return DataLoader(
            self.dataset,
            self.batch_size,
            sampler=shuffled,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _step(self, images: Tensor, labels: Tensor) -> None:
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        loss = self.criterion(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class PillowImages(Dataset[tuple[Tensor, int]]):
    """One image at a time: an array as CIFAR's files hold it, through Pillow to a normalised tensor."""

    def __init__(self) -> None:
        split = settings.images()
        assert split.images is not None
        self.arrays = np.ascontiguousarray(split.images.transpose(0, 2, 3, 1))
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = random_flip(random_crop(Image.fromarray(self.arrays[index])))
        return normalised(tensor_of(image)), int(self.labels[index])


def random_crop(image: Image.Image) -> Image.Image:
    """``RandomCrop(32, padding=4)``: as large as before, out of the image with a black border."""
    width, height = image.size
    padded = ImageOps.expand(image, border=PADDING, fill=0)
    top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
    return padded.crop((left, top, left + width, top + height))


def random_flip(image: Image.Image) -> Image.Image:
    """``RandomHorizontalFlip()``: mirrored with probability 1/2."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def tensor_of(image: Image.Image) -> Tensor:
    """``ToTensor()``: (h, w, 3) bytes -> (3, h, w) float32 in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, copy=True))
    return pixels.permute(2, 0, 1).contiguous().float().div(255)


def normalised(image: Tensor) -> Tensor:
    """``Normalize(mean, std)``, in place."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return image.sub_(mean[:, None, None]).div_(std[:, None, None])
