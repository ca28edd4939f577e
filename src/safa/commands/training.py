"""``safa train`` and ``safa compare``: from recipes and options to jobs, and what every training ends with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import signal
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from safa import library
from safa.console import out, say
from safa.errors import UserError
from safa.files import CHECKPOINT, MODEL, PAGE, RECIPE, RESULT, readable, remove_halves, resumed_by
from safa.processes import is_first_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safa.job import Job
    from safa.machine import Machine
    from safa.recipe import Recipe

MINUTE = 60.0  # more than a page takes to write
MOST_LISTED = 8  # models; more would push the table off the screen


def train(recipe: str | None, resume: str | None, seed: int | None, **options: Any) -> int:
    """Train or resume one run; then its page and its model file."""
    if recipe is not None and resume is not None:
        raise UserError(f"{resume} has its recipe in its folder; leave {recipe} out to go on with it")
    if recipe is None and resume is None:
        hint = "'safa list recipe' shows the recipes" if not options["set"] else "--set takes all that follows it"
        raise UserError(f"name a recipe to train, or a folder with --resume RUN; {hint}")
    folder = Path() if resume is None else Path(resume).resolve()  # "." has neither a name nor a parent
    if resume is not None:
        _refuse_changes(options, seed)
        options["out"] = folder.parent
    # A slip of the pen is told before torch is imported.
    name, path = ("", None) if recipe is None else library.find(recipe)
    chosen = None if path is None else _load(path, options, seed)
    from safa.job import Job, job_of, kept_options
    from safa.machine import processes
    from safa.runs import run
    from safa.train import Stopped

    if chosen is None:
        job = job_of(folder, options["root"])
        options |= {name: options[name] or kept for name, kept in kept_options(folder).items()}
    else:
        job = Job(name, chosen, _folder(name, chosen, options), _changes(options))
    try:
        with processes():
            line = run(job, _machine(options))
        if is_first_process():
            _finish([job], [line], job.folder / PAGE)
    except Stopped as stopped:
        say(f"{stopped}; go on with: {resumed_by(job.folder)}{_again(options)}")
        return 128 + stopped.signal_number
    except KeyboardInterrupt:  # not between two steps, where it is a Stopped
        if not (job.folder / RECIPE).exists():
            raise
        say(f"interrupted; go on with: {resumed_by(job.folder)}{_again(options)}")
        return 128 + signal.SIGINT
    return 0


def _again(options: dict[str, Any]) -> str:
    """The options of this call that a run does not keep, and that whoever resumes it will want again."""
    values = {name: options[name] for name in ("cache", "device", "threads", "workers")}
    given = {name: value for name, value in values.items() if value is not None and (name, value) != ("device", "auto")}
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items())


def compare(recipes: list[str], seeds: str | None, **options: Any) -> int:
    """Train every recipe under every seed, seed by seed; then the table, paired differences and the page."""
    # A slip of the pen is told before torch is imported.
    chosen = _seeds(seeds)
    # Whoever names the baseline before its folder names it twice.
    files = dict.fromkeys(pair for given in recipes for pair in library.select(given).items())
    named = _once_each([(name, _load(path, options, seed)) for seed in chosen for name, path in files])
    from safa.job import Job
    from safa.machine import processes
    from safa.runs import compare as run_all
    from safa.train import Stopped

    changes = _changes(options)
    jobs = [Job(name, recipe, _folder(name, recipe, options), changes) for name, recipe in named]
    try:
        with processes():
            lines = run_all(jobs, _machine(options))
        if is_first_process():  # others have lines of those runs alone that were finished before
            _finish_comparison(jobs, lines, _out(options))
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on from there")
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from there")
        return 128 + signal.SIGINT
    return 0


def _once_each(named: list[tuple[str, Recipe]]) -> list[tuple[str, Recipe]]:
    """Without recipes that are another one of them under a second name, as in two folders that share a row."""
    kept: list[tuple[str, Recipe]] = []
    repeated: dict[str, str] = {}
    for name, recipe in named:
        same = [other for other, known in kept if known == recipe and PurePath(other).stem == PurePath(name).stem]
        if same:
            repeated[name] = same[0]
        else:
            kept.append((name, recipe))
    for name, same_as in repeated.items():
        say(f"{name} is {same_as} under another name, and is run once")
    return kept


def _machine(options: dict[str, Any]) -> Machine:
    from safa.machine import Machine, keep_freed_memory

    keep_freed_memory()
    if options["threads"] is not None:
        import torch

        torch.set_num_threads(options["threads"])
    return Machine(
        device=options["device"],
        cache=Path(options["cache"] or _out(options) / ".cache"),
        results=Path(options["results"]) if options["results"] else None,
        workers=2 if options["workers"] is None else options["workers"],
        track=options["track"],
        say=say,
    )


def _load(path: Path, options: dict[str, Any], seed: int | None) -> Recipe:
    """A recipe with what the command line says otherwise."""
    from safa import recipe as recipes

    return recipes.load(path, _overrides(options, seed))


def _changes(options: dict[str, Any]) -> tuple[str, ...]:
    """What ``--set`` says, without what it says otherwise later on."""
    return tuple({given.partition("=")[0]: given for given in options["set"]}.values())


def _overrides(options: dict[str, Any], seed: int | None) -> list[str]:
    """What ``--set`` says, and the options that are short for a key."""
    short = {
        "data.name": spelled_once(options["data"]),
        "data.root": options["root"],
        "data.imbalance_factor": options["imbalance_factor"],
        "precision": options["precision"],
        "seed": seed,
    }
    for given in options["set"]:
        key, separator, _ = given.partition("=")
        if not separator:
            raise UserError(f"--set takes all that follows as KEY=VALUE, got {given!r}; name recipes before it")
        if short.get(key) is not None:
            raise UserError(f"{key} is set twice, by --set {given} and by its own option; leave one of them out")
    from safa.recipe import override

    return [*options["set"], *(override(key, value) for key, value in short.items() if value is not None)]


def spelled_once(data: str | None) -> str | None:
    """A data set's path however it was written, for ``photos/`` and ``./photos`` are no other run than ``photos``.

    A folder that is called as a built-in set stays told apart from it, as in ``./digits``.
    """
    from safa.catalog import DATASETS

    if not data:
        return data
    path = os.path.normpath(data)
    return data if path in DATASETS or _leads_elsewhere(data, path) else path


def _leads_elsewhere(data: str, path: str) -> bool:
    """Behind a link, ``..`` is another folder than one reads."""
    return Path(data).exists() and not (Path(path).exists() and Path(path).samefile(data))


def _folder(name: str, recipe: Recipe, options: dict[str, Any]) -> Path:
    """One folder per recipe, change and seed, wherever the images lie."""
    from safa import recipe as recipes

    changed = options["set"] or any(options[name] is not None for name in ("data", "imbalance_factor", "precision"))
    data = readable(Path(recipe.data.name).stem) if options["data"] else ""
    parts = [name.replace("/", "-"), data, f"seed{recipe.seed}"]
    if changed:
        seedless = dataclasses.replace(recipe, seed=0, data=dataclasses.replace(recipe.data, root=None))
        plain = recipes.to_plain(seedless)
        parts.append(hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6])
    return _out(options) / "-".join(part for part in parts if part)


def _out(options: dict[str, Any]) -> Path:
    return Path(options["out"] or "runs")


def _seeds(text: str | None) -> list[int] | list[None]:
    """The seeds that were asked for; none stands for each recipe's own."""
    if text is None:
        return [None]
    first, dots, last = text.partition("..")
    try:
        seeds = [*range(int(first), int(last) + 1)] if dots else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"seeds are numbers, as in 0,1,2 or 0..9, got {text!r}") from error
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds are different numbers of at least 0, as in 0,1,2 or 0..9, got {text!r}")
    return seeds


