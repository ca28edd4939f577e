"""``safa report``: tables, pages and charts of result lines, and the texts that quote them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.console import out, say, warn
from safa.errors import UserError
from safa.files import RECIPE, RESULT, refuse_unwritable_file, resumed_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safa.report.pairs import Paired
    from safa.report.paper_table import Setting


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
    for path in filter(None, (output, tradeoff, features)):
        refuse_unwritable_file(Path(path))
    paths = [inner for path in paths for inner in _runs_inside(path)]
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

        say(f"chart: {write_tradeoff(_lines(paths), tradeoff)}")
    elif features is not None:
        from safa.report.clouds import write_features

        say(f"chart: {write_features(paths, features)}")
    elif into is not None:
        folders = [path for path in paths if Path(path).is_dir()]
        if folders:
            raise UserError(f"--into takes files NAME.jsonl, by whose names markers go; {folders[0]} is a folder")
        _fill(Path(into), *tables_of(paths))
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
    from safa.report.distinctions import labels
    from safa.report.pairs import alike_within_seeds, paired
    from safa.report.rows import against_paper, summarise

    folders = [Path(path) for path in paths if _is_run(Path(path))]
    lines = _lines(paths)
    if not lines:
        raise UserError(f"there is no result line in {', '.join(paths)}; 'safa train --results FILE' appends them")
    if markdown:
        say(_markdown_of_lines(lines))
    else:
        out.print(tables.to_rich(against_paper(summarise(lines)), out.width))
    if baseline is not None:
        baseline = _row_called(baseline, lines)
        alike = alike_within_seeds(lines, baseline)
        _show_pairs(paired(alike if baseline in labels(alike) else lines, baseline), baseline, labels(lines), markdown)
    if output is not None:
        if not folders:
            raise UserError(
                "a page is drawn from run folders, and none was named; only tables come from result lines alone"
            )
        from safa.report.page import write_page

        say(f"page: {write_page(folders, Path(output), baseline)}")


def _row_called(name: str, lines: list[dict[str, Any]]) -> str:
    """The label of a row; that of the only row of a method will do under the method's name."""
    from safa.report.distinctions import labels, without_shared_changes

    told_apart = without_shared_changes(lines)[0]
    rows = {label for label, line in zip(labels(told_apart), told_apart, strict=True) if line["method"] == name}
    return rows.pop() if len(rows) == 1 else name


def _show_pairs(pairs: list[Paired], baseline: str, known: Sequence[str], markdown: bool) -> None:
    from safa.report import tables

    if not pairs:
        rows = [label for label in dict.fromkeys(known) if label.startswith(f"{baseline} (")]
        others = f"; rows of that method with other settings are {', '.join(rows)}" if rows else ""
        say(f"nothing was run beside {baseline} to compare with it{others}")
    elif markdown:
        say(f"\n{tables.paired_to_markdown(pairs)}")
    else:
        out.print("", tables.paired_to_rich(pairs, out.width))


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
            say(paper_table.to_markdown(table))
            continue
        say(f"{table.caption}\n")
        for block in paper_table.to_rich(table):
            out.print(block, "")
        say("\n".join(table.notes))


