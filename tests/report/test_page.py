"""The page: self-contained, escaped, and whole whatever the run folder lacks."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.axes import Axes

from safa import recipe as recipes
from safa.errors import UserError
from safa.report import charts, confusion, curves, embedding, page
from safa.report.comparison import compare
from safa.report.runs import Features, read_run
from safa.report.sections.generated import generated
from safa.report.sections.pieces import in_focus
from safa.report.sections.settings import settings
from safa.report.sections.summary import summary
from safa.report.sections.tail import tail
from tests.report.synthetic import write_comparison, write_run
from tests.report.test_headline import run as result

DIGITS = {
    "names": [f"digit {number}" for number in range(10)],
    "largest": 140,
    "imbalance_factor": 20,
    "dataset": "digits",
    "epochs": 10,
}
BARE = DIGITS | {"leave_out": ("features.npz",)}  # t-SNE takes seconds
SECTIONS = ["summary", "tail", "classes", "changes", "training", "mistakes", "features", "generated", "settings"]
VOID = {"meta", "br", "path", "use", "img", "hr"}


class Balanced(HTMLParser):
    """Collects ids and refuses a tag that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def written(tmp_path, runs, **options) -> str:
    return page.write_page(runs, tmp_path / "page.html", **options).read_text(encoding="utf-8")


def section(text: str, anchor: str) -> str:
    return re.search(rf'<section id="{anchor}">.*?</section>', text, re.DOTALL)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """Three methods, two seeds, ten classes."""
    folder = tmp_path_factory.mktemp("whole")
    return written(folder, write_comparison(folder / "runs", **DIGITS))


def test_the_page_refers_to_nothing_outside(whole):
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|<iframe|@import|src=", whole, re.IGNORECASE)
    assert set(re.findall(r"url\((.)", whole)) <= {"#"}
    assert set(re.findall(r'href="(.)', whole)) == {"#"}


def test_every_section_is_there_and_the_html_is_balanced(whole):
    parser = Balanced()
    parser.feed(whole)
    assert parser.open == []
    assert [name for name in parser.ids if name in SECTIONS] == SECTIONS
    # Two equal charts may define the same clip path; anything else would be a clash.
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', whole))
    assert references <= set(parser.ids)


def test_every_colour_comes_from_the_style_sheet(whole):
    charts = "".join(re.findall(r'<svg class="chart".*?</svg>', whole, re.DOTALL))
    assert "var(--few)" in charts
    assert not re.search(r"#[0-9a-f]{6}\b", charts)
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", whole)):
        assert f"{variable}:" in whole


def test_the_comparison_names_its_baseline_and_all_methods(whole):
    assert "Against LDAM-DRW, seed by seed" in section(whole, "summary")
    assert "LDAM-DRW-SAFA" in section(whole, "changes")
    assert "best on test*" in section(whole, "summary")
    assert "no epoch was chosen on the test set" in section(whole, "settings")


def test_what_was_changed_in_all_runs_stands_once_and_in_no_name(tmp_path):
    runs = write_comparison(tmp_path / "runs", ("LDAM", "LDAM-DRW"), 2, changes=["batch_size=8"], **BARE)
    html = page.render(compare([read_run(run) for run in runs], "LDAM (batch_size=8)"))
    assert "Against LDAM, seed by seed" in section(html, "summary")
    assert "Changed in all runs: batch_size=8." in section(html, "summary")
    assert html.count("batch_size=8") == 1


def test_loss_terms_and_stages_are_drawn(whole):
    training = section(whole, "training")
    assert "term: cycle reconstruction" in training
    assert "deferred / safa" in training


def test_generated_features_are_compared_with_training_and_test_features(whole):
    text = section(whole, "generated")
    rows = re.findall(r'<th scope="row">LDAM-DRW-SAFA: (.*?)</th><td[^>]*>(.*?)</td>', text)
    assert [name for name, _ in rows[:3]] == ["generated (2,468)", "training images (4,000)", "test images (4,000)"]
    # By group next, and not of many-shot classes, of which none are generated.
    by_group = [re.sub("<.*?>", "", name) for name, _ in rows[3:9]]
    kinds = ("generated", "training images", "test images")
    assert by_group == [f"{kind}, {group}" for kind in kinds for group in ("medium", "few")]
    zero = ' <span class="sd">± 0.000</span>'
    assert rows[9:] == [("layer3.0.bn1", f"0.100{zero}"), ("layer3.1.bn1", f"0.050{zero}")]
    assert "LDAM-DRW:" not in text
    assert "adapted delta / tail feature" in text
    assert "cosine of delta" not in text  # it was null throughout


