"""From a run folder back to the network, with everything it takes to use it on new images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safa import assembly, checkpoint
from safa import recipe as recipes
from safa.errors import UserError
from safa.files import CARD, CHECKPOINT, RESULT, read_json
from safa.job import edited_since, job_of
from safa.plan import epochs_trained


@dataclass(frozen=True)
class Card:
    """What goes with the weights wherever they go.

    Attributes:
        class_names: one per class id.
        image_size: side of the square images, in pixels.
        mean, std: per RGB channel, of pixel values in [0, 1], over the training images.
        model: backbone and head, as in the recipe.
    """

    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: recipes.Model

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], model: recipes.Model, where: str) -> Card:
        """Card from the parsed ``data.json`` of a run or the metadata of an exported file, called ``where``.

        Raises:
            UserError: for a value that is missing or not of its kind.
        """
        names, size = plain.get("class_names"), plain.get("image_size")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: class_names must be a list of at least one name, got {names!r}")
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{where}: image_size must be a number of pixels, got {size!r}")
        mean, std = (_channels(plain.get(key), f"{where}: {key}") for key in ("mean", "std"))
        return cls(tuple(names), size, mean, std, model)


class Classifier(nn.Module):
    """The bare network between pixel values and probabilities.

    Args:
        network: from normalised images to logits.
        mean, std: per channel, of pixel values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w), float32 RGB in [0, 1] -> softmax probabilities (n, k)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits.softmax(dim=1)


@dataclass(frozen=True, eq=False)
class Deployed:
    """A network ready for images it has never seen.

    Attributes:
        classifier: images (n, 3, h, w), float32 RGB in [0, 1] -> probabilities (n, k). A ``Classifier`` in
            evaluation mode where the weights are at hand; a runtime's session for an ONNX or PT2 file.
        card: class names, image size, normalisation and architecture.
        notes: what the user should know of it, one sentence each.
    """

    classifier: Callable[[Tensor], Tensor]
    card: Card
    notes: tuple[str, ...] = ()

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w), float32 RGB in [0, 1] -> probabilities (n, k), without gradients."""
        with torch.no_grad():
            return self.classifier(images)


def load_run(run: Path) -> Deployed:
    """Rebuild the bare network of a run from its recipe, ``data.json`` and checkpoint, on the CPU.

    A run that is not finished gives the weights of its last checkpoint, and a note that says so.

    Raises:
        UserError: if ``run`` is no run folder, has no checkpoint yet, or one of its files is damaged.
    """
    run = Path(run)
    recipe, state = job_of(run).recipe, load_state(run)
    card = Card.from_plain(read_json(run / CARD), model_in(recipe, state), str(run / CARD))
    network = rebuilt(recipe, state, len(card.class_names), run)
    return Deployed(classifier(network, card), card, tuple(_notes(run, recipe, state)))


def load_state(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run.

    Raises:
        UserError: if there is none yet, or it is damaged.
    """
    path = run / CHECKPOINT
    if not path.exists():
        deleted = (run / RESULT).exists()
        why = (
            f"it was deleted; delete {RESULT} there, too, and train the recipe again"
            if deleted
            else "no epoch of it is finished; let it train on"
        )
        raise UserError(f"{run} has no {path.name}{'' if deleted else ' yet'}: {why}")
    state = checkpoint.load(path)
    if not {"model", "done"} <= state.keys():
        raise UserError(f"{path} holds tensors, but is no checkpoint of a run; give a folder that a training run wrote")
    return state


def rebuilt(recipe: recipes.Recipe, state: Mapping[str, Any], num_classes: int, run: Path) -> nn.Module:
    """The network of a run, with the classifier of the stage that its checkpoint is of, on the CPU.

    Raises:
        UserError: if the weights are those of another network.
    """
    network = assembly.network(model_in(recipe, state), num_classes, recipe.seed)
    fill(network, state["model"], str(run / CHECKPOINT))
    return network


def model_in(recipe: recipes.Recipe, state: Mapping[str, Any]) -> recipes.Model:
    """The network that a checkpoint is of, with the classifier of its stage."""
    # The runs of versions whose stages could not change the classifier say nothing of the stage.
    return recipe.model_in(state.get("stage", 0))


def classifier(network: nn.Module, card: Card) -> Classifier:
    """The network with the card's normalisation before it and a softmax behind, done with learning."""
    return Classifier(network, card.mean, card.std).eval().requires_grad_(False)


def fill(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put weights into the network they belong to; ``where`` they come from is for the message.

    Raises:
        UserError: if names or shapes differ from the network's.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights in {where} do not fit the network of its recipe: {error}") from error


def _channels(values: Any, where: str) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{where} must be three numbers, one per RGB channel, got {values!r}")
    return tuple(float(value) for value in values)


def _notes(run: Path, recipe: recipes.Recipe, state: Mapping[str, Any]) -> Iterator[str]:
    if not (run / RESULT).exists():
        step = state.get("step", 0)
        steps = f" and {step} step{'s' if step > 1 else ''} of the next" if step else ""
        done = f"{epochs_trained(recipe, state['done'])} of {recipe.epochs} epochs{steps}"
        yield f"{run} is not finished: these are the weights after {done}"
    edited = edited_since(run, model_in(recipe, state))
    if edited is not None:
        yield (
            f"the file of {edited} was changed since {run} was trained; if the network computes otherwise now, its "
            "answers are not those that were tested: put the file back, or train again"
        )
