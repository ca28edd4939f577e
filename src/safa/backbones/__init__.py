"""Networks to train, each with a place for a plug-in (``before``) and a head of your choice (``fc``)."""

from safa.backbones.cifar import (
    CifarDenseNet,
    CifarResNet,
    CifarResNeXt,
    densenet40,
    resnet8,
    resnet14,
    resnet20,
    resnet32,
    resnet56,
    resnet110,
    resnext29,
)

__all__ = [
    "CifarDenseNet",
    "CifarResNeXt",
    "CifarResNet",
    "densenet40",
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet110",
    "resnext29",
]