def test_figures_on_generated_features_are_means_over_seeds(tmp_path):
    runs = [read_run(run) for run in write_comparison(tmp_path / "runs", ("LDAM-DRW-SAFA",), 2, **BARE)]
    values = [run.result["diagnostics"]["figures"]["test"]["few"]["assigned"] for run in runs]
    mean, sd = np.mean(values), np.std(values, ddof=1)
    assert f'{mean:.2f} <span class="sd">± {sd:.2f}</span>' in generated(compare(runs))


@pytest.mark.parametrize(("size", "said"), [(9.0, False), (52_070.9, True)])
def test_modules_that_diverged_are_told(size, said, tmp_path):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW-SAFA", **BARE))
    *before, last = run.log
    last = last | {"diagnostics": last["diagnostics"] | {"delta_size": size}}
    text = generated(compare([replace(run, log=(*before, last))]))
    assert ("<strong>The modules of LDAM-DRW-SAFA have diverged</strong>" in text) is said
    assert ("in the last epoch adapted deltas are 52,071 times as large" in text) is said


def test_a_run_without_diagnostics_has_its_curves_and_without_those_no_figures(tmp_path):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW-SAFA", **DIGITS, diagnostics=None))
    assert re.match("<h3>Epoch by epoch</h3>", generated(compare([run])))
    bare = generated(compare([replace(run, log=())]))
    assert bare == '<p class="absent">No run on this page has figures on generated features.</p>'


def test_a_class_called_script_is_a_name(tmp_path):
    names = ["<script>alert(1)</script>", '$a_b$ & "c"', "鳥🐱", "x" * 60, "#5afa01", "font-family: a;", "_", "\x1b[1m"]
    options = {"names": names, "largest": 150, "imbalance_factor": 30, "epochs": 4}
    methods = ("LDAM-DRW", "LDAM-DRW-SAFA")
    text = written(tmp_path, write_comparison(tmp_path / "runs", methods, 1, **options))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "$a_b$ &amp;" in text
    assert "鳥🐱" in text
    assert "\x1b" not in text
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", section(text, "tail"))
    assert {"#5afa01", "font-family: a;", "_", "\N{REPLACEMENT CHARACTER}[1m"} <= set(ticks)


def test_one_run_gives_a_page_that_says_what_a_second_would_add(tmp_path):
    text = written(tmp_path, [write_run(tmp_path / "run", "LDAM-DRW-SAFA", **BARE)])
    assert "give a second method" in section(text, "changes")
    assert "±" not in section(text, "summary").split('class="note"')[0]


def test_only_the_result_line_is_needed_and_every_missing_file_is_named(tmp_path):
    files = ("log.jsonl", "predictions.npz", "features.npz", "recipe.yaml", "subset.json")
    text = written(tmp_path, [write_run(tmp_path / "bare", **DIGITS, leave_out=files)])
    for file, anchor in zip(files, ("training", "mistakes", "features"), strict=False):
        assert f"the run wrote no {file}" in section(text, anchor)
    assert text.count('class="absent"') == 5  # these three, nothing to compare with, and nothing generated


def test_broken_files_are_reported_and_the_page_is_written(tmp_path):
    folder = write_run(tmp_path / "bare", **DIGITS)
    (folder / "features.npz").write_bytes(b"PK\x03\x04 cut short")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"epoch": 10, "st')
    text = written(tmp_path, [folder])
    assert "features.npz is broken" in section(text, "features")
    assert "log.jsonl, line 11 is not valid JSON" in section(text, "training")
    assert str(tmp_path) not in text


def test_damage_inside_a_compressed_array_is_reported_and_the_page_is_written(tmp_path):
    folder = write_run(tmp_path / "bare", **DIGITS)
    arrays = np.random.RandomState(0).randint(0, 10, (2, 2000))
    np.savez_compressed(folder / "predictions.npz", labels=arrays[0], predictions=arrays[1])
    content = bytearray((folder / "predictions.npz").read_bytes())
    content[200:240] = bytes(byte ^ 255 for byte in content[200:240])
    (folder / "predictions.npz").write_bytes(content)
    assert "predictions.npz is broken (error)" in section(written(tmp_path, [folder]), "mistakes")


