"""The hallucinator: a copy at the start, moved by noise, trained by what is made of its rows.

What holds for every augmenter is in ``tests/conformance/test_augmenters.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safa.augmenters.hallucinator import Hallucinator
from safa.errors import UserError
from safa.types import Augmented
from tests.augmenters import trying

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4
LABELS = [1, 0, 3, 1, 2, 3, 0]
TAIL = [1, 4, 6]


def augmenter(channels: int = 3, seed: int = 0, **options) -> Hallucinator:
    torch.manual_seed(seed)
    return Hallucinator(channels, COUNTS, **{"head_ratio": 0.4, **options})


def trained(**options) -> Hallucinator:
    return trying.moved(augmenter(**options))


def maps(labels: list[int] = LABELS, **options) -> Tensor:
    return trying.post_relu(len(labels), **options)


def run(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


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


def test_features_above_zero_enter_g_as_they_are():
    module, features = trained(), maps() + 1
    out = run(module, features)
    torch.manual_seed(2)
    assert torch.equal(out.features[7:], module.generate(features[TAIL]))


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


# --- layouts and mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "shape"), [("map", (3, 2, 3)), ("tokens", (6, 3)), ("vector", (3,))])
def test_every_layout_starts_as_a_copy(layout, shape):
    features = torch.rand(7, *shape)
    torch.testing.assert_close(run(augmenter(layout=layout), features).features[7:], features[TAIL])


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
        ("tokens", (7, 2, 5), "built for 3 channels but receives 5"),
        ("map", (7, 2, 3), r"layout 'map' with 4 dimensions .* \(7, 2, 3\); pass layout='tokens'"),
        ("vector", (7, 3, 2, 2, 2), "name another layer"),
    ],
)
def test_features_of_another_shape_are_refused_with_the_way_out(layout, shape, said):
    with pytest.raises(UserError, match=said):
        run(augmenter(layout=layout), torch.rand(shape))
