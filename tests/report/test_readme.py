"""Tables between markers."""

from __future__ import annotations

import pytest

from safa.errors import UserError
from safa.report import readme

TEXT = """# safa
<!-- safa:table digits -->
old
<!-- /safa:table -->
between
<!-- safa:table cifar100 -->
<!-- /safa:table -->
end
"""


def test_the_text_between_the_markers_is_replaced_and_nothing_else():
    assert readme.update(TEXT, {"digits": "| new |"}) == TEXT.replace("old", "| new |")


def test_several_tables_are_filled_at_once():
    updated = readme.update(TEXT, {"cifar100": "B", "digits": "A"})
    assert "digits -->\nA\n<!--" in updated
    assert "cifar100 -->\nB\n<!--" in updated


def test_a_further_table_is_filled_where_it_has_a_marker_and_left_out_where_it_has_none():
    assert readme.update(TEXT, {"digits": "A"}, {"cifar100": "B"}) == readme.update(
        TEXT, {"cifar100": "B", "digits": "A"}
    )
    assert readme.update(TEXT, {"digits": "A"}, {"imagenet": "B"}) == readme.update(TEXT, {"digits": "A"})


def test_a_further_table_is_marker_enough_for_its_name():
    text = TEXT.replace("safa:table digits", "safa:table digits-differences")
    updated = readme.update(text, {"digits": "A", "cifar100": "B"}, {"digits-differences": "C"})
    assert "digits-differences -->\nC\n<!--" in updated
    with pytest.raises(UserError, match="no marker for table 'digit'"):
        readme.update(text, {"digit": "A"}, {"digits-differences": "C"})


def test_updating_twice_changes_nothing_more():
    once = readme.update(TEXT, {"digits": "| new |\n", "cifar100": "x"})
    assert readme.update(once, {"digits": "| new |\n", "cifar100": "x"}) == once


def test_backslashes_of_a_table_survive():
    assert r"best on test\* \1" in readme.update(TEXT, {"digits": r"best on test\* \1"})


def test_a_table_without_marker_is_an_error():
    with pytest.raises(UserError, match=r"no marker for table 'imagenet'; put <!-- safa:table imagenet -->"):
        readme.update(TEXT, {"imagenet": "x"})


@pytest.mark.parametrize("text", [TEXT.replace("<!-- /safa:table -->", "", 1), "<!-- safa:table digits -->\n"])
def test_a_marker_that_is_not_closed_is_an_error(text):
    with pytest.raises(UserError, match="digits --> is not closed"):
        readme.update(text, {"digits": "x"})
