"""Tables: the Markdown is what it was, and in the terminal no figure is cut."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from safa.report import tables
from safa.report.pairs import paired
from safa.report.rows import Row, against_paper, summarise
from tests.report.test_rows import PLACE, results


def test_a_figure_that_no_line_has_stays_empty():
    (row,) = summarise(results("CE", error_few=None))
    assert row.few is None
    assert "–" in tables.to_markdown([row])


def test_of_two_lines_with_one_seed_the_later_counts_and_the_table_says_so():
    (row,) = summarise([*results("CE", [0]), *results("CE", [0], error_last=50.0)])
    assert (row.n, row.last.mean, row.superseded) == (1, 50.0, 1)
    assert "1 earlier line of the same seed left out" in tables.to_markdown([row])


def test_no_common_seed_gives_no_difference():
    (pair,) = paired([*results("CE", [0]), *results("CE-SAFA", [1])], baseline="CE")
    assert pair.seeds == ()
    assert pair.last is None
    assert "–" in tables.paired_to_markdown([pair])


def test_markdown_is_the_golden_text():
    rows = summarise([*results("CE"), *results("CE-SAFA", [0])])
    assert tables.to_markdown(rows) == (
        "| data set | factor | network | method | n | error | many | medium | few | ECE | best on test\\* |\n"
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| digits | 20 | resnet8 | CE | 5 | 61.40 ± 0.87 | 3.00 ± 0.00 | 20.00 ± 0.00 | 73.40 ± 1.83 "
        "| 4.20 ± 0.00 | 21.00 ± 0.00 |\n"
        "| digits | 20 | resnet8 | CE-SAFA | 1 | 58.00 | 3.00 | 20.00 | 68.00 | 4.20 | 21.00 |\n"
        "\n"
        "Top-1 error in per cent of the test set at the last epoch, mean ± sample sd over n seeds.  \n"
        "Best on test\\*: the epoch was chosen on the test set itself; shown for comparison only.  \n"
        "ECE: mean gap between confidence and accuracy, in per cent; lower is better calibrated."
    )


def test_errors_on_validation_images_have_a_column_where_some_were_set_aside():
    rows = summarise([*results("CE", balanced_error_validation=33.25), *results("CE-SAFA", [0])])
    head, _, first, second, *notes = tables.to_markdown(rows).splitlines()
    assert head.endswith("| few | ECE | val. | best on test\\* |")
    assert first.endswith("| 4.20 ± 0.00 | 33.25 ± 0.00 | 21.00 ± 0.00 |")
    assert second.endswith("| 4.20 | – | 21.00 |")
    assert notes[-1] == "Val.: mean over classes of the error on the images set aside to choose by."


def test_paired_markdown_is_the_golden_text():
    safa = results("CE-SAFA", error_many=4.0, error_medium=18.5, error_few=70.0)
    pairs = paired([*results("CE"), *safa], baseline="CE")
    assert tables.paired_to_markdown(pairs).splitlines()[2] == (
        "| digits | 20 | resnet8 | CE-SAFA | CE | 5 | −2.34 ± 1.87 | +1.00 ± 0.00 | −1.50 ± 0.00 "
        "| −3.40 ± 1.83 | 4 of 5 |"
    )


def test_differences_between_runs_that_are_not_alike_are_named_below_the_table():
    lines = [
        *results("CE", precision="bf16", subset_sha256="a"),
        *results("CE-SAFA", precision="float32", subset_sha256="a"),
        *results("CE-SAFA", method="L2RW", precision="float32", subset_sha256="b"),
    ]
    pairs = paired(lines, "CE")
    notes = [
        "Of other precision than the baseline, which may be part of the difference: CE-SAFA, L2RW.",
        "Of other training images than the baseline, which may be part of the difference: L2RW.",
    ]
    assert [line.rstrip() for line in tables.paired_to_markdown(pairs).splitlines()[-2:]] == notes
    in_terminal = " ".join(shown(tables.paired_to_rich(pairs, 200), 200).split())
    assert all(note in in_terminal for note in notes)


def test_paired_differences_have_the_same_figures_in_the_terminal():
    lines = [
        *results("CE"),
        *results("CE-SAFA"),
        *results("CE", model="resnet14"),
        *results("CE-SAFA", model="resnet14"),
    ]
    text = shown(tables.paired_to_rich(paired(lines, baseline="CE"), 200), 200)
    assert text.index("digits, factor 20, resnet8: against CE") < text.index("digits, factor 20, resnet14: against CE")
    assert re.search(r"\nmethod +n +error +many +medium +few +wins *\n", text)
    assert len(re.findall(r"\nCE-SAFA +5 +−2\.34 ±1\.87 +0\.00 ±0\.00 +0\.00 ±0\.00 +−2\.34 ±1\.87 +4 of 5", text)) == 2
    assert text.count("negative is better") == 1
    assert "|" not in text


def test_no_paired_figure_is_cut_in_a_terminal_of_80_columns():
    ten = [result | {"seed": seed} for seed in range(10) for result in results("CE", [seed % 5])]
    long = [
        line | {"method": "LDAM-DRW-SAFA [adjusted 0.25] " * 3, "error_last": 99 - line["error_few"]} for line in ten
    ]
    pairs = paired([*ten, *long], baseline="CE")
    text = shown(tables.paired_to_rich(pairs, 60), 80)
    assert max(map(cell_len, text.splitlines())) <= 80
    for gap in (pairs[0].last, pairs[0].few):
        assert re.search(rf"(?<!\S){re.escape(gap.text(signed=True).split()[0])}(?!\S)", text)
        assert re.search(rf"(?<!\S)±{gap.sd:.2f}(?!\S)", text)
    assert "10 of 10" in text


def test_names_are_not_read_as_markup():
    (row,) = summarise(results("CE", [0], method="a|b [red]<b>", dataset="$x$ &lt;"))
    assert "a\\|b [red]\\<b>" in tables.to_markdown([row])
    assert "\\$x\\$ \\&lt;" in tables.to_markdown([row])  # GitHub sets $x$ as mathematics
    console = Console(file=io.StringIO(), width=200)
    console.print(tables.to_rich([row]))
    assert "a|b [red]<b>" in console.file.getvalue()
    assert "$x$ &lt;" in console.file.getvalue()


def shown(drawn: Group, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn)
    return console.file.getvalue()


def terminal(rows: list[Row], width: int) -> str:
    return shown(tables.to_rich(rows), width)


def test_the_terminal_table_has_the_same_figures():
    text = terminal(summarise(results("CE")), width=200)
    assert "digits, factor 20, resnet8" in text
    assert "61.40 ±0.87" in text
    assert "best on test*" in text
    assert "for comparison only" in text


def test_no_figure_is_cut_in_a_terminal_of_80_columns():
    line = PLACE | {"method": "LDAM-DRW-SAFA"}
    doubtful = results("CE-SAFA", **line | {"method": "CE"})  # its figure of the paper carries a dagger
    rows = summarise([*results("CE", **line, recipe="safa"), *doubtful])
    mixed = [*rows, *summarise(results("CE"))]
    for drawn in (rows, mixed, against_paper(rows)):
        text = terminal(drawn, width=80)
        assert "…" not in text
        for figure in ("61.40", "±0.87", "73.40", "±1.83", "21.00", "LDAM-DRW-SAFA"):
            assert re.search(rf"(?<!\S){figure}(?!\S)", text)


def test_no_figure_is_cut_beside_names_of_any_length_and_ten_seeds():
    ten = [
        result | {"seed": seed, "balanced_error_validation": 40.0 + seed}
        for seed in range(10)
        for result in results("CE", [seed % 5], **PLACE)
    ]
    changes = ["stages.1.augmenter.start=random", "stages=[{epochs: 1}]"]
    long = [line | {"method": "LDAM-DRW-SAFA [adjusted 0.25]", "changes": changes} for line in ten]
    wide = [line | {"method": "方法" * 20} for line in ten]
    paper = [line | {"method": "LDAM-DRW-SAFA", "dataset": "cifar10", "changes": changes} for line in ten]
    rows = against_paper(summarise([*ten, *long, *wide, *paper]))
    text = terminal(rows, width=80)
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= 80
    for row in rows:
        for figure in (row.last, row.many, row.few, row.ece, row.validation, row.best):
            assert re.search(rf"(?<!\S){figure.mean:.2f}(?!\S)", text)
            assert re.search(rf"(?<!\S)±{figure.sd:.2f}(?!\S)", text)


def test_what_was_changed_in_all_rows_is_a_note():
    both, own = {"changes": ["batch_size=8", "a=[b]"]}, {"changes": ["batch_size=8", "seed=1"]}
    rows = summarise([*results("CE", [0], **both), *results("CE-SAFA", [0], **own)])
    text = terminal(rows, width=200)
    assert re.search(r"\nCE \(a=\[b\]\) +1 +61\.00", text)
    assert re.search(r"\nCE-SAFA \(seed=1\) +1 +58\.00", text)
    assert text.count("batch_size=8") == 1
    assert "Changed in all rows: batch_size=8." in text
    markdown = tables.to_markdown(rows)
    assert "| CE (a=[b]) | 1 | 61.00 |" in markdown
    assert markdown.count("batch\\_size=8") == 1
    assert markdown.endswith("Changed in all rows: batch\\_size=8.")


def test_each_data_set_has_its_table_in_the_terminal_and_the_notes_come_once():
    rows = summarise([*results("CE"), *results("CE", dataset="photos [v2]")])
    text = terminal(rows, width=80)
    assert text.index("digits, factor 20, resnet8") < text.index("photos [v2], factor 20, resnet8")
    assert text.count("Best on test*: the epoch") == 1


def test_against_the_paper_shows_figure_and_difference():
    line = PLACE | {"method": "LDAM-DRW"}
    rows = summarise([*results("CE", [0], **line), *results("CE-SAFA", [0], **line | {"method": "Mine"})])
    ours, mine = against_paper(rows)
    assert ours.paper == 57.11
    assert ours.gap_to_paper == pytest.approx(61.0 - 57.11)
    assert (mine.paper, mine.gap_to_paper) == (None, None)
    text = tables.to_markdown([ours, mine])
    assert "| error | paper | difference | many |" in text
    assert "| 61.00 | 57.11 | +3.89 |" in text
    assert "| 58.00 | – | – |" in text


def test_a_figure_of_fewer_seeds_than_its_row_says_so():
    lines = [*results("CE", [0, 1]), *results("CE", [2], balanced_error_validation=13.0)]
    assert "| 13.00 (n = 1) |" in tables.to_markdown(summarise(lines))


def test_rows_of_mixed_images_are_named_below_the_table():
    lines = [*results("CE", [0], subset_sha256="a"), *results("CE", [1], subset_sha256="b")]
    drawn = tables.to_markdown(summarise(lines))
    assert "Not all seeds were trained and validated on the same images: CE on digits." in drawn


def test_a_name_with_a_link_in_it_is_a_name():
    lines = results("CE", [0], method="A [x](y) ~~z~~")
    assert "A [x]\\(y) \\~\\~z\\~\\~" in tables.to_markdown(summarise(lines))
