"""The trade between frequent and rarer classes: what is joined, where the points lie, and the file as a whole."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from safa.errors import UserError
from safa.report.rows import summarise
from safa.report.tradeoff import curves, write_tradeoff
from tests.report.test_lines import LINE


def result(method: str, many: float = 40.0, medium: float | None = 60.0, few: float = 80.0, **changes) -> dict:
    groups = {"error_many": many, "error_medium": medium, "error_few": few}
    return LINE | {"recipe": method, "method": method, "seed": 0} | groups | changes


def drawn(lines: list[dict]) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    return {curve.name: ([row.method for row in curve.rows], curve.values) for curve in curves(summarise(lines))}


def test_a_changed_setting_is_a_curve_from_the_method_on_by_its_value():
    names = ["DRW [adjusted 1]", "DRW", "DRW [adjusted 0.25]", "DRW [repeat]", "CE"]
    assert drawn([result(name) for name in names]) == {
        "DRW, adjusted": (["DRW", "DRW [adjusted 0.25]", "DRW [adjusted 1]"], ("", "0.25", "1")),
        "DRW [repeat]": (["DRW [repeat]"], ("",)),
        "CE": (["CE"], ("",)),
    }


def test_two_settings_of_a_method_are_two_curves_from_one_point():
    found = drawn([result(name) for name in ("DRW", "DRW [adjusted 1]", "DRW [power 2]")])
    assert {name: methods[0] for name, (methods, _) in found.items()} == {"DRW, adjusted": "DRW", "DRW, power": "DRW"}


def test_other_brackets_of_a_method_may_stand_before_its_setting_and_after_it():
    names = ["DRW [tenth rate] [averaged]", "DRW [tenth rate] [adjusted 0.5] [averaged]", "DRW [averaged]"]
    assert drawn([result(name) for name in names]) == {
        "DRW [tenth rate] [averaged], adjusted": (names[:2], ("", "0.5")),
        "DRW [averaged]": ([names[2]], ("",)),
    }


def test_a_curve_does_without_the_row_it_varies():
    assert drawn([result("DRW [adjusted 1]")]) == {"DRW, adjusted": (["DRW [adjusted 1]"], ("1",))}


@pytest.fixture
def plotted(monkeypatch):
    """What is plotted from now on: x and y of every line."""
    from matplotlib.axes import Axes

    seen = []
    plain = Axes.plot

    def plot(self, x, y, *args, **options):
        seen.append((list(x), list(y)))
        return plain(self, x, y, *args, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    return seen


def test_points_lie_where_the_accuracies_say(tmp_path, plotted):
    write_tradeoff([result("CE", 30, 55, 90), result("CE", 32, 57, 94, seed=1)], tmp_path / "t.svg")
    assert plotted == [([69], [44]), ([69], [8])]  # of medium-shot, then of few-shot classes; means over seeds


def test_a_group_that_no_class_is_in_has_no_panel(tmp_path, plotted):
    write_tradeoff([result("CE", 30, 55, None)], tmp_path / "t.svg")
    assert plotted == [([70], [45])]


def test_a_row_without_a_group_is_left_out_of_its_panel_alone(tmp_path, plotted):
    svg = write_tradeoff([result("CE", 30, 55, 90), result("DRW", 40, 50, None)], tmp_path / "t.svg").read_text()
    assert plotted == [([70], [45]), ([60], [50]), ([70], [10]), ([], [])]
    assert ">CE<" in svg and ">DRW<" in svg


def test_a_change_that_all_lines_share_parts_no_curve(tmp_path, monkeypatch):
    joined = []

    def noting(rows):
        joined.extend(curves(rows))
        return joined

    monkeypatch.setattr("safa.report.tradeoff.curves", noting)
    lines = [result(name, changes=["batch_size=8"]) for name in ("DRW", "DRW [adjusted 1]")]
    write_tradeoff(lines, tmp_path / "t.svg")
    assert [curve.name for curve in joined] == ["DRW, adjusted"]


def test_the_file_is_an_svg_that_stands_alone_and_is_the_same_every_time(tmp_path):
    lines = [result("A&B <1>"), result("DRW"), result("DRW [adjusted 0.5]", 42, 59, 77)]
    first, second = (write_tradeoff(lines, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    text = [element.text for element in ET.fromstring(first).iter() if element.text]
    assert {"A&B <1>", "DRW, adjusted", "0.5", "accuracy on few-shot classes, %"} <= set(text)
    assert b"--method-0:" in first
    assert b"http" not in first.replace(b"http://www.w3.org/", b"")


def test_every_curve_is_named_in_the_legend_whatever_it_is_called(tmp_path):
    names = ["_plain", "$a$ & <b>", "#5afa01", "CE " * 40]
    svg = write_tradeoff([result(name) for name in names], tmp_path / "t.svg").read_bytes()
    text = [element.text for element in ET.fromstring(svg).iter() if element.text]
    assert {"_plain", "$a$ & <b>", "#5afa01", f"{('CE ' * 40)[:39]}…"} <= set(text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no line has an error of many-shot classes and of rarer ones"),
        ([result("CE", medium=None, few=None)], "no line has an error of many-shot classes and of rarer ones"),
        (
            [result("CE", dataset="cifar10"), result("CE", dataset="cifar100")],
            "of one data set, factor and network, got cifar10, factor .*; cifar100, factor",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(lines, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_tradeoff(lines, tmp_path / "t.svg")
    assert not list(tmp_path.iterdir())
