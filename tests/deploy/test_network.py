"""A run folder becomes its network again, and what is no run is told so."""

from __future__ import annotations

import json
import re

import pytest
import torch

from safa import checkpoint
from safa import recipe as recipes
from safa.deploy.network import load_run
from safa.errors import UserError
from tests.deploy.runs import CLASS_NAMES, MEAN, RECIPE, STD, expected_probabilities, network, write_run


def test_the_network_is_the_one_of_the_checkpoint(deployed):
    rebuilt = deployed.classifier.network.state_dict()
    trained = network().state_dict()
    assert rebuilt.keys() == trained.keys()
    assert all(torch.equal(rebuilt[key], trained[key]) for key in trained)


def test_probabilities_are_the_softmax_of_the_normalised_images(deployed):
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(deployed.probabilities(images), expected_probabilities(images), atol=1e-6)


def test_the_card_holds_names_size_normalisation_and_model(deployed):
    card = deployed.card
    assert list(card.class_names) == CLASS_NAMES
    assert card.image_size == 8
    assert (list(card.mean), list(card.std)) == (MEAN, STD)
    assert card.model == RECIPE.model


def test_batch_norm_uses_what_it_learned(deployed):
    assert not any(module.training for module in deployed.classifier.modules())


def test_a_finished_run_has_no_note(deployed):
    assert deployed.notes == ()


def test_an_unfinished_run_says_after_how_many_epochs(tmp_path):
    run = write_run(tmp_path / "run", finished=False, done=1)
    (note,) = load_run(run).notes
    assert note == f"{run} is not finished: these are the weights after 1 of 2 epochs"


def test_steps_of_an_unfinished_epoch_are_told(tmp_path):
    run = write_run(tmp_path / "run", finished=False, done=1)
    state = checkpoint.load(run / "checkpoint.pt")
    checkpoint.save(run / "checkpoint.pt", {**state, "step": 7})
    assert load_run(run).notes[0].endswith("after 1 of 2 epochs and 7 steps of the next")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'nothing'} does not exist")):
        load_run(tmp_path / "nothing")


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give the folder"):
        load_run(tmp_path / "file")


def test_a_folder_that_is_no_run_names_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match=r"no run folder: it has no recipe\.yaml and no data\.json"):
        load_run(tmp_path)


def test_a_folder_of_runs_names_the_runs_inside(tmp_path):
    write_run(tmp_path / "ldam")
    write_run(tmp_path / "ldam-safa")
    with pytest.raises(UserError, match=r"did you mean one of those inside: ldam, ldam-safa\?"):
        load_run(tmp_path)


def test_a_run_without_a_checkpoint_has_no_finished_epoch(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"has no checkpoint\.pt yet: no epoch of it is finished"):
        load_run(run)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    run = write_run(tmp_path / "run")
    (run / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pt is no checkpoint of safa, or is damaged"):
        load_run(run)


def test_a_checkpoint_cut_short_is_named(tmp_path):
    path = write_run(tmp_path / "run") / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"checkpoint\.pt is no checkpoint of safa, or is damaged"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("state", [{"weights": torch.zeros(2)}, torch.zeros(2)])
def test_tensors_of_something_else_are_no_checkpoint(tmp_path, state):
    run = write_run(tmp_path / "run")
    checkpoint.save(run / "checkpoint.pt", state)
    with pytest.raises(UserError, match="is no checkpoint of"):
        load_run(run)


def test_weights_of_another_network_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    other = recipes.Recipe(method="CE", stages=RECIPE.stages, model=recipes.Model(recipes.Named("resnet14")))
    (run / "recipe.yaml").write_text(recipes.dump(other))
    with pytest.raises(UserError, match="do not fit the network of its recipe"):
        load_run(run)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_names", [], "class_names must be a list of at least one name"),
        ("class_names", "cat", "class_names must be a list of at least one name"),
        ("image_size", None, "image_size must be a number of pixels, got None"),
        ("mean", [0.5], "mean must be three numbers"),
        ("std", ["a", "b", "c"], "std must be three numbers"),
    ],
)
def test_damaged_data_facts_name_the_key(tmp_path, key, value, message):
    run = write_run(tmp_path / "run")
    described = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**described, key: value}))
    with pytest.raises(UserError, match=message):
        load_run(run)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_data_facts_that_are_no_json_are_named(tmp_path, content):
    run = write_run(tmp_path / "run")
    (run / "data.json").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.json"):
        load_run(run)
