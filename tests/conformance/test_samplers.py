"""What holds for every sampler of the catalog.

| check | for a sampler |
|---|---|
| a known thing | classes come up in the shares of ``SHARES``, written out; with equal counts equally often |
| state | there is none: the order is a pure function of seed and epoch, so any step of any epoch can be resumed |
| other class names | the same images in the same order, so the shares of the classes are permuted |
| no tail, no head, one class | an epoch of whatever images there are, down to a single one |
| processes | share the batches of one process between them, in equal sizes |
| loss, gradients, precision, `predict`, export | nothing to check: a sampler yields numbers of images alone |
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from safa.catalog import CATALOG, build
from safa.errors import UserError
from tests.conformance.toy import CLASSES, COUNTS, NEW_OF_OLD, entry

LABELS = np.random.RandomState(0).permutation(np.repeat(range(CLASSES), COUNTS))
IDS = np.array([7, 0, 3])[LABELS]  # class ids out of order, with gaps
SHARES = {  # class counts -> how often each class comes up, up to a factor; options at which it is so
    "instance": (lambda n: n, {}),
    "class_balanced": (lambda n: 1.0, {}),
    "square_root": (lambda n: n**0.5, {}),
    "effective_number": (lambda n: n * (1 - 0.95) / (1 - 0.95**n), {"beta": 0.95}),
    "pairs": (lambda n: n, {}),
}
WANTED = "to SHARES how often a class of n images comes up"

every_sampler = pytest.mark.parametrize("name", CATALOG["sampler"])


def sampler(name: str, labels: Any = LABELS, batch_size: int = 14, **options: Any) -> Any:
    process = {key: options.pop(key, default) for key, default in (("seed", 0), ("rank", 0), ("world_size", 1))}
    return build("sampler", name, options, labels=labels, batch_size=batch_size, **process)


def flat(batches: Any) -> list[int]:
    return [index for batch in batches for index in batch]


def drawn(name: str, labels: np.ndarray, epochs: int, **options: Any) -> Counter[int]:
    """How often each class came up."""
    one, found = sampler(name, labels, **options), Counter[int]()
    for epoch in range(epochs):
        one.set_epoch(epoch)
        found.update(labels[flat(one)].tolist())
    return found


# --- by its definition -------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize("counts", [COUNTS, [20, 20, 20]], ids=["a tail", "equal counts"])
def test_classes_come_up_as_often_as_defined(name, counts):
    share_of, options = entry(SHARES, "sampler", name, WANTED)
    labels, epochs = np.repeat(range(CLASSES), counts), 200
    found, total = drawn(name, labels, epochs, **options), sum(counts) * epochs
    assert found.total() == total  # an epoch has as many draws as images
    for label, n in enumerate(counts):
        share = share_of(n) / sum(map(share_of, counts))
        assert found[label] / total == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5)


@every_sampler
def test_images_of_one_class_come_up_equally_often(name):
    one, found = sampler(name), Counter[int]()
    for epoch in range(300):
        one.set_epoch(epoch)
        found.update(flat(one))
    for label, n in enumerate(COUNTS):
        times = [found[index] for index, other in enumerate(LABELS) if other == label]
        mean = sum(times) / n
        assert max(abs(number - mean) for number in times) < 4.5 * math.sqrt(mean)


# --- order and state ---------------------------------------------------------------------------------------


@every_sampler
def test_the_order_depends_on_nothing_but_seed_and_epoch(name):
    one, other = sampler(name, seed=4), sampler(name, seed=4)
    flat(one)  # an earlier epoch leaves no trace
    np.random.seed(1)
    torch.manual_seed(1)
    orders = []
    for each in (one, other, one):
        each.set_epoch(3)
        orders.append(list(each))
    assert orders[0] == orders[1] == orders[2]


@every_sampler
def test_epochs_and_seeds_differ(name):
    first, second, other_seed = sampler(name, seed=4), sampler(name, seed=4), sampler(name, seed=5)
    second.set_epoch(1)
    orders = [flat(one) for one in (first, second, other_seed)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert orders[1] != orders[2]  # seed and epoch do not merely add up


@every_sampler
def test_an_epoch_that_begins_again_is_told(name):
    """As in a loop that forgets set_epoch, where a sampler with replacement would never draw most images."""
    one = sampler(name)
    first = list(one)
    with pytest.warns(UserWarning, match=r"begins epoch 0 again, with the same batches; call set_epoch\(epoch\)"):
        assert list(one) == first
    one.set_epoch(0)  # as asked for
    assert list(one) == first


@every_sampler
def test_other_class_names_leave_every_image_in_its_place(name):
    renamed = NEW_OF_OLD.numpy()[LABELS]
    for epoch in range(3):
        batches = []
        for labels in (LABELS, renamed, IDS):
            one = sampler(name, labels)
            one.set_epoch(epoch)
            batches.append(list(one))
        assert batches[0] == batches[1] == batches[2]


@every_sampler
@pytest.mark.parametrize("labels", [[1] * 9, [0] * 5 + [2] * 4, [2], [0, 1, 2]], ids=str)
def test_whatever_images_there_are_make_an_epoch(name, labels):
    found = flat(sampler(name, labels, 4))
    assert len(labels) <= len(found) <= len(labels) + 1  # pairs round up
    assert set(found) <= set(range(len(labels)))


@every_sampler
def test_labels_may_be_a_list_or_a_tensor(name):
    for labels in (LABELS.tolist(), torch.tensor(LABELS)):
        assert list(sampler(name, labels)) == list(sampler(name))


@every_sampler
def test_a_data_loader_takes_it(name):
    images = torch.arange(len(LABELS))
    batches = list(DataLoader(images, batch_sampler=sampler(name)))
    assert [batch.tolist() for batch in batches] == list(sampler(name))


# --- processes ---------------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_rank_gets_as_many_batches_of_the_same_sizes(name, world_size, drop_last):
    sizes = set()
    for rank in range(world_size):
        share = sampler(name, batch_size=6, rank=rank, world_size=world_size, drop_last=drop_last)
        batches = list(share)
        assert len(share) == len(batches)
        sizes.add(tuple(map(len, batches)))
    assert len(sizes) == 1
    full = sizes.pop()
    assert set(full[:-1]) <= {6}
    assert full[-1] == 6 if drop_last else 0 < full[-1] <= 6


@every_sampler
def test_batches_of_the_ranks_together_are_the_batches_of_one_process(name):
    labels = LABELS[:96]  # a number of images and of pairs that needs no padding
    whole = list(sampler(name, labels, 8))
    shares = [list(sampler(name, labels, 4, rank=rank, world_size=2)) for rank in range(2)]
    for alone, *parts in zip(whole, *shares, strict=True):
        assert sorted(alone) == sorted(parts[0] + parts[1])


# --- mistakes ----------------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "positive multiple"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, "got rank 2 and world_size 2"),
        ({"rank": -1}, "got rank -1"),
        ({"batch_size": 1000, "drop_last": True}, "drop_last leaves no batch of 1000 from 98 images"),
        ({"labels": [0.0, 1.0]}, "labels must be integers, got float64"),
        ({"labels": ["cat", "dog"]}, "labels must be integers"),
        ({"labels": []}, r"got shape \(0,\)"),
        ({"labels": [[0, 1]]}, r"got shape \(1, 2\)"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(name, settings, said):
    with pytest.raises(UserError, match=said):
        sampler(name, **{"batch_size": 8, **settings})
