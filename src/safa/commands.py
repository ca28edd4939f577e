"""What the commands of ``safa.cli`` do. Each imports what it needs, so that the quick ones stay quick."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Column, Table

from safa.errors import UserError, closest

if TYPE_CHECKING:
    from safa.recipe import Recipe
    from safa.report.paper_table import Setting
    from safa.runs import Machine

# Names are names: a class called ":cat:" or "[red]" is printed as it is called.
out = Console(soft_wrap=False, highlight=False, markup=False, emoji=False)
out.width = max(out.width, 80)  # a narrower terminal breaks the lines of a table, and loses no figure


def train(recipe: str | None, resume: str | None, seed: int | None, **options: Any) -> int:
    """Train or resume one run; then its page and its model file."""
    if (recipe is None) == (resume is None):
        hint = "'safa list recipe' shows the recipes" if not options["set"] else "--set takes all that follows it"
        raise UserError(f"name a recipe to train, or a folder with --resume RUN; {hint}")
    folder = Path() if resume is None else Path(resume).resolve()  # "." has neither a name nor a parent
    if resume is not None:
        _refuse_changes(options, seed)
        options["out"] = folder.parent
    # A slip of the pen is told before torch is imported.
    name, chosen = ("", None) if recipe is None else _recipe(recipe, options, seed)
    from safa.runs import Job, job_of, processes, run
    from safa.train import Stopped

    if chosen is None:
        job = job_of(folder, options["root"])
    else:
        job = Job(name, chosen, _folder(name, chosen, options), tuple(options["set"]))
    try:
        with processes():
            line = run(job, _machine(options))
    except Stopped as stopped:
        _say(f"{stopped}; go on with: safa train --resume {shlex.quote(str(job.folder))}")
        return 128 + stopped.signal_number
    if line:  # other processes of a distributed run have none
        _finish([job], [line], job.folder / "report.html")
    return 0


def compare(recipes: list[str], seeds: str | None, **options: Any) -> int:
    """Train every recipe under every seed, seed by seed; then the table, paired differences and the page."""
    # A slip of the pen is told before torch is imported.
    chosen = _seeds(seeds)
    named = [_recipe(given, options, seed) for seed in chosen for given in recipes]
    from safa.report import rows, tables
    from safa.runs import Job, processes
    from safa.runs import compare as run_all
    from safa.train import Stopped

    changes = tuple(options["set"])
    jobs = [Job(name, recipe, _folder(name, recipe, options), changes) for name, recipe in named]
    try:
        with processes():
            lines = run_all(jobs, _machine(options))
    except Stopped as stopped:
        _say(f"{stopped}; the same command goes on from there")
        return 128 + stopped.signal_number
    if not lines[0]:  # other processes of a distributed run have none
        return 0
    baseline = rows.labels(lines)[0]
    _finish(jobs, lines, _out(options) / "comparison.html", baseline)
    if len(chosen) > 1:
        _say(tables.paired_to_markdown(tables.paired(lines, baseline)))
    return 0


def evaluate(run: str, split: str, root: str | None, json: bool) -> int:
    """Test a run's network anew."""
    from safa.runs import evaluate_run

    if split not in ("test", "validation"):
        raise UserError(f"split must be test or validation, got {split!r}")
    figures = evaluate_run(Path(run), split, root)
    if json:
        out.print_json(data=figures)
    else:
        _show(figures)
    return 0


def predict(
    run: str, paths: list[str], format: str, output: str | None, top: int, on_corrupt: Literal["stop", "skip"]
) -> int:
    """Classify files, to a file or to standard output."""
    from safa.deploy import network, predict
    from safa.files import write_atomically

    writers = {"csv": predict.to_csv, "json": predict.to_json}
    if format not in writers:
        raise UserError(f"format must be csv or json, got {format!r}{closest(format, writers)}")
    deployed = network.load_run(Path(run))
    for note in deployed.notes:
        _warn(note)
    found = predict.predict_paths(deployed, [Path(path) for path in paths], top=top, on_corrupt=on_corrupt, say=_warn)
    if output is None:
        writers[format](found, sys.stdout)
        return 0
    text = io.StringIO(newline="")
    writers[format](found, text)
    write_atomically(Path(output), text.getvalue().encode())
    return 0


def export(run: str, format: str, output: str | None) -> int:
    """Write the bare network, checked against the original."""
    from safa.deploy import export, formats, network

    suffix = formats.FORMATS[format].suffix if format in formats.FORMATS else f".{format}"
    deployed = network.load_run(Path(run))
    for note in deployed.notes:
        _warn(note)
    written = export.export(deployed, format, Path(output) if output else (Path(run) / "model").with_suffix(suffix))
    _say(f"{written.path}: {written.size:,} bytes, largest difference to the original {written.largest_difference:.1e}")
    return 0


