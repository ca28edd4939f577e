"""SAFA on a network of timm, named on the command line: python examples/timm_task.py resnet10t"""

from __future__ import annotations

import sys
from itertools import pairwise
from math import prod

import torch
from torch.nn.functional import interpolate

import safa
from safa.data.longtail import draw_subset

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):  # the latter where it was built for another torch
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
try:
    import timm
except ImportError as error:
    print(f"this example needs timm and torchvision: {error}; pip install -c constraints.txt timm")
    sys.exit(0)

torch.manual_seed(0)
source = safa.data.load_source("digits")
drawn = draw_subset(source.train.labels, 10, imbalance_factor=20, largest=60)
train = source.train.take(drawn.train)
images = interpolate(torch.from_numpy(train.images) / 255, size=64)  # 8x8 pixels are too few for five strides
labels = torch.from_numpy(train.labels)

model = timm.create_model(sys.argv[1] if len(sys.argv) > 1 else "resnet10t", num_classes=10)
places = [place for place in safa.PlugIn.probe(model, image_size=64) if "." not in place.name]
print(*places, sep="\n")
# "Before the second-to-last down-sampling layer" (section 4.1); the last one is the global pooling.
shrinking = [this for this, following in pairwise(places) if prod(following.shape[1:]) < prod(this.shape[1:])]
place = shrinking[-2]
print(f"SAFA sits before {place.name}")

augmenter = safa.SAFA(channels=place.shape[0], class_counts=drawn.class_counts)
plug = safa.PlugIn(model, before=place.name, augmenter=augmenter)
criterion = safa.losses.BalancedSoftmaxLoss(drawn.class_counts)
optimizer = torch.optim.SGD(plug.parameters(), lr=0.02, momentum=0.9)
for epoch in range(3):
    plug.active = epoch >= 2  # T_th
    for batch in torch.randperm(len(labels)).split(32):
        out = plug(images[batch], labels[batch])
        loss = criterion(out.logits, out.labels) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: last loss {loss.item():.3f}, {len(out.logits) - len(batch)} rows generated for it")
