"""What holds for every row of Table 1: all stages of its recipe on the toy, through the trainer.

| check | for a method |
|---|---|
| finite and falling | every logged loss is finite, the first stage's falls, and the network is better than guessing |
| gradients | in every stage reach all that it trains, the augmenter included |
| state | stopped in the middle of the last stage that trains, and resumed, it ends with the same bits |
| other class names | permute the probabilities, for the same draws, in float64 |
| no tail, no head, one class | a run on batches of one class after the other leaves every state finite |
| float32 and bf16 | that run is in bf16, all others but the renamed in float32; weights are float32 in both |
| `predict` deterministic | the same bits twice, and from the run's folder the same probabilities |
| export | the file holds the bare network's tensors and says nothing of the method |

A recipe keeps loss, weighting, sampler, augmenter, head, trainable layers and reweighting of every stage; images,
backbone, epochs and learning rate become the toy's. Stages that recipes begin with in common are trained once.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from safa import assembly, evaluate, library
from safa import recipe as recipes
from safa.data.dataset import LongTailed
from safa.deploy.export import export
from safa.deploy.network import Deployed, load_run
from safa.files import CHECKPOINT
from safa.job import Job, describe
from safa.learner import Learner
from safa.machine import Machine, accelerator_for
from safa.parts import Parts
from safa.plan import epochs_of
from safa.recipe import Named, Recipe
from safa.train import Stopped, Trainer
from tests.conformance.toy import CLASSES, OLD_OF_NEW, data, draws_of_old_names, hooks_of, renamed_data, renamed_rows
from tests.test_resume import Interrupting, assert_same_state

ROWS = library.folder() / "table1" / "cifar100"
BATCH = 20  # five batches of 98 images
# So low that a difference in the last bit stays small: at 0.1, a sum in another order ends as another network.
SCHEDULE = recipes.Schedule(lr=0.02, milestones=(), warmup_epochs=0)

Noted = dict[int, tuple[set[str], set[str]]]
"""Stage -> parameters that learn, and those of them that a gradient has reached."""

Trunks = dict[tuple[type[Learner], str], tuple[Path, Noted]]


def shrunk(name: str, last: int = 1) -> Recipe:
    """A row of the table: two epochs in its first stage, ``last`` in the last that trains, one in every other."""
    full = recipes.load(ROWS / f"{name}.yaml")
    lengths = {last_that_trains(full): last, 0: 2}
    stages = [
        replace(stage, epochs=min(stage.epochs, lengths.get(index, 1))) for index, stage in enumerate(full.stages)
    ]
    held_out = min(full.data.validation_per_class, 10)  # of the 28 or more that the toy's tail leaves out
    return replace(
        full,
        stages=tuple(stages),
        data=replace(full.data, name="toy", imbalance_factor=5.0, largest=60, validation_per_class=held_out),
        model=replace(full.model, backbone=Named("resnet8")),
        schedule=SCHEDULE,
        batch_size=BATCH,
        precision="float32",
    )


def last_that_trains(recipe: Recipe) -> int:
    """Index of the stage that makes the method, or that it only changes the classifier after."""
    return max(index for index, stage in enumerate(recipe.stages) if stage.epochs)


class Watched(Learner):
    """Notes after every step which parameters learn, and which of them have a gradient."""

    noted: Noted

    def _step(self, epoch, *batch):
        super()._step(epoch, *batch)
        learning, reached = self.noted.setdefault(epoch.stage_index, (set(), set()))
        for name, parameter in self.plug.named_parameters():
            if parameter.requires_grad:
                learning.add(name)
                if parameter.grad is not None and parameter.grad.any():
                    reached.add(name)


class Doubled(Learner):
    """In float64: sums in another order differ by too little to grow into another network within the run."""

    def __init__(self, parts):
        super().__init__(DoubledParts(parts.recipe, parts.data, parts.accelerator))


class DoubledParts(Parts):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        single = self.normalise
        self.normalise = lambda images: single(images).double()

    def placed(self, module):
        return super().placed(module).double()

    def head(self, *arguments):
        return super().head(*arguments).double()

    def reweighter(self, *arguments):
        built = super().reweighter(*arguments)
        return None if built is None else built.double()


class Renamed(Doubled):
    """Whatever is drawn at random for each class is drawn as it is under the old names."""

    def __init__(self, parts):
        super().__init__(parts)
        self.parts = RenamedParts(parts.recipe, parts.data, parts.accelerator)
        renamed_rows(self.model)


class RenamedParts(DoubledParts):
    def head(self, *arguments):
        return renamed_rows(super().head(*arguments))

    def augmenter(self, *arguments):
        built = super().augmenter(*arguments)
        return None if built is None else renamed_rows(built)


class OneClassAtATime:
    """A sampler: batches of the head class, of each tail class, of both of these, and of a single image."""

    def __init__(self, labels, batch_size):
        rows = [np.flatnonzero(labels == label)[: batch_size // 2] for label in range(CLASSES)]
        self.batches = [*rows, np.concatenate([rows[0], rows[2]]), rows[2][:1]]

    def set_epoch(self, epoch):
        """All epochs are alike."""

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return (batch.tolist() for batch in self.batches)


class Method:
    """A row's runs on the toy, each made when it is asked for first, and not to be changed.

    Args:
        name: of the recipe.
        folder: for its runs.
        trunks: who learns, and the address of a state before the last stage that trains -> its checkpoint, and what
            was noted.
    """

    def __init__(self, name: str, folder: Path, trunks: Trunks) -> None:
        self.name, self.folder, self.trunks = name, folder, trunks
        self.recipe = shrunk(name)
        self.data = data(self.recipe.data)

    @cached_property
    def whole(self) -> Trainer:
        return self.run(Watched, self.recipe, self.data, "whole")

    @cached_property
    def longer(self) -> Trainer:
        return self.run(Watched, shrunk(self.name, last=4), self.data, "longer")

    @cached_property
    def deployed(self) -> Deployed:
        return load_run(self.whole.folder)

    @cached_property
    def doubled(self) -> Trainer:
        return self.run(Doubled, self.recipe, self.data, "doubled")

    @cached_property
    def renamed(self) -> Trainer:
        with draws_of_old_names():
            return self.run(Renamed, self.recipe, renamed_data(self.data), "renamed")

    @cached_property
    def one_class_at_a_time(self) -> Trainer:
        sampler = Named("tests.conformance.test_methods:OneClassAtATime")
        stages = [replace(stage, sampler=sampler, epochs=min(stage.epochs, 1)) for stage in self.recipe.stages]
        recipe = replace(self.recipe, stages=tuple(stages), precision="bf16")
        return self.run(Learner, recipe, self.data, "one class at a time")

    def run(self, kind: type[Learner], recipe: Recipe, images: LongTailed, name: str) -> Trainer:
        folder = self.folder / name
        noted = self.start(kind, recipe, images, folder)
        describe(Job(self.name, recipe, folder), images)
        return trained(kind, recipe, images, folder, noted)

    def start(self, kind: type[Learner], recipe: Recipe, images: LongTailed, folder: Path) -> Noted:
        """Put the state before the last stage that trains into a folder, to go on from."""
        trunk = replace(recipe, stages=recipe.stages[: last_that_trains(recipe)])
        key = kind, epochs_of(trunk, images.facts())[-1].key
        if key not in self.trunks:
            made = trained(kind, trunk, images, folder.with_name(f"before {folder.name}"))
            self.trunks[key] = made.folder / CHECKPOINT, made.learner.noted
        path, noted = self.trunks[key]
        folder.mkdir()
        shutil.copy(path, folder)
        return noted


def trained(
    kind: type[Learner], recipe: Recipe, images: LongTailed, folder: Path, noted: Noted | None = None, at: int = 0
) -> Trainer:
    """A trainer that has run, on from what is in its folder; asked to stop after ``at`` steps, if any."""
    accelerator = accelerator_for(recipe, Machine(device="cpu"))
    trainer = Trainer(recipe, images, folder, accelerator, progress=Interrupting(at))
    trainer.learner = kind(trainer.learner.parts)
    trainer.learner.noted = dict(noted or {})
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def trunks() -> Trunks:
    return {}


@pytest.fixture(scope="module", params=sorted(path.stem for path in ROWS.glob("*.yaml")))
def method(request, tmp_path_factory, trunks) -> Method:
    return Method(request.param, tmp_path_factory.mktemp(request.param), trunks)


@torch.no_grad()
def probabilities(trainer: Trainer) -> Tensor:
    """Of the test images, by the bare network."""
    test = trainer.data.source.test
    return trainer.learner.model.eval()(trainer.learner.parts.images_of(test, range(len(test)))[0]).softmax(1)


# --- learning ----------------------------------------------------------------------------------------------


def test_the_loss_stays_finite_and_falls(method):
    history = [entry for entry in method.longer.history if entry["loss"] is not None]
    assert all(math.isfinite(entry["loss"]) for entry in history)
    first, second = history[:2]
    assert second["loss"] < 0.95 * first["loss"]
    assert all(second["terms"][name] < value for name, value in first["terms"].items())
    own = [entry["loss"] for entry in history][-4:]  # of the stage that makes the method
    assert min(own[2:]) < sum(own[:2]) / 2  # where weights or mixtures are drawn anew, epochs differ much
    assert evaluate.error(method.longer.predict("test")) < 60  # as many images of every class; guessing has 67


def test_gradients_reach_in_every_stage_all_that_it_trains(method):
    stages = [index for index, stage in enumerate(method.recipe.stages) if stage.epochs]
    assert list(method.whole.learner.noted) == stages
    for index, (learning, reached) in method.whole.learner.noted.items():
        assert learning == reached, f"stage {index}"
        layers = method.recipe.stages[index].trainable
        assert not layers or all(name.startswith(tuple(f"model.{layer}." for layer in layers)) for name in learning)


# --- state, names, batches ---------------------------------------------------------------------------------


def test_stopped_in_the_middle_of_a_stage_and_resumed_it_ends_with_the_same_bits(method):
    folder = method.folder / "stopped"
    method.start(Watched, method.recipe, method.data, folder)
    with pytest.raises(Stopped, match="stopped in epoch .*, after 3 of "):
        trained(Learner, method.recipe, method.data, folder, at=3)
    trained(Learner, method.recipe, method.data, folder)
    assert_same_state(folder, method.whole.folder)


def test_other_class_names_permute_the_probabilities(method):
    expected = probabilities(method.doubled)[:, OLD_OF_NEW]
    torch.testing.assert_close(probabilities(method.renamed), expected, rtol=0, atol=1e-9)


def test_batches_of_one_class_at_a_time_in_bf16_leave_every_state_finite(method):
    trainer = method.one_class_at_a_time
    assert all(entry["loss"] is None or math.isfinite(entry["loss"]) for entry in trainer.history)
    parts = {
        "network": trainer.learner.model,
        "augmenter": trainer.learner.augmenter,
        "reweighting": trainer.learner.reweighter,
    }
    for part, module in parts.items():
        for name, value in module.state_dict().items() if module is not None else ():
            assert value.isfinite().all(), f"{part}: {name}"
            assert value.dtype in (torch.float32, torch.int64, torch.bool), f"{part}: {name}"


# --- what comes out ----------------------------------------------------------------------------------------


def test_predictions_are_the_same_bits_twice_and_those_of_the_run_folder(method):
    trainer = method.whole
    first = vars(trainer.predict("test"))
    torch.manual_seed(1)
    second = vars(trainer.predict("test"))
    assert all(np.array_equal(values, second[name]) for name, values in first.items())
    images = torch.from_numpy(method.data.source.test.images).float() / 255
    found = method.deployed.probabilities(images)
    assert torch.equal(found, method.deployed.probabilities(images))
    torch.testing.assert_close(found, probabilities(trainer), rtol=1e-4, atol=1e-5)


def test_nothing_of_it_is_left_in_the_exported_network(method):
    trainer = method.whole
    head = method.recipe.model_in(len(method.recipe.stages)).head
    bare = assembly.network(recipes.Model(Named("resnet8"), head), CLASSES, seed=0)
    assert [name for name, _ in trainer.learner.model.named_modules()] == [name for name, _ in bare.named_modules()]
    assert hooks_of(trainer.learner.model) == []
    written = export(method.deployed, "safetensors", method.folder / "network.safetensors")
    with safe_open(written.path, "pt") as file:
        assert set(file.keys()) == set(bare.state_dict())
        said = file.metadata()
    assert set(said) == {"class_names", "image_size", "mean", "std", "model"}
    assert set(json.loads(said["model"])) <= {"backbone", "head"}
