"""What training with the plug-in costs afterwards: nothing, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from safa.bench import setting as settings
from safa.bench.loop import Loop
from safa.bench.setting import IMAGE_SIZE, Setting
from safa.bench.turns import seconds_of


class Inference:
    """Logits of one batch over and over, in float32 as ``safa evaluate`` computes them."""

    def __init__(self, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self.logits_of, self.images = logits_of, images

    @torch.no_grad()
    def logits(self) -> Tensor:
        return self.logits_of(self.images)

    def turn(self, steps: int) -> float:
        return seconds_of(self.logits, steps, self.images.device)


def noise(setting: Setting) -> Tensor:
    """A batch of images as the network wants them, the same at every call."""
    images = torch.randn(setting.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    return images.to(setting.device, memory_format=torch.channels_last)


def with_and_without(setting: Setting, trained: Loop) -> dict[str, Inference]:
    """The network trained with the plug-in, asked through it, and one of the same weights that never had one."""
    model: nn.Module = settings.network(setting).to(memory_format=torch.channels_last).eval()
    model.load_state_dict(trained.plug.model.state_dict())
    plug = trained.plug.eval()
    images = noise(setting)
    return {
        "with": Inference(lambda batch: plug(batch).logits, images),
        "without": Inference(model, images),
    }


def gives_the_same_bits(pair: Mapping[str, Inference]) -> bool:
    """Whether the outputs of ``with_and_without`` agree in every bit."""
    return torch.equal(pair["with"].logits(), pair["without"].logits())
