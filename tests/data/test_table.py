"""CSV files of path,label[,split], and the mistakes people make with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.data.sources import load_source
from safa.errors import UserError


@pytest.fixture
def images(tmp_path):
    """pictures/0.png to pictures/9.png; the red value is the number."""
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        Image.new("RGB", (32, 32), (number, 100, 200)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> str:
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def rows(labels: str, splits: str = "") -> list[str]:
    """One line per character of ``labels``; ``splits`` has the letters of train, val and test."""
    words = {"t": "train", "v": "val", "e": "test"}
    return [
        f"pictures/{number}.png,{label}" + (f",{words[splits[number]]}" if splits else "")
        for number, label in enumerate(labels)
    ]


def test_labels_may_be_names_and_splits_are_kept(images):
    source = load_source(write(images, "path,label,split", *rows("bababb", "tttvee")))
    assert source.class_names == ("a", "b")
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.train.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert source.validation.labels.tolist() == [0]
    assert source.test.images[:, 0, 0, 0].tolist() == [4, 5]


@pytest.mark.parametrize("header", ["Path,LABEL,Split", "path ,label , split "])
def test_columns_are_known_by_their_names_in_upper_or_lower_case(header, images):
    source = load_source(write(images, header, *rows("abab", "ttee")))
    assert (len(source.train), len(source.test)) == (2, 2)


def test_integer_labels_are_class_ids(images):
    source = load_source(write(images, "path,label,split", *rows("2011", "tttt"), "pictures/9.png,02,test"))
    assert source.class_names == ("0", "1", "2")
    assert source.train.labels.tolist() == [2, 0, 1, 1]
    assert source.test.labels.tolist() == [2]


def test_integer_labels_that_are_one_number_are_one_class_and_said(images):
    source = load_source(write(images, "path,label,split", *rows("0110", "ttte"), "pictures/9.png,01,train"))
    assert source.train.labels.tolist() == [0, 1, 1, 1]
    assert source.notes[0] == "labels of the same number are one class: 01 = 1"


@pytest.mark.parametrize("words", [("TRAIN", "Test"), (" training", "testing ")])
def test_splits_are_known_by_their_names_in_upper_or_lower_case(words, images):
    lines = [f"pictures/{number}.png,{label},{words[number // 2]}" for number, label in enumerate("abab")]
    source = load_source(write(images, "path,label,split", *lines))
    assert (len(source.train), len(source.test)) == (2, 2)


def test_without_a_split_column_a_test_split_is_cut_and_said(images):
    source = load_source(write(images, "path,label", *rows("aaaaabbbbb")))
    assert np.bincount(source.test.labels).tolist() == [1, 1]
    assert "no test split" in source.notes[0]


def test_columns_may_be_in_any_order_with_more_of_them_and_a_byte_order_mark(images):
    lines = [
        "label, note,path,split",
        "a,x,pictures/0.png,train",
        'b,"y, z",pictures/1.png,train',
        "a,,pictures/2.png,test",
    ]
    source = load_source(write(images, *lines, encoding="utf-8-sig"))
    assert source.train.labels.tolist() == [0, 1]


def test_paths_start_from_the_csv_file_or_from_root_or_are_absolute(images, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    lines = [*rows("ab", "te"), f"{images}/pictures/5.png,b,train"]
    path = write(elsewhere, "path,label,split", *lines)
    assert load_source(path, root=str(images)).train.images[:, 0, 0, 0].tolist() == [0, 5]
    with pytest.raises(UserError, match=r"2 of the image files .* pictures/0\.png \(there is no such file\)"):
        load_source(path)


@pytest.mark.parametrize("again", ["./pictures/0.png", "pictures/../pictures/0.png", "{here}/pictures/0.png"])
def test_an_image_that_is_spelt_in_two_ways_is_one_image(images, monkeypatch, again):
    again = again.format(here=images)
    write(images, "path,label,split", *rows("ab", "tt"), f"{again},a,test")
    monkeypatch.chdir(images)
    with pytest.raises(UserError, match=r"'pictures/0.png' is on line 2 \(train\) and again as .* on line 4 \(test\)"):
        load_source("list.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "x,a"], r"no column 'path'; its columns are \['file', 'label'\]"),
        (["path,class", "x,a"], "no column 'label'"),
        (["path;label", "x;a"], "path,label and, if wanted, split, with commas between them"),
        ([""], "no column 'path'"),
        (["path,label"], "a header but no rows"),
        (["path,label", "x.png,"], "line 2 of .* has no label"),
        (["path,label", ",a"], "line 2 of .* has no path"),
        (["path,label", "x.png"], "line 2 of .* has no label"),
        (
            ["path,label", "1.jpg,Panthera, leo", "2.jpg,Panthera, tigris"],
            "line 2 .* more cells .*'leo' is one too many",
        ),
        (["path,label", '1.jpg,"5 inch', '2.jpg,"6 inch', "3.jpg,a"], "cannot read .* as a CSV file"),
        (["path,label,label", "x.png,a,b"], "has more than one column 'label'; leave one of them"),
        (["path,label,split", "x.png,a,trian"], "line 2 of .* has the split 'trian'"),
        (["path,label", "x.png,0", "y.png,-1"], "label -1 on line 3 of .* is out of range"),
        (["path,label", "x.png,1", "y.png,2"], "no image of .* has the label 0, yet labels go up to 2"),
        (
            ["path,label", "x.png,0", "y.png,1000000000000"],
            "has the label 1, yet labels go up to 1000000000000",
        ),
        (
            ["path,label,split", "x.png,a,train", "x.png,a,test"],
            r"'x.png' is on line 2 \(train\) and again on line 3",
        ),
        (["path,label", "x.png,a"], "has one class, 'a'"),
        (
            ["path,label", "x.png,caf\u00e9", "y.png,cafe\u0301"],
            r"in two ways, 'cafe\\u0301' and 'caf\\xe9'; write it in one",
        ),
        (
            ["path,label,split", "x.png,a,train", "y.png,b,test"],
            "1 of 2 classes .* have no training image: b",
        ),
        (
            ["path,label,split", "x.png,a,test", "y.png,b,test"],
            "2 of 2 classes .* have no training image: a, b",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        load_source(write(tmp_path, *lines))


@pytest.mark.parametrize(("before", "line"), [([], 1), (["a.png,ant"], 3)])
def test_a_quote_that_is_not_closed_is_looked_for_where_it_may_be(tmp_path, before, line):
    with pytest.raises(UserError, match=rf"from line {line} on: .*; is a quote there not closed\?"):
        load_source(write(tmp_path, "path,label", *before, '"b.png,bee', "c.png,cat"))


def test_a_file_in_another_encoding_is_named(tmp_path):
    with pytest.raises(UserError, match=r"list\.csv' as a CSV file in UTF-8: .*; save it as UTF-8"):
        load_source(write(tmp_path, "path,label", "café.png,a", encoding="latin-1"))


def test_missing_files_are_skipped_by_name_when_asked(images):
    path = write(images, "path,label,split", *rows("abab", "ttte"), "pictures/no.png,a,train")
    assert load_source(path, on_corrupt="skip").skipped == ("pictures/no.png",)
