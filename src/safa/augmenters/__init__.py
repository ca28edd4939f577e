"""Augmenters: a file for each or for a family, all with the interface of ``safa.types.Augmenter``."""

from safa.augmenters.controls import Noise, RawDelta, Repeat, TailMixup
from safa.augmenters.delta_encoder import DeltaEncoder
from safa.augmenters.feature_transfer import FeatureTransfer
from safa.augmenters.hallucinator import Hallucinator
from safa.augmenters.mixing import CutMix, Mixup, Remix
from safa.augmenters.reading import READINGS, Reading
from safa.augmenters.rsg import RSG
from safa.augmenters.safa import SAFA

__all__ = [
    "READINGS", "RSG", "SAFA", "CutMix", "DeltaEncoder", "FeatureTransfer", "Hallucinator", "Mixup", "Noise",
    "RawDelta", "Reading", "Remix", "Repeat", "TailMixup",
]  # fmt: skip
