"""Heads: geometry, start and precision of the cosine head; the classifiers made from a former one."""

from __future__ import annotations

import copy
import io
from fractions import Fraction
from math import log, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from safa import heads
from safa.catalog import CATALOG, build
from safa.errors import UserError
from safa.heads import (
    AdjustedHead,
    CosineHead,
    LinearHead,
    NearestMeanHead,
    ScaledHead,
    TauNormalisedHead,
    balanced_error,
    tau_normalised,
)
from safa.types import Fitting, Refitted

COUNTS = [60, 12, 3]
SECOND_STAGE = {
    "scaled": ScaledHead,
    "tau_normalised": TauNormalisedHead,
    "nearest_mean": NearestMeanHead,
    "adjusted": AdjustedHead,
}
every_second_stage_head = pytest.mark.parametrize("kind", SECOND_STAGE.values(), ids=SECOND_STAGE.keys())


def clusters(counts: list[int], *, spread: float = 1.0, seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor]:
    """Features around one centre per class, with their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1 + torch.randn(len(counts), size, generator=torch.Generator().manual_seed(7))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return centres[labels] + spread * torch.randn(len(labels), size, generator=generator), labels


def fitting(counts: list[int] = COUNTS, *, validation: bool = True) -> Fitting:
    held_out = (lambda: clusters([40, 30, 50], spread=1.5, seed=1)) if validation else None
    return Fitting(counts, train=lambda: clusters(counts), validation=held_out)


def linear(seed: int = 0) -> nn.Linear:
    """A head with long vectors for the large classes, as cross-entropy leaves it."""
    torch.manual_seed(seed)
    head = nn.Linear(6, 3)
    centres = torch.stack([clusters([1, 1, 1], spread=0.0)[0][c] for c in range(3)])
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0], [0.7], [0.2]]) * centres)
    return head


def refitted(kind: type[nn.Module], former: nn.Module | None = None, **options) -> nn.Module:
    head = kind(6, 3, **options)
    head.refit(former or linear(), fitting())
    return head


# --- the cosine head ---------------------------------------------------------------------------------------


def test_logits_are_scale_times_cosines():
    head = CosineHead(6, 3, scale=7.0)
    features = torch.randn(4, 6)
    expected = 7 * F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)


def test_features_of_tokens_are_scored_token_by_token():
    features = torch.randn(4, 5, 6)
    for head in (CosineHead(6, 3), *map(refitted, SECOND_STAGE.values()), refitted(ScaledHead, CosineHead(6, 3))):
        expected = torch.stack([head(features[:, token]) for token in range(5)], dim=1)
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
        (lambda: CosineHead(4, 3, scale=float("inf")), "must be positive, got inf"),
        (lambda: CosineHead(0, 3), "got 0 and 3"),
        (lambda: CosineHead(4, 0), "got 4 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()


# --- what the heads of a second stage share ----------------------------------------------------------------


@every_second_stage_head
def test_a_head_of_a_second_stage_follows_the_protocol_and_the_others_do_not(kind):
    assert isinstance(kind(6, 3), Refitted)
    assert not isinstance(LinearHead(6, 3), Refitted)
    assert not isinstance(CosineHead(6, 3), Refitted)


@every_second_stage_head
def test_before_it_is_refitted_all_classes_score_alike(kind):
    logits = kind(6, 3)(torch.randn(5, 6))
    assert logits.shape == (5, 3)
    assert torch.equal(logits, logits[:, :1].expand(5, 3))


@every_second_stage_head
def test_a_new_head_is_filled_by_the_state_of_a_refitted_one(kind):
    head, file = refitted(kind), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    new = kind(6, 3)
    new.load_state_dict(torch.load(file, weights_only=True))
    features = torch.randn(5, 6)
    assert torch.equal(new(features), head(features))
    assert repr(new) == repr(head)


@pytest.mark.parametrize("kind", [ScaledHead, AdjustedHead])
def test_the_state_says_whether_the_former_head_was_a_cosine_head(kind):
    head, new = refitted(kind, CosineHead(6, 3)), kind(6, 3)
    new.load_state_dict(head.state_dict())
    features = torch.randn(5, 6)
    assert torch.equal(new(features), head(features))


@every_second_stage_head
def test_the_state_is_finite_before_and_after_refitting(kind):
    for head in (kind(6, 3), refitted(kind)):
        assert all(torch.isfinite(tensor).all() for tensor in head.state_dict().values())


@every_second_stage_head
def test_the_former_head_is_copied_not_shared(kind):
    former = linear()
    head = refitted(kind, former)
    features = torch.randn(5, 6)
    before = head(features)
    with torch.no_grad():
        former.weight.zero_()
    assert torch.equal(head(features), before)


@every_second_stage_head
def test_heads_of_a_second_stage_leave_autocast(kind):
    head = refitted(kind)
    features = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(features))


@every_second_stage_head
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_float32_logits_in_a_second_stage(kind, half):
    head = refitted(kind)
    features = torch.randn(5, 6).to(half)
    assert torch.equal(head(features), head(features.float()))


@every_second_stage_head
def test_gradients_in_a_second_stage_are_those_of_finite_differences(kind):
    head = refitted(kind).double()
    assert torch.autograd.gradcheck(head, torch.randn(2, 6, dtype=torch.float64, requires_grad=True))


@every_second_stage_head
def test_features_of_zeros_have_finite_gradients(kind):
    features = torch.zeros(2, 6, requires_grad=True)
    refitted(kind)(features).sum().backward()
    assert torch.isfinite(features.grad).all()


@every_second_stage_head
def test_a_refitted_head_can_be_exported(kind):
    head = refitted(kind).eval()
    batch = torch.export.Dim("n")
    program = torch.export.export(head, (torch.randn(4, 6),), dynamic_shapes=({0: batch},))
    for n in (1, 7):
        features = torch.randn(n, 6)
        torch.testing.assert_close(program.module()(features), head(features))


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")  # torch's exporter about its own parts
@pytest.mark.parametrize(
    ("kind", "former"),
    [(kind, linear()) for kind in SECOND_STAGE.values()] + [(ScaledHead, CosineHead(6, 3))],
    ids=[*SECOND_STAGE, "scaled cosine"],
)
def test_a_refitted_head_can_be_written_as_onnx(kind, former):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    head = refitted(kind, former).eval()
    program = torch.onnx.export(head, (torch.randn(4, 6),), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    features = torch.randn(4, 6)
    (logits,) = session.run(None, {session.get_inputs()[0].name: features.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), head(features))


@pytest.mark.parametrize("name", CATALOG["head"])
def test_every_head_is_built_from_what_the_library_knows(name):
    head = build("head", name, {}, in_features=6, num_classes=3, out_features=3)
    assert head(torch.randn(2, 6)).shape == (2, 3)
    assert head.in_features == 6


@pytest.mark.parametrize("name", SECOND_STAGE)
def test_the_catalog_names_the_heads_of_the_library(name):
    assert CATALOG["head"][name].target == f"safa.heads:{SECOND_STAGE[name].__name__}"


def test_every_name_of_the_package_is_there():
    assert all(hasattr(heads, name) for name in heads.__all__)


@every_second_stage_head
def test_sizes_below_one_are_refused(kind):
    with pytest.raises(UserError, match="at least 1 feature and 1 class, got 6 and 0"):
        kind(6, 0)


@pytest.mark.parametrize("kind", [ScaledHead, AdjustedHead])
def test_only_what_is_linear_or_cosine_can_be_taken_over(kind):
    class OwnHead(nn.Linear):
        """Has a weight, but computes something else with it."""

        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.relu())

    for former, name in ((nn.Sequential(nn.Linear(6, 3)), "Sequential"), (OwnHead(6, 3), "OwnHead")):
        with pytest.raises(UserError, match=f"linear or cosine head can be taken over, not {name}; give the stage"):
            kind(6, 3).refit(former, fitting())


@pytest.mark.parametrize("kind", [ScaledHead, AdjustedHead, TauNormalisedHead])
def test_a_former_head_of_other_sizes_is_refused(kind):
    with pytest.raises(UserError, match="built for 6 features and 3 classes but the former head has 5 and 3"):
        kind(6, 3).refit(nn.Linear(5, 3), fitting())


# --- learnable weight scaling ------------------------------------------------------------------------------


def test_scales_start_at_the_former_head():
    former, features = linear(), torch.randn(5, 6)
    assert torch.equal(refitted(ScaledHead, former)(features), former(features))


def test_scales_start_at_the_former_cosine_head():
    former, features = CosineHead(6, 3, scale=20.0), torch.randn(5, 6)
    torch.testing.assert_close(refitted(ScaledHead, former)(features), former(features))


def test_a_former_head_without_bias_is_taken_over():
    former, features = nn.Linear(6, 3, bias=False), torch.randn(5, 6)
    torch.testing.assert_close(refitted(ScaledHead, former)(features), former(features))


def test_reading_scales_multiply_logits_bias_included():
    former = linear()
    head = refitted(ScaledHead, former)
    scales = [0.5, 2.0, -3.0]
    with torch.no_grad():
        head.scales.copy_(torch.tensor(scales))
    features = torch.randn(4, 6)
    weight, bias = former.weight.tolist(), former.bias.tolist()
    for row, logits in zip(features.tolist(), head(features).tolist(), strict=True):
        for c in range(3):
            dot = sum(w * f for w, f in zip(weight[c], row, strict=True))
            assert logits[c] == pytest.approx(scales[c] * (dot + bias[c]), abs=1e-5)


def test_only_the_scales_learn_whatever_is_declared_trainable():
    head = refitted(ScaledHead).requires_grad_(True)
    before = copy.deepcopy(head.state_dict())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    features, labels = clusters(COUNTS)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()
    changed = {name for name, tensor in head.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"scales"} == {name for name, _ in head.named_parameters()}


def test_the_state_of_a_scaled_head_holds_what_it_took_over():
    former = linear()
    state = refitted(ScaledHead, former).state_dict()
    assert torch.equal(state["former.weight"], former.weight)
    assert torch.equal(state["former.bias"], former.bias)
    assert set(state) == {"scales", "former.weight", "former.bias", "former.of_directions"}


# --- tau-normalisation -------------------------------------------------------------------------------------


def test_tau_normalised_vectors_match_the_loop():
    weight = torch.randn(5, 4)
    for tau in (0.0, 0.3, 1.0, 1.7):
        for row, evened in zip(weight.tolist(), tau_normalised(weight, tau).tolist(), strict=True):
            length = sqrt(sum(x * x for x in row))
            assert evened == pytest.approx([x / length**tau for x in row], rel=1e-5)


def test_tau_one_gives_class_vectors_of_length_one():
    torch.testing.assert_close(tau_normalised(torch.randn(5, 4), 1.0).norm(dim=1), torch.ones(5))


def test_a_class_vector_of_zeros_stays_one():
    for tau in (0.0, 1.0, 2.0):
        assert torch.equal(tau_normalised(torch.zeros(1, 4), tau), torch.zeros(1, 4))


def test_tau_zero_gives_the_former_weights_without_their_bias():
    former, features = linear(), torch.randn(5, 6)
    head = refitted(TauNormalisedHead, former, tau=0.0)
    assert torch.equal(head(features), features @ former.weight.T)


def test_a_tau_that_was_given_needs_no_validation():
    head = TauNormalisedHead(6, 3, tau=0.7)
    assert not head.needs_validation
    head.refit(linear(), fitting(validation=False))
    assert float(head.tau) == pytest.approx(0.7)
    features = torch.randn(4, 6)
    torch.testing.assert_close(head(features), features @ tau_normalised(linear().weight, 0.7).T)


def test_the_chosen_tau_has_the_lowest_balanced_error_of_the_grid():
    former = linear()
    features, labels = fitting().validation()
    errors = []
    for tau in np.linspace(0, 2, 21):
        weight = former.weight.detach().double().numpy()
        logits = features.double().numpy() @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** tau).T
        wrong, seen = [0, 0, 0], [0, 0, 0]
        for row, label in zip(logits, labels.tolist(), strict=True):
            seen[label] += 1
            wrong[label] += int(np.argmax(row)) != label
        errors.append(sum(Fraction(w, s) for w, s in zip(wrong, seen, strict=True)))
    best = errors.index(min(errors))
    assert 0 < best < 20 and errors[0] > min(errors) < errors[20]  # a case that has to be searched
    chosen = refitted(TauNormalisedHead, former)
    assert float(chosen.tau) == pytest.approx(np.linspace(0, 2, 21)[best])


def chosen_tau(images: list[list[float]], labels: list[int]) -> float:
    """For the class vectors (3, 0) and (0, 1)."""
    former = nn.Linear(2, 2)
    with torch.no_grad():
        former.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    held_out = torch.tensor(images), torch.tensor(labels)
    head = TauNormalisedHead(2, 2)
    head.refit(former, Fitting([9, 1], train=lambda: held_out, validation=lambda: held_out))
    return float(head.tau)


def test_a_tau_of_2_can_be_chosen():
    # The image (1, 0.35) of class 1 is right where 3^(1 - tau) < 0.35: at 2.0, and not yet at 1.9.
    assert chosen_tau([[1.0, 0.35], [9.0, 0.1]], [1, 0]) == 2


def test_one_image_of_twenty_of_its_class_decides_the_choice():
    # The image (1, 2) of class 1 is right from tau 0.4 on, as below; all others at every tau.
    images = [[1.0, 2.0], *19 * [[0.0, 1.0]], [1.0, 0.0]]
    assert chosen_tau(images, [*20 * [1], 0]) == pytest.approx(0.4)


def test_of_equal_errors_the_smallest_tau_is_chosen():
    # The image (1, 2) of class 1 is right where 3^(1 - tau) < 2, from 0.4 on; the image (2, 1) of class 0 where
    # 2 * 3^(1 - tau) > 1, up to 1.6.
    assert chosen_tau([[1.0, 2.0], [2.0, 1.0]], [1, 0]) == pytest.approx(0.4)


def test_errors_that_differ_by_the_order_of_adding_are_equal():
    # Of ten images per class, 1, 2 and 3 are wrong at tau 0, and 3, 2 and 1 from 0.1 on, where the flipping ones
    # go over from class 0 to class 2. 0.1 + 0.2 + 0.3 is more than 0.3 + 0.2 + 0.1 by one bit.
    former = nn.Linear(3, 3)
    with torch.no_grad():
        former.weight.copy_(torch.diag(torch.tensor([4.0, 1.0, 1.0])))
    axis_0, axis_1, axis_2, flipping = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 4**0.95]
    features = torch.tensor(
        [axis_0] * 7 + [flipping] * 2 + [axis_1]
        + [axis_1] * 8 + [axis_0] * 2
        + [axis_2] * 7 + [flipping] * 2 + [axis_1]
    )  # fmt: skip
    held_out = features, torch.arange(3).repeat_interleave(10)
    head = TauNormalisedHead(3, 3)
    head.refit(former, Fitting([10, 10, 10], train=lambda: held_out, validation=lambda: held_out))
    assert float(head.tau) == 0


def test_reading_the_scale_of_features_changes_no_ranking_but_the_confidence():
    head = refitted(TauNormalisedHead)
    features = torch.randn(50, 6)
    once, thrice = head(features), head(3 * features)
    assert torch.equal(once.argmax(dim=1), thrice.argmax(dim=1))
    assert (thrice.softmax(dim=1).amax(dim=1) >= once.softmax(dim=1).amax(dim=1)).all()


def test_the_chosen_tau_shows_in_the_representation_and_is_in_the_state():
    head = refitted(TauNormalisedHead)
    assert repr(head) == f"TauNormalisedHead(in_features=6, num_classes=3, tau={float(head.tau):g})"
    new = TauNormalisedHead(6, 3)
    assert "tau=0)" in repr(new)
    new.load_state_dict(head.state_dict())
    assert repr(new) == repr(head)


def test_a_head_without_values_can_be_shown():
    for kind in (CosineHead, *SECOND_STAGE.values()):
        with torch.device("meta"):
            assert repr(kind(6, 3)).startswith(kind.__name__)


def test_without_tau_and_without_validation_both_ways_out_are_named():
    head = TauNormalisedHead(6, 3)
    assert head.needs_validation
    with pytest.raises(UserError) as error:
        head.refit(linear(), fitting(validation=False))
    assert "head: {name: tau_normalised, tau: 0.7}" in str(error.value)
    assert "set data.validation, e.g. to 0.1" in str(error.value)


def test_a_cosine_head_has_no_lengths_to_even_out():
    with pytest.raises(UserError, match="CosineHead is none; give the stage before head: linear"):
        refitted(TauNormalisedHead, CosineHead(6, 3))


@pytest.mark.parametrize("tau", [-0.1, float("inf"), float("nan")])
def test_a_tau_out_of_range_is_refused(tau):
    with pytest.raises(UserError, match=f"at least 0, got {tau}"):
        TauNormalisedHead(6, 3, tau=tau)


def test_the_balanced_error_gives_every_class_the_same_say():
    labels = torch.tensor([0, 0, 0, 0, 1])
    predictions = torch.tensor([0, 0, 0, 1, 0])
    assert balanced_error(F.one_hot(predictions, 2).float(), labels) == (1 / 4 + 1) / 2


def test_a_class_without_images_has_no_part_in_the_balanced_error():
    labels = torch.tensor([0, 0, 2])
    predictions = torch.tensor([1, 0, 2])
    assert balanced_error(F.one_hot(predictions, 4).float(), labels) == (1 / 2 + 0) / 2


# --- the nearest class mean --------------------------------------------------------------------------------


def test_predictions_are_those_of_scikit_learns_nearest_centroid():
    features, labels = (part.numpy() for part in fitting().train())
    mean = features.mean(axis=0)

    def normalised(rows: np.ndarray) -> np.ndarray:
        return (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)

    reference = NearestCentroid().fit(normalised(features), labels)
    others, _ = clusters([50, 50, 50], spread=2.0, seed=5)
    predicted = refitted(NearestMeanHead)(others).argmax(dim=1).numpy()
    assert len(set(predicted)) == 3
    np.testing.assert_array_equal(predicted, reference.predict(normalised(others.numpy())))


def test_reading_features_are_centred_then_given_length_one_then_averaged():
    # Around (10, 20), class 0 lies in the directions (.6, .8) and (.6, -.8), with mean (.6, 0), not of length one;
    # class 1 in (-1, 0). The direction (0, 1) is at squared distances .36 + 1 and 2.
    features = torch.tensor([10.0, 20.0]) + torch.tensor([[3.0, 4.0], [3.0, -4.0], [-6.0, 0.0]])
    head = NearestMeanHead(2, 2)
    head.refit(nn.Linear(2, 2), Fitting([2, 1], train=lambda: (features, torch.tensor([0, 0, 1]))))
    torch.testing.assert_close(head.feature_mean, torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(head.class_means, torch.tensor([[0.6, 0.0], [-1.0, 0.0]]))
    torch.testing.assert_close(head(torch.tensor([[10.0, 22.0]])), torch.tensor([[-1.36, -2.0]]))


def test_logits_are_minus_the_squared_distances_of_the_loop():
    head = refitted(NearestMeanHead)
    features = torch.randn(4, 6)
    for row, logits in zip(features.tolist(), head(features).tolist(), strict=True):
        centred = [f - m for f, m in zip(row, head.feature_mean.tolist(), strict=True)]
        length = sqrt(sum(x * x for x in centred))
        for mean, logit in zip(head.class_means.tolist(), logits, strict=True):
            distance = sum((x / length - m) ** 2 for x, m in zip(centred, mean, strict=True))
            assert logit == pytest.approx(-distance, abs=1e-5)


def test_a_feature_on_the_overall_mean_has_no_direction():
    head = refitted(NearestMeanHead)
    logits = head(head.feature_mean[None])
    torch.testing.assert_close(logits[0], -head.class_means.square().sum(dim=1))


def test_the_former_head_has_no_part_in_class_means():
    features = torch.randn(4, 6)
    logits = refitted(NearestMeanHead, linear())(features)
    assert torch.equal(refitted(NearestMeanHead, nn.Sequential())(features), logits)


def test_a_class_without_images_has_no_mean():
    with pytest.raises(UserError, match="class 1 has no training image and so no mean; leave out classes"):
        NearestMeanHead(6, 3).refit(linear(), fitting([5, 0, 2]))


# --- post-hoc logit adjustment -----------------------------------------------------------------------------


@pytest.mark.parametrize("former", [linear(), CosineHead(6, 3)], ids=["linear", "cosine"])
def test_tau_zero_adjusts_nothing(former):
    features = torch.randn(5, 6)
    torch.testing.assert_close(refitted(AdjustedHead, former, tau=0.0)(features), former(features))


@pytest.mark.parametrize("former", [linear(), CosineHead(6, 3)], ids=["linear", "cosine"])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_the_log_of_the_training_prior_is_subtracted(former, tau):
    features = torch.randn(5, 6)
    adjusted = refitted(AdjustedHead, former, tau=tau)(features)
    for row, logits in zip(former(features).tolist(), adjusted.tolist(), strict=True):
        expected = [logit - tau * log(n / sum(COUNTS)) for logit, n in zip(row, COUNTS, strict=True)]
        assert logits == pytest.approx(expected, abs=1e-4)


def test_adjusted_posteriors_under_the_prior_are_those_under_equal_classes():
    # A head that says p(y | x) ∝ n_y p(x | y) is adjusted to the one that says p(x | y), normalised.
    likelihood = torch.tensor([0.2, 0.3, 0.5])
    former = nn.Linear(6, 3)
    with torch.no_grad():
        former.weight.zero_()
        former.bias.copy_((torch.tensor(COUNTS) * likelihood).log())
    adjusted = refitted(AdjustedHead, former)(torch.randn(2, 6)).softmax(dim=1)
    torch.testing.assert_close(adjusted, likelihood.expand(2, 3))


def test_equal_classes_are_not_adjusted_apart():
    former, features = linear(), torch.randn(5, 6)
    head = AdjustedHead(6, 3)
    head.refit(former, fitting([7, 7, 7]))
    torch.testing.assert_close(head(features).softmax(dim=1), former(features).softmax(dim=1))


def test_a_class_without_images_has_no_prior():
    with pytest.raises(UserError, match="class 1 has no training image, so its prior is 0 and has no logarithm"):
        AdjustedHead(6, 3).refit(linear(), fitting([5, 0, 2]))


@pytest.mark.parametrize("tau", [-1.0, float("inf"), float("nan")])
def test_a_prior_is_taken_off_a_finite_number_of_times(tau):
    with pytest.raises(UserError, match=f"at least 0, got {tau}; 0 is the former head"):
        AdjustedHead(6, 3, tau=tau)


def test_settings_of_a_second_stage_show_in_the_representation():
    assert repr(AdjustedHead(6, 3, tau=0.5)).startswith("AdjustedHead(\n  in_features=6, num_classes=3, tau=0.5")
    assert repr(NearestMeanHead(6, 3)) == "NearestMeanHead(in_features=6, num_classes=3)"


def test_counts_of_other_classes_are_no_prior():
    head = AdjustedHead(6, 3)
    with pytest.raises(UserError, match="the head has 3 classes, and there are counts of 1"):
        head.refit(linear(), fitting([7]))


def test_a_label_beyond_the_classes_has_no_mean():
    head = NearestMeanHead(6, 3)
    features = Fitting(COUNTS, train=lambda: (torch.randn(4, 6), torch.tensor([0, 1, 2, 7])), validation=None)
    with pytest.raises(UserError, match="the head has 3 classes, so labels are below that, got 7"):
        head.refit(linear(), features)


def test_no_image_at_all_is_told_as_a_class_without_images():
    head = NearestMeanHead(6, 3)
    nothing = Fitting(COUNTS, train=lambda: (torch.empty(0, 6), torch.empty(0, dtype=torch.int64)), validation=None)
    with pytest.raises(UserError, match="class 0 has no training image and so no mean"):
        head.refit(linear(), nothing)
