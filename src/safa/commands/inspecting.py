"""``safa data``, ``list`` and ``bench``: data sets, names and costs, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Column, Table

from safa.console import out, say
from safa.errors import UserError, closest
from safa.files import refuse_unwritable_file

if TYPE_CHECKING:
    from safa.data.dataset import LongTailed


def data(
    name: str,
    root: str | None,
    imbalance_factor: float | None,
    profile: Literal["exponential", "step", "as_found"] | None,
    largest: int | None,
    png: str | None,
    on_corrupt: Literal["stop", "skip"],
) -> int:
    """The tail of a data set, in the terminal and as a picture."""
    from safa import recipe as recipes
    from safa.data import tail
    from safa.data.dataset import load

    if png is not None:
        refuse_unwritable_file(Path(png))
    if imbalance_factor is None and (profile in ("exponential", "step") or largest is not None):
        raise UserError("to draw a tail, name its length, too: --imbalance_factor X, largest over smallest class")
    shape = profile or ("exponential" if imbalance_factor is not None else "as_found")
    plain: dict[str, Any] = {"name": name, "root": root, "profile": shape, "on_corrupt": on_corrupt, "largest": largest}
    if imbalance_factor is not None:
        plain["imbalance_factor"] = imbalance_factor
    spec = recipes.from_plain({"method": "none", "stages": [{"epochs": 0}], "data": plain}).data
    if imbalance_factor is not None:
        recipes.refuse_idle_cuts(spec, ["imbalance_factor"], "--profile exponential")
    loaded = load(spec)
    bounds = {"many_above": spec.many_above, "few_below": spec.few_below}
    described = tail.describe(loaded.source.class_names, loaded.subset.class_counts, spec.head_ratio, **bounds)
    say(f"{tail.render(described)}\n\n{_held_out(loaded)}")
    for remark in loaded.remarks:
        say(remark)
    if png is not None:
        tail.save_png(described, png)
        say(f"picture: {png}")
    return 0


def _held_out(loaded: LongTailed) -> str:
    """How many images there are to test on, those of the few-shot classes too, and how many to choose settings on."""
    counts, validation, few = loaded.test_counts, loaded.validation, loaded.groups["few"]
    least, most = int(counts.min()), int(counts.max())
    per_class = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    of_few = f", {counts[few].sum():,} in the few-shot ones together" if few.any() and not few.all() else ""
    chosen_on = "no validation images" if validation is None else f"{len(validation):,} validation images"
    return f"{counts.sum():,} test images, {per_class} in a class{of_few}; {chosen_on}"


def list_names(what: str | None) -> int:
    """Every name with its source; those of one kind, or the recipes of one folder."""
    from safa import library
    from safa.catalog import CATALOG, DATASETS

    sources = {kind: {name: entry.source for name, entry in entries.items()} for kind, entries in CATALOG.items()}
    sources["data"] = dict(DATASETS)
    recipes = {name: library.title(path) for name, path in library.files(library.folder()).items()}
    kinds = [*sources, "recipe"]
    folders = {str(folder) for name in recipes for folder in PurePosixPath(name).parents} - {"."}
    if what in folders:
        _say_recipes({name: title for name, title in recipes.items() if name.startswith(f"{what}/")})
        return 0
    if what is not None and what not in kinds:
        hint = closest(what, [*kinds, *sorted(folders)])
        raise UserError(f"nothing is listed under {what!r}{hint}; there are {', '.join(kinds)}, and folders of recipes")
    for kind in [what] if what else kinds:
        if kind == "recipe":
            _say_recipes(recipes)
        else:
            _print_names(kind, sources[kind])
    return 0


def _print_names(kind: str, sources: Mapping[str, str]) -> None:
    """A table for each kind: the long names of one take no room from another."""
    table = Table("kind", Column("name", no_wrap=True), "source", box=None)  # a name is there to be typed
    for name, source in sources.items():
        table.add_row(kind, name, source)
    out.print(table)


def _say_recipes(titles: Mapping[str, str]) -> None:
    """Two lines each, since a name and a title side by side are wider than most terminals."""
    for name, title in titles.items():
        say(f" {name}\n     {title}")


def bench(what: str, **options: Any) -> int:
    """Ratios of training steps and inference, all variants in turn in one run."""
    from safa.bench import run, run_methods

    measurements = {"loop": run, "methods": run_methods}
    if what not in measurements:
        raise UserError(f"bench measures loop or methods, got {what!r}{closest(what, measurements)}")
    measurements[what](**options)
    return 0
