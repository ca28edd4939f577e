"""Networks for images of 32 x 32 pixels and thereabouts, as used on CIFAR-LT.

Each is an ordinary ``nn.Module`` with its stages as top-level children, a classification head ``fc`` that
reads ``in_features`` features, and ``before``: the stage on whose input RSG and SAFA sit. All take images
(n, 3, h, w) of 8 x 8 pixels or more and pool globally. "SAFA on (c, h, w)" holds for 32 x 32 pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads import HeadBuilder


class SubsampledShortcut(nn.Module):
    """Every second pixel, zero channels added on both sides; no parameters.  [He et al. 2016, option A]"""

    def __init__(self, added_channels: int) -> None:
        super().__init__()
        self.each_side = added_channels // 2

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features[:, :, ::2, ::2], (0, 0, 0, 0, self.each_side, self.each_side))

    def extra_repr(self) -> str:
        return f"each_side={self.each_side}"


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters.  [He et al. 2016, section 4.2]"""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else SubsampledShortcut(channels - in_channels)

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(features), inplace=True)


class CifarResNet(nn.Module):
    """The CIFAR ResNet of depth 6 m + 2: three stages of m blocks, 16, 32 and 64 channels.  [He et al. 2016]

    Args:
        depth: 6 m + 2; layers with weights.
        num_classes: k.
        head: builds ``fc`` from (64, k).

    Reading:
        Initialised as in LDAM-DRW: ``kaiming_normal_`` for convolutions and linear weights, linear biases as
        torch leaves them. A ``CosineHead`` keeps its own start.

    Raises:
        UserError: if ``depth`` is not 6 m + 2 or ``num_classes`` is below 1.

    torchvision's ResNets are another family: a 7 x 7 stem for ImageNet, four stages, shortcuts with
    parameters.
    """

    before = "layer3"
    in_features = 64

    def __init__(self, depth: int, num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"a CIFAR ResNet has depth 6 m + 2, got {depth}; try 20, 32, 56 or 110")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, stride=2), *(BasicBlock(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, stride=2), *(BasicBlock(64, 64) for _ in range(blocks - 1)))
        self.fc = _built(head, self.in_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(_pooled(features))
        return logits


class DenseLayer(nn.Module):
    """BN-ReLU-conv 3 x 3, its output appended to its input.  [Huang et al. 2017]"""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features, self.conv(F.relu(self.bn(features), inplace=True))), dim=1)


class Transition(nn.Module):
    """BN-ReLU-conv 1 x 1, then 2 x 2 average pooling; as many channels out as in.  [Huang et al. 2017]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(features), inplace=True)), 2)


class CifarDenseNet(nn.Module):
    """The CIFAR DenseNet of depth 3 m + 4, without bottleneck or compression.  [Huang et al. 2017]

    Args:
        depth: 3 m + 4; layers with weights.
        num_classes: k.
        growth: channels that each layer adds.
        stem: channels of the first convolution.
        head: builds ``fc`` from (in_features, k).

    Reading:
        The paper starts plain DenseNets with 16 channels (1.02 M parameters); RSG's copy with 24 (1.06 M),
        which gives the 312 channels at its place, so 24 is the default. What enters ``dense3`` is the output
        of a convolution and a pooling and has negative values, unlike the input of a ResNet stage.
        Convolutions start from N(0, 2 / fan_out), linear biases at 0, no dropout.

    Raises:
        UserError: if ``depth`` is not 3 m + 4, or ``growth``, ``stem`` or ``num_classes`` is below 1.

    DenseNet-BC, with bottleneck and compression, is another network (0.8 M parameters at depth 100).
    """

    before = "dense3"

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        growth: int = 12,
        stem: int = 24,
        head: HeadBuilder = nn.Linear,
    ) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise UserError(f"a plain CIFAR DenseNet has depth 3 m + 4, got {depth}; try 40")
        if min(growth, stem) < 1:
            raise UserError(f"growth and stem must be at least 1 channel, got {growth} and {stem}; try 12 and 24")
        added = (depth - 4) // 3 * growth
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.dense1 = _dense_block(stem, stem + added, growth)
        self.trans1 = Transition(stem + added)
        self.dense2 = _dense_block(stem + added, stem + 2 * added, growth)
        self.trans2 = Transition(stem + 2 * added)
        self.dense3 = _dense_block(stem + 2 * added, stem + 3 * added, growth)
        self.bn = nn.BatchNorm2d(stem + 3 * added)
        self.in_features = stem + 3 * added
        self.fc = _built(head, self.in_features, num_classes)
        _initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trans1(self.dense1(self.conv1(images)))
        features = self.dense3(self.trans2(self.dense2(features)))
        logits: Tensor = self.fc(_pooled(F.relu(self.bn(features), inplace=True)))
        return logits


class GroupedBottleneck(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions beside a shortcut.  [Xie et al. 2017, Fig. 3c]"""

    def __init__(self, in_channels: int, channels: int, group_width: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        width = group_width * groups
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.shortcut(features), inplace=True)


