"""SAFA in an ordinary PyTorch loop, on long-tailed digits.

Run: python examples/plain_pytorch.py [EPOCHS]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import safa


def long_tailed_digits() -> tuple[TensorDataset, TensorDataset, np.ndarray]:
    """Training images that get 20 times rarer from class 0 to class 9, balanced test images, class counts."""
    source = safa.data.load_source("digits")
    subset = safa.data.draw_subset(source.train.labels, 10, profile="exponential", imbalance_factor=20)
    splits = source.train.take(subset.train), source.test
    train, test = (
        TensorDataset(torch.from_numpy(split.images) / 255, torch.from_numpy(split.labels)) for split in splits
    )
    return train, test, subset.class_counts


def main(epochs: int) -> None:
    torch.manual_seed(0)
    train, test, counts = long_tailed_digits()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    criterion = safa.losses.CrossEntropyLoss()

    model = safa.backbones.resnet14(num_classes=10)
    plug = safa.PlugIn(model, before="layer3", augmenter=safa.SAFA(channels=32, class_counts=counts))
    # SAFA's modules learn at a tenth of the network's rate: docs/results.md.
    groups = [{"params": model.parameters()}, {"params": plug.augmenter.parameters(), "lr": 0.005}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=2e-4)
    for epoch in range(epochs):
        plug.active = epoch >= epochs // 2  # T_th; plain training until then
        for images, labels in loader:
            out = plug(images, labels)  # out.labels matches out.logits, generated rows included
            loss = criterion(out.logits, out.labels) + out.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {len(out.labels) - len(labels)} generated rows")

    model.eval()  # from here on there is no plug-in anywhere: this is the network you started with
    images, labels = test.tensors
    with torch.no_grad():
        wrong = model(images).argmax(dim=1) != labels
    print(f"test error {100 * wrong.float().mean():.2f} %")


if __name__ == "__main__":
    main(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 10)