def report(
    paths: list[str],
    output: str | None,
    baseline: str | None,
    tradeoff: str | None,
    features: str | None,
    markdown: bool,
    into: str | None,
    imbalance_factor: float | None,
    recipes: str | None,
) -> int:
    """Tables of lines or of the paper, a page or charts, the tables of a text file, or titles of recipes."""
    written = {"tradeoff": tradeoff, "features": features, "into": into, "recipes": recipes}
    named = [path for path in paths if _is_paper_table(path)]
    _refuse_beside(written, {"output": output, "baseline": baseline, "markdown": markdown or None}, named)
    if recipes is not None and named:
        raise UserError(f"--recipes takes result lines, not {named[0]}")
    if imbalance_factor is not None and not named:
        raise UserError("--imbalance_factor chooses columns of a table of the paper; name one, such as table1")
    if recipes is not None:
        _retitle(Path(recipes), _lines(paths or [_results_folder()]))
    elif named:
        _report_paper(named, [path for path in paths if path not in named], markdown, into, imbalance_factor)
    elif not paths:
        raise UserError("name run folders, files of result lines, or a table of the paper such as table1")
    elif tradeoff is not None:
        from safa.report.tradeoff import write_tradeoff

        _say(f"chart: {write_tradeoff(_lines(paths), tradeoff)}")
    elif features is not None:
        from safa.report.clouds import write_features

        _say(f"chart: {write_features(paths, features)}")
    elif into is not None:
        _fill(Path(into), {Path(path).stem: _markdown_of(path) for path in paths})
    else:
        _report_lines(paths, output, baseline, markdown)
    return 0


def _refuse_beside(written: dict[str, Any], shown: dict[str, Any], named: list[str]) -> None:
    """An option that would go unheeded is a mistake: each of ``written`` is all that a call does."""
    ways, others = ([name for name, value in options.items() if value is not None] for options in (written, shown))
    if ways and len(ways + others) > 1:
        raise UserError(
            f"--{ways[0]} writes one thing and nothing else; leave out --{', --'.join((ways + others)[1:])}"
        )
    unfit = [name for name in ways + others if name not in ("into", "recipes", "markdown")]
    if named and unfit:
        raise UserError(f"{named[0]} has no page, baseline or chart; leave out --{', --'.join(unfit)}")


def _report_lines(paths: list[str], output: str | None, baseline: str | None, markdown: bool) -> None:
    from safa.report import tables
    from safa.report.page import write_page

    folders = [Path(path) for path in paths if Path(path).is_dir()]
    lines = _lines(paths)
    if not lines:
        raise UserError(f"there is no result line in {', '.join(paths)}; 'safa train --results FILE' appends them")
    if markdown:
        _say(_markdown_of_lines(lines))
    else:
        out.print(tables.to_rich(tables.against_paper(tables.summarise(lines)), out.width))
    if baseline is not None:
        _say(tables.paired_to_markdown(tables.paired(lines, baseline)))
    if output is not None:
        if not folders:
            raise UserError(
                "a page is drawn from run folders, and none was named; only tables come from result lines alone"
            )
        _say(f"page: {write_page(folders, Path(output), baseline)}")


def _report_paper(
    names: list[str], sources: list[str], markdown: bool, into: str | None, imbalance_factor: float | None
) -> None:
    """Tables of the paper with our results beside them; the lines are those of the sources."""
    from safa.report import paper_table

    made = {name: _paper_table(name, sources, imbalance_factor) for name in names}
    if into is not None:
        _fill(Path(into), {name: paper_table.to_markdown(table) for name, table in made.items()})
        return
    for table in made.values():
        if markdown:
            _say(paper_table.to_markdown(table))
            continue
        _say(f"{table.caption}\n")
        for block in paper_table.to_rich(table):
            out.print(block, "")
        _say("\n".join(table.notes))


def data(
    name: str,
    root: str | None,
    imbalance_factor: float | None,
    profile: str | None,
    png: str | None,
    on_corrupt: Literal["stop", "skip"],
) -> int:
    """The tail of a data set, in the terminal and as a picture."""
    from safa import recipe as recipes
    from safa.data import tail
    from safa.data.dataset import load

    shape = profile or ("exponential" if imbalance_factor is not None else "as_found")
    plain: dict[str, Any] = {"name": name, "root": root, "profile": shape, "on_corrupt": on_corrupt}
    if imbalance_factor is not None:
        plain["imbalance_factor"] = imbalance_factor
    spec = recipes.from_plain({"method": "none", "stages": [{"epochs": 0}], "data": plain}).data
    if imbalance_factor is not None:
        recipes.check_factor_counts(spec)
    loaded = load(spec)
    described = tail.describe(loaded.source.class_names, loaded.subset.class_counts, spec.head_ratio)
    _say(tail.render(described))
    for remark in loaded.remarks:
        _say(remark)
    if png is not None:
        tail.save_png(described, png)
        _say(f"picture: {png}")
    return 0