class CifarResNeXt(nn.Module):
    """The CIFAR ResNeXt of depth 9 m + 2: stages of 256, 512 and 1024 channels.  [Xie et al. 2017]

    Args:
        depth: 9 m + 2; layers with weights.
        num_classes: k.
        groups, group_width: 8 and 64 in the paper's "8x64d"; the width doubles from stage to stage.
        head: builds ``fc`` from (1024, k).

    Reading:
        Initialised as in RSG's copy: convolutions from N(0, 2 / fan_out), ``kaiming_normal_`` for linear
        weights, linear biases at 0.

    Raises:
        UserError: if ``depth`` is not 9 m + 2, or a width, the groups or ``num_classes`` is below 1.

    ResNeXt-50-32x4d, of the ImageNet rows, is another network with four stages.
    """

    before = "layer3"
    in_features = 1024

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        groups: int = 8,
        group_width: int = 64,
        head: HeadBuilder = nn.Linear,
    ) -> None:
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise UserError(f"a CIFAR ResNeXt has depth 9 m + 2, got {depth}; try 29")
        if min(groups, group_width) < 1:
            raise UserError(f"groups and group_width must be at least 1, got {groups} and {group_width}; try 8 and 64")

        def stage(in_channels: int, channels: int, width: int, stride: int) -> nn.Sequential:
            first = GroupedBottleneck(in_channels, channels, width, groups, stride)
            rest = (GroupedBottleneck(channels, channels, width, groups) for _ in range((depth - 2) // 9 - 1))
            return nn.Sequential(first, *rest)

        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(64, 256, group_width, stride=1)
        self.layer2 = stage(256, 512, 2 * group_width, stride=2)
        self.layer3 = stage(512, 1024, 4 * group_width, stride=2)
        self.fc = _built(head, self.in_features, num_classes)
        _initialise_by_fan_out(self)
        if isinstance(self.fc, nn.Linear):
            nn.init.kaiming_normal_(self.fc.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(_pooled(features))
        return logits


def resnet8(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-8, 0.08 M parameters: for tests and first tries. SAFA on (32, 16, 16)."""
    return CifarResNet(8, num_classes, head=head)


def resnet14(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-14, 0.17 M parameters: for small data sets. SAFA on (32, 16, 16)."""
    return CifarResNet(14, num_classes, head=head)


def resnet20(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-20, 0.27 M parameters [He et al. 2016, Table 6]. SAFA on (32, 16, 16)."""
    return CifarResNet(20, num_classes, head=head)


def resnet32(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-32, 0.46 M parameters [He et al. 2016, Table 6]. SAFA on (32, 16, 16)."""
    return CifarResNet(32, num_classes, head=head)


def resnet56(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-56, 0.85 M parameters [He et al. 2016, Table 6]. SAFA on (32, 16, 16)."""
    return CifarResNet(56, num_classes, head=head)


def resnet110(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNet:
    """ResNet-110, 1.7 M parameters [He et al. 2016, Table 6]. SAFA on (32, 16, 16)."""
    return CifarResNet(110, num_classes, head=head)


def densenet40(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarDenseNet:
    """DenseNet-40 (growth 12), 1.06 M parameters [RSG's copy]. SAFA on (312, 8, 8)."""
    return CifarDenseNet(40, num_classes, growth=12, head=head)


def resnext29(num_classes: int = 10, *, head: HeadBuilder = nn.Linear) -> CifarResNeXt:
    """ResNeXt-29 (8x64d), 34.4 M parameters [Xie et al. 2017, Table 7]. SAFA on (512, 16, 16)."""
    return CifarResNeXt(29, num_classes, groups=8, group_width=64, head=head)


def _built(head: HeadBuilder, in_features: int, num_classes: int) -> nn.Module:
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    return head(in_features, num_classes)


def _dense_block(in_channels: int, out_channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(channels, growth) for channels in range(in_channels, out_channels, growth)))


def _initialise_by_fan_out(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _pooled(features: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(features, 1).flatten(1)
