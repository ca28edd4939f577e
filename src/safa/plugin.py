"""Run an augmenter on the input of one named layer, or of the whole network, in training only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safa.crossing import Crossing, logits_of
from safa.errors import UserError, closest
from safa.types import Augmented, Augmenter, Output, mixes

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
            model's own attribute ``before``; for an augmenter that mixes, the input. The layer must not lie
            inside a region under ``torch.utils.checkpoint``: backward runs it again, without the augmenter. Nor
            checkpoint the plug-in as a whole: what it counts or averages would be counted twice in a step.
        augmenter: see ``safa.types.Augmenter``; with None the plug-in only passes images through.

    Switch modes on the plug-in, ``plug.eval()`` and ``plug.train()``, or on the model alone, never one on each: after
    ``plug.eval()``, ``model.train()`` leaves the augmenter in evaluation mode, where it generates nothing. A plug-in in
    training augments whatever mode its model is in, so after ``model.eval()`` call ``model(images)``.

    One optimizer for all, with parameter groups where the augmenter has another rate: an idle SAFA has no gradients,
    and ``GradScaler`` refuses to step an optimizer without any.

    Wrap the plug-in in ``DistributedDataParallel``: inside it, ``PlugIn(DDP(model))``, every process would train an
    augmenter of its own. Set ``plug.active`` on the plug-in: on the wrapper it is a new attribute that does
    nothing. DDP waits for the gradient of every parameter, and those of an idle SAFA get none. So either wrap once
    with ``find_unused_parameters=True``; or freeze the idle augmenter by ``requires_grad_(False)`` before wrapping,
    and let it learn and wrap anew when it starts. RSG freezes parts of itself: wrap anew after every switch.
    ``SyncBatchNorm`` is for the model alone, ``convert_sync_batchnorm(model)`` before it is plugged: an augmenter
    passes over a batch that has nothing to pair, and the other processes would wait for its batch norms.

    Raises:
        UserError: if there is no such layer, if the augmenter is none, or if the model was compiled and would
            ignore a hook silently. Attach first, then ``torch.compile(plug)``; the augmenter itself runs uncompiled.
    """

    def __init__(self, model: nn.Module, before: str | None = None, augmenter: Augmenter | None = None) -> None:
        super().__init__()
        _refuse_compiled(model)
        if augmenter is not None:
            refuse_other_than_augmenter(augmenter)
        if before is None:
            before = INPUT if mixes(augmenter) else getattr(model, "before", None)
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

        Before the first pass in training it looks at where the layer lies, idle or not, so that a mistake in
        ``before`` does not wait for T_th. It costs passes of two images in evaluation mode, which hooks of one's own
        on the model see as well, and no random number.

        Args:
            images: shape (b, …), what the model takes.
            labels: shape (b,), of any integer type (the augmenter gets int64), or (b, k), soft, for an augmenter
                that mixes; may be left out, or be anything, where nothing is augmented.

        Raises:
            UserError: if labels are missing or do not fit the images or the augmenter while augmenting, if the
                layer is checkpointed or not crossed exactly once by every path, if the augmenter returns what is
                no batch, if the model returns anything but logits, or in ``DataParallel``.
        """
        augmenter = self.augmenter
        if augmenter is None or not self.training:
            return _unaugmented(logits_of(self.model, self.model(images)), labels)
        if getattr(self, "_is_replica", False):
            # Replicas share their hooks: rows of one device would enter the network of another.
            raise UserError("a plug-in cannot be trained in DataParallel; wrap it in DistributedDataParallel")
        needed = augmenter.active or augmenter.learns_while_idle
        accepted = _accepted(labels, images, augmenter) if needed else None
        if not self._crossing_is_known and len(images):  # nothing can be seen of an empty batch
            # Not by a decorator, which would load the whole compiler when this module is imported.
            uncompiled = torch.compiler.disable(self._first_pass)  # type: ignore[no-untyped-call]
            first: Output = uncompiled(images, accepted if needed else labels, augmenter if needed else None)
            return first
        if accepted is None:
            return _unaugmented(logits_of(self.model, self.model(images)), labels)
        return self._augmented(images, accepted, augmenter)

    def extra_repr(self) -> str:
        return f"before={self.before!r}"

    @property
    def _layer(self) -> str:
        """The layer's name as torch has it: empty for the network itself, which is ``INPUT``."""
        itself = self.before == INPUT and not isinstance(getattr(self.model, INPUT, None), nn.Module)
        return "" if itself else str(self.before)

    def _first_pass(self, images: Tensor, labels: Tensor | None, augmenter: Augmenter | None) -> Output:
        """A pass that makes sure of the layer.

        Looking comes before it, so that what the model keeps of a pass is of this one; and on every process, whatever
        its labels. Its verdict comes after it, for the pass says better what else is wrong.
        """
        crossed = self._is_crossed(images)
        if augmenter is None or labels is None:
            output = _unaugmented(self._through(images, lambda features: features), labels)
        else:
            output = self._augmented(images, labels, augmenter, crossed)
        if not crossed:
            raise UserError(_inside_branch(str(self.before)))
        self._crossing_is_known = True
        return output

    def _augmented(self, images: Tensor, labels: Tensor, augmenter: Augmenter, crossed: bool = True) -> Output:
        seen: list[Augmented] = []

        def augment(features: Tensor) -> Tensor:
            seen.append(_result_of(augmenter, features, labels, str(self.before)))
            return seen[0].features

        try:
            logits = self._through(images, augment)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # asserts of a network included
            if not crossed and seen and len(seen[0].labels) > len(images):
                raise UserError(_inside_branch(str(self.before))) from error
            if not seen:
                self._explain(error, images, labels)
            raise
        result = seen[0]
        if len(logits) != len(result.labels):
            raise UserError(_inside_branch(str(self.before)))
        return Output(logits, result.labels, result.loss, result.terms, result.diagnostics)

    def _through(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of the images, with what enters the layer changed on the way."""
        if self._layer:  # a hook on the module that was compiled itself is minded
            _refuse_compiled(self.model)
        reached: list[Tensor] = []
        outside = _recording()

        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if reached:
                raise UserError(f"{self.before!r} is reached twice in one forward pass; name a layer that is used once")
            if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].shape[:1] != (len(images),):
                raise UserError(
                    f"the first input of {self.before!r} is not one row per image and cannot be augmented; "
                    "PlugIn.probe lists what fits"
                )
            if any(around and not here for around, here in zip(outside, _recording(), strict=True)):
                raise UserError(_checkpointed(str(self.before)))
            reached.append(change(inputs[0]))
            return (reached[0], *inputs[1:])

        # A compiled plug-in compiles the network around the augmenter: traced, this closure would be compiled
        # anew in dozens of pieces, for the number of generated rows depends on the labels.
        hook = torch.compiler.disable(enter)  # type: ignore[no-untyped-call]
        with self.model.get_submodule(self._layer).register_forward_pre_hook(hook):
            returned = self.model(images)
        if not reached:
            raise UserError(
                f"{self.before!r} was never reached in the forward pass, so nothing was augmented; "
                "name a layer that is used (PlugIn.probe lists them), and compile the plug-in, not the model"
            )
        return logits_of(self.model, returned)

    def _explain(self, error: Exception, images: Tensor, labels: Tensor) -> None:
        """Say so when a label beyond the classes is what an augmenter failed on."""
        try:
            classes = Crossing(self.model, _pair(images)).logits.shape[-1]
        except Exception:  # it fails on plain rows as well
            return
        if _ids_on_cpu(labels) and bool((labels >= classes).any()):
            raise UserError(
                f"{type(self.model).__name__} tells {classes} classes apart, so labels are 0 to {classes - 1}, "
                f"got {int(labels.max())}"
            ) from error

    def _is_crossed(self, images: Tensor) -> bool:
        """Whether every path crosses the layer, as far as evaluation tells; the network's own input they all do."""
        if not self._layer:
            return True
        mixed = mixes(self.augmenter)
        try:
            crossing = Crossing(self.model, _pair(images))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a network that works in training only
            if mixed:
                raise
            return True  # rows that are added where they must not be are an error later on, mixed ones are silent
        return crossing.can_be_mixed(self._layer) if mixed else crossing.is_crossed(self._layer, exact=False)

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

        Raises:
            UserError: if the model returns anything but logits.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, channels, height, width, generator=generator)
        images = images.to(next(model.parameters(), images).device)
        crossing, own_input = Crossing(model, images), INPUT not in _names(model)
        reached: list[Place] = []
        for layer, inputs in crossing.inputs_of_layers().items():
            name = layer or INPUT
            if only not in (None, name) or not (layer or own_input):
                continue
            shape = inputs[0]
            if len(inputs) == 1 and shape is not None and shape[:1] == (2,) and crossing.is_crossed(layer):
                reached.append(Place(name, tuple(shape[1:])))
        return reached


