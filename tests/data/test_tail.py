from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from safa.data.counts import exponential_counts
from safa.data.tail import BAR_WIDTH, COLOURS, describe, render, save_png
from safa.errors import UserError


def hundred():
    return describe([f"class {c}" for c in range(100)], exponential_counts(500, 100, 100))


def test_cifar100_factor_100_is_described_in_the_papers_numbers():
    description = hundred()
    assert (description.total, description.imbalance_factor) == (10847, 100)
    assert [description.number(group) for group in ("many", "medium", "few")] == [35, 35, 30]
    assert description.head_classes == tuple(f"class {c}" for c in range(20))
    assert description.head_share == pytest.approx(0.61, abs=0.005)  # 61 % for this factor


def test_head_classes_are_named_by_count_whatever_their_ids():
    description = describe("abcde", [1, 50, 3, 90, 50], head_ratio=0.4)
    assert description.head_classes == ("d", "b")
    assert description.ranking == (3, 1, 4, 2, 0)
    assert description.groups == ("few", "medium", "few", "medium", "medium")


def test_the_bounds_of_the_groups_can_be_moved():
    assert describe("ab", [10, 5], many_above=9, few_below=6).groups == ("many", "few")


def test_an_empty_class_makes_the_imbalance_infinite_and_still_renders():
    description = describe("ab", [3, 0])
    assert description.imbalance_factor == float("inf")
    assert "imbalance factor inf" in render(description)


def test_names_and_counts_of_different_number_are_refused():
    with pytest.raises(UserError, match="2 class names for 3"):
        describe("ab", [1, 2, 3])


def test_the_summary_says_what_matters():
    text = render(hundred())
    assert text.splitlines()[0] == "10,847 images, 100 classes, 500 to 5 each, imbalance factor 100"
    assert "35 many (> 100), 35 medium (20 to 100), 30 few (< 20)" in text
    assert "head: 20 classes with 61% of the images: class 0, class 1," in text


@pytest.mark.parametrize("num_classes", [2, 10, 20, 21, 100, 8142])
def test_the_plot_has_at_most_20_rows_and_fits_a_terminal(num_classes):
    names = [f"a rather long name of class {c}" for c in range(num_classes)]
    text = render(describe(names, exponential_counts(1000, num_classes, 500)))
    bars = text.split("\n\n")[1].splitlines()
    assert len(bars) == min(num_classes, 20)
    assert max(map(len, bars)) < 100
    assert all("▏" in bar or "█" in bar or any(c in bar for c in "▎▍▌▋▊▉") for bar in bars)


def test_bars_are_to_scale():
    rows = render(describe("abc", [80, 40, 1])).split("\n\n")[1].splitlines()
    assert [row.count("█") for row in rows] == [BAR_WIDTH, BAR_WIDTH // 2, 0]
    assert "▌" in rows[2]  # 1 / 80 of 40 cells is half a cell


def test_every_class_is_in_one_bin():
    text = render(describe([str(c) for c in range(47)], np.arange(47) + 1))
    rows = text.split("\n\n")[1].splitlines()
    assert rows[0].startswith("ranks 1 to 3")
    assert rows[-1].startswith("ranks 46 to 47")


def test_a_row_of_several_classes_is_their_mean():
    rows = render(describe([str(c) for c in range(47)], np.arange(47) + 1)).split("\n\n")[1].splitlines()
    assert rows[0].split()[:5] == ["ranks", "1", "to", "3", "46"]  # of 47, 46 and 45


@pytest.mark.parametrize("num_classes", [3, 100])
def test_a_png_is_written(tmp_path, num_classes):
    names = [f"$ {c} _^" for c in range(num_classes)]
    save_png(describe(names, exponential_counts(300, num_classes, 100)), tmp_path / "tail.png")
    with Image.open(tmp_path / "tail.png") as image:
        assert image.format == "PNG"
        assert image.size == (1200, 675)


def test_bars_of_the_png_are_the_counts_from_the_largest_on_in_the_colours_of_their_groups(tmp_path, monkeypatch):
    drawn, plain = {}, Axes.bar

    def noting(axes, places, heights, *, color, **options):
        drawn.update({place: (height, color) for place, height in zip(places, heights, strict=True)})
        return plain(axes, places, heights, color=color, **options)

    monkeypatch.setattr(Axes, "bar", noting)
    save_png(describe("abc", [5, 200, 50]), tmp_path / "tail.png")
    assert drawn == {0: (200, COLOURS["many"]), 1: (50, COLOURS["medium"]), 2: (5, COLOURS["few"])}


def test_a_png_with_an_empty_class_is_written(tmp_path):
    save_png(describe("ab", [3, 0]), tmp_path / "tail.png")
    assert (tmp_path / "tail.png").stat().st_size > 0


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "nowhere").touch()
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        save_png(hundred(), tmp_path / "nowhere" / "tail.png")


def test_a_png_in_a_folder_to_be_made_with_names_in_any_script_is_written_without_a_warning(tmp_path, recwarn):
    save_png(describe(["犬", "ประเทศ"], [3, 1]), tmp_path / "new" / "tail.png")
    assert (tmp_path / "new" / "tail.png").stat().st_size > 0
    assert not recwarn.list


def test_describing_and_loading_import_neither_torch_nor_plotting_nor_pyarrow():
    code = (
        "import sys, safa.data, safa.data.tail; safa.data.load_source; "
        "print(sorted({'torch', 'matplotlib', 'pyarrow', 'datasets', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
