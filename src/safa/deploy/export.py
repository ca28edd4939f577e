"""A network as one file for other programs, checked against the original before it takes its name."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from safa.deploy.formats import FORMATS, format_called, own_parts
from safa.deploy.network import Card, Classifier, Deployed
from safa.errors import UserError
from safa.files import refuse_unwritable_file, write_atomically

TOLERANCE = 1e-4
# One image, the two that the graph was traced with, and another number.
_CHECKED_BATCHES = (1, 2, 5)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: where it is.
        format: safetensors, onnx or pt2.
        size: of the file, in bytes.
        images: how many random images it was checked with.
        largest_difference: between its probabilities and the original's, over these images and all classes.
    """

    path: Path
    format: str
    size: int
    images: int
    largest_difference: float


def export(deployed: Deployed, format: str, output: Path) -> Exported:
    """Write the bare network of a run; nothing of a plug-in is in it, for nothing of it is in ``deployed``.

    The file is read back and compared with the original on seeded random images before it takes its name: an
    export that fails, for whatever reason, leaves what stood at ``output`` untouched.

    Args:
        deployed: from ``load_run``.
        format: ``safetensors``: the weights of the network. ``onnx``, ``pt2``: a graph from float32 images in
            [0, 1], shape (n, 3, h, w) with any n, to probabilities (n, k), normalisation inside.
        output: the file; missing folders are made.

    Raises:
        UserError: for an unknown format, an output that cannot be written, a package that is not installed,
            a network that torch.export cannot follow, or probabilities that differ by more than 1e-4.
    """
    output = Path(output)
    chosen = format_called(format)
    _check_output(output, format)
    model, card = deployed.classifier, deployed.card
    if not isinstance(model, Classifier):
        raise UserError("an ONNX or PT2 file cannot be exported again; export from the run, or from a safetensors file")
    content = _written(model, card, format)
    read_back = chosen.read(content, _empty_copy(model, card), str(output))
    images, difference = _largest_difference(deployed, read_back)
    if not difference <= TOLERANCE:  # NaN is refused, too
        raise UserError(
            f"probabilities from the {format} file differ from the network's by up to {difference:.2g}, "
            f"more than {TOLERANCE:g}; nothing was written. Try another format"
        )
    write_atomically(output, content)
    return Exported(output, format, len(content), images, difference)


def exported_before(model: Path, moment: float) -> list[Path]:
    """Files beside a model, and called like it, that hold a network of before a moment: of an unfinished run, say."""
    beside = [model.with_suffix(format.suffix) for format in FORMATS.values()]
    return [file for file in beside if file.exists() and file.stat().st_mtime < moment]


def _check_output(output: Path, format: str) -> None:
    """Say what can be said before the work is done."""
    if output.is_dir():
        raise UserError(f"{output} is a folder; name a file, such as {output / ('network' + FORMATS[format].suffix)}")
    wanted, suffix = FORMATS[format].suffix, output.suffix.lower()
    other = next((name for name, f in FORMATS.items() if f.suffix == suffix != wanted), None)
    if other is not None:
        raise UserError(f"{output} has the suffix of {other}, but the format is {format}; change one of them")
    if suffix != wanted and (output.is_file() or not output.exists()):  # no device, and no pipe
        raise UserError(f"{output} needs the suffix {wanted}, by which a file of {format} is known")
    refuse_unwritable_file(output)


def _written(model: Classifier, card: Card, format: str) -> bytes:
    try:
        return FORMATS[format].write(model, card)
    except UserError:
        raise
    except Exception as error:  # torch.export and torch.onnx raise whatever they stumble over
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # pages of graph follow
        raise UserError(
            f"the network cannot be written as {format}: {reason}; safetensors takes any network"
        ) from error


def _empty_copy(model: Classifier, card: Card) -> nn.Module | None:
    """What an exported backbone of the user's own is read back into; the library's own are built anew."""
    if not own_parts(card):
        return None
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    return network


def _largest_difference(original: Deployed, other: Deployed) -> tuple[int, float]:
    """Number of random images, and the largest absolute difference of a probability among them."""
    generator = torch.Generator().manual_seed(0)
    size, worst = original.card.image_size, 0.0
    for n in _CHECKED_BATCHES:
        # Of varied colour and contrast: plain noise may drive each softmax to 0 and 1 and hide a fault.
        first, second = torch.rand(2, n, 3, 1, 1, generator=generator)
        images = first + (second - first) * torch.rand(n, 3, size, size, generator=generator)
        difference = (original.probabilities(images) - other.probabilities(images)).abs().max()
        worst = float(torch.maximum(torch.tensor(worst), difference))  # unlike max(), keeps a NaN
    return sum(_CHECKED_BATCHES), worst