def _unaugmented(logits: Tensor, labels: Tensor | None) -> Output:
    if labels is not None and not (labels.is_floating_point() or labels.is_complex()):
        labels = labels.long()  # as while rows are made, so that a loop that runs before T_th runs after it
    return Output(logits, labels, logits.new_zeros((), dtype=torch.float32))


def _pair(images: Tensor) -> Tensor:
    """Two images to look with; one of zeros, which token ids may be as well, beside one that is alone."""
    return images[:2] if len(images) > 1 else torch.cat([images, torch.zeros_like(images)])


def _refuse_compiled(model: nn.Module) -> None:
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError(
            f"{type(model).__name__} is compiled and would ignore the augmenter; "
            "attach the plug-in to the plain model, then torch.compile(plug)"
        )


def refuse_other_than_augmenter(augmenter: object) -> None:
    """Raise a UserError that says what is missing in something that is to make rows."""
    if isinstance(augmenter, type):
        name = augmenter.__name__
        raise UserError(f"augmenter is the class {name}; pass an object, {name}(…)")
    lacking = [name for name in ("active", "learns_while_idle", "__call__") if not hasattr(augmenter, name)]
    if lacking:
        raise UserError(
            f"{type(augmenter).__name__} is no augmenter: it has no {' and no '.join(lacking)}; "
            "safa.types.Augmenter says what one has"
        )


