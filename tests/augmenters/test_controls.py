"""The controls: SAFA's draws and SAFA's numbers of rows, and features as each definition gives them by hand.

What holds for every augmenter is in ``tests/conformance``.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from safa.augmenters import SAFA, Noise, RawDelta, Repeat, TailMixup
from safa.errors import UserError
from safa.types import Augmented
from tests.augmenters import trying

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
HEAD = (1, 3)
LABELS = [0, 1, 3, 2, 1, 0, 3]

MAKERS = {
    "repeat": Repeat,
    "raw delta": RawDelta,
    "noise": Noise,
    "noise of a given size": partial(Noise, size=0.7),
    "tail mixup": TailMixup,
    "tail mixup within the class": partial(TailMixup, partner="class"),
}
every_control = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

BATCHES = {
    "every class": LABELS,
    "more tail pairs than head pairs": [0, 1, 2, 4, 0, 1, 2],
    "more head pairs than tail rows": [1, 1, 3, 3, 1, 1, 2],
    "one head pair and one tail row": [1, 1, 0],
    "128 rows": torch.multinomial(torch.tensor(COUNTS) ** 0.5, 128, True, generator=torch.Generator().manual_seed(0)),
    "no tail": [1, 1, 3],
    "no head pair": [0, 2, 0, 1],
    "one tail class": [2, 2, 2],
    "one image": [0],
    "no image": [],
}
every_batch = pytest.mark.parametrize("labels", [list(map(int, rows)) for rows in BATCHES.values()], ids=BATCHES)

SHAPES = {"map": (3, 2, 2), "tokens": (4, 3), "vector": (3,)}
every_layout = pytest.mark.parametrize("layout", SHAPES)


def control(make, channels: int = 3, **options):
    return make(channels, COUNTS, **{"head_ratio": 0.4, **options})


def safa(channels: int = 3, **options) -> SAFA:
    """At its identity start, where it has learnt nothing yet."""
    torch.manual_seed(0)
    return SAFA(channels, COUNTS, head_ratio=0.4, **options)


def maps(labels: list[int] = LABELS, shape: tuple[int, ...] = (3, 2, 2), seed: int = 1) -> Tensor:
    """Post-ReLU features, different for every row."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((len(labels), *shape), generator=generator, dtype=torch.float64).relu()


