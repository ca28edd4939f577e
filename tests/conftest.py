"""What all tests share: one thread per process, and the smallest recipe in which everything happens."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo  # the first optimizer loads it; frozen below with the rest

from safa import recipe as recipes
from safa import runs
from safa.data import dataset
from safa.job import Job
from safa.machine import Machine, accelerator_for
from safa.parts import Parts
from safa.recipe import Model, Named, Recipe, Schedule, Stage
from safa.train import Trainer

torch.set_num_threads(1)  # networks this small gain nothing from more, and pytest-xdist shares the cores already
gc.disable()  # until all tests are collected: none of what is imported and collected is garbage

TINY = {
    "method": "LDAM-DRW-SAFA",
    "data": {"name": "digits", "imbalance_factor": 20, "largest": 30},
    "model": {"backbone": "resnet8", "head": {"name": "cosine", "scale": 30}},
    "schedule": {"lr": 0.1, "milestones": [3], "factor": 0.1, "warmup_epochs": 1},
    "batch_size": 16,
    "stages": [
        {"epochs": 2, "loss": "ldam"},
        {"epochs": 2, "loss": "ldam", "weighting": "effective_number", "sampler": "pairs", "augmenter": "safa"},
    ],
}

RESNET8 = Model(Named("resnet8"), Named("cosine", {"scale": 30}))
CONSTANT = Schedule(milestones=(), warmup_epochs=0)
STEPS = 7  # per epoch of the 98 images of the tiny tail in batches of 16


@pytest.fixture(scope="session", autouse=True)
def quick_disk():
    """Nothing written here has to outlive a power cut, and waiting for the disk is a tenth of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def tiny_recipe() -> recipes.Recipe:
    """Four epochs of seven steps on 98 digits: LDAM, then DRW with SAFA."""
    return recipes.from_plain(TINY)


@pytest.fixture(scope="session")
def tiny_data(tiny_recipe) -> dataset.LongTailed:
    return dataset.load(tiny_recipe.data)


@pytest.fixture
def tiny_file(tmp_path, tiny_recipe) -> Path:
    """The tiny recipe as a user would write it."""
    path = tmp_path / "tiny.yaml"
    path.write_text("# Tiny: for tests.\n" + recipes.dump(tiny_recipe))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, tiny_data, tmp_path_factory) -> Path:
    """The folder of a finished run of the tiny recipe; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    runs.run(Job("tiny", tiny_recipe, folder), Machine(), tiny_data)
    return folder


def recipe_of(stages: tuple[Stage, ...], data: dataset.LongTailed, options: dict) -> Recipe:
    return Recipe("x", stages, data.spec, **{"model": RESNET8, "batch_size": 16, "schedule": CONSTANT, **options})


@pytest.fixture
def parts_of(tiny_data):
    """The parts of some stages on the tiny tail."""

    def build(*stages: Stage, data=tiny_data, **options) -> Parts:
        recipe = recipe_of(stages, data, options)
        return Parts(recipe, data, accelerator_for(recipe, Machine()))

    return build


@pytest.fixture
def meta_data(tiny_data):
    """The tiny tail with two images of every class held out to steer by."""
    return dataset.load(replace(tiny_data.spec, meta_per_class=2, largest=None))


@pytest.fixture
def trainer_of(tiny_data, tmp_path):
    """A trainer of some stages on the tiny tail, with one's own kind of learner."""

    def build(*stages: Stage, data=tiny_data, folder=tmp_path, kind=None, **options) -> Trainer:
        recipe = recipe_of(stages, data, options)
        trainer = Trainer(recipe, data, folder, accelerator_for(recipe, Machine()))
        if kind is not None:
            trainer.learner = kind(trainer.learner.parts)
        return trainer

    return build


@pytest.fixture
def trained(trainer_of):
    """A trainer that has run."""

    def build(*stages: Stage, **options) -> Trainer:
        trainer = trainer_of(*stages, **options)
        trainer.run()
        return trainer

    return build


@pytest.fixture(scope="module")
def pages_without_charts():
    """Charts take seconds a page and have tests of their own, in ``tests/report``."""
    from safa.report.sections import SECTIONS

    kept = [section for section in SECTIONS if section.anchor in ("summary", "settings")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safa.report.page.SECTIONS", kept)
        yield


def pytest_collection_finish() -> None:
    """Accelerate collects garbage at every stage; what is imported and collected by now is passed over."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests in a row share what their module made, so give every worker a row, and idle ones a part of another's."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None
