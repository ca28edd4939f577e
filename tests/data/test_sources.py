from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.data.sources import BUILT_IN, load_source
from safa.errors import UserError


def test_a_misspelt_name_gets_the_closest_one_and_all_ways_out():
    with pytest.raises(UserError, match=r"no data set named 'cifar-100' .*did you mean 'cifar100'\?; there are digits"):
        load_source("cifar-100")


def test_a_path_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="no data set named '/no/such/folder' and no such path"):
        load_source("/no/such/folder")


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "images.zip").touch()
    with pytest.raises(UserError, match=r"is a file but no \.csv"):
        load_source(str(tmp_path / "images.zip"))


def test_wrong_options_are_refused_before_anything_is_read():
    with pytest.raises(UserError, match="on_corrupt is 'stop' or 'skip', got 'ignore'"):
        load_source("digits", on_corrupt="ignore")
    with pytest.raises(UserError, match="image_size is the side of the images in pixels, 1 to 4096, got 0"):
        load_source("digits", image_size=0)
    with pytest.raises(UserError, match="digits has images of 8×8, got image_size 32"):
        load_source("digits", image_size=32)
    with pytest.raises(UserError, match="digits come with scikit-learn .*, got root 'photos'; leave root out"):
        load_source("digits", root="photos")


def test_every_built_in_set_is_described():
    assert list(BUILT_IN) == ["digits", "fashion-mnist", "cifar10", "cifar100"]
    assert all(BUILT_IN.values())


# --- root --------------------------------------------------------------------------------------------------


def photos(folder: Path) -> Path:
    """Ten images of two classes, the same ones every time."""
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (32, 32), (number, ord(name), 200)).save(folder / name / f"{number}.png")
    return folder


def table(folder: Path) -> None:
    """``list.csv`` of ``photos``, as if it lay beside their class folders."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name}/{number}.png,{name}" for name in "ab" for number in range(5)]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]))


@pytest.mark.parametrize("name", ["photos", "old/photos", "/no/longer/here/photos", "photos/"])
@pytest.mark.parametrize("root", ["new", "new/photos"])
def test_a_folder_that_was_moved_is_found_from_its_parent_or_itself(tmp_path, monkeypatch, name, root):
    photos(tmp_path / "new" / "photos")
    monkeypatch.chdir(tmp_path)
    source = load_source(name, root=root)
    assert source.name == name
    assert source.notes[0] == "the data set is read from 'new/photos'"
    monkeypatch.chdir(root)
    assert load_source(name, root=".").fingerprint == source.fingerprint


def test_a_folder_under_root_comes_before_one_of_the_same_name_here(tmp_path, monkeypatch):
    here, there = photos(tmp_path / "photos"), photos(tmp_path / "new" / "photos")
    Image.fromarray(np.full((32, 32, 3), 250, dtype=np.uint8)).save(there / "a" / "0.png")
    monkeypatch.chdir(tmp_path)
    old, new = (load_source(str(folder)).fingerprint for folder in (here, there))
    assert load_source("photos").fingerprint == old != new
    assert load_source("photos", root="new").fingerprint == new


@pytest.mark.parametrize("root", ["project", "project/lists"])
def test_paths_in_a_csv_file_that_was_moved_start_from_its_own_folder(tmp_path, monkeypatch, root):
    photos(tmp_path / "project" / "lists")
    table(tmp_path / "project" / "lists")
    monkeypatch.chdir(tmp_path)
    assert load_source("lists/list.csv", root=root).class_names == ("a", "b")
    monkeypatch.chdir(root)
    assert load_source("lists/list.csv", root=".").class_names == ("a", "b")


def test_paths_in_a_csv_file_that_lies_elsewhere_start_from_root(tmp_path, monkeypatch):
    photos(tmp_path / "images")
    table(tmp_path / "lists")
    monkeypatch.chdir(tmp_path)
    assert load_source("lists/list.csv", root="images").notes[0] == "the data set is read from 'lists/list.csv'"


def test_a_root_that_does_not_exist_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="root is the folder to look for 'photos' in, but there is no folder 'nowhere'"):
        load_source("photos", root="nowhere")


def test_a_folder_that_root_does_not_hold_is_not_taken_from_elsewhere(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"no data set named .* and no such path in '{tmp_path}/empty'; there are"):
        load_source(str(photos(tmp_path / "photos")), root=str(tmp_path / "empty"))