def list_names(kind: str | None) -> int:
    """Every name with its source."""
    from safa import library
    from safa.catalog import CATALOG, DATASETS

    known = {group: {name: entry.source for name, entry in entries.items()} for group, entries in CATALOG.items()}
    known["data"] = dict(DATASETS)
    known["recipe"] = {name: library.title(library.find(name)[1]) for name in library.names()}
    if kind is not None and kind not in known:
        raise UserError(f"nothing is listed under {kind!r}{closest(kind, known)}; there are {', '.join(known)}")
    for group in [kind] if kind else known:  # a table each: the long names of one kind take no room from another
        table = Table("kind", Column("name", no_wrap=True), "source", box=None)  # a name is there to be typed
        for name, source in known[group].items():
            table.add_row(group, name, source)
        out.print(table)
    return 0


def bench(what: str, **options: Any) -> int:
    """Ratios of training steps and inference, all variants in turn in one run."""
    from safa.bench import run, run_methods

    measurements = {"loop": run, "methods": run_methods}
    if what not in measurements:
        raise UserError(f"bench measures loop or methods, got {what!r}{closest(what, measurements)}")
    measurements[what](**options)
    return 0


def _machine(options: dict[str, Any]) -> Machine:
    from safa.runs import Machine

    if options["threads"] is not None:
        import torch

        torch.set_num_threads(options["threads"])
    return Machine(
        device=options["device"],
        cache=Path(options["cache"] or _out(options) / ".cache"),
        results=Path(options["results"]) if options["results"] else None,
        workers=options["workers"],
        track=options["track"],
        say=_say,
    )


def _recipe(given: str, options: dict[str, Any], seed: int | None) -> tuple[str, Recipe]:
    """A recipe with what the command line says otherwise."""
    from safa import library
    from safa import recipe as recipes

    name, path = library.find(given)
    return name, recipes.load(path, _overrides(options, seed))


def _overrides(options: dict[str, Any], seed: int | None) -> list[str]:
    """What ``--set`` says, and the options that are short for a key."""
    short = {"data.name": options["data"], "data.root": options["root"], "seed": seed}
    short["data.imbalance_factor"] = options["imbalance_factor"]
    for override in options["set"]:
        key, separator, _ = override.partition("=")
        if not separator:
            raise UserError(f"--set takes all that follows as KEY=VALUE, got {override!r}; name recipes before it")
        if short.get(key) is not None:
            raise UserError(f"{key} is set twice, by --set {override} and by its own option; leave one of them out")
    return [*options["set"], *(f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None)]


def _folder(name: str, recipe: Recipe, options: dict[str, Any]) -> Path:
    """One folder per recipe, change and seed."""
    from safa import recipe as recipes

    changes = [
        *options["set"],
        options["data"] and str(Path(options["data"]).resolve()),
        options["imbalance_factor"],
    ]
    changed = [change for change in changes if change is not None]
    data = Path(recipe.data.name).stem if options["data"] else ""
    parts = [name.replace("/", "-"), data, f"seed{recipe.seed}"]
    if changed:
        plain = recipes.to_plain(dataclasses.replace(recipe, seed=0))
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
    given = {"--seed": seed, "--set": options["set"] or None, "--data": options["data"], "--out": options["out"]}
    given["--imbalance_factor"] = options["imbalance_factor"]
    for option, value in given.items():
        if value is not None:
            raise UserError(
                f"{option} cannot change a run that is resumed; leave it out, or train anew without --resume"
            )


def _finish(jobs: Any, lines: Any, page: Path, baseline: str | None = None) -> None:
    """What every training ends with: the table, the page and the model files."""
    from safa.deploy import export, network
    from safa.report import tables
    from safa.report.page import write_page

    for job in jobs:
        model = job.folder / "model.safetensors"
        if not model.exists():
            export.export(network.load_run(job.folder), "safetensors", model)
    out.print(tables.to_rich(tables.summarise(lines), out.width))
    write_page([job.folder for job in jobs], page, baseline)
    _say(f"page:  {page}\nmodel: {jobs[-1].folder / 'model.safetensors'}")