def test_a_class_that_is_never_predicted_and_one_without_test_images(tmp_path):
    folder = write_run(tmp_path / "never", **BARE, never_predicted=(9,))
    with np.load(folder / "predictions.npz") as stored:
        kept = {name: array[stored["labels"] != 8] for name, array in stored.items()}
    np.savez(folder / "predictions.npz", **kept)
    result = json.loads((folder / "result.json").read_text())
    result["error_per_class"][8] = None
    (folder / "result.json").write_text(json.dumps(result))
    text = written(tmp_path, [folder])
    assert "<strong>0</strong>" in section(text, "mistakes")
    assert "no test image" in section(text, "mistakes")


def test_a_hundred_classes_and_a_thousand_stay_readable(tmp_path):
    names = [f"species {number}" for number in range(1200)]
    bare = {"leave_out": ("features.npz",), "epochs": 3, "test_images": 1}
    runs = write_comparison(tmp_path / "many", ("LDAM-DRW", "LDAM-DRW-SAFA"), 1, names=names, **bare)
    text = written(tmp_path, runs)
    assert "averaged over neighbours" in section(text, "classes")
    assert "1200 classes are too many to list" in section(text, "classes")
    assert len(text) < 2_000_000


def test_different_subsets_for_one_seed_are_pointed_out(tmp_path):
    runs = [
        write_run(tmp_path / "a", "LDAM-DRW", **BARE),
        write_run(tmp_path / "b", "LDAM-DRW-SAFA", **BARE, subset_sha256="cd" * 32),
    ]
    text = written(tmp_path, runs)
    assert "did not train on the same images for seed 0" in section(text, "settings")
    assert "Of other training images than the baseline, which may be part of the difference: LDAM-DRW-SAFA." in text


def test_other_images_under_the_same_name_are_pointed_out(tmp_path):
    first, second = ({**BARE, "images_sha256": letter * 64} for letter in "ab")
    runs = [write_run(tmp_path / "a", "LDAM-DRW", **first), write_run(tmp_path / "b", "LDAM-DRW-SAFA", **second)]
    assert "did not train on the same images for seed 0" in settings(compare(list(map(read_run, runs))))
    runs[1] = write_run(tmp_path / "b", "LDAM-DRW-SAFA", **first)
    runs.append(write_run(tmp_path / "c", "LDAM", **BARE))  # its line is from before the hash was written
    assert "did not train" not in settings(compare(list(map(read_run, runs))))


def test_where_images_lie_is_not_on_the_page(tmp_path):
    run = write_run(tmp_path / "run", **BARE)
    listed = "data:\n  name: /home/me/鳥\n  root: ../disk/photos\n  head_ratio: 0.2\nstages:\n- epochs: 3\n"
    (run / "recipe.yaml").write_text(listed, encoding="utf-8")
    shown = re.search(r"<pre>(.*?)</pre>", settings(compare([read_run(run)])), re.DOTALL)[1]
    assert shown == listed.replace("/home/me/", "…/").replace("../disk/", "…/")


def test_a_recipe_of_a_built_in_set_is_printed_as_it_stands(tmp_path, tiny_recipe):
    run = write_run(tmp_path / "run", **BARE)
    (run / "recipe.yaml").write_text(recipes.dump(tiny_recipe, defaults=True))
    assert read_run(run).recipe == (run / "recipe.yaml").read_text()


def test_the_head_classes_of_a_run_are_those_of_its_augmenter(tmp_path):
    run = write_run(tmp_path / "a", **BARE, head_ratio=0.4)
    stages = [{"augmenter": {"name": "rsg", "head_ratio": 0.3}}, {"augmenter": {"name": "safa", "head_ratio": 0.5}}, {}]
    recipe = {"data": {"name": "x", "head_ratio": 0.4}, "stages": stages}
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    assert read_run(run).head_ratio == 0.5


@pytest.mark.parametrize("broken", ["data: {name: [", "a word", "data: nowhere", "data: {head_ratio: none}"])
def test_a_broken_recipe_says_nothing_of_head_classes(broken, tmp_path):
    run = write_run(tmp_path / "run", **BARE)
    (run / "recipe.yaml").write_text(broken)
    assert read_run(run).head_ratio == 0.2


def test_head_classes_are_marked_where_all_runs_have_the_same(tmp_path):
    first = write_run(tmp_path / "a", "LDAM-DRW", **BARE)
    second = write_run(tmp_path / "b", "LDAM-DRW-SAFA", **BARE, head_ratio=0.4)
    alone = tail(compare([read_run(second)]))
    assert "are the largest 40 % of the classes by count." in alone
    assert "head classes (4)" in alone
    both = tail(compare([read_run(first), read_run(second)]))
    assert "the largest classes by count: 20 % in LDAM-DRW; 40 % in LDAM-DRW-SAFA." in both
    assert "head classes (" not in both


