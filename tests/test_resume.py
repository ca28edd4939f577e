"""A run that was stopped or killed at any moment ends with the bits of a run that was not.

Killing happens in forked children of one fresh process (``kill_and_resume``), so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safa import checkpoint, cli, runs
from safa import recipe as recipes
from safa.data import dataset
from safa.errors import UserError
from safa.files import CHECKPOINT
from safa.job import Job, job_of
from safa.learner import Learner
from safa.losses import LDAMLoss
from safa.machine import Machine, accelerator_for
from safa.progress import Progress
from safa.recipe import Augmenter, Named, Optimizer, Stage
from safa.train import Stopped, Trainer

ROOT = Path(__file__).parents[1]
STEPS = 7  # per epoch of the tiny recipe


class Signalling(LDAMLoss):
    """LDAM that sends a signal to its own or the parent process at a step, once: a file in the folder remembers."""

    def __init__(self, class_counts, folder: str, number: int, at: int, parent: bool = False, weight=None) -> None:
        super().__init__(class_counts, weight=weight)
        self.marker, self.number, self.at, self.parent, self.seen = Path(folder, "marker"), number, at, parent, 0

    def forward(self, logits, labels):
        self.seen += 1
        if self.seen == self.at:
            with contextlib.suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                os.kill(os.getppid() if self.parent else os.getpid(), self.number)
        if self.parent and self.marker.exists():
            time.sleep(0.2)  # until the signal has come back from the parent
        return super().forward(logits, labels)


class Interrupting(Progress):
    """Asks the run to stop after so many steps."""

    def __init__(self, at: int) -> None:
        super().__init__(shown=False)
        self.left = at

    def step(self, images: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def assert_same_state(first: Path, second: Path) -> None:
    """Every tensor and every logged figure but the time it took."""
    _assert_same(*(checkpoint.load(folder / CHECKPOINT) for folder in (first, second)), "state")


def _assert_same(first: object, second: object, where: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), f"{where} differs"
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first.keys() - {"seconds", "images_per_second", "reused_epochs", "reused_of", "key"}:
            _assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            _assert_same(a, b, f"{where}[{index}]")
    else:
        assert first == second, where


def train(recipe: recipes.Recipe, data: dataset.LongTailed, folder: Path, at: int = 0) -> bool:
    """Train, or go on, and stop after ``at`` steps; whether the run was stopped."""
    trainer = Trainer(recipe, data, folder, accelerator_for(recipe, Machine()), progress=Interrupting(at))
    try:
        trainer.run()
    except Stopped:
        return True
    return False


# --- asked to stop -----------------------------------------------------------------------------------------


def test_a_run_stopped_after_every_single_step_ends_with_the_same_bits(tiny_recipe, tiny_data, tiny_run, tmp_path):
    stops = 0
    while train(tiny_recipe, tiny_data, tmp_path, at=1):
        stops += 1
        assert stops <= 4 * STEPS
    assert stops == 4 * STEPS
    assert_same_state(tmp_path, tiny_run)


@pytest.mark.parametrize("at", random.Random(0).sample(range(1, 4 * STEPS + 1), 4))
def test_a_run_stopped_at_a_random_step_ends_with_the_same_bits(at, tiny_recipe, tiny_data, tiny_run, tmp_path):
    assert train(tiny_recipe, tiny_data, tmp_path, at)
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert state["done"] * STEPS + state["step"] == at
    assert not train(tiny_recipe, tiny_data, tmp_path)
    assert_same_state(tmp_path, tiny_run)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"clip": 0.5},
        {"optimizer": Optimizer(nesterov=True)},
    ],
)
def test_whatever_the_precision_or_the_optimizer(change, tiny_recipe, tiny_data, tmp_path):
    recipe = replace(tiny_recipe, **change)
    train(recipe, tiny_data, tmp_path / "whole")
    for at in (10, 7):
        assert train(recipe, tiny_data, tmp_path / "stopped", at)
    train(recipe, tiny_data, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


MIXED = Stage(1, loss=Named("ldam"), augmenter=Augmenter("mixup", before="input"))
SCALES = Stage(2, head=Named("scaled"), trainable=("fc",), sampler=Named("class_balanced"), optimizer=Optimizer())
NEAREST = Stage(0, head=Named("nearest_mean"))


@pytest.mark.parametrize("stages", [(MIXED, SCALES, NEAREST), (Stage(1), NEAREST, Stage(1))])
def test_whatever_becomes_of_the_classifier(stages, tiny_recipe, tiny_data, tmp_path):
    recipe = replace(tiny_recipe, stages=stages)
    train(recipe, tiny_data, tmp_path / "whole")
    stops = 0
    while train(recipe, tiny_data, tmp_path / "stopped", at=4):
        stops += 1
    assert stops == recipe.epochs * STEPS // 4
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


def test_whatever_gradients_the_layers_kept_that_now_stand_still(tiny_recipe, tiny_data, tmp_path):
    """Clipping may not count them: they are of the stage before, and a run that goes on from a checkpoint has none."""
    recipe = replace(tiny_recipe, stages=(Stage(1), SCALES), clip=0.1)
    train(recipe, tiny_data, tmp_path / "whole")
    assert train(recipe, tiny_data, tmp_path / "stopped", at=STEPS)
    train(recipe, tiny_data, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


def test_whatever_average_is_taken_of_the_weights(tiny_recipe, tiny_data, tmp_path):
    recipe = replace(tiny_recipe, stages=(Stage(2, averaged_epochs=5 / STEPS), Stage(1)))
    train(recipe, tiny_data, tmp_path / "whole")
    for at in (STEPS, 3):  # after an epoch, and within the stage's last one
        assert train(recipe, tiny_data, tmp_path / "stopped", at)
    train(recipe, tiny_data, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


def test_whatever_weighs_the_images(tiny_recipe, tiny_data, tmp_path):
    data = dataset.load(replace(tiny_data.spec, meta_per_class=2, largest=None))
    recipe = replace(tiny_recipe, data=data.spec, stages=(Stage(2, reweighting=Named("meta_weight_net")),))
    train(recipe, data, tmp_path / "whole")
    for at in (3, 9):
        assert train(recipe, data, tmp_path / "stopped", at)
    train(recipe, data, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


def test_an_epoch_that_was_begun_under_another_recipe_is_not_ended_under_this_one(tiny_recipe, tiny_data, tmp_path):
    """Half of it would be of the one and half of the other, under this one's address in the cache."""
    recipe = replace(tiny_recipe, stages=(Stage(1), Stage(1)))
    other = replace(recipe, stages=(Stage(1), Stage(1, loss=Named("focal"))))
    assert train(recipe, tiny_data, tmp_path, at=STEPS + 2)
    with pytest.raises(UserError, match="was trained with another recipe"):
        train(other, tiny_data, tmp_path)
    assert train(recipe, tiny_data, tmp_path, at=STEPS - 2)  # the epoch is whole, and the next begins
    assert not train(replace(other, stages=(*recipe.stages, other.stages[1])), tiny_data, tmp_path)