def run(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


def made(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Tensor:
    """The generated rows alone."""
    return run(module, features, labels, seed).features[len(labels) :]


def moved_by(rows: Tensor, tail: Tensor) -> list[float]:
    """Mean distance of each row from its tail feature, in mean magnitudes of that."""
    pairs = zip(rows.flatten(1).tolist(), tail.flatten(1).tolist(), strict=True)
    return [sum(abs(x - y) for x, y in zip(a, b, strict=True)) / sum(map(abs, b)) for a, b in pairs]


# --- SAFA's draws ------------------------------------------------------------------------------------------


@every_control
@every_batch
@every_layout
def test_a_batch_grows_by_the_labels_that_safa_grows_it_by(make, labels, layout):
    features = maps(labels, SHAPES[layout])
    for seed in range(5):
        expected = run(safa(layout=layout).double(), features, labels, seed)
        out = run(control(make, layout=layout), features, labels, seed)
        assert out.labels.tolist() == expected.labels.tolist()
        assert out.features.shape == expected.features.shape
        assert torch.equal(out.features[: len(labels)], features)


@every_batch
def test_the_tail_samples_are_those_of_safa_in_its_order(labels):
    """Where the images of a head class are all alike there is no delta, and SAFA starts by copying the tail."""
    features = maps(labels)
    for c in HEAD:
        features[torch.tensor(labels) == c] = c
    assert torch.equal(made(control(Repeat), features, labels), made(safa().double(), features, labels))


@every_layout
@every_batch
def test_raw_deltas_are_the_first_step_of_safa(labels, layout):
    features = maps(labels, SHAPES[layout]) - 0.2  # a floor other than 0
    for seed in range(3):
        rows = made(control(RawDelta, layout=layout), features, labels, seed)
        expected = made(safa(layout=layout).double(), features, labels, seed)
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-12)


def test_under_bf16_autocast_raw_deltas_are_the_first_step_of_safa_up_to_rounding():
    features = maps().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, expected = made(control(RawDelta), features), made(safa(), features)
    torch.testing.assert_close(rows, expected, rtol=0.02, atol=0.02)


# --- the features ------------------------------------------------------------------------------------------

HEAD_I, HEAD_J, TAIL = [4.0, 1.0], [1.0, 3.0], [2.0, 2.0]


def rows_by_seed(module, seeds: range = range(20)) -> list[list[float]]:
    """The one row generated from two head features and a tail feature, of two numbers each, at every seed."""
    features = torch.tensor([HEAD_I, HEAD_J, TAIL]).view(3, 1, 1, 2)
    return [made(module, features, [1, 1, 0], seed).flatten().tolist() for seed in seeds]


def test_repeat_by_hand():
    assert all(row == TAIL for row in rows_by_seed(control(Repeat, channels=1)))


def test_raw_delta_by_hand():
    """(2, 2) plus (-3, 2), or plus (3, -2), and not below 1."""
    assert {tuple(row) for row in rows_by_seed(control(RawDelta, channels=1))} == {(1.0, 4.0), (5.0, 1.0)}


def test_noise_by_hand():
    """Half of 2 + 2 moves the two numbers by 2 together, and neither below 1."""
    for a, b in rows_by_seed(control(Noise, channels=1, size=0.5)):
        assert abs(a - 2) + abs(b - 2) == pytest.approx(2)
        assert min(a, b) >= 1 - 1e-6


def test_tail_mixup_by_hand():
    """From (2, 2) to (4, 1) runs a + 2 b = 6, to (1, 3) runs a + b = 4; at most half of the way."""
    rows = rows_by_seed(control(TailMixup, channels=1))
    towards_i = [(a, b) for a, b in rows if a > 2]
    assert 0 < len(towards_i) < len(rows)
    for a, b in rows:
        assert a + 2 * b == pytest.approx(6) if a > 2 else a + b == pytest.approx(4)
        assert 1.5 - 1e-6 <= a <= 3 + 1e-6


@pytest.mark.parametrize("make", [partial(Noise, size=0), partial(TailMixup, least=1)], ids=["noise", "tail mixup"])
def test_without_a_size_it_is_repetition(make):
    features = maps()
    torch.testing.assert_close(made(control(make), features), made(control(Repeat), features))


# --- noise -------------------------------------------------------------------------------------------------


def wide(labels: list[int] = LABELS) -> Tensor:
    return maps(labels, (16, 8, 8))


def test_reading_size_is_what_is_left_above_the_floor_in_every_row():
    features = wide()
    tail = made(control(Repeat, channels=16), features)
    rows = made(control(partial(Noise, size=0.7), channels=16), features)
    assert rows.min() == features.min() == 0
    assert moved_by(rows, tail) == pytest.approx([0.7] * len(tail), rel=1e-4)


def test_reading_size_is_by_default_that_of_the_raw_delta_of_the_same_draw():
    features = wide() * torch.linspace(0.5, 2, len(LABELS), dtype=torch.float64)[:, None, None, None]
    tail, moved, noisy = (made(control(make, channels=16), features) for make in (Repeat, RawDelta, Noise))
    sizes = moved_by(moved, tail)
    assert max(sizes) > 1.2 * min(sizes)  # rows that differ, so that one size for all would not do
    assert moved_by(noisy, tail) == pytest.approx(sizes, rel=1e-4)


def test_noise_above_the_floor_is_normal_and_has_nothing_of_the_delta():
    features = wide() + 100
    features[1, 0, 0, 0] = 0  # a floor far below
    tail = made(control(Repeat, channels=16), features)
    shifts = (made(control(Noise, channels=16), features) - tail).flatten(1)
    deltas = (made(control(RawDelta, channels=16), features) - tail).flatten(1)
    for shift, delta in zip(shifts, deltas, strict=True):
        normal = shift / shift.std()
        quantiles = torch.quantile(normal, torch.tensor([0.0228, 0.1587, 0.5, 0.8413, 0.9772], dtype=normal.dtype))
        assert quantiles.tolist() == pytest.approx([-2, -1, 0, 1, 2], abs=0.2)
        assert abs(torch.corrcoef(torch.stack([shift, delta]))[0, 1]) < 0.15


def test_vectors_of_one_number_that_noise_cannot_lower_stay_finite():
    features, labels = torch.tensor([1.0, 4.0, 1.0, 3.0, 1.0, 1.0])[:, None], [1, 1, 3, 3, 0, 2]
    for seed in range(20):
        assert made(control(Noise, channels=1, layout="vector"), features, labels, seed).isfinite().all()


# --- tail mixup --------------------------------------------------------------------------------------------


def mixtures(module, labels: list[int] = LABELS, seed: int = 2) -> list[tuple[int, int, float]]:
    """(tail row, the row it was mixed with, share of the tail row) of every generated row."""
    features = maps(labels)
    tail, found = made(control(Repeat), features, labels, seed), []
    for own, row in zip(tail, made(module, features, labels, seed), strict=True):
        for other, feature in enumerate(features):
            way = (own - feature).flatten()
            share = float((row - feature).flatten() @ way / way.square().sum().clamp(min=1e-12))
            if torch.allclose(share * own + (1 - share) * feature, row) and not torch.equal(own, feature):
                index = int((features == own).flatten(1).all(1).nonzero())
                found.append((index, other, share))
    assert len(found) == len(tail)
    return found


def test_a_tail_pair_is_mixed_with_the_two_features_of_one_head_pair():
    for seed in range(10):
        found = mixtures(control(TailMixup), seed=seed)
        partners = [other for _, other, _ in found]
        assert len(set(partners)) == len(found)
        assert {LABELS[other] for other in partners} <= set(HEAD)
        with_whom = {tail: LABELS[other] for tail, other, _ in found}
        both = [pair for pair in ((0, 5), (5, 0)) if set(pair) <= set(with_whom)]
        assert all(with_whom[a] == with_whom[b] for a, b in both)


def test_within_the_class_the_rows_of_a_tail_pair_are_mixed_with_each_other():
    labels = [0, 1, 3, 2, 1, 0, 3, 2]
    found = mixtures(control(TailMixup, partner="class"), labels)
    assert sorted((tail, other) for tail, other, _ in found) == [(0, 5), (3, 7), (5, 0), (7, 3)]


def test_within_the_class_a_row_without_a_partner_is_repeated():
    features = maps([1, 1, 0])
    assert torch.equal(made(control(TailMixup, partner="class"), features, [1, 1, 0]), features[2:])


@pytest.mark.parametrize("least", [0.5, 0.0, 0.8])
def test_reading_shares_are_uniform_from_the_least_on_and_differ_by_row(least):
    found = [mixtures(control(TailMixup, least=least), seed=seed) for seed in range(100)]
    assert all(len({round(share, 6) for _, _, share in step}) == len(step) for step in found)
    shares = torch.tensor([share for step in found for _, _, share in step]).sort().values
    expected = torch.linspace(least, 1, len(shares))
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.1 * (1 - least))


