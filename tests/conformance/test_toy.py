"""The toy keeps what the checks rely on, and a newcomer is told what to add."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safa.catalog import CATALOG
from safa.classes import head_classes
from tests.conformance import test_heads, test_losses, test_reweighting, test_samplers, toy

TABLES = {
    "loss": (test_losses.CASES, test_losses.WANTED),
    "sampler": (test_samplers.SHARES, test_samplers.WANTED),
    "head": (test_heads.CASES, test_heads.WANTED),
    "reweighting": (test_reweighting.CASES, test_reweighting.WANTED),
}


def test_the_tail_has_98_images_in_three_classes_the_largest_of_which_is_not_the_first():
    data = toy.data()
    assert data.class_counts == toy.COUNTS
    assert np.bincount(data.train.labels).tolist() == toy.COUNTS
    assert {c for c, is_head in enumerate(head_classes(toy.COUNTS)) if is_head} == toy.HEAD
    assert len(data.train) == 98


def test_new_names_are_a_permutation_without_a_fixed_point():
    assert sorted(toy.NEW_OF_OLD.tolist()) == [0, 1, 2]
    assert not any(new == old for old, new in enumerate(toy.NEW_OF_OLD.tolist()))
    old, new = toy.data(), toy.renamed_data(toy.data())
    assert new.class_counts == np.bincount(new.train.labels).tolist() == toy.RENAMED_COUNTS
    assert np.array_equal(new.train.images, old.train.images)
    for label, name in enumerate(old.source.class_names):
        assert new.source.class_names[toy.NEW_OF_OLD[label]] == name
    assert new.facts()["images"] != old.facts()["images"]  # or a state of one would be used for the other


def test_a_renamed_classifier_gives_the_old_logits_in_the_order_of_the_new_names():
    net, (images, _) = toy.network(), toy.batch()
    logits = net(images)
    assert torch.equal(toy.renamed_rows(net)(images), logits[:, toy.OLD_OF_NEW])


@pytest.mark.parametrize("kind", TABLES)
def test_a_newcomer_is_told_what_to_add_and_nobody_else_is_in_the_table(kind):
    table, wanted = TABLES[kind]
    assert set(table) <= set(CATALOG[kind])
    with pytest.raises(pytest.fail.Exception, match=f"{kind} 'newcomer' is in the catalog but not in .* add to [A-Z]+"):
        toy.entry(table, kind, "newcomer", wanted)
