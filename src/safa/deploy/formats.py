"""Three ways to write a network down, each with its card inside, and how to read each back.

========== ================================= ==================================================
safetensors weights of the bare network alone ``load_state_dict`` in Python, with the same class
onnx        normalisation, network, softmax   onnxruntime and others, in any language
pt2         normalisation, network, softmax   ``torch.export.load``, without this library
========== ================================= ==================================================

The card travels as strings of JSON under ``class_names, image_size, mean, std, model``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from safa import assembly
from safa import recipe as recipes
from safa.deploy.network import Card, Classifier, Deployed, classifier, fill
from safa.errors import UserError, closest

INPUT, OUTPUT = "images", "probabilities"
_KEYS = ("class_names", "image_size", "mean", "std", "model")


@dataclass(frozen=True)
class Format:
    """How one format is written and read.

    Attributes:
        suffix: of its files.
        write: classifier, card -> content of the file.
        read: content, network or None, name for messages -> what is in it.
    """

    suffix: str
    write: Callable[[Classifier, Card], bytes]
    read: Callable[[bytes, nn.Module | None, str], Deployed]


def format_called(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: if there is none.
    """
    if name not in FORMATS:
        raise UserError(f"no format is called {name!r}{closest(name, FORMATS)}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def load_exported(path: Path, *, network: nn.Module | None = None) -> Deployed:
    """Read a file that ``export`` wrote; its suffix says the format.

    A PT2 file can run code while torch reads it: read only what you trust. The other two hold data alone.

    Args:
        path: ``*.safetensors``, ``*.onnx`` or ``*.pt2``.
        network: what to put safetensors weights into, when the backbone or head is code of your own: a file
            must not say what is imported.

    Raises:
        UserError: for a missing or damaged file, another suffix, metadata that are not there, or a backbone
            that is not this library's when no ``network`` is given.
    """
    path = Path(path)
    chosen = next((f for f in FORMATS.values() if f.suffix == path.suffix.lower()), None)
    if chosen is None:
        suffixes = [f.suffix for f in FORMATS.values()]
        raise UserError(
            f"{path} is in no known format{closest(path.suffix, suffixes)}; known are {', '.join(suffixes)}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return chosen.read(content, network, str(path))


def _write_safetensors(model: Classifier, card: Card) -> bytes:
    # Copies, since the format refuses tensors that share memory, such as tied weights.
    weights = {key: value.contiguous().clone() for key, value in model.network.state_dict().items()}
    return _in_order(safetensors.torch.save(weights, _strings(card)))


def _in_order(content: bytes) -> bytes:
    """The file with its metadata by name: the format's writer has them in another order in every process."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return content[:8] + ordered.ljust(start - 8) + content[start:]


def _read_safetensors(content: bytes, network: nn.Module | None, where: str) -> Deployed:
    try:
        weights = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except Exception as error:  # the format's own error type is not part of its interface
        raise UserError(f"{where} is no safetensors file, or is damaged: {error}") from error
    card = _card(header.get("__metadata__", {}), where)
    network = network if network is not None else _network_of(card, where)
    fill(network, weights, where)
    return Deployed(classifier(network, card), card)


def own_parts(card: Card) -> list[str]:
    """Those of backbone and head that are not this library's, ``package.module:name``."""
    return [part.name for part in (card.model.backbone, card.model.head) if ":" in part.name]


def _network_of(card: Card, where: str) -> nn.Module:
    if own_parts(card):
        names = " and ".join(own_parts(card))
        raise UserError(f"{where} holds weights of {names}, code of your own; pass network=, an instance of it")
    return assembly.network(card.model, len(card.class_names), seed=0)  # its weights are replaced


def _write_onnx(model: Classifier, card: Card) -> bytes:
    _require("onnx", "onnxscript", "onnxruntime")
    graph = _exported(model, card)
    with _quiet():
        program = torch.onnx.export(
            graph,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:  # where in this machine's files each node comes from
        del node.metadata_props[:]
    for key, value in _strings(card).items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _read_onnx(content: bytes, network: nn.Module | None, where: str) -> Deployed:  # noqa: ARG001  (one signature)
    _require("onnxruntime")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but this one
        raise UserError(f"{where} is no ONNX file, or is damaged: {error}") from error
    card = _card(session.get_modelmeta().custom_metadata_map, where)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return Deployed(run, card)


def _write_pt2(model: Classifier, card: Card) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_exported(model, card), buffer, extra_files=_strings(card))
    return buffer.getvalue()


def _read_pt2(content: bytes, network: nn.Module | None, where: str) -> Deployed:  # noqa: ARG001  (one signature)
    metadata: dict[str, Any] = dict.fromkeys(_KEYS, "")
    try:
        program = torch.export.load(io.BytesIO(content), extra_files=metadata)
    except Exception as error:  # torch raises many kinds for a broken file
        raise UserError(f"{where} is no PT2 file of torch.export, or is damaged: {error}") from error
    return Deployed(program.module(), _card(metadata, where))


def _exported(model: Classifier, card: Card) -> ExportedProgram:
    """The graph of the bare network with any number of images, and no path of this machine in it."""
    # Two images, for torch.export takes a size of 1 as one that never changes.
    example = torch.zeros(2, 3, card.image_size, card.image_size)
    with _quiet():
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for part in program.graph_module.modules():  # autocast and no_grad regions are graphs of their own
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _strings(card: Card) -> dict[str, str]:
    # The model section is written out in full: defaults may change, the weights do not.
    model = {"backbone": recipes.to_plain(card.model.backbone), "head": recipes.to_plain(card.model.head)}
    plain = {**{key: getattr(card, key) for key in _KEYS}, "model": model}
    return {key: json.dumps(value) for key, value in plain.items()}


def _card(strings: Mapping[str, Any], where: str) -> Card:
    lacking = [key for key in _KEYS if not strings.get(key)]
    if lacking:
        raise UserError(f"{where} has no {', '.join(lacking)} in its metadata; was it written by safa export?")
    try:
        plain = {key: json.loads(strings[key]) for key in _KEYS}
    except ValueError as error:
        raise UserError(f"{where} has metadata that are no JSON: {error}") from error
    whole = recipes.from_plain({"method": "none", "stages": [{"epochs": 0}], "model": plain["model"]}, where)
    return Card.from_plain(plain, whole.model, where)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            ways = f"pip install {' '.join(packages)}"
            raise UserError(f"the onnx format needs the package {package}; {ways}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporters from talking about themselves."""
    # The first names every torchvision operator it does not find, the second what it cannot trace; a graph
    # that fails is printed to stderr on top, though the error says it all.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            # torch 2.13 copies its own pytree types through a constructor that it deprecates itself.
            warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


FORMATS: dict[str, Format] = {
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "pt2": Format(".pt2", _write_pt2, _read_pt2),
}