def test_a_reader_who_hears_the_page_is_told_what_heads_what_and_what_is_drawn(whole):
    assert '<nav aria-label="Sections">' in whole
    assert set(re.findall(r"<th\b( scope=\"\w+\")?", whole)) == {' scope="col"', ' scope="row"'}
    labels = re.findall(r'aria-label="([^"]*)"', section(whole, "training") + section(whole, "changes"))
    assert all("LDAM-DRW-SAFA" in label for label in labels)
    assert any("test error, all classes (%)" in label for label in labels)


def test_the_notes_of_the_page_explain_ece_and_say_that_reused_epochs_are_counted(whole):
    assert "ECE: mean gap between confidence and accuracy, in per cent; lower is better" in section(whole, "summary")
    assert "training time (reused epochs included) 1:02 h" in section(whole, "settings")


def test_errors_on_validation_images_stand_on_the_page_where_some_were_set_aside(tmp_path, whole):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW", **BARE))
    shown = summary(compare([replace(run, result={**run.result, "balanced_error_validation": 43.21})]))
    assert "43.21" in shown
    assert "Val.: mean over classes of the error on the images set aside to choose by." in shown
    assert "Val.:" not in section(whole, "summary")


def test_a_page_is_the_same_every_time(tmp_path):
    runs = [write_run(tmp_path / "run", **DIGITS | {"names": list("abcd")})]
    assert written(tmp_path / "a", runs) == written(tmp_path / "b", runs)


