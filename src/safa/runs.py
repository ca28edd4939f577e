"""A run from recipe to result line, and several runs that share what they have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from safa import evaluate, files, outcome, precision, provenance
from safa import recipe as recipes
from safa.checkpoint import StageCache
from safa.data.dataset import LongTailed, draw, load, read_by, source_of
from safa.data.types import Source
from safa.deploy import network
from safa.errors import UserError
from safa.files import CARD, CHECKPOINT, RESULT, write_atomically
from safa.job import Job, describe, edited_since, job_of, refuse_another_recipe, refuse_other_images, refuse_other_names
from safa.machine import Machine, accelerator_for, on_cpu
from safa.parts import Parts
from safa.plan import epochs_of, epochs_trained, remarks, shared_epochs
from safa.processes import is_first_process
from safa.progress import Progress
from safa.rehearsal import rehearse
from safa.report import lines
from safa.train import Trainer

ANEW = "train anew into another folder, with --out and without --resume"
IMAGES_BACK = f"put them back, name their folder with --root, or {ANEW}"

SLOW_BF16 = 1.5
"""Cost of bf16, as a multiple of float32, from which a run says so: less may be a busy machine."""


def run(job: Job, machine: Machine, data: LongTailed | None = None) -> dict[str, Any]:
    """Train, or finish, one run and write everything that comes out of it.

    Returns:
        The result line. A run that was finished before is not run again.

    Raises:
        UserError: for a mistake in the recipe or the data, before training starts where possible.
        Stopped: when a signal asked for an end; the state is saved.
    """
    loaded = {_data_key(job): data} if data else _load_each_once([job], machine)
    _refuse_mistakes([job], loaded, machine)
    _say_remarks([job], machine)
    return _finished(job, machine) or _train(job, loaded[_data_key(job)], machine)


def compare(jobs: Sequence[Job], machine: Machine) -> list[dict[str, Any]]:
    """Run several jobs; epochs that two of them share are trained once and found in the cache by the second.

    Returns:
        The result lines, in the order of the jobs.

    Raises:
        UserError: as ``run``, for a mistake in any of them before the first is trained; and where two jobs share a
            folder or a row of the table, or differ in data set, imbalance factor or network.
        Stopped: as ``run``.
    """
    if machine.cache is None:
        raise UserError("compare needs a cache folder, since it trains shared epochs once; pass --cache")
    _refuse_shared_folder(jobs)
    _refuse_shared_row(jobs)
    loaded = _load_each_once(jobs, machine)
    _refuse_mixture(jobs, loaded)
    _refuse_mistakes(jobs, loaded, machine)
    _say_remarks(jobs, machine)
    forks = forks_of(jobs, loaded, accelerator_for(jobs[0].recipe, machine).num_processes)
    total = sum(job.recipe.epochs for job in jobs)
    results = []
    for job in jobs:
        results.append(_finished(job, machine) or _train(job, loaded[_data_key(job)], machine, forks))
    reused = sum(line.get("reused_epochs", 0) for line in results)
    if len(jobs) > 1:
        machine.say(f"{len(jobs)} runs of {total} epochs together; {reused} of them were shared and trained once")
    return results


def forks_of(jobs: Sequence[Job], loaded: Mapping[str, LongTailed], world_size: int = 1) -> set[str]:
    """Addresses of the epochs after which two of the jobs part: the states worth keeping."""
    plans = [epochs_of(job.recipe, loaded[_data_key(job)].facts(), world_size) for job in jobs]
    forks = set()
    for i, first in enumerate(plans):
        for second in plans[i + 1 :]:
            shared = shared_epochs(first, second)
            if shared > 0:
                forks.add(first[shared - 1].key)
    return forks


def evaluate_run(folder: Path, split: str = "test", root: str | None = None) -> dict[str, Any]:
    """Test the network of a run folder anew, in float32, on the images it was made for.

    Args:
        folder: a run folder, finished or not.
        split: ``test``, or ``validation`` where one was set aside.
        root: where the data set lies now; where it lay in training when empty.

    Returns:
        ``error, error_many, error_medium, error_few, balanced_error, ece`` in per cent of the images,
        ``error_per_class``, ``class_names``, ``class_counts``, ``epochs`` trained, and the logged ``error_best`` with
        its epoch.

    Raises:
        UserError: if the folder is no run, the split is empty, or the images, or the code of a network of the user's
            own, are not those of the run.
    """
    job = job_of(folder, root)
    state = network.load_state(folder)
    edited = edited_since(folder, network.model_in(job.recipe, state))
    if edited is not None:
        raise UserError(f"the file of {edited} was changed since {folder} was trained; put it back, or train again")
    data = load(job.recipe.data)
    refuse_other_images(job, data, "name their folder with --root")
    refuse_other_names(job, data, "call it so again")
    images = data.source.test if split == "test" else data.validation
    if images is None:
        raise UserError(f"{folder} has no validation images; set data.validation in the recipe to cut some")
    recipe = replace(job.recipe, precision="float32")  # fp16 would want a GPU
    parts = Parts(recipe, data, accelerator_for(recipe, Machine()))
    model = parts.placed(network.rebuilt(recipe, state, data.num_classes, folder))
    return {
        "run": str(folder),
        "split": split,
        "epochs": epochs_trained(job.recipe, state["done"]),
        **outcome.figures(evaluate.predict(model, parts.in_order(images)), data),
        **outcome.best(state["history"], job.recipe),
    }


def _data_key(job: Job) -> str:
    return json.dumps(recipes.to_plain(job.recipe.data), sort_keys=True)


def _load_each_once(jobs: Sequence[Job], machine: Machine) -> dict[str, LongTailed]:
    """The images of every job by ``_data_key``. A data set is read once, however many ways the jobs draw from it."""
    sources: dict[str, Source] = {}
    loaded: dict[str, LongTailed] = {}
    for job in jobs:
        spec = job.recipe.data
        place = json.dumps(read_by(spec))
        if place not in sources:
            sources[place] = source_of(spec)
        if _data_key(job) not in loaded:
            loaded[_data_key(job)] = draw(sources[place], spec)
    for remark in dict.fromkeys(remark for data in loaded.values() for remark in data.remarks):
        machine.say(remark)
    return loaded


def _say_remarks(jobs: Sequence[Job], machine: Machine) -> None:
    """Once for each recipe, however many seeds it is run with."""
    for remark in dict.fromkeys(f"{job.name}: {remark}" for job in jobs for remark in remarks(job.recipe)):
        machine.say(remark)
    # What has begun goes on as it is, so there is nothing to say or to measure.
    begin = [job for job in jobs if not (job.folder / CHECKPOINT).exists()]
    if any(job.recipe.precision == "bf16" for job in begin) and on_cpu(machine):
        cost = precision.bf16_cost()
        if cost > SLOW_BF16:
            machine.say(
                f"precision bf16 is slow on this CPU: a convolution takes {cost:.1f} times as long as in float32; "
                "--precision float32 trains in that"
            )


def _finished(job: Job, machine: Machine) -> dict[str, Any] | None:
    """The result line of a run that was finished before; the file of results gets it, too, should it lack it there."""
    path = job.folder / RESULT
    if not path.exists():
        return None
    line = lines.of_run(path)
    cached = f"; what {machine.cache} has of it is taken from there" if machine.cache else ""
    machine.say(f"{job.folder} was finished before; delete it to train anew{cached}")
    # No Accelerator, which would want what the run was trained on.
    if machine.results is not None and is_first_process():
        lines.append_once(machine.results, line)
    return line


def _train(job: Job, data: LongTailed, machine: Machine, save_at: Iterable[str] = ()) -> dict[str, Any]:
    """Train what is left of a run, alone in its folder; its result line, in the first process."""
    accelerator = accelerator_for(job.recipe, machine)
    first = accelerator.is_main_process
    if first:
        provenance.commit_of_process()  # asked now, for the checkout may move while the run trains
    with files.alone_in(job.folder) if first else nullcontext():
        trainer = Trainer(
            job.recipe,
            data,
            job.folder,
            accelerator,
            cache=StageCache(machine.cache, machine.say) if machine.cache else None,
            save_at=save_at,
            workers=machine.workers,
            track=machine.track,
            progress=Progress(machine.progress if first else False),
        )
        saved = _saved(trainer, job)  # a folder with the checkpoint of another run is refused before it is described
        if first:
            _say_resumed(trainer, job, saved, machine)
            describe(job, data, results=machine.results, track=machine.track)
        trainer.run()
        _say_reused(trainer, job, machine)
        line = outcome.result(job, data, trainer) if first else {}
        accelerator.wait_for_everyone()
        if first:
            write_atomically(job.folder / RESULT, json.dumps(line).encode())
            if machine.results is not None:
                lines.append(machine.results, line)
    return line


def _saved(trainer: Trainer, job: Job) -> dict[str, Any] | None:
    try:
        return trainer.saved()
    except UserError:
        if (job.folder / CARD).exists():  # it tells whether the images are why
            refuse_other_images(job, trainer.data, IMAGES_BACK)
        raise


def _say_resumed(trainer: Trainer, job: Job, saved: Mapping[str, Any] | None, machine: Machine) -> None:
    others = provenance.other_than_here((saved or {}).get("made_with", {}), trainer.device)
    if others:
        machine.say(f"{job.folder} was last trained with {others}; to go on without may change the last bits")


def _say_reused(trainer: Trainer, job: Job, machine: Machine) -> None:
    if not trainer.reused_epochs or not trainer.accelerator.is_main_process:
        return
    others = provenance.other_than_here(trainer.reused_of, trainer.device)
    remark = f"; they were trained with {others}, which may change the last bits" if others else ""
    machine.say(f"{job.name}: {trainer.reused_epochs} of {job.recipe.epochs} epochs came from the cache{remark}")


def _refuse_mistakes(jobs: Sequence[Job], loaded: Mapping[str, LongTailed], machine: Machine) -> None:
    """Find before the first epoch of the first job what would stop any of them later, where it can be known."""
    if machine.results is not None:
        files.refuse_unappendable_file(machine.results)
    tried: list[recipes.Recipe] = []
    for job in jobs:
        data, seedless = loaded[_data_key(job)], replace(job.recipe, seed=0)
        refuse_another_recipe(job)
        if (job.folder / RESULT).exists():
            refuse_other_images(job, data, IMAGES_BACK)
            refuse_other_names(job, data, f"call it so again, or {ANEW}")
            continue
        for folder in filter(None, (job.folder, machine.cache)):
            files.refuse_unwritable(folder)
        if seedless not in tried:  # seeds draw other weights and make no other mistakes
            rehearse(Parts(job.recipe, data, accelerator_for(job.recipe, machine)))
            tried.append(seedless)


def _refuse_shared_folder(jobs: Sequence[Job]) -> None:
    folders = [job.folder.absolute() for job in jobs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(
            f"two of the runs would share the folder {twice}; name a recipe once, and files of different recipes "
            "differently"
        )


def _refuse_shared_row(jobs: Sequence[Job]) -> None:
    """Tables and pages call a run by its method and, where that is not enough, by what is told apart here."""
    rows: dict[tuple[Any, ...], Job] = {}
    for job in jobs:
        recipe = job.recipe
        row = recipe.method, PurePath(job.name).stem, recipe.epochs, recipe.precision, job.changes, recipe.seed
        known = rows.setdefault(row, job)
        if known is not job:
            raise UserError(
                f"{known.name} and {job.name} differ, and would be one row of a table, {recipe.method}; give one of "
                "them another method or another file name, or leave it out"
            )


def _refuse_mixture(jobs: Sequence[Job], loaded: Mapping[str, LongTailed]) -> None:
    """A table compares, and a page shows, runs of one data set, imbalance factor and network."""

    def place(job: Job) -> str:
        data = loaded[_data_key(job)]
        return f"{data.source.name}, imbalance factor {data.imbalance_factor:g}, {job.recipe.model.backbone.name}"

    for job in jobs[1:]:
        if place(job) != place(jobs[0]):
            raise UserError(
                f"{jobs[0].name} is a run on {place(jobs[0])}, and {job.name} on {place(job)}; compare runs on one"
            )