def _lines(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Result lines of run folders, of folders of JSONL files, and of such files."""
    from safa.report import lines

    found: list[dict[str, Any]] = []
    for path in map(Path, paths):
        if _is_run(path) and not _is_finished(path):
            raise UserError(f"{path} is a run that is not finished; go on with: {resumed_by(path)}")
        found += [lines.of_run(path / RESULT)] if _is_run(path) else lines.read(path)
    return found


def _runs_inside(path: str) -> list[str]:
    """The finished runs of a folder of run folders, by name; any other path, a folder of lines too, as it is."""
    folder = Path(path)
    if not folder.is_dir() or _is_run(folder):
        return [path]
    runs = sorted(inner for inner in folder.iterdir() if _is_run(inner))
    finished = [run for run in runs if _is_finished(run)]
    if runs and not finished:
        raise UserError(f"no run in {path} is finished; go on with the first: {resumed_by(runs[0])}")
    for run in runs:
        if run not in finished:
            warn(f"{run} is not finished, and left out")
    return [str(run) for run in finished] or [path]


def _is_run(folder: Path) -> bool:
    return _is_finished(folder) or (folder / RECIPE).exists()


def _is_finished(folder: Path) -> bool:
    return (folder / RESULT).exists()


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
    from safa.report import paper, paper_table

    paper.table(name)  # a name that is none is told before a folder that is missing
    lines = _lines(sources or [_results_folder()])
    return paper_table.beside_paper(name, lines, [*settings(library.folder(), every=True).values()], imbalance_factor)


def settings(folder: Path, every: bool = False) -> dict[Path, Setting]:
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


def titled(folder: Path, lines: Any) -> dict[Path, str]:
    """Every recipe of a table with the title that the paper and the lines give it."""
    from safa import library
    from safa.report.titles import title

    recipes = settings(folder).items()
    return {path: library.retitled(path.read_text(encoding="utf-8"), title(s, lines)) for path, s in recipes}


def _retitle(folder: Path, lines: Any) -> None:
    """Write the paper's figure and ours into the first line of each recipe of a table."""
    from safa.files import write_atomically

    texts = titled(folder, lines)
    if not texts:
        raise UserError(f"{folder} holds no recipes of tables; they are in folders table1, table5, … inside it")
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_atomically(path, texts[path].encode())
    say(f"{folder}: {len(changed)} of {len(texts)} recipes have a new first line")


def _fill(text: Path, made: dict[str, str], further: dict[str, str] | None = None) -> None:
    """Each table goes between the markers with its name, in the file's own line ends; further ones may have none."""
    from safa.files import write_atomically
    from safa.report import readme

    try:
        former = text.read_bytes().decode()
    except OSError as error:
        raise UserError(f"cannot read {text}: {error.strerror or error}; name a text file with markers") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{text} is not a text file in UTF-8, so it has no markers") from error
    filled = readme.update(former.replace("\r\n", "\n"), made, further)
    write_atomically(text, (filled.replace("\n", "\r\n") if "\r\n" in former else filled).encode())


def tables_of(paths: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Of files of result lines or of ``safa bench``, by the file's name: its table, and further ones.

    A file NAME.jsonl of several seeds has a further table NAME-differences, to its first method; one whose lines say
    what generated features are worth has NAME-features.
    """
    from safa.report import bench, diagnostics, lines

    made, further = {}, {}
    for path in paths:
        name, last = Path(path).stem, lines.read_objects(path)[-1:]
        if last and last[0][1].get("kind") in bench.KINDS:
            made[name] = bench.to_markdown(last[0][1])
            continue
        found = _lines([path])
        made[name] = _errors_to_markdown(found)
        further[f"{name}-differences"] = _differences_to_markdown(found)
        further[f"{name}-features"] = diagnostics.to_markdown(found)
    return made, {name: table for name, table in further.items() if table}


def _markdown_of_lines(lines: list[dict[str, Any]]) -> str:
    """Errors, and what generated features are worth where a line says so."""
    from safa.report import diagnostics

    return "\n\n".join(filter(None, (_errors_to_markdown(lines), diagnostics.to_markdown(lines))))


def _errors_to_markdown(lines: list[dict[str, Any]]) -> str:
    from safa.report import tables
    from safa.report.rows import against_paper, summarise

    return tables.to_markdown(against_paper(summarise(lines)))


def _differences_to_markdown(lines: list[dict[str, Any]]) -> str:
    """To the first method, of those that share several seeds with it; empty without one."""
    from safa.report import tables
    from safa.report.pairs import paired_with_first

    pairs = [pair for pair in paired_with_first(lines) if len(pair.seeds) > 1]
    return tables.paired_to_markdown(pairs) if pairs else ""
