"""Feature augmenters: one file each, all with the interface of ``safa.types.Augmenter``."""

from safa.augmenters.safa import READINGS, SAFA, Reading

__all__ = ["READINGS", "SAFA", "Reading"]
