"""What stands beside the weights of a state: who made them, and what their log was measured on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from safa import provenance

ERRORS = {"error": 30.0, "error_many": 10.0, "error_medium": 30.0, "error_few": 50.0}


@pytest.fixture
def state(tiny_data):
    history = [{"epoch": 0, "test": None}, {"epoch": 1, "test": dict(ERRORS), "validation": dict(ERRORS)}]
    return {"tested_on": provenance.tested_on(tiny_data), "history": history}


def test_a_state_says_what_its_last_bits_depend_on():
    expected = {"device": "cpu", "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    assert provenance.made_with(torch.device("cpu")) == expected


def test_what_another_machine_made_is_told_and_what_this_one_made_is_not():
    here = torch.device("cpu")
    ours = provenance.made_with(here)
    assert provenance.other_than_here(ours, here) == ""
    assert provenance.other_than_here({}, here) == ""  # earlier versions said nothing
    assert provenance.other_than_here({**ours, "torch": "1.0", "threads": 64}, here) == "threads 64, torch 1.0"


def test_validation_errors_are_left_out_where_there_are_no_validation_images_and_the_state_is_untouched(
    state, tiny_data
):
    assert provenance.own_log(state, tiny_data) == [{"epoch": 0, "test": None}, {"epoch": 1, "test": ERRORS}]
    assert "validation" in state["history"][1]


def test_errors_of_groups_with_other_bounds_are_unknown_and_the_error_of_all_is_not(state, tiny_data):
    other = replace(tiny_data, spec=replace(tiny_data.spec, many_above=10, few_below=5))
    unknown = {"error": 30.0, "error_many": None, "error_medium": None, "error_few": None}
    assert provenance.own_log(state, other)[1] == {"epoch": 1, "test": unknown}


def test_a_state_that_does_not_say_what_it_was_tested_on_had_the_usual_groups(state, tiny_data):
    del state["tested_on"]
    usual = replace(tiny_data, spec=replace(tiny_data.spec, many_above=100, few_below=20))
    assert provenance.own_log(state, usual)[1]["test"] == ERRORS
    other = replace(tiny_data, spec=replace(tiny_data.spec, many_above=99, few_below=20))
    assert provenance.own_log(state, other)[1]["test"]["error_few"] is None