@pytest.mark.parametrize("step", [1, 3])
def test_a_stop_in_the_first_epoch_of_a_stage_with_an_optimizer_of_its_own_starts_no_third(
    step, tiny_recipe, tiny_data, tmp_path
):
    first, second = tiny_recipe.stages
    recipe = replace(
        tiny_recipe, stages=(replace(first, epochs=1), replace(second, epochs=1, optimizer=Optimizer(momentum=0.8)))
    )
    train(recipe, tiny_data, tmp_path / "whole")
    assert train(recipe, tiny_data, tmp_path / "stopped", STEPS + step)
    train(recipe, tiny_data, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


def test_a_stop_in_an_epochs_last_step_keeps_the_epoch_as_a_whole(tiny_recipe, tiny_data, tmp_path):
    accelerator = accelerator_for(tiny_recipe, Machine())
    trainer = Trainer(tiny_recipe, tiny_data, tmp_path, accelerator, progress=Interrupting(STEPS))
    with pytest.raises(Stopped, match="^stopped after epoch 1 of 4$"):
        trainer.run()
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert (state["done"], state["step"], len(state["history"])) == (1, 0, 1)


def test_a_stop_during_the_last_evaluation_is_heard(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    """Else the next run of a comparison would start."""
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    trainer = Trainer(recipe, tiny_data, tmp_path, accelerator_for(recipe, Machine()))
    evaluation = trainer._evaluation

    def interrupted():
        if trainer.done == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluation()

    monkeypatch.setattr(trainer, "_evaluation", interrupted)
    with pytest.raises(Stopped, match="^stopped after epoch 2 of 2$") as stopped:
        trainer.run()
    assert stopped.value.signal_number == signal.SIGINT
    assert not train(recipe, tiny_data, tmp_path)


@pytest.mark.usefixtures("pages_without_charts")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_process_that_gets_a_signal_can_be_resumed_to_the_same_bits(
    number, status, tiny_recipe, tiny_run, tmp_path, capsys
):
    out = tmp_path / "out"
    loss = Named("tests.test_resume:Signalling", {"folder": str(tmp_path), "number": int(number), "at": 3 * STEPS // 2})
    file = tmp_path / "tiny.yaml"
    file.write_text(
        recipes.dump(replace(tiny_recipe, stages=(replace(tiny_recipe.stages[0], loss=loss), tiny_recipe.stages[1])))
    )

    # One thread, as in the tests' own process: sums over threads round differently.
    arguments = [sys.executable, "-m", "safa", "train", str(file), "--out", str(out), "--threads", "1"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    run = out / "tiny-seed0"
    if number != signal.SIGKILL:
        reached = f"epoch 2 of 4, after {3 * STEPS // 2 - STEPS} of {STEPS} steps"
        assert done.stdout == f"stopped in {reached}; go on with: safa train --resume {run} --threads 1\n"
    assert not (run / "result.json").exists()

    assert cli.main(["train", "--resume", str(run)]) == 0
    assert_same_state(run, tiny_run)
    assert (out / ".cache").is_dir()  # of the run's own folder, not of one called runs/ where the user stands
    assert f"page:  {run / 'report.html'}" in capsys.readouterr().out


# --- killed ------------------------------------------------------------------------------------------------

LIVES = [
    ["first", "writing", "first", "second", "writing", "second", "any"],
    ["any", "first", "first", "writing", "any", "second", "second"],
    ["writing", "writing", "first", "any", "second", "writing", "second"],
    ["first", "any", "writing", "second", "any", "writing", "any"],
]


MOST_LIVES = 16


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tiny_file, tiny_run, tmp_path):
    """In stage one, in the SAFA stage, while a checkpoint is being written, and at whatever moment."""
    code = f"from tests.test_resume import kill_and_resume; kill_and_resume({str(tiny_file)!r}, {str(tmp_path)!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290
    )
    assert done.returncode == 0, done.stderr
    lives, kills = json.loads(done.stdout)
    assert _enough(kills), kills
    for life in range(lives):
        assert_same_state(tmp_path / f"life{life}", tiny_run)
        assert (tmp_path / f"life{life}" / "result.json").is_file()
        assert not [*(tmp_path / f"life{life}").glob(".*.part")]


def kill_and_resume(file: str, out: str) -> None:
    """In a fresh process: train in children, kill them, resume; prints how many lived and were killed where.

    A fast machine may finish a run before its turn to be killed comes, so lives go on until enough kills struck.
    """
    import torch._dynamo

    torch.set_num_threads(1)
    recipe = recipes.load(Path(file))
    data = dataset.load(recipe.data)
    moments, kills = random.Random(0), Counter()
    for life in range(MOST_LIVES):
        if _enough(kills):
            break
        machine = Machine(cache=Path(out) / f"cache{life}")  # of its own, else the second life is short
        job = Job("tiny", recipe, Path(out) / f"life{life}")
        for place in LIVES[life % len(LIVES)]:
            kills[place] += _killed(lambda job=job, machine=machine: runs.run(job, machine, data), place, moments)
        runs.run(job_of(job.folder), machine, data)
    print(json.dumps([len([*Path(out).glob("life*")]), kills]))


def _enough(kills: Mapping[str, int]) -> bool:
    return sum(kills.values()) >= 20 and min(kills.get(place, 0) for place in ("first", "second", "writing")) >= 4


def _killed(work, place: str, moments: random.Random) -> bool:
    """Do the work in a child and kill it at a random moment of the place; False if it was done before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _tell(writing)
        work()
        os._exit(0)
    os.close(writing)
    if place == "any":
        time.sleep(moments.uniform(0, 1.5))
    else:
        event = {"first": b"0", "second": b"1", "writing": b"w"}[place]
        left = moments.randint(1, 2 if place == "writing" else STEPS)
        while left and (told := os.read(reading, 1)):
            left -= told == event
        time.sleep(moments.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _tell(pipe: int) -> None:
    """Write the number of the stage at every step, and a w between writing a checkpoint and its taking the name."""
    step, rename = Learner._step, Path.replace

    def telling_step(self, epoch, *batch):
        os.write(pipe, str(epoch.stage_index).encode())
        step(self, epoch, *batch)

    def slow_rename(self, target):
        if Path(target).name == CHECKPOINT:
            os.write(pipe, b"w")
            time.sleep(0.05)
        return rename(self, target)

    Learner._step, Path.replace = telling_step, slow_rename


# --- two processes -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_through_the_safa_stage_and_resume_bit_for_bit(tiny_recipe, tmp_path):
    first, second = (replace(stage, epochs=1) for stage in tiny_recipe.stages)
    options = {"number": int(signal.SIGTERM), "at": 3, "parent": True}

    def launch(name: str) -> subprocess.CompletedProcess[str]:
        # The folder is part of the recipe and so of the addresses; it is the same for both runs.
        loss = Named("tests.test_resume:Signalling", {"folder": str(tmp_path), **options})
        file = tmp_path / "two.yaml"
        file.write_text(recipes.dump(replace(tiny_recipe, stages=(first, replace(second, loss=loss)))))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        safa = ["-m", "safa", "train", str(file), "--out", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*torchrun, *safa], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250
        )

    stopped = launch("stopped")
    assert stopped.returncode != 0
    assert stopped.stdout.count("go on with: safa train --resume") == 1, stopped.stdout + stopped.stderr
    state = checkpoint.load(tmp_path / "stopped" / "two-seed0" / CHECKPOINT)
    assert state["done"] == 1
    assert state["step"] > 0
    for name in ("stopped", "whole"):
        done = launch(name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("page:") == 1
    assert_same_state(tmp_path / "stopped" / "two-seed0", tmp_path / "whole" / "two-seed0")
    line = json.loads((tmp_path / "whole" / "two-seed0" / "result.json").read_text())
    assert line["processes"] == 2
    log = [json.loads(text) for text in (tmp_path / "whole" / "two-seed0" / "log.jsonl").read_text().splitlines()]
    assert "reconstruction" in log[1]["terms"]


# --- what cannot be resumed --------------------------------------------------------------------------------


def test_a_checkpoint_of_another_recipe_is_refused(tiny_recipe, tiny_data, tmp_path):
    train(tiny_recipe, tiny_data, tmp_path, at=STEPS + 2)
    with pytest.raises(UserError, match="was trained with another recipe, other images, another number of processes"):
        train(replace(tiny_recipe, seed=1), tiny_data, tmp_path)


@pytest.mark.parametrize("at", [2, STEPS, STEPS + 2])
def test_a_checkpoint_of_other_images_is_refused_from_the_first_epoch_on(at, tiny_recipe, tiny_data, tmp_path):
    train(tiny_recipe, tiny_data, tmp_path, at=at)
    other = dataset.load(replace(tiny_data.spec, subset_seed=1))
    with pytest.raises(UserError, match="name another folder, or delete it to train anew"):
        train(tiny_recipe, other, tmp_path)


def test_a_damaged_checkpoint_is_called_so(tiny_recipe, tiny_data, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK" + bytes(100))
    with pytest.raises(UserError, match="is no checkpoint of safa, or is damaged; delete it to train anew"):
        train(tiny_recipe, tiny_data, tmp_path)


@pytest.mark.parametrize("others", [(0, 0), (1, 2), (4, 0)])
def test_processes_that_do_not_see_the_same_checkpoint_do_not_start(
    others, tiny_recipe, tiny_data, tmp_path, monkeypatch
):
    """As on two computers without a common disk: one would begin at epoch 0 beside another at epoch 1."""
    train(tiny_recipe, tiny_data, tmp_path, at=STEPS + 1)
    trainer = Trainer(tiny_recipe, tiny_data, tmp_path, accelerator_for(tiny_recipe, Machine()))
    monkeypatch.setattr(trainer.accelerator, "gather", lambda own: torch.cat([own, own.new_tensor([others])]))
    with pytest.raises(UserError, match="would not go on from one state"):
        trainer.run()
    assert checkpoint.load(tmp_path / CHECKPOINT)["done"] == 1
