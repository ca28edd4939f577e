"""SAFA called from a network's own ``forward``, without ``PlugIn``.

Run: python examples/your_own_forward.py [STEPS]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import safa


class Mine(nn.Module):
    """An MLP that augments its hidden vectors in training; any network can call an augmenter like this."""

    def __init__(self, class_counts: np.ndarray) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 128), nn.ReLU())
        self.augmenter = safa.SAFA(channels=128, class_counts=class_counts, layout="vector")
        self.head = nn.Linear(128, len(class_counts))

    def forward(self, images: Tensor, labels: Tensor) -> safa.Output:
        grown = self.augmenter(self.body(images), labels)  # real rows in order, then generated ones
        return safa.Output(self.head(grown.features), grown.labels, grown.loss, grown.terms)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)).argmax(dim=1)


def main(steps: int) -> None:
    torch.manual_seed(0)
    source = safa.data.load_source("digits")
    subset = safa.data.draw_subset(source.train.labels, 10, profile="exponential", imbalance_factor=20)
    train, test = source.train.take(subset.train), source.test
    images, labels = torch.from_numpy(train.images) / 255, torch.from_numpy(train.labels)

    model = Mine(subset.class_counts)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        model.augmenter.active = step >= steps // 2  # T_th; plain training until then
        out = model(images, labels)
        loss = F.cross_entropy(out.logits, out.labels) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}:", {name: round(term.item(), 3) for name, term in out.terms.items()})

    wrong = model.predict(torch.from_numpy(test.images) / 255) != torch.from_numpy(test.labels)
    print(f"test error {100 * wrong.float().mean():.2f} %")


if __name__ == "__main__":
    main(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 100)
