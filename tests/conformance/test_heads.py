"""What holds for every head of the catalog.

| check | for a head |
|---|---|
| finite and falling | cross-entropy falls where it has parameters; where it is fitted instead, it beats guessing |
| gradients | reach every parameter, and the features below it |
| state | a new head filled with it gives the same bits, and needs no refitting |
| other class names | permute the former head, the fitting and the head's own rows, and logits are permuted |
| no tail, no head, one class | rows do not depend on the rows beside them, and there may be none |
| float32 and bf16 | near each other under autocast, finite |
| `predict` deterministic | the same bits in training and in evaluation, and no random number is drawn |
| export | what torch.export writes gives the same logits, for any number of rows |
| a known thing | with ``CASES[name].plain`` it is the former head; it matches ``CASES[name].logits``, written out |

A head of a second stage is refitted to a linear head first, as the trainer does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import dist, log, sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.catalog import CATALOG, build
from safa.types import Fitting, Refitted
from tests.conformance import toy
from tests.conformance.toy import CLASSES, COUNTS, features

SIZE = 6
Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def direction(a: list[float]) -> list[float]:
    return [x / sqrt(dot(a, a)) for x in a]


def mean(rows: Rows) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def linear_logits(row: list[float], weight: Rows, bias: list[float]) -> list[float]:
    return [dot(row, vector) + b for vector, b in zip(weight, bias, strict=True)]


def nearest_mean(row: list[float]) -> list[float]:
    """Minus squared distances to class means of directions from the mean of all."""
    inputs, labels = features()
    centre = mean(inputs.tolist())
    seen = [direction([x - c for x, c in zip(one, centre, strict=True)]) for one in [row, *inputs.tolist()]]
    means = [mean([x for x, y in zip(seen[1:], labels, strict=True) if y == c]) for c in range(CLASSES)]
    return [-(dist(seen[0], m) ** 2) for m in means]


@dataclass(frozen=True)
class Case:
    """What a newcomer says of itself.

    Attributes:
        logits: row of features, weight and bias -> logits of that row, by its definition; weight and bias are the
            former head's, or the head's own where it learns from the first epoch on.
        options: settings to be tested with, at none of which it is simpler than it is.
        plain: settings with which it is a linear head, or the linear head it is refitted to; None where no
            setting makes it one.
        bias: whether that linear head may have one.
    """

    logits: Callable[[list[float], Rows, list[float]], list[float]]
    options: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, Any] | None = None
    bias: bool = True


CASES = {
    "linear": Case(linear_logits, plain={}),
    "cosine": Case(lambda x, w, _: [7 * dot(direction(x), direction(v)) for v in w], options={"scale": 7.0}),
    "scaled": Case(linear_logits, plain={}),  # before it has learnt
    "tau_normalised": Case(
        lambda x, w, _: [dot(x, v) / sqrt(dot(v, v)) ** 0.7 for v in w],
        options={"tau": 0.7},
        plain={"tau": 0.0},
        bias=False,
    ),
    "nearest_mean": Case(lambda x, *_: nearest_mean(x)),
    "adjusted": Case(
        lambda x, w, b: [z - 0.7 * log(n / sum(COUNTS)) for z, n in zip(linear_logits(x, w, b), COUNTS, strict=True)],
        options={"tau": 0.7},
        plain={"tau": 0.0},
    ),
}
WANTED = "to CASES its logits, written out, and the settings with which it is a linear head"

every_head = pytest.mark.parametrize("name", CATALOG["head"])
every_head_that_can_be_linear = pytest.mark.parametrize(
    "name", [name for name in CATALOG["head"] if name not in CASES or CASES[name].plain is not None]
)


def former(bias: bool = True) -> nn.Linear:
    """A linear head that has learnt the toy a little."""
    torch.manual_seed(0)
    head = nn.Linear(SIZE, CLASSES, bias=bias)
    descend(head, steps=15)
    return head


def descend(head: nn.Module, steps: int) -> list[float]:
    """Cross-entropy at every step."""
    inputs, labels = features()
    optimizer, losses = torch.optim.SGD(head.parameters(), lr=0.05), []
    for _ in range(steps):
        loss = F.cross_entropy(head(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def empty(name: str, seed: int = 1, **options: Any) -> Any:
    options = {**toy.entry(CASES, "head", name, WANTED).options, **options}
    torch.manual_seed(seed)
    return build("head", name, options, in_features=SIZE, num_classes=CLASSES, out_features=CLASSES)


def head_of(name: str, start: nn.Module | None = None, **options: Any) -> Any:
    head = empty(name, **options)
    if isinstance(head, Refitted):
        head.refit(start or former(), Fitting(COUNTS, features, lambda: features([9, 8, 7], seed=4)))
    return head


def some() -> Tensor:
    return features([3, 4, 2], seed=5)[0]


# --- by its definition -------------------------------------------------------------------------------------


@every_head
def test_logits_match_their_definition_written_out(name):
    start = former()
    head = head_of(name, start)
    given = start if isinstance(head, Refitted) else head
    bias = getattr(given, "bias", None)
    weight, bias = given.weight.tolist(), [0.0] * CLASSES if bias is None else bias.tolist()
    expected = [toy.entry(CASES, "head", name, WANTED).logits(row, weight, bias) for row in some().tolist()]
    torch.testing.assert_close(head(some()), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@every_head_that_can_be_linear
def test_it_reduces_to_a_linear_head(name):
    case = toy.entry(CASES, "head", name, WANTED)
    start = former(case.bias)
    head = head_of(name, start, **case.plain)
    if not isinstance(head, Refitted):
        head.load_state_dict(start.state_dict())
    torch.testing.assert_close(head(some()), start(some()))


# --- learning ----------------------------------------------------------------------------------------------


@every_head
def test_it_learns_the_toy_or_is_fitted_to_it(name):
    head = head_of(name)
    if list(head.parameters()):
        losses = descend(head, steps=25)
        assert all(loss < float("inf") for loss in losses)
        assert losses[-1] < 0.95 * losses[0]
    inputs, labels = features()
    right = head(inputs).argmax(1) == labels
    assert sum(right[labels == c].float().mean() for c in range(CLASSES)) / CLASSES > 0.6  # a third is guessing


@every_head
def test_gradients_reach_every_parameter_and_the_features(name):
    head, inputs = head_of(name), some().requires_grad_()
    F.cross_entropy(head(inputs), torch.arange(9) % CLASSES).backward()
    for parameter, where in ((inputs, "features"), *((p, n) for n, p in head.named_parameters())):
        assert parameter.grad.isfinite().all(), where
        assert parameter.grad.flatten(1).any(1).all() if parameter is inputs else parameter.grad.all(), where


# --- state, names, batches ---------------------------------------------------------------------------------


@every_head
def test_a_new_head_filled_with_the_state_gives_the_same_bits(name):
    head, file = head_of(name), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    new = empty(name, seed=2)
    new.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(new(some()), head(some()))
    toy.assert_same(toy.tensors_of(new), toy.tensors_of(head))


@every_head
def test_other_class_names_permute_the_logits(name):
    """The features, validation features and class counts it is fitted to are under the new names too."""
    one, other = head_of(name), toy.renamed_rows(empty(name))

    def renamed(*options: Any) -> tuple[Tensor, Tensor]:
        inputs, labels = features(*options)
        return inputs, toy.NEW_OF_OLD[labels]

    if isinstance(other, Refitted):
        fitting = Fitting(toy.RENAMED_COUNTS, renamed, lambda: renamed([9, 8, 7], SIZE, 4))
        other.refit(toy.renamed_rows(former()), fitting)
    torch.testing.assert_close(other(some()), one(some())[:, toy.OLD_OF_NEW])


@every_head
@pytest.mark.parametrize("rows", [[0, 1, 7, 8], [3, 4], [8], []], ids=["no head", "no tail", "one image", "none"])
def test_rows_do_not_depend_on_the_rows_beside_them(name, rows):
    head = head_of(name)
    logits = head(some()[rows])
    assert logits.shape == (len(rows), CLASSES)
    torch.testing.assert_close(logits, head(some())[rows])


# --- precision, repetition, export -------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16])
def test_under_bf16_autocast_logits_stay_near_float32(name, entering):
    head, inputs = head_of(name), some().to(entering)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(inputs)
        F.cross_entropy(logits, torch.arange(9) % CLASSES).backward() if list(head.parameters()) else None
    torch.testing.assert_close(logits.float(), head(inputs.float()), rtol=0.02, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@every_head
def test_shapes_can_be_asked_on_a_device_without_numbers(name):
    logits = head_of(name).to("meta")(some().to("meta"))
    assert logits.is_meta
    assert logits.shape == (9, CLASSES)


@every_head
def test_logits_are_the_same_bits_in_training_and_in_evaluation(name):
    head, state = head_of(name), torch.get_rng_state()
    first = head.train()(some())
    before = toy.tensors_of(head)
    assert torch.equal(head.eval()(some()), first)
    assert torch.equal(torch.get_rng_state(), state)
    toy.assert_same(toy.tensors_of(head), before)


@every_head
def test_it_can_be_exported_for_any_number_of_rows(name):
    head = head_of(name).eval()
    program = torch.export.export(head, (some(),), dynamic_shapes=({0: torch.export.Dim("n")},))
    for rows in (1, 5):
        torch.testing.assert_close(program.module()(some()[:rows]), head(some()[:rows]))
