"""Run an augmenter on the input of one named layer, or of the whole network, in training only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safa.errors import UserError, closest
from safa.types import Augmented, Augmenter, Output

INPUT = "input"
"""The place before the whole network, where the images enter it; a layer of this name goes first."""


@dataclass(frozen=True)
class Place:
    """A layer an augmenter can sit before, or ``INPUT``, and the shape (without the batch) of what enters it."""

    name: str
    shape: tuple[int, ...]


class PlugIn(nn.Module):
    """A network with an augmenter on the input of one layer, in training only.  [SAFA Fig. 2]

    The batch grows in the middle of the network, so labels go in and come back longer; or its rows are mixed,
    and labels come back soft. A hook is registered for the length of one forward pass, so the model keeps its
    keys, its hooks and its evaluation bits: save ``model.state_dict()`` when done, the augmenter is not in it.

    Args:
        model: maps images (b, …) to logits (b, k); trained by the loop around it.
        before: name of the layer whose input is augmented, as in ``model.named_modules()``; every path from
            input to output must cross it once. ``"input"`` is the network's own input. When left out, the
            model's own attribute ``before``; for an augmenter that mixes, the input.
        augmenter: see ``safa.types.Augmenter``; with None the plug-in only passes images through.

    Raises:
        UserError: if there is no such layer, or the model was compiled and would ignore a hook silently.
            Attach first, then ``torch.compile(plug)``; the augmenter itself runs uncompiled.
    """

    def __init__(self, model: nn.Module, before: str | None = None, augmenter: Augmenter | None = None) -> None:
        super().__init__()
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            raise UserError(
                f"{type(model).__name__} is compiled and would ignore the augmenter; "
                "attach the plug-in to the plain model, then torch.compile(plug)"
            )
        if before is None:
            before = INPUT if _mixes(augmenter) else getattr(model, "before", None)
        if augmenter is not None:
            before = _known_layer(model, before)
        self.model, self.before, self.augmenter = model, before, augmenter
        self._crossing_is_known = False

    @property
    def active(self) -> bool:
        """Whether rows may be generated; set it to start at T_th. Idle, a pass costs what the model costs."""
        return self.augmenter is not None and self.augmenter.active

    @active.setter
    def active(self, value: bool) -> None:
        if self.augmenter is None:
            raise UserError("this plug-in has no augmenter to activate; pass augmenter=…")
        self.augmenter.active = value

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Logits of the images, in training followed by those of the generated rows, or those of mixed images.

        Args:
            images: shape (b, …), what the model takes.
            labels: shape (b,), int64, or (b, k), soft, for an augmenter that mixes; may be left out where nothing
                is augmented.

        Raises:
            UserError: if labels are missing or do not fit the images or the augmenter while augmenting, if the
                layer is not crossed exactly once by every path, or if the model returns anything but logits.
        """
        augmenter = self.augmenter
        if augmenter is None or not self.training or not (augmenter.active or augmenter.learns_while_idle):
            logits = self.model(images)
            return Output(logits, labels, logits.new_zeros((), dtype=torch.float32))
        output = self._augmented(images, _accepted(labels, images, augmenter), augmenter)
        if _mixes(augmenter) and not self._crossing_is_known:
            self._refuse_branch(images)
        return output

    def extra_repr(self) -> str:
        return f"before={self.before!r}"

    def _augmented(self, images: Tensor, labels: Tensor, augmenter: Augmenter) -> Output:
        seen: list[Augmented] = []

        def augment(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if seen:
                raise UserError(f"{self.before!r} is reached twice in one forward pass; name a layer that is used once")
            if not inputs or not isinstance(inputs[0], Tensor) or len(inputs[0]) != len(labels):
                raise UserError(
                    f"the first input of {self.before!r} is not one row per image and cannot be augmented; "
                    "PlugIn.probe lists what fits"
                )
            seen.append(_named_errors(augmenter, inputs[0], labels, str(self.before)))
            return (seen[0].features, *inputs[1:])

        # A compiled plug-in compiles the network around the augmenter: traced, this closure would be compiled
        # anew in dozens of pieces, for the number of generated rows depends on the labels.
        hook = torch.compiler.disable(augment)  # type: ignore[no-untyped-call]
        try:
            with _hooked(_layer(self.model, str(self.before)), hook):
                logits = self.model(images)
        except RuntimeError as error:
            self._explain(error, seen, images)
            raise
        return self._output(logits, seen)

    def _output(self, logits: Any, seen: list[Augmented]) -> Output:
        if not seen:
            raise UserError(
                f"{self.before!r} was never reached in the forward pass, so nothing was augmented; "
                "name a layer that is used (PlugIn.probe lists them), and compile the plug-in, not the model"
            )
        result = seen[0]
        if not isinstance(logits, Tensor):
            raise UserError(
                f"{type(self.model).__name__} returns {type(logits).__name__}, not logits; "
                "wrap it in a module that returns its logits alone"
            )
        if len(logits) != len(result.labels):
            raise UserError(_inside_branch(str(self.before)))
        return Output(logits, result.labels, result.loss, result.terms, result.diagnostics)

    def _explain(self, error: RuntimeError, seen: list[Augmented], images: Tensor) -> None:
        """Say so when the rows that were added are what the network failed on."""
        grown = bool(seen) and len(seen[0].labels) > len(images)
        if grown and len(images) > 1 and not _crossed_by_all(self.model, str(self.before), images[:2]):
            raise UserError(_inside_branch(str(self.before))) from error

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _refuse_branch(self, images: Tensor) -> None:
        """Mixed rows are as many as before, so a shortcut would not fail on them: look once, on two images."""
        name = str(self.before)
        if _layer(self.model, name) is not self.model:
            if len(images) < 2:  # a row alone is mixed with itself, and tells nothing
                return
            if not _crossed_by_all(self.model, name, images[:2]):
                raise UserError(_inside_branch(name))
        self._crossing_is_known = True

    @staticmethod
    def probe(
        model: nn.Module, image_size: int | tuple[int, int], channels: int = 3, only: str | None = None
    ) -> list[Place]:
        """The network's input and the layers an augmenter can sit before, in the order they are reached.

        Each is found by trying it.

        Args:
            model: any network that maps (n, channels, height, width) to (n, k).
            image_size: side of a square image, or (height, width), in pixels.
            channels: of the images.
            only: try this layer, or ``"input"``, alone.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        parameter = next(model.parameters(), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, channels, height, width, generator=generator)
        images = images.to(parameter.device, parameter.dtype)
        reached: list[Place] = []
        for name, inputs in _inputs_of_layers(model, images).items():
            if only not in (None, name):
                continue
            once = len(inputs) == 1 and inputs[0] is not None and inputs[0][:1] == (2,)
            if once and inputs[0] is not None and _crossed_by_all(model, name, images):
                reached.append(Place(name, tuple(inputs[0][1:])))
        return reached


def _mixes(augmenter: Augmenter | None) -> bool:
    return bool(getattr(augmenter, "mixes", False))


def _accepted(labels: Tensor | None, images: Tensor, augmenter: Augmenter) -> Tensor:
    """The labels, when the augmenter can be given them."""
    if labels is None:
        raise UserError("labels are needed while the augmenter is active: plug(images, labels)")
    ids = labels.shape == (len(images),) and not labels.is_floating_point()
    soft = labels.dim() == 2 and len(labels) == len(images) and labels.is_floating_point()
    if ids or (soft and _mixes(augmenter)):
        return labels
    expected = f"labels must be one class id per image, shape ({len(images)},)"
    got = f"got {tuple(labels.shape)} of {labels.dtype}"
    if _mixes(augmenter):
        raise UserError(f"{expected}, or one probability per image and class, shape ({len(images)}, k); {got}")
    raise UserError(
        f"{expected}, {got}; {type(augmenter).__name__} makes rows of whole classes: mix labels only while it is idle"
    )


def _layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name; for ``INPUT`` the model itself, unless a layer is called so."""
    return model if name == INPUT and not _has_layer(model, INPUT) else model.get_submodule(name)


def _has_layer(model: nn.Module, name: str) -> bool:
    return any(name == known for known, _ in model.named_modules())


def _known_layer(model: nn.Module, before: str | None) -> str:
    names = [INPUT, *(name for name, _ in model.named_modules() if name)]
    top = [name for name, _ in model.named_children()]
    if before is None:
        raise UserError(
            f"{type(model).__name__} names no default layer; pass before=…, one of {top}, a layer inside them, "
            f"or {INPUT!r}"
        )
    if before not in names:
        hint = closest(before, names)
        raise UserError(f"no module named {before!r} in {type(model).__name__}{hint}; its top-level modules are {top}")
    return before


def _named_errors(augmenter: Augmenter, features: Tensor, labels: Tensor, before: str) -> Augmented:
    try:
        return augmenter(features, labels)
    except UserError as error:
        raise UserError(f"before {before!r}: {error}") from error


def _inside_branch(before: str) -> str:
    return (
        f"{before!r} is not crossed by every path (a layer inside a residual branch gets another batch size "
        "than its shortcut); name the block or stage around it, PlugIn.probe lists what fits"
    )


@contextmanager
def _hooked(layer: nn.Module, hook: Any) -> Iterator[None]:
    """The hook on the layer's input, gone afterwards whatever happens."""
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets back the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _crossed_by_all(model: nn.Module, name: str, images: Tensor) -> bool:
    """Whether doubling the rows that enter a layer doubles the rows of the output and changes none."""

    def double(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([inputs[0], inputs[0]]), *inputs[1:])

    with _evaluating(model), torch.autocast(images.device.type, enabled=False):
        plain = model(images)
        try:
            with _hooked(_layer(model, name), double):
                doubled = model(images)
        except Exception:  # whatever a network raises on rows it did not expect, asserts included
            return False
    if not isinstance(plain, Tensor) or doubled.shape != (2 * len(plain), *plain.shape[1:]):
        return False
    rtol = max(1e-2, torch.finfo(plain.dtype).eps ** 0.5)  # a network in half precision differs by more
    return torch.allclose(doubled, torch.cat([plain, plain]), rtol=rtol, atol=rtol / 10)


def _inputs_of_layers(model: nn.Module, images: Tensor) -> dict[str, list[torch.Size | None]]:
    """Shapes of the first inputs of every call of every module, in the order of the first call."""
    shapes: dict[str, list[torch.Size | None]] = {}
    handles = []
    for name, module in model.named_modules():
        if not name and _has_layer(model, INPUT):
            continue

        def record(_: nn.Module, inputs: tuple[Any, ...], name: str = name or INPUT) -> None:
            first = inputs[0] if inputs else None
            shapes.setdefault(name, []).append(first.shape if isinstance(first, Tensor) else None)

        handles.append(module.register_forward_pre_hook(record))
    try:
        with _evaluating(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