def test_user_mistakes_are_clear_errors(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        page.write_page([tmp_path / "absent"], tmp_path / "page.html")
    with pytest.raises(
        UserError, match=r"no result\.json in .*: the run is not finished; go on with: safa train --resume"
    ):
        page.write_page([tmp_path], tmp_path / "page.html")
    for groups in ({"few": [12]}, {"few": 3}, {"few": []}, {"few": [[3]]}, {}):
        folder = write_run(tmp_path / "run", **DIGITS, groups=groups)
        with pytest.raises(UserError, match="groups maps many, medium, few to class ids, got .*; delete the run's"):
            page.write_page([folder], tmp_path / "page.html")
    folder = write_run(tmp_path / "run", **DIGITS, leave_out=("features.npz",))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        page.write_page([folder], tmp_path / "file" / "page.html")


def test_mistakes_are_counted_as_by_hand(tmp_path):
    folder = write_run(tmp_path / "run", **DIGITS)
    labels, predictions = np.array([9, 9, 9, 9, 8, 0]), np.array([9, 0, 0, 3, 8, 9])
    np.savez(folder / "predictions.npz", labels=labels, predictions=predictions)
    comparison = compare([read_run(folder)])
    rare = confusion.rare_classes(comparison)
    assert rare.tolist() == [6, 7, 8, 9]
    found = confusion.mistakes(comparison.runs, rare, 10)
    assert found.share[3].tolist() == [50, 0, 0, 25, 0, 0, 0, 0, 0, 25]
    assert found.most_common(3) == [(0, 50.0), (3, 25.0)]
    # Five rare test images: two right, two taken for the many-shot class 0, one for the medium-shot class 3.
    shares = confusion.destinations(comparison, "LDAM-DRW")
    assert shares == {"right": 40.0, "few": 0.0, "medium": 20.0, "many": 40.0}


def test_a_square_stands_in_the_row_of_its_class_and_the_column_of_what_it_is_taken_for(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", **BARE)
    np.savez(folder / "predictions.npz", labels=np.array([8, 9]), predictions=np.array([0, 8]))
    comparison, drawn, squares = compare([read_run(folder)]), [], charts.PolyCollection

    def noting(corners, **style):
        drawn.append(corners)
        return squares(corners, **style)

    monkeypatch.setattr(charts, "PolyCollection", noting)
    charts.mistaken(comparison, confusion.mistakes(comparison.runs, np.array([8, 9]), 10))
    # Columns are 8, 9, the other few-shot classes, all medium-shot and all many-shot ones.
    assert [square[0] for square in drawn[1]] == [(4, 0), (0, 1)]


def test_the_parts_of_a_bar_follow_each_other(monkeypatch):
    drawn, plain = [], Axes.barh

    def noting(*given, left, **style):
        drawn.append(left)
        return plain(*given, left=left, **style)

    monkeypatch.setattr(Axes, "barh", noting)
    charts.destinations({"CE": {"right": 40.0, "few": 10.0, "medium": 20.0, "many": 30.0}}, 860)
    assert drawn == [0, 40, 50, 70]


def test_of_more_than_twenty_rare_classes_the_rarest_are_listed():
    few = {"class_counts": list(range(30, 0, -1)), "groups": {"many": [], "medium": [], "few": list(range(30))}}
    line = result("CE", class_names=[str(c) for c in range(30)], error_per_class=[50.0] * 30, **few)
    assert confusion.rare_classes(compare([line])).tolist() == list(range(10, 30))


def test_of_many_methods_the_baseline_and_the_three_best_on_the_rare_classes_are_in_focus():
    errors = {"CE": 70, "A": 50, "B": 80, "C": 40, "D": 60}
    found = compare([result(name, few=error) for name, error in errors.items()], "CE")
    assert in_focus(found) == ["CE", "A", "C", "D"]


def test_groups_that_are_other_classes_in_another_run_are_pointed_out():
    other = result("LDAM", groups={"many": [0], "medium": [], "few": [1, 2]})
    said = settings(compare([result("CE"), other]))
    assert "are not the same classes in all runs; the charts have those of CE-0" in said
    assert "are not the same classes" not in settings(compare([result("CE"), result("LDAM")]))


def test_the_curve_of_the_rare_classes_is_of_their_error(tmp_path):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW", **BARE))
    drawn = {panel.title: panel for panel in curves.panels(compare([run]))}["test error, few-shot classes (%)"]
    assert drawn.curves["LDAM-DRW"].mean.tolist() == [line["test"]["error_few"] for line in run.log]


def test_curves_are_means_over_seeds_with_their_range(tmp_path):
    runs = [read_run(run) for run in write_comparison(tmp_path, ("LDAM",), 2, **DIGITS)]
    drawn = curves.curve(runs, lambda line: line["test"]["error"] if line["epoch"] == 4 else None)
    values = [run.log[4]["test"]["error"] for run in runs]
    assert drawn.epochs.tolist() == [5.0]
    assert drawn.mean[0] == pytest.approx(sum(values) / 2)
    assert (drawn.low[0], drawn.high[0]) == (min(values), max(values))


def test_an_epoch_logged_twice_after_a_resume_counts_once(tmp_path):
    folder = write_run(tmp_path / "run", **DIGITS)
    lines = (folder / "log.jsonl").read_text().splitlines()
    again = json.dumps(json.loads(lines[-1]) | {"loss": 123.0})
    (folder / "log.jsonl").write_text("\n".join([*lines, again]) + "\n")
    log = read_run(folder).log
    assert [line["epoch"] for line in log] == list(range(10))
    assert log[-1]["loss"] == 123.0


def test_the_lowest_mean_of_a_column_is_in_bold():
    shown = summary(compare([result("CE", few=60), result("CE-SAFA", few=55, error_many=4.0)]))
    assert re.findall(r'class="least">([\d.]+)', shown) == ["3.00", "55.00"]


def test_a_stage_begins_after_the_epochs_before_it(tmp_path):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW-SAFA", **DIGITS))
    first = next(line["epoch"] for line in run.log if line["stage"] != run.log[0]["stage"])
    assert [epoch for epoch, _ in curves.boundaries(compare([run]))] == [first] == [8]


def test_the_embedding_shows_head_and_tail_classes_of_each_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHOWN_PER_CLASS", 5)
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW-SAFA", **DIGITS | {"names": list("abcdefghijklmnop")}))
    heads, tails = embedding.shown_classes(compare([run]))
    assert heads == [0, 1, 2]
    assert tails == [15, 14]
    rows = embedding.sample(run.features, [*heads, *tails])
    assert set(run.features.kind[rows].tolist()) == {0, 1, 2}
    shown = Counter(zip(run.features.labels[rows].tolist(), run.features.kind[rows].tolist(), strict=True))
    assert max(shown.values()) == 5


def test_the_tail_classes_shown_are_those_with_the_most_generated_features(tmp_path):
    run = read_run(write_run(tmp_path / "run", "LDAM-DRW-SAFA", **DIGITS | {"names": list("abcdefghijklmnop")}))
    kept = (run.features.labels != 15) | (run.features.kind != 1)
    fewer = Features(*(part[kept] for part in vars(run.features).values()))
    assert embedding.shown_classes(compare([replace(run, features=fewer)]))[1] == [14, 13]


def test_too_few_features_are_a_reason_and_not_an_error(tmp_path):
    run = read_run(write_run(tmp_path / "run", **DIGITS))
    assert "too few to embed" in embedding.embed(run.features, [])
