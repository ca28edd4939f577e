"""A run's folder: what it was made for."""

from __future__ import annotations

import shutil

import pytest

from safa.errors import UserError
from safa.job import Job, job_of


@pytest.mark.parametrize("lacking", ["recipe.yaml", "data.json"])
def test_a_folder_that_is_no_run_is_called_so(lacking, tiny_run, tmp_path):
    copied = shutil.copytree(tiny_run, tmp_path / "copied")
    (copied / lacking).unlink()
    with pytest.raises(UserError, match=f"is not the folder of a run: it holds no {lacking}"):
        job_of(copied)


def test_the_job_of_a_run_is_what_it_was_made_for(tiny_run, tiny_recipe):
    assert job_of(tiny_run) == Job("tiny", tiny_recipe, tiny_run)
    assert job_of(tiny_run, root="a b").recipe.data.root == "a b"


# --- several processes -------------------------------------------------------------------------------------
