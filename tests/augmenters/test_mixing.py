"""Mixup, CutMix and Remix against their definitions written out, and what mixing must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.augmenters import mixing
from safa.augmenters.mixing import CutMix, Mixup, Remix
from safa.errors import UserError
from safa.types import Augmented, Augmenter

COUNTS = [90, 9, 30, 10]
LABELS = [0, 1, 2, 3, 0, 2]
PARTNER = [3, 0, 5, 1, 4, 2]
K = len(COUNTS)
ALL = {"mixup": Mixup, "cutmix": CutMix, "remix": Remix}
every_augmenter = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


@pytest.fixture
def drawn(monkeypatch) -> Callable[..., None]:
    """Sets the share and the permutation that are drawn."""

    def put(share: float, partner: list[int] = PARTNER) -> None:
        monkeypatch.setattr(mixing, "_share", lambda alpha: share)
        monkeypatch.setattr(mixing, "_partners", lambda features: torch.tensor(partner, dtype=torch.int64))

    return put


def maps(n: int = len(LABELS), channels: int = 3, size: tuple[int, int] = (5, 4)) -> Tensor:
    return torch.randn((n, channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def soft(n: int = len(LABELS)) -> Tensor:
    return torch.randn((n, K), generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(1)


def run(module, features: Tensor, labels: list[int] | Tensor = LABELS, seed: int = 0) -> Augmented:
    torch.manual_seed(seed)
    return module(features, torch.as_tensor(labels, dtype=None if isinstance(labels, Tensor) else torch.int64))


def one_hot(labels: list[int] = LABELS) -> list[list[float]]:
    return [[float(c == y) for c in range(K)] for y in labels]


def mixture(rows: list, others: list, share: float) -> list:
    """``share * row + (1 - share) * other``, number by number."""
    if isinstance(rows, float):
        return share * rows + (1 - share) * others
    return [mixture(row, other, share) for row, other in zip(rows, others, strict=True)]


# --- mixup -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_mixup_is_the_mixture_of_rows_and_of_labels(drawn, share):
    drawn(share)
    features = maps()
    out = Mixup(COUNTS)(features, torch.tensor(LABELS))
    given, labels = features.tolist(), one_hot()
    for i, j in enumerate(PARTNER):
        expected = torch.tensor(mixture(given[i], given[j], share), dtype=torch.float64)
        torch.testing.assert_close(out.features[i], expected)
        torch.testing.assert_close(out.labels[i], torch.tensor(mixture(labels[i], labels[j], share)))


def test_mixup_mixes_soft_labels_too(drawn):
    drawn(0.3)
    out = Mixup(COUNTS)(maps(), soft())
    given = soft().tolist()
    for i, j in enumerate(PARTNER):
        torch.testing.assert_close(out.labels[i], torch.tensor(mixture(given[i], given[j], 0.3), dtype=torch.float64))


@pytest.mark.parametrize("make", [Mixup, Remix])
@pytest.mark.parametrize("shape", [(), (3,), (5, 3), (3, 4, 2), (2, 3, 2, 2)])
def test_features_of_any_shape_can_be_mixed(drawn, make, shape):
    drawn(0.25, [1, 0])
    features = torch.randn(2, *shape)
    out = make(COUNTS)(features, torch.tensor([0, 0]))
    torch.testing.assert_close(out.features[0], 0.25 * features[0] + 0.75 * features[1])
    torch.testing.assert_close(out.features[1], 0.25 * features[1] + 0.75 * features[0])


def test_gradients_of_mixed_rows_are_those_of_finite_differences():
    features = maps(n=4, size=(3, 4)).requires_grad_()
    for make in ALL.values():
        module = make(COUNTS)
        assert torch.autograd.gradcheck(lambda x: run(module, x, [0, 1, 2, 3], seed=5).features, features)  # noqa: B023


@every_augmenter
def test_shares_and_boxes_are_drawn_on_the_cpu_whatever_device_is_torchs_default(make):
    module, features, labels = (
        make(COUNTS, **({"probability": 0.9} if make is CutMix else {})),
        maps(),
        torch.tensor(LABELS),
    )
    expected = run(module, features)
    torch.manual_seed(0)
    with torch.device("meta"):
        found = module(features, labels)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.labels, expected.labels)


# --- cutmix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 4)])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.999])
def test_reading_cutmix_pastes_the_box_of_the_released_code(drawn, share, size, seed):
    drawn(share)
    features, height, width = maps(size=size), *size
    out = run(CutMix(COUNTS), features, seed=seed)
    torch.manual_seed(seed)
    y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    tall, wide = int(height * (1 - share) ** 0.5) // 2, int(width * (1 - share) ** 0.5) // 2
    own = 0
    for row in range(height):
        for column in range(width):
            inside = y - tall <= row < y + tall and x - wide <= column < x + wide
            own += not inside
            source = features[PARTNER] if inside else features
            assert torch.equal(out.features[:, :, row, column], source[:, :, row, column])
    for i, j in enumerate(PARTNER):
        expected = mixture(one_hot()[i], one_hot()[j], own / (height * width))
        torch.testing.assert_close(out.labels[i], torch.tensor(expected))


def test_a_box_at_the_corner_is_cut_off_and_counts_by_what_is_left(drawn, monkeypatch):
    drawn(0.75, [1, 0])  # sides of half the length: 4 of 8, two to each side of the centre
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.tensor(0))
    out = CutMix(COUNTS)(torch.arange(2.0)[:, None, None, None].expand(2, 1, 8, 8), torch.tensor([0, 1]))
    assert out.features[0].nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert out.labels.tolist() == [[60 / 64, 4 / 64, 0, 0], [4 / 64, 60 / 64, 0, 0]]


def test_the_label_of_cutmix_is_the_area_counted_in_pixels():
    rows = torch.arange(4.0)[:, None, None, None].expand(4, 2, 7, 6)
    shares = set()
    for seed in range(40):
        out = run(CutMix(COUNTS), rows, [0, 1, 2, 3], seed=seed)
        for i in range(4):
            counted = torch.stack([(out.features[i, 0] == c).float().mean() for c in range(4)])
            torch.testing.assert_close(out.labels[i], counted)
            shares.add(round(float(counted[i]), 4))
    assert len(shares) > 10


def test_cutmix_mixes_the_share_of_batches_it_is_asked_to():
    features, cutmix = maps(), CutMix(COUNTS, probability=0.25)
    outs = [run(cutmix, features, seed=seed) for seed in range(400)]
    whole = [torch.equal(out.features, features) for out in outs]
    assert 0.7 < sum(whole) / 400 < 0.85  # a box may be empty by itself, too
    assert all(out.labels.tolist() == one_hot() for out, as_it_was in zip(outs, whole, strict=True) if as_it_was)


def test_a_share_of_batches_is_between_none_and_all():
    with pytest.raises(UserError, match="probability is a share of the batches, so in \\[0, 1\\], got 2"):
        CutMix(COUNTS, probability=2)


def test_cutmix_leaves_the_features_it_was_given_as_they_are(drawn):
    drawn(0.1)
    features = maps(size=(8, 8))
    before = features.clone()
    out = run(CutMix(COUNTS), features)
    assert torch.equal(features, before)
    assert not torch.equal(out.features, before)


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 3), (6, 1, 2, 3, 3)])
def test_cutmix_needs_maps(shape):
    with pytest.raises(UserError, match=r"CutMix cuts maps \(b, c, h, w\) but receives shape .*; name another layer"):
        run(CutMix(COUNTS), torch.rand(shape))


# --- remix -------------------------------------------------------------------------------------------------


def lambda_y(n_i: int, n_j: int, share: float, kappa: Fraction, tau: float) -> float:
    """Chou et al. 2020, Eq. 10, in exact fractions."""
    if Fraction(n_i, n_j) >= kappa and share < tau:
        return 0.0
    if Fraction(n_i, n_j) <= 1 / kappa and 1 - share < tau:
        return 1.0
    return share


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.95])
@pytest.mark.parametrize("kappa", [1, 3, 5])
@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_remix_labels_every_pair_of_classes_by_equation_10(drawn, share, kappa, tau):
    pairs = [(i, j) for i in range(K) for j in range(K)]
    labels, partner = [i for i, _ in pairs] + [j for _, j in pairs], list(range(16, 32)) + list(range(16))
    drawn(share, partner)
    features = maps(n=32)
    out = Remix(COUNTS, kappa=kappa, tau=tau)(features, torch.tensor(labels))
    for row, other in enumerate(partner):
        i, j = labels[row], labels[other]
        part = lambda_y(COUNTS[i], COUNTS[j], share, Fraction(kappa), tau)
        torch.testing.assert_close(out.labels[row], torch.tensor(mixture(*one_hot([i, j]), part)))
    torch.testing.assert_close(out.features, Mixup(COUNTS)(features, torch.tensor(labels)).features)


def test_remix_by_hand(drawn):
    drawn(0.4, [1, 0])
    labels = torch.tensor([0, 1])
    # The large class has 0.4 of the first row and gives it away; of the second it has 0.6, and keeps it.
    out = Remix([30, 10])(maps(n=2), labels)
    torch.testing.assert_close(out.labels, torch.tensor([[0.0, 1.0], [0.6, 0.4]]))
    # Three times as large is large enough, less is not.
    out = Remix([29, 10])(maps(n=2), labels)
    torch.testing.assert_close(out.labels, torch.tensor([[0.4, 0.6], [0.6, 0.4]]))


def test_remix_with_tau_zero_is_mixup():
    features = maps()
    first, second = run(Remix(COUNTS, tau=0.0), features), run(Mixup(COUNTS), features)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.labels, second.labels)


def test_reading_a_soft_label_counts_as_large_as_its_classes_on_average(drawn):
    drawn(0.4, [1, 0])
    labels = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.3, 0.7]])  # 49.5 images against 16
    out = Remix(COUNTS)(maps(n=2), labels)
    torch.testing.assert_close(out.labels[0], labels[1])
    torch.testing.assert_close(out.labels[1], 0.4 * labels[1] + 0.6 * labels[0])
    stricter = Remix(COUNTS, kappa=3.1)(maps(n=2), labels)
    torch.testing.assert_close(stricter.labels[0], 0.4 * labels[0] + 0.6 * labels[1])


def test_class_counts_are_not_rounded_under_autocast(drawn):
    drawn(0.4, [1, 0])
    counts = [3 * 1001, 1001, 3 * 1001 - 1]  # bfloat16 cannot tell the first from the last
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Remix(counts)(maps(n=2), torch.tensor([0, 1])).labels[0].tolist() == [0, 1, 0]
        assert Remix(counts)(maps(n=2), torch.tensor([2, 1])).labels[0].tolist() != [0, 1, 0]


# --- what is drawn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_mean_and_variance_of_the_beta_distribution(alpha):
    torch.manual_seed(0)
    shares = np.array([mixing._share(alpha) for _ in range(4000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


@every_augmenter
def test_the_share_is_drawn_with_the_alpha_that_was_given(make, monkeypatch):
    asked = []
    monkeypatch.setattr(mixing, "_share", lambda alpha: asked.append(alpha) or 0.3)
    run(make(COUNTS, alpha=0.2), maps())
    assert asked == [0.2]


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_extreme_alpha_still_gives_a_share(alpha):
    torch.manual_seed(0)
    assert all(0 <= mixing._share(alpha) <= 1 for _ in range(100))


def test_partners_are_a_permutation_and_every_row_can_be_every_rows():
    torch.manual_seed(0)
    drawn = torch.stack([mixing._partners(torch.empty(5, 1)) for _ in range(300)])
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in drawn.tolist())
    assert all(len(column.unique()) == 5 for column in drawn.T)


@every_augmenter
def test_the_seed_of_the_step_fixes_what_is_drawn(make):
    first, again, other = (run(make(COUNTS), maps(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.features, other.features)


# --- batches -----------------------------------------------------------------------------------------------


@every_augmenter
def test_as_many_rows_come_out_with_soft_labels_that_sum_to_one_and_no_loss(make):
    for seed in range(10):
        out = run(make(COUNTS), maps(), seed=seed)
        assert out.features.shape == maps().shape
        assert out.labels.shape == (6, K)
        assert out.labels.dtype == torch.float32
        assert (out.labels >= 0).all()
        torch.testing.assert_close(out.labels.sum(1), torch.ones(6))
        assert out.loss.shape == ()
        assert out.loss.dtype == torch.float32
        assert out.loss == 0
        assert out.terms == {}


@every_augmenter
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_of_one_row_gives_itself(make, dtype):
    features = maps(n=1).to(dtype)
    for seed in range(20):
        out = run(make(COUNTS), features, [2], seed=seed)
        assert torch.equal(out.features, features)
        assert out.labels.tolist() == [[0, 0, 1, 0]]


@every_augmenter
def test_an_empty_batch_stays_empty(make):
    out = run(make(COUNTS), maps(n=0), [])
    assert out.features.shape == (0, 3, 5, 4)
    assert out.labels.shape == (0, K)


@every_augmenter
def test_a_batch_of_one_class_keeps_its_labels(make):
    for seed in range(10):
        out = run(make(COUNTS), maps(), [3] * 6, seed=seed)
        torch.testing.assert_close(out.labels, torch.tensor(one_hot([3] * 6)))


@every_augmenter
@pytest.mark.parametrize("switch", ["inactive", "evaluation"])
def test_inactive_or_in_evaluation_all_pass_unchanged_and_no_random_number_is_drawn(make, switch):
    module, features = make(COUNTS), maps()
    module.active = switch != "inactive"
    module.train(switch != "evaluation")
    state = torch.get_rng_state()
    for labels in (torch.tensor(LABELS), soft()):
        out = module(features, labels)
        assert out.features is features
        assert out.labels is labels
        assert out.loss.item() == 0
    assert torch.equal(torch.get_rng_state(), state)


@every_augmenter
def test_relabelling_the_classes_permutes_the_labels_and_no_row(make):
    permutation = torch.tensor([3, 0, 2, 1])
    counts = torch.empty(4, dtype=torch.int64)
    counts[permutation] = torch.tensor(COUNTS)
    for seed in range(10):
        first = run(make(COUNTS), maps(), seed=seed)
        second = run(make(counts), maps(), permutation[LABELS].tolist(), seed=seed)
        assert torch.equal(first.features, second.features)
        assert torch.equal(first.labels, second.labels[:, permutation])


@every_augmenter
def test_the_loss_of_a_mixed_batch_is_the_released_mixture_of_two_losses(make):
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    labels, out = torch.tensor(LABELS), run(make(COUNTS), maps(size=(8, 8)), seed=2)
    torch.manual_seed(2)
    share = mixing._share(1.0)
    partner = torch.randperm(6)
    a, b = (F.cross_entropy(logits, given, reduction="none") for given in (labels, labels[partner]))
    parts = torch.full((6,), share, dtype=torch.float64)
    if make is CutMix:
        changed = (out.features != maps(size=(8, 8))).any(1).double().mean((1, 2))
        assert (changed[partner != torch.arange(6)] > 0).all()  # the box is not empty with this seed
        parts = 1 - changed.max().expand(6)
    if make is Remix:
        counts = [COUNTS[y] for y in LABELS]
        parts = torch.tensor([lambda_y(counts[i], counts[j], share, Fraction(3), 0.5) for i, j in enumerate(partner)])
    torch.testing.assert_close(
        F.cross_entropy(logits, out.labels.double(), reduction="none"), parts * a + (1 - parts) * b, rtol=1e-6, atol=0
    )


# --- layouts, precision, state -----------------------------------------------------------------------------


@every_augmenter
def test_channels_last_is_kept(make):
    features = maps(channels=4, size=(5, 5)).float().contiguous(memory_format=torch.channels_last)
    assert run(make(COUNTS), features).features.is_contiguous(memory_format=torch.channels_last)
    assert run(make(COUNTS), features.contiguous()).features.is_contiguous()


@every_augmenter
@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16, torch.float16])
def test_under_autocast_rows_keep_their_type_and_labels_are_exact(make, entering):
    features = maps().to(entering)
    expected = run(make(COUNTS), features.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(make(COUNTS), features)
    assert out.features.dtype == entering
    torch.testing.assert_close(out.features.double(), expected.features, rtol=0.01, atol=0.01)
    assert torch.equal(out.labels, expected.labels)


@every_augmenter
def test_soft_labels_in_half_precision_are_mixed_in_float32(make):
    out = run(make(COUNTS), maps(), soft().bfloat16())
    assert out.labels.dtype == torch.float32
    assert run(make(COUNTS), maps(), soft()).labels.dtype == torch.float64


@every_augmenter
def test_there_is_nothing_to_learn_and_nothing_to_save(make):
    module = make(COUNTS)
    assert isinstance(module, Augmenter)
    assert module.mixes
    assert module.active
    assert not module.learns_while_idle
    assert not list(module.parameters())
    assert module.state_dict() == {}
    assert all(buffer.device.type == "meta" for buffer in module.to("meta").buffers())


@every_augmenter
@pytest.mark.parametrize("counts", [tuple(COUNTS), np.array(COUNTS), torch.tensor(COUNTS, dtype=torch.int32)])
def test_counts_may_be_any_kind_of_sequence(make, counts):
    assert torch.equal(run(make(counts), maps()).labels, run(make(COUNTS), maps()).labels)


def test_settings_show_in_the_representation():
    assert repr(Mixup(COUNTS)) == "Mixup(num_classes=4, alpha=1.0)"
    assert repr(CutMix(COUNTS, alpha=0.5)) == "CutMix(num_classes=4, alpha=0.5, probability=1.0)"
    assert repr(Remix(COUNTS)) == "Remix(num_classes=4, alpha=1.0, kappa=3.0, tau=0.5)"


# --- errors ------------------------------------------------------------------------------------------------


@every_augmenter
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(make, alpha):
    with pytest.raises(UserError, match=f"alpha must be positive, got {alpha}; to mix nothing, leave the augmenter"):
        make(COUNTS, alpha=alpha)


@every_augmenter
def test_an_alpha_that_draws_halves_by_underflow_is_refused(make):
    torch.manual_seed(0)
    halves = [sum(mixing._share(alpha) == 0.5 for _ in range(1000)) for alpha in (1e-3, 0.01)]
    assert halves[0] > 100 > 2 > halves[1]
    make(COUNTS, alpha=0.01)
    with pytest.raises(UserError, match="with alpha 0.001, lambda is too often 1/2 by underflow"):
        make(COUNTS, alpha=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kappa": 0.5}, "so at least 1, got 0.5; Remix uses 3"),
        ({"kappa": float("nan")}, "kappa"),
        ({"tau": 1.5}, r"tau is a share, so in \[0, 1\], got 1.5; 0 is Mixup"),
        ({"tau": -0.1}, "tau"),
    ],
    ids=str,
)
def test_settings_of_remix_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Remix(COUNTS, **options)


@every_augmenter
def test_counts_that_are_none_are_refused(make):
    with pytest.raises(UserError, match="got 0 for class 1"):
        make([3, 0])


@pytest.mark.parametrize("make", [Mixup, Remix])
def test_whole_numbers_are_not_blended(make):
    with pytest.raises(UserError, match=r"torch\.uint8 cannot be blended; pass images as numbers with a fraction"):
        run(make(COUNTS), maps().to(torch.uint8))


@every_augmenter
@pytest.mark.parametrize("shape", [(6, 5), (6,), (6, 4, 1)])
def test_soft_labels_of_another_number_of_classes_are_refused(make, shape):
    with pytest.raises(UserError, match=r"one probability per class, shape \(b, 4\), got .*; pass the class_counts"):
        run(make(COUNTS), maps(), torch.ones(shape))
