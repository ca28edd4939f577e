"""Every name a recipe can use: what it stands for and where it comes from. Imports nothing it lists."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safa.errors import UserError, closest


@dataclass(frozen=True)
class Entry:
    """``target`` is ``module:attribute``; ``source`` the publication or code it follows."""

    target: str
    source: str


CATALOG: dict[str, dict[str, Entry]] = {
    "loss": {
        "cross_entropy": Entry("safa.losses:CrossEntropyLoss", "softmax cross-entropy"),
        "focal": Entry("safa.losses:FocalLoss", "Lin et al., Focal Loss, ICCV 2017"),
        "ldam": Entry("safa.losses:LDAMLoss", "Cao et al., LDAM, NeurIPS 2019"),
        "balanced_softmax": Entry("safa.losses:BalancedSoftmaxLoss", "Ren et al., Balanced Meta-Softmax, NeurIPS 2020"),
        "logit_adjustment": Entry("safa.losses:LogitAdjustmentLoss", "Menon et al., Logit Adjustment, ICLR 2021"),
    },
    "weighting": {
        "effective_number": Entry(
            "safa.weighting:effective_number_weights", "Cui et al., Class-Balanced Loss, CVPR 2019"
        ),
        "inverse_frequency": Entry("safa.weighting:inverse_frequency_weights", "Huang et al., CVPR 2016"),
    },
    "sampler": {
        "instance": Entry("safa.sampling:InstanceBalanced", "every image once per epoch"),
        "class_balanced": Entry("safa.sampling:ClassBalanced", "Kang et al., Decoupling, ICLR 2020"),
        "square_root": Entry("safa.sampling:SquareRoot", "Mahajan et al., ECCV 2018"),
        "effective_number": Entry("safa.sampling:EffectiveNumber", "DRS of Cao et al., NeurIPS 2019"),
        "pairs": Entry("safa.sampling:PairSampler", "same-class pairs, SAFA section 4.1"),
    },
    "augmenter": {
        "safa": Entry("safa.augmenters.safa:SAFA", "Hong et al., SAFA, ECCV 2022"),
        "rsg": Entry("safa.augmenters.rsg:RSG", "Wang et al., RSG, CVPR 2021"),
        "delta_encoder": Entry(
            "safa.augmenters.delta_encoder:DeltaEncoder", "Schwartz et al., Delta-encoder, NeurIPS 2018"
        ),
        "feature_transfer": Entry("safa.augmenters.feature_transfer:FeatureTransfer", "Yin et al., FTL, CVPR 2019"),
        "hallucinator": Entry(
            "safa.augmenters.hallucinator:Hallucinator",
            "Wang et al., Low-Shot Learning from Imaginary Data, CVPR 2018",
        ),
        "raw_delta": Entry("safa.augmenters.controls:RawDelta", "control: SAFA without E, D and G"),
        "repeat": Entry("safa.augmenters.controls:Repeat", "control: plain over-sampling, on SAFA's draws"),
        "noise": Entry(
            "safa.augmenters.controls:Noise", "control: Gaussian noise of the size of SAFA's shift, on SAFA's draws"
        ),
        "tail_mixup": Entry(
            "safa.augmenters.controls:TailMixup",
            "control: Verma et al., Manifold Mixup, ICML 2019, labelled as in Remix, on SAFA's draws",
        ),
        "mixup": Entry(
            "safa.augmenters.mixing:Mixup", "Zhang et al., mixup, ICLR 2018; before a layer: Verma et al., ICML 2019"
        ),
        "cutmix": Entry("safa.augmenters.mixing:CutMix", "Yun et al., CutMix, ICCV 2019"),
        "remix": Entry("safa.augmenters.mixing:Remix", "Chou et al., Remix, ECCV 2020 workshops"),
    },
    "backbone": {
        "resnet8": Entry("safa.backbones.cifar:resnet8", "He et al., CVPR 2016, section 4.2 (6n+2 layers)"),
        "resnet14": Entry("safa.backbones.cifar:resnet14", "He et al., CVPR 2016, section 4.2 (6n+2 layers)"),
        "resnet20": Entry("safa.backbones.cifar:resnet20", "He et al., CVPR 2016, section 4.2"),
        "resnet32": Entry("safa.backbones.cifar:resnet32", "He et al., CVPR 2016, section 4.2"),
        "resnet56": Entry("safa.backbones.cifar:resnet56", "He et al., CVPR 2016, section 4.2"),
        "resnet110": Entry("safa.backbones.cifar:resnet110", "He et al., CVPR 2016, section 4.2"),
        "densenet40": Entry("safa.backbones.cifar:densenet40", "Huang et al., DenseNet (k=12), CVPR 2017"),
        "resnext29": Entry("safa.backbones.cifar:resnext29", "Xie et al., ResNeXt-29 8x64d, CVPR 2017"),
    },
    "head": {
        "linear": Entry("torch.nn:Linear", "softmax classifier"),
        "cosine": Entry("safa.heads:CosineHead", "Cao et al., LDAM, NeurIPS 2019 (normalised linear layer)"),
        "scaled": Entry("safa.heads:ScaledHead", "LWS of Kang et al., Decoupling, ICLR 2020"),
        "tau_normalised": Entry("safa.heads:TauNormalisedHead", "Kang et al., Decoupling, ICLR 2020"),
        "nearest_mean": Entry("safa.heads:NearestMeanHead", "NCM of Kang et al., Decoupling, ICLR 2020"),
        "adjusted": Entry("safa.heads:AdjustedHead", "post-hoc: Menon et al., Logit Adjustment, ICLR 2021"),
    },
    "reweighting": {
        "l2rw": Entry("safa.methods.meta:LearningToReweight", "Ren et al., Learning to Reweight, ICML 2018"),
        "meta_weight_net": Entry("safa.methods.meta:MetaWeightNet", "Shu et al., Meta-Weight-Net, NeurIPS 2019"),
        "meta_class_weight": Entry(
            "safa.methods.meta:MetaClassWeight", "Jamal et al., Rethinking Class-Balanced Methods, CVPR 2020"
        ),
    },
    "augmentation": {
        "crop_flip": Entry("safa.data.augmentation:CropFlip", "He et al., CVPR 2016: pad 4, crop, mirror"),
        "shift": Entry("safa.data.augmentation:Shift", "pad and crop, without mirroring"),
        "resized_crop": Entry(
            "safa.data.augmentation:ResizedCrop", "Szegedy et al., CVPR 2015: random area and aspect, mirror"
        ),
        "none": Entry("safa.data.augmentation:Unchanged", "images as they are"),
        "rand_augment": Entry("safa.data.policies:RandAugment", "Cubuk et al., RandAugment, NeurIPS 2020"),
        "trivial_augment": Entry(
            "safa.data.policies:TrivialAugment", "Müller and Hutter, TrivialAugment (wide), ICCV 2021"
        ),
    },
}

_EITHER = {"head_ratio"}  # what the library knows and an option may say otherwise

DATASETS: dict[str, str] = {
    "digits": "scikit-learn's 8x8 digits, 10 classes; always there",
    "fashion-mnist": "Xiao et al. 2017, 10 classes; IDX files, e.g. Debian's dataset-fashion-mnist",
    "cifar10": "Krizhevsky 2009, 10 classes; parquet folder, pickled batches or the Hugging Face hub",
    "cifar100": "Krizhevsky 2009, 100 classes; parquet folder, pickled batches or the Hugging Face hub",
    "FOLDER": "your images: FOLDER/train/CLASS/*.jpg, with or without val/ and test/, or FOLDER/CLASS/*.jpg",
    "FILE.csv": "your images: columns path,label and optionally split",
}


def build(kind: str, name: str, options: Mapping[str, Any], **context: Any) -> Any:
    """Make what ``name`` stands for, out of the user's options and those parts of the context it asks for.

    Args:
        kind: a key of ``CATALOG``.
        name: one of its names, or ``package.module:attribute`` for your own.
        options: from the recipe; each must be a parameter of the target, and none of the context but ``head_ratio``.
        context: what the library knows (class counts, labels, seed, …); only what the target takes is given.

    Raises:
        UserError: for an unknown name or option, with the closest existing one, or a value the target refuses.
    """
    target = resolve(kind, name)
    takes = parameters(kind, name)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for key in options:
        if key in context.keys() - _EITHER:
            raise UserError(f"{kind} {name!r} is given its {key} by the library; leave the option out")
        if key not in takes and not open_ended:
            choices = [p for p in takes if p not in context.keys() - _EITHER]
            raise UserError(
                f"{kind} {name!r} has no option {key!r}{closest(key, choices)}; it takes {', '.join(choices) or 'none'}"
            )
    known = {key: value for key, value in context.items() if key in takes and key not in options}
    try:
        return target(**known, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} {name!r} cannot be made with {dict(options)}: {error}") from error
    except (Exception, SystemExit) as error:
        if ":" not in name:  # what comes with the library has a defect
            raise
        raise UserError(f"{kind} {name!r} cannot be made: {type(error).__name__}: {error}") from error


def parameters(kind: str, name: str) -> Mapping[str, inspect.Parameter]:
    """What the class or function behind a name takes, by name.

    Raises:
        UserError: as ``resolve``, or if it does not say.
    """
    try:
        return inspect.signature(resolve(kind, name)).parameters
    except ValueError as error:
        raise UserError(f"{kind} {name!r} cannot be made: {error}; name a function of your own around it") from error


def resolve(kind: str, name: str) -> Any:
    """The class or function behind a name."""
    entries = CATALOG[kind]
    if name not in entries and ":" not in name:
        raise UserError(
            f"no {kind} is called {name!r}{closest(name, entries)}; there are {', '.join(entries)}, "
            "or package.module:name of your own"
        )
    module, _, attribute = (entries[name].target if name in entries else name).partition(":")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{kind} {name!r} cannot be imported: {error}; a module of your own must be installed or on PYTHONPATH"
        ) from error
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for '' and '.relative'
        raise UserError(f"{kind} {name!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        if ":" not in name:  # as in ``build``
            raise
        raise UserError(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(target):
        raise UserError(f"{kind} {name!r} is {type(target).__name__}, not a class or function")
    return target


def own_code(settings: Any) -> dict[str, str]:
    """What the user's own names in a recipe, or in a part of one, stand for beyond their spelling, as hashes.

    Those of the files with the code, and of the files that its options name, such as weights: an edited loss is
    another, and so is a network that begins with other weights.
    """
    found = dict[str, str | None]()
    named = (part for part in _within(settings) if isinstance(part, Mapping) and isinstance(part.get("name"), str))
    for part in named:
        if ":" in part["name"]:
            found |= {text: _content_hash(text) for text in _within(part) if isinstance(text, str)}
        found[part["name"]] = source_hash(part["name"])
    return {name: value for name, value in found.items() if value is not None}


def with_own_code(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, and ``own_code`` where anything in them is the user's own: what a hash of them has to cover."""
    own = own_code(settings)
    return {**settings, "own_code": own} if own else settings


def _within(settings: Any) -> Iterator[Any]:
    """The settings, and every value in them, however deep it lies."""
    yield settings
    if isinstance(settings, Mapping):
        settings = [*settings.values()]
    if isinstance(settings, list):
        for value in settings:
            yield from _within(value)


@functools.cache  # a run reads it once, too
def _content_hash(path: str) -> str | None:
    """SHA-256 of a file; None where there is none of that name."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None
    except (OSError, ValueError):  # no path at all
        return None


@functools.cache  # a module is imported once, too
def source_hash(name: str) -> str | None:
    """SHA-256 of the file with ``package.module:attribute``; None for a name of the catalog, or without a file."""
    module, colon, _ = name.partition(":")
    try:
        found = importlib.util.find_spec(module) if colon else None
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else None
    except (ImportError, ValueError, OSError):  # ``resolve`` says what is wrong with it
        return None
