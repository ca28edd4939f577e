"""What README and docs say holds: tables are those that the committed result lines give, links and commands work."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

from safa import library
from safa import recipe as recipes
from safa.catalog import CATALOG, resolve
from safa.cli import parser
from safa.commands.reporting import tables_of
from safa.report import lines, readme
from safa.report.tradeoff import write_tradeoff

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *(ROOT / "docs").glob("*.md")]
COMMAND_LINE = ROOT / "docs" / "command_line.md"
RESULTS = sorted((ROOT / "results").glob("*.jsonl"))


def markers(document: Path) -> set[str]:
    return set(re.findall(r"<!-- safa:table (\S+) -->", document.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_is_drawn_from_the_committed_lines(document):
    text, named = document.read_text(encoding="utf-8"), markers(document)
    made, further = tables_of([str(path) for path in RESULTS if readme.names_of(path.stem) & named])
    assert readme.update(text, made, further) == text


def test_the_results_page_has_the_table_of_every_file_and_the_readme_of_some():
    readme_s, page_s = (markers(document) for document in DOCUMENTS)
    made, further = tables_of([str(path) for path in RESULTS])
    assert made.keys() == {path.stem for path in RESULTS}
    assert page_s == made.keys() | further.keys()
    assert readme_s
    assert readme_s <= page_s


@pytest.mark.parametrize(
    ("chart", "names"),
    [
        ("tradeoff", ("cifar100", "controls")),
        ("tradeoff-fashion", ("adjusted",)),
        ("tradeoff-averaged", ("adjusted-cifar100",)),
    ],
)
def test_a_chart_of_the_trade_is_drawn_from_the_committed_lines(chart, names, tmp_path):
    sources = [line for name in names for line in lines.read(ROOT / "results" / f"{name}.jsonl")]
    drawn = write_tradeoff(sources, tmp_path / "tradeoff.svg")
    assert drawn.read_text(encoding="utf-8") == (ROOT / "docs" / f"{chart}.svg").read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    """What GitHub calls the sections of a page: its headings in lower case, without markup and punctuation."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+?) *$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M):
        shown = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", shown).replace(" ", "-"))
    return {name if nth == 0 else f"{name}-{nth}" for i, name in enumerate(found) for nth in [found[:i].count(name)]}


def test_sections_are_called_as_github_calls_them():
    page = "# A `b_c` of [SAFA](x.md), and – more\n## Two\n```bash\n# no heading\n```\n### Two\n"
    assert anchors(page) == {"a-b_c-of-safa-and--more", "two", "two-1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(page):
    for link in re.findall(r"\]\((\S+?)\)", page.read_text(encoding="utf-8")):
        name, _, section = link.partition("#")
        if "://" not in link:
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not section or section in anchors(target.read_text(encoding="utf-8")), link


def calls(page: Path) -> list[list[str]]:
    """Words of the safa commands in the blocks of bash, their braces expanded as bash does it."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    commands = re.findall(r"^(?:[^#\n]*[ /])?safa ([^&|#\n]*)", "".join(blocks).replace("\\\n", " "), re.M)
    script = "set -f\n" + "\n".join(f"printf '%s\\n' {command}; echo" for command in commands)
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return [call.splitlines() for call in told.split("\n\n") if call]


@pytest.mark.parametrize("name", ["README.md", "docs/own_images.md", "docs/recipes.md", "docs/results.md"])
def test_every_command_is_one_and_every_recipe_and_setting_of_it_is_there(name):
    found = calls(ROOT / name)
    assert len(found) >= 4
    for words in found:
        given = parser().parse_args(words)[words[0]]
        named = given.recipes if words[0] == "compare" else [given.recipe] if words[0] == "train" else []
        for recipe in named:
            if not recipe.endswith(".yaml"):  # the reader's own
                for path in library.select(recipe).values():
                    recipes.load(path, given.set)


def test_the_version_of_torch_that_the_readme_names_is_the_one_of_the_constraints():
    named, pinned = (
        re.findall(r"\btorch==([\d.]+\d)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "constraints.txt")
    )
    assert named == pinned
    assert len(pinned) == 1


RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
KEYS = {
    "Top level": recipes.Recipe,
    "`data`": recipes.Data,
    "`model`": recipes.Model,
    "`optimizer`": recipes.Optimizer,
    "`schedule`": recipes.Schedule,
    "A stage": recipes.Stage,
}


@pytest.mark.parametrize("title", KEYS)
def test_the_page_of_recipes_has_every_key_with_its_default(title):
    section = re.search(rf"^### {title}\n(.*?)(?=^#)", RECIPES, re.M | re.S)[1]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M))
    fields = {field.name: field for field in dataclasses.fields(KEYS[title])}
    assert told.keys() == fields.keys()
    for key, default in told.items():
        wanted = fields[key].default
        if default == "required" or wanted is dataclasses.MISSING:
            assert wanted is fields[key].default_factory is dataclasses.MISSING, key
        elif isinstance(wanted, recipes.Named):
            assert default == f"`{wanted.name}`", key
        elif not isinstance(wanted, recipes.Data | recipes.Model | recipes.Optimizer | recipes.Schedule):
            assert plain(default) == (list(wanted) if isinstance(wanted, tuple) else wanted), key


def plain(default: str) -> object:
    """The value that a table gives, in words or as YAML; 1e-5 is a number there only with a point."""
    words = {"none": None, "all": []}
    return words[default] if default in words else yaml.safe_load(re.sub(r"(?<=\d)e-", ".0e-", default.strip("`")))


WORD = re.compile(r"(`\w+`|[Aa]ll others|all|both)(?: (\d[\d.e-]*|true|false|`\w+`))?(: | \()?")
"""A name, before its options; or an option and its default; or what begins the options that several names have."""


@pytest.mark.parametrize("kind", ["loss", "weighting", "sampler", "head", "reweighting", "augmentation", "augmenter"])
def test_the_page_of_recipes_has_every_name_and_the_defaults_of_its_options(kind):
    row = re.search(rf"^\| `{kind}` \| (`.*`.*) \|$", RECIPES.partition("## Names and their options")[2], re.M)[1]
    assert set(CATALOG[kind]) <= set(re.findall(r"`(\w+)`", row))
    name, checked = "", 0
    for word, default, opens in WORD.findall(row):
        if opens and not default:
            name = word.strip("`")
        elif default and name in CATALOG[kind]:
            option = inspect.signature(resolve(kind, name)).parameters[word.strip("`")]
            assert option.default == plain(default), f"{name}: {word}"
            checked += 1
    assert checked


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_recipe_that_a_page_names_is_there(page):
    groups = "|".join({name.partition("/")[0] for name in library.names()})
    named = set(re.findall(rf"`((?:{groups})/[a-z0-9/-]*[a-z0-9])`", page.read_text(encoding="utf-8")))
    folders = {str(parent) for name in library.names() for parent in PurePosixPath(name).parents}
    assert named <= {*library.names(), *folders}


@pytest.mark.parametrize(
    "command", ["train", "compare", "evaluate", "predict", "export", "report", "data", "list", "bench"]
)
def test_the_command_line_page_has_every_option_and_no_other(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    offered = set(re.findall(r"^ {2,}(--\w+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", COMMAND_LINE.read_text(encoding="utf-8"), re.M | re.S))
    shared = "".join(
        sections[title] for title in ("Which images and which settings", "On which machine, and what is left")
    )
    page = sections[f"`safa {command}`"] + (shared if command in ("train", "compare") else "")
    assert set(re.findall(r"^\| `(--\w+)", page, re.MULTILINE)) == offered