# --- what is around ----------------------------------------------------------------------------------------


@every_control
def test_generated_rows_are_constants_to_the_layers_below_and_the_loss_is_a_differentiable_zero(make):
    features = maps().requires_grad_()
    out = run(control(make), features)
    assert out.loss == 0
    assert out.terms == {}
    (out.features.sum() + out.loss).backward()
    assert torch.equal(features.grad, torch.ones_like(features))


@every_control
@pytest.mark.parametrize("labels", [[1, 1, 3], [0, 2, 0], [2, 2], []], ids=["no tail", "no head", "one class", "none"])
def test_a_batch_with_nothing_to_do_passes_unchanged(make, labels):
    features = maps(labels)
    out = run(control(make), features, labels)
    assert out.features is features
    assert out.labels.tolist() == labels
    out.loss.backward()


@every_control
@pytest.mark.parametrize("entering", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32_and_stay_half(make, entering):
    out = run(control(make), maps().to(entering))
    assert out.features.dtype == entering
    assert out.loss.dtype == torch.float32
    expected = run(control(make), maps().to(entering).float())
    assert torch.equal(out.features, expected.features.to(entering))


@every_control
def test_nothing_learns(make):
    assert not list(control(make).parameters())


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (Repeat, {"layout": "token"}, "layout must be map, tokens or vector, got 'token'; did you mean 'tokens'"),
        (RawDelta, {"head_ratio": 20}, "head_ratio is the share of classes that are head"),
        (Noise, {"size": -1}, "size is a share of the tail feature's own, at least 0, or the word delta, got -1"),
        (Noise, {"size": float("nan")}, "got nan; try 0.7"),
        (Noise, {"size": "detla"}, "got 'detla'"),
        (Noise, {"size": True}, "got True"),
        (TailMixup, {"partner": "heads"}, "partner must be head or class, got 'heads'; did you mean 'head'"),
        (TailMixup, {"least": 1.5}, r"least is a share, so in \[0, 1\], got 1.5; Remix uses 0.5"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(make, options, said):
    with pytest.raises(UserError, match=said):
        control(make, **options)