def _refuse_changes(options: dict[str, Any], seed: int | None) -> None:
    """A resumed run goes on as it began; only where the images lie may have changed."""
    given = {"--seed": seed, "--set": options["set"] or None}
    given |= {f"--{name}": options[name] for name in ("data", "out", "imbalance_factor", "precision")}
    for option, value in given.items():
        if value is not None:
            raise UserError(
                f"{option} cannot change a run that is resumed; leave it out, or train anew without --resume"
            )


def _finish_comparison(jobs: Sequence[Job], lines: Sequence[dict[str, Any]], folder: Path) -> None:
    """What a comparison ends with: as every training, and differences to the first method where there are seeds."""
    from safa.report import tables
    from safa.report.distinctions import labels
    from safa.report.pairs import paired

    baseline = labels(lines)[0]
    _finish(jobs, lines, folder / "comparison.html", baseline)
    pairs = paired(lines, baseline) if len({line["seed"] for line in lines}) > 1 else []
    if pairs:
        out.print("", tables.paired_to_rich(pairs, out.width))


def _finish(jobs: Any, lines: Any, page: Path, baseline: str | None = None) -> None:
    """What every training ends with: the table, the page and the model files."""
    from safa.deploy import export, network
    from safa.report import tables
    from safa.report.page import write_page
    from safa.report.rows import summarise

    for folder in (page.parent, *(job.folder for job in jobs)):
        remove_halves(folder, MINUTE)
    out.print(tables.to_rich(summarise(lines), out.width))
    write_page([job.folder for job in jobs], page, baseline)
    say(f"page:  {page}")
    models = [job.folder / MODEL for job in jobs]
    for model in models:  # anew, for one that is there may have been exported before the run was finished
        if not model.exists() or (model.parent / CHECKPOINT).exists():  # whoever is short of room deletes checkpoints
            export.export(network.load_run(model.parent), "safetensors", model)
    say(_listed(models))
    for model in models:
        for stale in export.exported_before(model, model.with_name(RESULT).stat().st_mtime):
            say(f"{stale} was exported before the run was finished, and holds an earlier network; export it anew")


def _listed(models: Sequence[Path]) -> str:
    """Where the models are: a line each, or one for all where there are many."""
    if len(models) <= MOST_LISTED:
        return "\n".join(f"model: {model}" for model in models)
    return f"models: {models[0].name} in the folder of each of the {len(models)} runs, in {models[0].parent.parent}"
