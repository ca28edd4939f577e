"""Seeds: a pure function of what they are for, on every machine."""

from __future__ import annotations

from itertools import product

import torch

from safa.seeding import seed_for


def test_a_seed_is_the_same_for_ever():
    assert seed_for(0, "step", 1, 2, 0) == 2258624238208128338  # by hand: the first 8 bytes of a SHA-256, halved


def test_a_seed_depends_on_every_part_and_on_their_order():
    seeds = {seed_for(seed, "step", epoch, step) for seed, epoch, step in product(range(12), repeat=3)}
    assert len(seeds) == 12**3
    assert seed_for(1, 11) != seed_for(11, 1)


def test_torch_takes_every_seed():
    seeds = [seed_for("x", i) for i in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for seed in seeds:
        torch.Generator().manual_seed(seed)