def _accepted(labels: Tensor | None, images: Tensor, augmenter: Augmenter) -> Tensor:
    """The labels, when the augmenter can be given them; class ids as int64."""
    if labels is None:
        when = "the augmenter is active" if augmenter.active else f"{type(augmenter).__name__} learns, though idle"
        raise UserError(f"labels are needed while {when}: plug(images, labels)")
    if labels.shape == (len(images),) and not (labels.is_floating_point() or labels.is_complex()):
        return labels.long()
    if labels.dim() == 2 and len(labels) == len(images) and labels.is_floating_point() and mixes(augmenter):
        return labels
    expected = f"labels must be one class id per image, shape ({len(images)},)"
    got = f"got {tuple(labels.shape)} of {labels.dtype}"
    if mixes(augmenter):
        raise UserError(f"{expected}, or one probability per image and class, shape ({len(images)}, k); {got}")
    raise UserError(
        f"{expected}, {got}; {type(augmenter).__name__} makes rows of whole classes: mix labels only while it is idle"
    )


def _ids_on_cpu(labels: Tensor) -> bool:
    """Whether labels are class ids that can be read without waiting for a device."""
    return labels.dim() == 1 and labels.device.type == "cpu"


def _result_of(augmenter: Augmenter, features: Tensor, labels: Tensor, before: str) -> Augmented:
    """What the augmenter makes of a batch, if it is one; its errors with the layer's name."""
    if _ids_on_cpu(labels) and bool((labels < 0).any()):
        raise UserError(f"labels are class ids from 0 on, got {int(labels.min())}; leave such images out of the batch")
    try:
        result = augmenter(features, labels)
    except UserError as error:
        raise UserError(f"before {before!r}: {error}") from error
    name = type(augmenter).__name__
    if not isinstance(result, Augmented):
        raise UserError(f"{name} returns {type(result).__name__}; an augmenter returns safa.types.Augmented")
    if len(result.features) != len(result.labels):
        raise UserError(
            f"{name} returns {len(result.features)} rows of features with {len(result.labels)} labels; "
            "give every row one label"
        )
    rows, given = len(result.features), len(features)
    if rows < given or (rows > given and mixes(augmenter)):
        wanted = "as many" if mixes(augmenter) else "these, and those that it makes after them"
        raise UserError(f"{name} returns {rows} rows where it is given {given}; an augmenter returns {wanted}")
    return result


def _recording() -> tuple[bool, bool]:
    """Whether autograd records, and keeps what it needs by itself; a checkpointed region lacks one of them."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("there are some"):  # which is refused if there are
            return torch.is_grad_enabled(), True
    except RuntimeError:
        return torch.is_grad_enabled(), False


def _names(model: nn.Module) -> list[str]:
    """Of all layers, those with two names under both."""
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name]


def _known_layer(model: nn.Module, before: str | None) -> str:
    names = [INPUT, *_names(model)]
    top = [name for name in names[1:] if "." not in name]
    if before is None:
        raise UserError(
            f"{type(model).__name__} names no default layer; pass before=…, one of {top}, a layer inside them, "
            f"or {INPUT!r}"
        )
    if before not in names:
        hint = closest(before, names)
        raise UserError(f"no module named {before!r} in {type(model).__name__}{hint}; its top-level modules are {top}")
    return before


def _inside_branch(before: str) -> str:
    return (
        f"{before!r} is not crossed by every path (a layer inside a residual branch gets another batch size "
        "than its shortcut); name the block or stage around it, PlugIn.probe lists what fits"
    )


def _checkpointed(before: str) -> str:
    return (
        f"{before!r} runs inside a region under torch.utils.checkpoint (or no_grad, or hooks on saved tensors), which "
        "backward runs again without the augmenter; name a layer outside, such as the one that opens the region"
    )
