"""The cosine head: geometry, start, precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from safa.errors import UserError
from safa.heads import CosineHead, LinearHead


def test_logits_are_scale_times_cosines():
    head = CosineHead(6, 3, scale=7.0)
    features = torch.randn(4, 6)
    expected = 7 * F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)


def test_a_feature_on_its_class_vector_scores_the_scale():
    head = CosineHead(5, 2)
    torch.testing.assert_close(head(3 * head.weight.detach()).diagonal(), torch.full((2,), 30.0))


def test_lengths_do_not_matter():
    head = CosineHead(6, 3)
    features = torch.randn(4, 6)
    longer = copy.deepcopy(head)
    with torch.no_grad():
        longer.weight.mul_(5)
    torch.testing.assert_close(longer(100 * features), head(features))


def test_class_vectors_start_with_length_one_in_all_directions():
    weight = CosineHead(64, 1000).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(1000))
    assert weight.mean().abs() < 0.01


def test_the_seed_fixes_the_start():
    heads = []
    for _ in range(2):
        torch.manual_seed(5)
        heads.append(CosineHead(8, 3))
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_the_head_leaves_autocast():
    head = CosineHead(64, 10)
    features = torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(features))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_float32_logits(half):
    head = CosineHead(8, 3)
    features = torch.randn(2, 8).to(half)
    assert torch.equal(head(features), head(features.float()))


def test_gradients_are_those_of_finite_differences():
    head = CosineHead(4, 3).double()
    assert torch.autograd.gradcheck(head, torch.randn(2, 4, dtype=torch.float64, requires_grad=True))


def test_a_feature_of_zeros_scores_zero_everywhere():
    assert torch.equal(CosineHead(4, 3)(torch.zeros(1, 4)), torch.zeros(1, 3))


def test_the_only_parameter_is_a_weight_laid_out_as_in_a_linear_layer():
    state = CosineHead(4, 3).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"weight": (3, 4)}


def test_linear_head_is_torchs():
    assert LinearHead is nn.Linear


def test_settings_show_in_the_representation():
    assert repr(CosineHead(4, 3)) == "CosineHead(in_features=4, num_classes=3, scale=30.0)"


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: CosineHead(4, 3, scale=0.0), "must be positive, got 0.0"),
        (lambda: CosineHead(0, 3), "got 0 and 3"),
        (lambda: CosineHead(4, 0), "got 4 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
