"""The hallucinator: a copy at the start, moved by noise, trained by what is made of its rows."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from safa.augmenters.hallucinator import Hallucinator
from safa.errors import UserError
from safa.types import Augmented, Augmenter

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
LABELS = [1, 0, 3, 1, 2, 3, 0]
TAIL = [1, 4, 6]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def augmenter(channels: int = 3, seed: int = 0, **options) -> Hallucinator:
    torch.manual_seed(seed)
    return Hallucinator(channels, COUNTS, **{"head_ratio": 0.4, **options})


def trained(**options) -> Hallucinator:
    module = augmenter(**options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def maps(labels: list[int] = LABELS, channels: int = 3, size: tuple[int, int] = (3, 2)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((len(labels), channels, *size), generator=generator, dtype=torch.float64).clamp(min=0)


def run(module: Hallucinator, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    torch.manual_seed(seed)
    return module(features, torch.tensor(labels, dtype=torch.int64))


# --- the method --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, -2.0], ids=["post-ReLU", "with negative features"])
def test_at_the_start_every_tail_row_is_copied(shift):
    features = maps() + shift
    out = run(augmenter().double(), features)
    assert out.labels.tolist() == [*LABELS, 0, 2, 0]
    torch.testing.assert_close(out.features[7:], features[TAIL], rtol=0, atol=1e-12)


def test_generated_rows_follow_the_three_layers_written_out():
    module, features = trained(noise=2, copies=2, layout="vector"), maps(size=(1, 1))[..., 0, 0]
    out = run(module, features)
    torch.manual_seed(2)
    noise = torch.randn(6, 2, 1, 1, dtype=torch.float64)[..., 0, 0].tolist()
    expected = []
    for row, z in zip(2 * TAIL, noise, strict=True):
        values = features[row].tolist() + z
        for layer in module.generator:
            matrix, bias = layer.weight.detach()[..., 0, 0].tolist(), layer.bias.tolist()
            sums = [sum(w * v for w, v in zip(line, values, strict=True)) for line in matrix]
            values = [max(0.0, total + b) for total, b in zip(sums, bias, strict=True)]
        expected.append(values)
    torch.testing.assert_close(out.features[7:], torch.tensor(expected, dtype=torch.float64))


def test_a_row_gets_one_noise_vector_for_all_its_positions():
    module = trained()
    with torch.no_grad():  # 1x1 in effect, so that borders do not differ from the rest
        for layer in module.generator:
            layer.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    features = torch.ones(3, 3, 4, 4, dtype=torch.float64)
    made = run(module, features, [0, 0, 0]).features[3:]
    torch.testing.assert_close(made, made[:, :, :1, :1].expand_as(made))
    assert not torch.allclose(made[0], made[1])


def test_copies_multiply_the_rows_of_the_tail():
    out = run(trained(copies=3), maps())
    assert out.labels.tolist() == LABELS + [0, 2, 0] * 3
    assert not torch.allclose(out.features[7:10], out.features[10:13])  # each with noise of its own


def test_no_head_row_is_needed():
    assert run(trained(), maps([0, 2]), [0, 2]).labels.tolist() == [0, 2, 0, 2]


def test_the_loss_of_the_generated_rows_alone_trains_every_parameter():
    module, features = augmenter().double(), maps(LABELS * 3).requires_grad_()
    out = run(module, features, LABELS * 3)
    assert out.terms == {}
    assert out.loss.item() == 0
    (out.features[21:].square().mean() + out.loss).backward()
    assert all(parameter.grad.any() for parameter in module.parameters())
    assert not features.grad.any()


def test_generated_rows_learn_to_please_a_classifier():
    module, features = augmenter(layout="vector"), torch.rand(20, 3) + 0.5
    labels = [0] * 10 + [2] * 10
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for step in range(30):
        out = run(module, features, labels, seed=step)
        loss = torch.nn.functional.cross_entropy(out.features[20:], out.labels[20:]) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# --- batches -----------------------------------------------------------------------------------------------


NOTHING_TO_DO = {"no tail": [1, 1, 3], "one head class": [3, 3], "no image": []}


@pytest.mark.parametrize("labels", NOTHING_TO_DO.values(), ids=NOTHING_TO_DO.keys())
def test_a_batch_without_tail_passes_unchanged_with_a_differentiable_zero(labels):
    module, features = trained(), maps(labels)
    out = run(module, features, labels)
    assert out.features is features
    assert out.labels.tolist() == labels
    out.loss.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.parameters())


@pytest.mark.parametrize("switch", ["inactive", "evaluation"])
def test_inactive_or_in_evaluation_rows_pass_unchanged_and_no_random_number_is_drawn(switch):
    module, features = trained(), maps()
    module.active = switch != "inactive"
    module.train(switch != "evaluation")
    state = torch.get_rng_state()
    out = module(features, torch.tensor(LABELS))
    assert out.features is features
    assert out.loss.item() == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_relabelling_the_classes_permutes_the_labels_and_no_row():
    permutation = torch.tensor([3, 0, 4, 1, 2])
    counts = torch.empty(5, dtype=torch.int64)
    counts[permutation] = torch.tensor(COUNTS)
    one, other = trained(), trained()
    other.is_head = Hallucinator(3, counts, head_ratio=0.4).is_head
    first, second = run(one, maps()), run(other, maps(), permutation[LABELS].tolist())
    assert torch.equal(first.features, second.features)
    assert permutation[first.labels].tolist() == second.labels.tolist()


# --- layouts, precision, state -----------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "shape"), [("map", (3, 2, 3)), ("tokens", (6, 3)), ("vector", (3,))])
def test_every_layout_starts_as_a_copy(layout, shape):
    features = torch.rand(7, *shape)
    torch.testing.assert_close(run(augmenter(layout=layout), features).features[7:], features[TAIL])


def test_channels_last_is_kept():
    features = maps(channels=4, size=(5, 5)).float().contiguous(memory_format=torch.channels_last)
    module = augmenter(channels=4).to(memory_format=torch.channels_last)
    assert run(module, features).features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16])
def test_under_bf16_autocast_rows_keep_their_type_and_stay_near_float32(entering):
    module, features = augmenter(), maps().to(entering)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(module, features)
    assert out.features.dtype == entering
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.features[:7], features)
    torch.testing.assert_close(out.features[7:].double(), maps()[TAIL], rtol=0.05, atol=0.05)
    (out.features.float().square().mean() + out.loss).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_state_survives_a_weights_only_round_trip_and_the_seed_fixes_the_rows():
    module, loaded, file = trained(), augmenter(seed=9).double(), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(run(loaded, maps()).features, run(module, maps()).features)
    assert not torch.equal(run(module, maps(), seed=3).features, run(module, maps()).features)
    assert isinstance(module, Augmenter)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": 0}, "noise and copies are at least 1, got noise=0 and copies=1"),
        ({"copies": 0}, "noise and copies are at least 1, got noise=3 and copies=0"),
        ({"layout": "token"}, "layout must be map, tokens or vector, got 'token'; did you mean 'tokens'"),
        ({"head_ratio": 20}, "head_ratio is the share of classes that are head"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Hallucinator(3, COUNTS, **options)


@pytest.mark.parametrize(
    ("layout", "shape", "said"),
    [
        ("map", (7, 5, 2, 2), "Hallucinator was built for 3 channels but receives 5; pass channels=5"),
        ("tokens", (7, 2, 5), "built for 3 channels but receives 5"),
        ("map", (7, 2, 3), r"layout 'map' with 4 dimensions .* \(7, 2, 3\); pass layout='tokens'"),
        ("vector", (7, 3, 2, 2, 2), "name another layer"),
    ],
)
def test_features_of_another_shape_are_refused_with_the_way_out(layout, shape, said):
    with pytest.raises(UserError, match=said):
        run(augmenter(layout=layout), torch.rand(shape))
