"""A run's folder: what it was made for."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from safa.errors import UserError
from safa.job import Job, dataset_name, describe, job_of, refuse_other_names


@pytest.mark.parametrize("lacking", ["recipe.yaml", "data.json"])
def test_a_folder_that_is_no_run_is_called_so(lacking, tiny_run, tmp_path):
    copied = shutil.copytree(tiny_run, tmp_path / "copied")
    (copied / lacking).unlink()
    with pytest.raises(UserError, match=f"is no run folder: it has no {lacking}"):
        job_of(copied)


@pytest.mark.parametrize("key", ["changes", "class_names"])
def test_a_card_that_holds_another_kind_is_called_so(key, tiny_run, tiny_recipe, tiny_data, tmp_path):
    copied = shutil.copytree(tiny_run, tmp_path / "copied")
    card = json.loads((copied / "data.json").read_text())
    (copied / "data.json").write_text(json.dumps({**card, key: None}))
    with pytest.raises(UserError, match=rf"data\.json: {key} is a list, got None; delete the run's result\.json"):
        job_of(copied) if key == "changes" else refuse_other_names(Job("tiny", tiny_recipe, copied), tiny_data, "")


def test_the_job_of_a_run_is_what_it_was_made_for(tiny_run, tiny_recipe):
    assert job_of(tiny_run) == Job("tiny", tiny_recipe, tiny_run)
    assert job_of(tiny_run, root="a b").recipe.data.root == "a b"


def test_what_was_passed_over_and_noticed_is_told_in_the_folder(tiny_data, tiny_recipe, tmp_path):
    data = replace(tiny_data, source=replace(tiny_data.source, skipped=("a.png",), notes=("small",)))
    describe(Job("x", tiny_recipe, tmp_path), data)
    told = json.loads((tmp_path / "data.json").read_text())
    assert (told["skipped"], told["notes"]) == (["a.png"], ["small"])


@pytest.mark.parametrize("name", ["photos", "/abs/photos", "photos/", "~/photos", ".", "../photos", "sub/.."])
def test_a_data_set_is_called_by_the_last_part_of_its_path(name, tiny_data, tmp_path, monkeypatch):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    assert dataset_name(replace(tiny_data, source=replace(tiny_data.source, name=name))) == "photos"


def test_a_data_set_is_called_by_what_of_its_name_can_be_written(tiny_data):
    name = os.fsdecode(b"/data/caf\xe9s")
    assert dataset_name(replace(tiny_data, source=replace(tiny_data.source, name=name))) == "cafs"


def test_a_built_in_data_set_and_a_list_of_images_keep_their_names(tiny_data):
    assert dataset_name(tiny_data) == "digits"
    assert dataset_name(replace(tiny_data, source=replace(tiny_data.source, name="lists/a.csv"))) == "a.csv"


# --- several processes -------------------------------------------------------------------------------------
