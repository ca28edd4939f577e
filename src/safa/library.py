"""The recipes that come with the library, by name."""

from __future__ import annotations

from pathlib import Path

from safa.errors import UserError, closest
from safa.files import CARD, RECIPE

ENDINGS = (".yaml", ".yml")


def folder() -> Path:
    """Where they are: inside an installed package, or at the top of a checkout."""
    packed = Path(__file__).parent / "recipes"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "recipes"


def files(root: Path) -> dict[str, Path]:
    """Every recipe in a folder of recipes by its name, e.g. ``digits/ldam-drw``; those that runs keep are none.

    Raises:
        UserError: if two have one name.
    """
    found: dict[str, Path] = {}
    for path in (path for ending in ENDINGS for path in root.rglob(f"*{ending}")):
        within = path.relative_to(root)
        if _is_hidden(within) or _is_of_a_run(path):
            continue
        name = within.with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} are two recipes of one name; rename one of them")
        found[name] = path
    return dict(sorted(found.items()))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_of_a_run(path: Path) -> bool:
    """A run keeps its recipe beside what it was trained on."""
    return path.name == RECIPE and path.with_name(CARD).exists()


def names() -> list[str]:
    """The names of all that come with the library."""
    return [*files(folder())]


def find(name: str) -> tuple[str, Path]:
    """Name and file of a recipe given by name or as a YAML file.

    Raises:
        UserError: if it is neither, with the closest name.
    """
    known = files(folder())
    if name in known:
        return name, known[name]
    path = Path(name)
    if path.suffix in ENDINGS:
        if path.is_file():
            return path.stem, path
        raise UserError(f"there is no recipe file {name}")
    raise UserError(
        f"no recipe is called {name!r}{closest(name, known)}; 'safa list recipe' shows them, or name a YAML file"
    )


def select(given: str) -> dict[str, Path]:
    """The recipes that a name, a YAML file or a folder of recipes stands for, by name: all of them for a folder.

    Raises:
        UserError: if there is no such recipe or folder, or the folder holds no recipe.
    """
    inside = {name: path for name, path in files(folder()).items() if name.startswith(f"{given.rstrip('/')}/")}
    if inside:
        return inside
    if Path(given).is_dir():
        found = files(Path(given))
        if not found:
            raise UserError(f"the folder {given} holds no recipe, which would be a file NAME.yaml")
        return found
    return dict([find(given)])


def title(path: Path) -> str:
    """The first comment line of a recipe: what it is, and for a row of a table the paper's figure and ours."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def retitled(text: str, title: str) -> str:
    """The text of a recipe under another title; one without a title gets its first line."""
    first, newline, rest = text.partition("\n")
    body = rest if first.startswith("#") else f"{first}{newline}{rest}"
    return f"# {title}\n{body}"
