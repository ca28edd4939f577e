"""``safa data``, ``list`` and ``bench``: data sets, names and costs, before anything is trained."""

from __future__ import annotations

from typing import Any, Literal

from rich.table import Column, Table

from safa.commands.console import out, say
from safa.errors import UserError, closest


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

    if imbalance_factor is None and (profile in ("exponential", "step") or largest is not None):
        raise UserError("to draw a tail, name its length, too: --imbalance_factor X, largest over smallest class")
    shape = profile or ("exponential" if imbalance_factor is not None else "as_found")
    plain: dict[str, Any] = {"name": name, "root": root, "profile": shape, "on_corrupt": on_corrupt, "largest": largest}
    if imbalance_factor is not None:
        plain["imbalance_factor"] = imbalance_factor
    spec = recipes.from_plain({"method": "none", "stages": [{"epochs": 0}], "data": plain}).data
    if imbalance_factor is not None:
        recipes.check_factor_counts(spec)
    loaded = load(spec)
    described = tail.describe(loaded.source.class_names, loaded.subset.class_counts, spec.head_ratio)
    say(tail.render(described))
    for remark in loaded.remarks:
        say(remark)
    if png is not None:
        tail.save_png(described, png)
        say(f"picture: {png}")
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