def _show(figures: dict[str, Any]) -> None:
    """One table of the figures, one of the classes from frequent to rare."""
    total = Table(
        "figure",
        "per cent",
        title=f"{figures['run']}, {figures['split']} images, after {figures['epochs']} epochs",
    )
    names = {
        "top-1 error": "error", "many-shot error": "error_many", "medium-shot error": "error_medium",
        "few-shot error": "error_few", "balanced error": "balanced_error", "expected calibration error": "ece",
        f"best epoch on test* ({figures['error_best_epoch']})": "error_best",
    }  # fmt: skip
    for name, key in names.items():
        total.add_row(name, "–" if figures[key] is None else f"{figures[key]:.2f}")
    classes = Table(
        "class", "training images", "error %", caption="* chosen on the test set itself; for comparison only"
    )
    by_count = sorted(range(len(figures["class_counts"])), key=lambda c: -figures["class_counts"][c])
    for c in by_count:
        error = figures["error_per_class"][c]
        classes.add_row(
            figures["class_names"][c],
            str(figures["class_counts"][c]),
            "–" if error is None else f"{error:.1f}",
        )
    out.print(total, classes)


def _lines(paths: Any) -> Any:
    """Result lines of run folders, of folders of JSONL files, and of such files."""
    from safa.report import lines

    found: Any = []
    for path in map(Path, paths):
        is_run = any((path / name).exists() for name in ("result.json", "recipe.yaml"))
        found += lines.read(path / "result.json" if is_run else path)
    return found


def _results_folder() -> str:
    """Where result lines are when no file of them was named: in the folder that the repository keeps them in."""
    if not Path("results").is_dir():
        raise UserError(
            "there is no folder 'results' here to read result lines from; go to the top of a checkout, or name files "
            "of lines or run folders beside the table"
        )
    return "results"


def _is_paper_table(path: str) -> bool:
    """Also a table that there is not, so that the answer names those there are; ``./table1`` is a path in any case."""
    from safa.report import paper

    return path in paper.names() or (re.fullmatch(r"table\d+", path) is not None and not Path(path).exists())


def _paper_table(name: str, sources: list[str], imbalance_factor: float | None = None) -> Any:
    from safa import library
    from safa.report import paper_table

    lines = _lines(sources or [_results_folder()])
    return paper_table.beside_paper(name, lines, [*_settings(library.folder(), every=True).values()], imbalance_factor)


def _settings(folder: Path, every: bool = False) -> dict[Path, Setting]:
    """What the recipes of tables, or every recipe, in a folder of recipes run."""
    from safa import library
    from safa import recipe as recipes
    from safa.report.paper_table import Setting
    from safa.report.titles import GROUPS

    found = {}
    for name, path in library.files(folder).items():
        if every or name.partition("/")[0] in GROUPS:
            recipe = recipes.load(path)
            data, model = recipe.data, recipe.model.backbone.name
            found[path] = Setting(name, data.name, data.imbalance_factor, model, recipe.method, recipe.epochs)
    return found


def _titled(folder: Path, lines: Any) -> dict[Path, str]:
    """Every recipe of a table with the title that the paper and the lines give it."""
    from safa import library
    from safa.report.titles import title

    settings = _settings(folder).items()
    return {path: library.retitled(path.read_text(encoding="utf-8"), title(s, lines)) for path, s in settings}


def _retitle(folder: Path, lines: Any) -> None:
    """Write the paper's figure and ours into the first line of each recipe of a table."""
    from safa.files import write_atomically

    titled = _titled(folder, lines)
    if not titled:
        raise UserError(f"{folder} holds no recipes of tables; they are in folders table1, table5, … inside it")
    changed = [path for path, text in titled.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_atomically(path, titled[path].encode())
    _say(f"{folder}: {len(changed)} of {len(titled)} recipes have a new first line")


def _fill(text: Path, made: dict[str, str]) -> None:
    """Each table goes between the markers with its name: that of a JSONL file, or of a table of the paper."""
    from safa.files import write_atomically
    from safa.report import readme

    try:
        former = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {text}: {error}") from error
    write_atomically(text, readme.update(former, made).encode())


def _markdown_of(path: str) -> str:
    """The tables of a file of result lines, or of the last line of ``safa bench``."""
    from safa.report import bench, lines

    last = lines.read_objects(path)[-1:]
    if last and last[0][1].get("kind") in bench.KINDS:
        return bench.to_markdown(last[0][1])
    return _markdown_of_lines(_lines([path]))


def _markdown_of_lines(lines: list[dict[str, Any]]) -> str:
    """Errors, and what generated features are worth where a line says so."""
    from safa.report import diagnostics, tables

    errors = tables.to_markdown(tables.against_paper(tables.summarise(lines)))
    return "\n\n".join(filter(None, (errors, diagnostics.to_markdown(lines))))


def _say(text: str) -> None:
    """On one line whatever the width, since it may be copied or read by a program; once under torchrun."""
    if os.environ.get("RANK", "0") == "0":
        out.print(text, soft_wrap=True)


def _warn(sentence: str) -> None:
    """To standard error, since standard output may be a CSV."""
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(sentence, soft_wrap=True)
