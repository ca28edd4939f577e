from __future__ import annotations

import pytest

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


def test_every_built_in_set_is_described():
    assert list(BUILT_IN) == ["digits", "fashion-mnist", "cifar10", "cifar100"]
    assert all(BUILT_IN.values())
