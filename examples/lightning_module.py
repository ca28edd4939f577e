"""SAFA inside a LightningModule: python examples/lightning_module.py"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import safa
from safa.data.longtail import draw_subset

try:
    import torchvision  # noqa: F401  (Lightning imports it where it is installed)
except (ImportError, RuntimeError):  # the latter where it was built for another torch
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
try:
    import lightning
except ImportError as error:
    print(f"this example needs lightning: {error}; pip install -c constraints.txt lightning")
    sys.exit(0)


class LongTailed(lightning.LightningModule):
    """A network that trains with SAFA from epoch ``starts_at`` (T_th) on and predicts without it."""

    def __init__(self, network: torch.nn.Module, class_counts: list[int], starts_at: int) -> None:
        super().__init__()
        augmenter = safa.SAFA(channels=32, class_counts=class_counts)
        self.plug = safa.PlugIn(network, before="layer3", augmenter=augmenter)
        self.criterion = safa.losses.BalancedSoftmaxLoss(class_counts)
        self.starts_at = starts_at

    def on_train_epoch_start(self) -> None:
        self.plug.active = self.current_epoch >= self.starts_at

    def training_step(self, batch: list[Tensor]) -> Tensor:
        out = self.plug(*batch)
        self.log_dict({"rows": float(len(out.logits)), **out.terms})
        return self.criterion(out.logits, out.labels) + out.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.plug.parameters(), lr=0.05, momentum=0.9)


source = safa.data.load_source("digits")
drawn = draw_subset(source.train.labels, 10, imbalance_factor=20, largest=100)
train = source.train.take(drawn.train)
images = TensorDataset(torch.from_numpy(train.images) / 255, torch.from_numpy(train.labels))
trainer = lightning.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False)
module = LongTailed(safa.backbones.resnet8(), drawn.class_counts.tolist(), starts_at=2)
trainer.fit(module, DataLoader(images, batch_size=64, shuffle=True))
print({name: round(value.item(), 3) for name, value in trainer.logged_metrics.items()})
