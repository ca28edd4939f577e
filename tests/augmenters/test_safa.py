"""SAFA against Eq. 1 to 7 written out, and every reading.

What holds for every augmenter is in ``tests/conformance/test_augmenters.py``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from safa.augmenters import READINGS, SAFA, Reading
from safa.errors import UserError
from safa.types import Augmented, Augmenter
from tests.augmenters import trying
from tests.reference import safa as literal

COUNTS = [3, 90, 2, 80, 1]  # classes 1 and 3 are head at a head_ratio of 0.4, class 0 is rare
HEAD = {1, 3}
LABELS = [0, 1, 3, 2, 1, 0, 3]
TERMS = ("reconstruction", "mode_seeking_tail", "mode_seeking_head", "contrastive")


def augmenter(channels: int = 3, seed: int = 0, **options) -> SAFA:
    torch.manual_seed(seed)
    return SAFA(channels, COUNTS, head_ratio=0.4, **options)


def trained(**options) -> SAFA:
    return trying.moved(augmenter(**options))


def maps(labels: list[int] = LABELS, **options) -> Tensor:
    return trying.post_relu(len(labels), **options)


def run(module, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    return trying.run(module, features, labels, seed)


def as_maps(features: Tensor, layout: str = "map") -> Tensor:
    if layout == "tokens":
        return features.transpose(1, 2)[..., None]
    return features[..., None, None] if layout == "vector" else features


def weights(module: nn.Module) -> literal.Block:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def leaves(module: nn.Module) -> literal.Block:
    """Copies of the parameters that the equations can be differentiated by."""
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}


def explanation(safa: SAFA, features: Tensor, augmented: Augmented, labels: list[int] = LABELS) -> literal.Step:
    """The one pairing of the batch by which the equations give just these generated rows."""
    maps_ = as_maps(features, safa.layout)
    generated = as_maps(augmented.features[len(labels) :], safa.layout)
    modules = literal.Modules(
        weights(safa.delta_extractor),
        weights(safa.delta_adapter),
        weights(safa.generator),
        identity=safa.reading.start == "identity",
        floor=maps_.min().item() if safa.reading.rectify else None,
    )
    found = []
    for heads, tails in literal.pairings(labels, HEAD):
        step = literal.Step(modules, maps_, heads, tails, printed=safa.reading.direction == "printed")
        expected = step.generated()
        if expected.shape == generated.shape and torch.allclose(expected, generated, rtol=0, atol=1e-10):
            found.append(step)
    assert len(found) == 1, f"{len(found)} pairings explain the generated rows"
    assert augmented.labels.tolist() == labels + [labels[row] for row in found[0].sources()]
    return found[0]


def assert_equations_hold(labels: list[int] = LABELS, seed: int = 2, **options) -> None:
    """Rows and terms of Eq. 2 to 5 and 7; Eq. 6 draws pairs of its own and has its own test."""
    safa = trained(**options)
    features = maps(labels)
    if safa.layout == "tokens":
        features = features.flatten(2).transpose(1, 2)
    if safa.layout == "vector":
        features = features[:, :, 0, 0]
    out = run(safa, features, labels, seed)
    step, reading = explanation(safa, features, out, labels), safa.reading
    expected = {
        "reconstruction": step.reconstruction(reading.target, reading.reduction).item(),
        "mode_seeking_tail": step.mode_seeking_tail(reading.ratio).item(),
        "mode_seeking_head": step.mode_seeking_head(reading.ratio, reading.head_ratio_of).item(),
    }
    assert {name: out.terms[name].item() for name in expected} == pytest.approx(expected, rel=1e-9)


def both(features: Tensor) -> tuple[Tensor, Tensor]:
    """The raw deltas of the first two rows: which of them is i and which is j is drawn."""
    return features[1] - features[0], features[0] - features[1]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-10)


# --- the equations -----------------------------------------------------------------------------------------


def test_generated_rows_and_terms_follow_eq_2_to_7_written_out():
    assert_equations_hold()


@pytest.mark.parametrize("seed", range(6))
def test_the_equations_hold_whichever_pairs_are_drawn(seed):
    assert_equations_hold(seed=seed)


def test_each_of_two_tail_pairs_shares_the_delta_of_its_own_head_pair():
    assert_equations_hold(labels=[0, 1, 3, 2, 1, 0, 3, 2])


def test_more_tail_pairs_than_head_pairs_leave_some_tail_rows_out():
    assert_equations_hold(labels=[0, 1, 2, 4, 0, 1, 2])


def test_fewer_tail_rows_than_head_pairs_are_used_again():
    safa = trained(mode_seeking_tail=0.0)
    features, labels = maps(), [1, 1, 3, 3, 1, 1, 2]
    assert run(safa, features, labels).labels.tolist() == [*labels, 2, 2, 2]


def test_overall_loss_is_the_weighted_sum_of_eq_1():
    lambdas = dict(zip(TERMS, (3.0, 5.0, 7.0, 11.0), strict=True))
    out = run(trained(**lambdas), maps())
    assert set(out.terms) == set(TERMS)
    expected = sum(weight * out.terms[name] for name, weight in lambdas.items())
    torch.testing.assert_close(out.loss.detach(), expected)


def seen_by_q(
    safa: SAFA, features: Tensor, labels: list[int], seed: int = 2
) -> tuple[Augmented, list[tuple[int, int]], Tensor, Tensor]:
    """What Q was shown, as pairs of rows of the grown batch, and what it answered."""
    shown: list[tuple[Tensor, Tensor]] = []
    handle = safa.pair_classifier.register_forward_hook(lambda _, given, made: shown.append((given[0], made)))
    out = run(safa, features, labels, seed)
    handle.remove()
    inputs, logits = shown[0]
    rows = [(half[:, None] == out.features[None]).flatten(2).all(2) for half in inputs.chunk(2, dim=1)]
    assert all((row.sum(1) == 1).all() for row in rows)
    pairs = list(zip(*(row.int().argmax(1).tolist() for row in rows), strict=True))
    return out, pairs, inputs.detach(), logits.detach()


@pytest.mark.parametrize("pairs", ["balanced", "random"])
def test_contrastive_term_follows_eq_6_written_out(pairs):
    safa = trained(pairs=pairs)
    out, rows, inputs, logits = seen_by_q(safa, maps(), LABELS)
    linear = safa.pair_classifier.fc.weight.detach(), safa.pair_classifier.fc.bias.detach()
    expected = literal.pair_logits(weights(safa.pair_classifier.block), linear, inputs)
    assert logits.tolist() == pytest.approx([logit.item() for logit in expected])
    same = [bool(out.labels[i] == out.labels[j]) for i, j in rows]
    term = literal.contrastive(expected, same, balanced=pairs == "balanced").item()
    assert out.terms["contrastive"].item() == pytest.approx(term)


def test_both_tail_rows_of_a_pair_take_the_same_delta():
    safa, features, labels = augmenter(rectify=False).double(), maps([1, 1, 0, 0]), [1, 1, 0, 0]
    out = run(safa, features, labels)
    assert out.labels.tolist() == [1, 1, 0, 0, 0, 0]
    shifts = {
        tuple((made - features[row]).flatten().round(decimals=9).tolist())
        for made in out.features[4:]
        for row in (2, 3)
    }
    head_delta = (features[1] - features[0]).flatten().round(decimals=9)
    assert {tuple(head_delta.tolist()), tuple((-head_delta).tolist())} & shifts
    assert len(shifts) == 3  # two rows that took one delta, and the two wrong ways round


def test_a_tail_row_without_a_partner_gives_one_generated_row():
    out = run(trained(), maps([1, 1, 0]), [1, 1, 0])
    assert out.labels.tolist() == [1, 1, 0, 0]
    assert set(out.terms) == set(TERMS) - {"mode_seeking_tail"}


# --- diagnostics -------------------------------------------------------------------------------------------


def test_an_identity_start_takes_the_raw_delta_of_the_head_pair():
    features = maps([1, 1, 0])
    found = run(augmenter().double(), features, [1, 1, 0]).diagnostics
    i, j, t = features
    assert found["delta_size"].item() == pytest.approx(((j - i).abs().sum() / t.abs().sum()).item())
    assert found["delta_cosine"].item() == pytest.approx(1)


@pytest.mark.parametrize("layout", ["map", "tokens", "vector"])
@pytest.mark.parametrize("start", ["identity", "random"])
def test_size_and_cosine_are_of_the_delta_before_and_after_d(start, layout):
    safa, seen = trained(start=start, layout=layout), []
    safa.delta_adapter.register_forward_hook(lambda _, given, made: seen.append((given[0].detach(), made.detach())))
    features = {"map": maps(), "tokens": maps().flatten(2).transpose(1, 2), "vector": maps()[:, :, 0, 0]}[layout]
    found = run(safa, features).diagnostics
    given, made = seen[0]
    size, of_tail, cosines = 0.0, 0.0, []
    for delta, tail, adapted in zip(given[:, :3], given[:, 3:], made, strict=True):
        adapted = adapted + delta if start == "identity" else adapted
        a, b = delta.flatten().tolist(), adapted.flatten().tolist()
        size += sum(abs(x) for x in b)
        of_tail += sum(abs(x) for x in tail.flatten().tolist())
        lengths = sum(x * x for x in a) ** 0.5 * sum(x * x for x in b) ** 0.5
        cosines.append(sum(x * y for x, y in zip(a, b, strict=True)) / lengths)
    assert found["delta_size"].item() == pytest.approx(size / of_tail)
    assert found["delta_cosine"].item() == pytest.approx(sum(cosines) / len(cosines))


def test_accuracy_of_q_weighs_same_class_pairs_and_others_alike():
    compared = 0
    for seed in range(6):
        out, pairs, _, logits = seen_by_q(trained(seed=seed), maps(seed=seed), LABELS)
        for name in ("real", "generated"):
            right = {True: [], False: []}
            for (i, j), logit in zip(pairs, logits.tolist(), strict=True):
                if (i >= len(LABELS) or j >= len(LABELS)) == (name == "generated"):
                    same = out.labels[i].item() == out.labels[j].item()
                    right[same].append(100 * ((logit > 0) == same))
            found = out.diagnostics[f"pair_accuracy_{name}"].item()
            if right[True] and right[False]:
                means = [sum(kind) / len(kind) for kind in right.values()]
                assert found == pytest.approx(sum(means) / 2)
                compared += 1
            else:
                assert np.isnan(found)
    assert compared > 3


def test_diagnostics_are_in_no_gradient_and_need_something_generated():
    out = run(trained(), maps())
    assert not any(value.requires_grad for value in out.diagnostics.values())
    assert set(run(trained(contrastive=0.0), maps()).diagnostics) == {"delta_size", "delta_cosine"}
    assert run(trained(), maps([1, 3, 0]), [1, 3, 0]).diagnostics == {}


# --- the readings ------------------------------------------------------------------------------------------


def test_reading_defaults_are_the_measured_ones():
    expected = Reading(
        reconstruction=1.0,
        mode_seeking_tail=1e-2,
        mode_seeking_head=1e-2,
        contrastive=1e-1,
        start="identity",
        direction="to_partner",
        rectify=True,
        target="partner",
        reduction="mean",
        ratio="per_pair",
        head_ratio_of="shift",
        pairs="balanced",
        detach=True,
        deltas=1,
        heads="random",
        tails="rows",
        moves="tail",
        reach="whole",
        growing_steps=500,
        practice=False,
    )
    assert augmenter().reading == READINGS["measured"] == expected


def test_reading_paper_prints_lambda_1_a_random_start_and_random_pairs():
    changed = {
        field.name: getattr(READINGS["paper"], field.name)
        for field in dataclasses.fields(Reading)
        if getattr(READINGS["paper"], field.name) != getattr(READINGS["measured"], field.name)
    }
    assert changed == {"reconstruction": 100.0, "start": "random", "pairs": "random"}


def test_reading_lambda_3_is_1e_2_and_can_be_the_printed_1e2():
    assert READINGS["paper"].mode_seeking_head == 1e-2
    safa = trained(mode_seeking_head=1e2)
    out = run(safa, maps())
    expected = sum(getattr(safa.reading, name) * out.terms[name] for name in TERMS)
    torch.testing.assert_close(out.loss.detach(), expected)


def test_reading_can_be_given_whole_or_changed_by_single_choices():
    mine = Reading(contrastive=0.0, start="random")
    assert augmenter(reading=mine).reading == mine
    assert augmenter(reading="paper", start="identity").reading == Reading(reconstruction=100.0, pairs="random")


def test_reading_identity_start_adds_the_raw_head_delta_above_the_floor():
    features, labels = maps([1, 1, 0]), [1, 1, 0]
    out = run(augmenter().double(), features, labels)
    i, j, t = features
    ways = [torch.maximum(t + delta, features.min()) for delta in (j - i, i - j)]
    assert sum(torch.allclose(out.features[3], way, rtol=0, atol=1e-12) for way in ways) == 1


def test_reading_identity_start_reads_the_raw_delta_back_without_loss():
    out = run(augmenter(rectify=False).double(), maps())
    assert out.terms["reconstruction"].item() == pytest.approx(0, abs=1e-12)


def test_reading_random_start_follows_the_equations_without_residuals():
    assert_equations_hold(start="random")


def test_reading_random_start_leaves_no_module_silent():
    safa = augmenter(start="random")
    assert all(
        module[-1].weight.abs().sum() > 0 for module in (safa.delta_extractor, safa.delta_adapter, safa.generator)
    )
    silent = augmenter()
    assert all(p.abs().sum() == 0 for p in silent.generator[-1].parameters())


def test_reading_direction_points_to_the_partner_and_can_be_the_printed_one():
    assert_equations_hold(direction="to_partner")
    assert_equations_hold(direction="printed")


@pytest.mark.parametrize("start", ["identity", "random"])
def test_reading_direction_printed_reverses_the_delta_of_the_same_pair(start):
    seen = {}
    for direction in ("to_partner", "printed"):
        safa = augmenter(direction=direction, start=start).double()
        safa.delta_extractor.register_forward_pre_hook(
            lambda _, given, direction=direction: seen.setdefault(direction, given[0])
        )
        run(safa, maps())
    torch.testing.assert_close(seen["printed"], -seen["to_partner"])


@pytest.mark.parametrize("direction", ["to_partner", "printed"])
def test_reading_eq_4_reads_back_what_was_added_to_the_tail_feature(direction):
    """E(generated - source) in both directions, as printed; else an identity start would not read it back."""
    safa, features = augmenter(direction=direction, target="self", rectify=False).double(), maps([1, 1, 0])
    out = run(safa, features, [1, 1, 0])
    delta = (features[1] - features[0]).square().mean()
    torch.testing.assert_close(out.terms["reconstruction"], delta)  # Eq. 5 alone; Eq. 4 is 0


def test_reading_generated_features_stay_above_the_smallest_real_one():
    out = run(trained(), maps())
    assert out.features[7:].min() == 0
    shifted = run(trained(), maps() - 2)
    assert shifted.features[7:].min() == -2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_reading_rectify_after_a_relu_is_a_relu_to_the_bit_gradients_included(dtype):
    moved = torch.cat([torch.zeros(10), torch.randn(50, generator=torch.Generator().manual_seed(0))])
    moved, expected = (moved.to(dtype).reshape(10, 3, 2, 1).requires_grad_() for _ in range(2))
    made, wanted = above(moved, 0.0), expected.relu()
    assert torch.equal(made, wanted)
    for output in (made, wanted):
        (output * torch.linspace(-1, 2, 60).to(dtype).reshape(output.shape)).sum().backward()
    assert torch.equal(moved.grad, expected.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reading_rectify_rounds_nothing_above_a_floor_below_zero(dtype):
    """As before a layer that normalises first, of a DenseNet."""
    moved = torch.cat([torch.linspace(-6, 3, 45), torch.logspace(-3, 0, 15)]).to(dtype).reshape(10, 3, 2, 1)
    assert above(moved, -3.0).flatten().tolist() == [max(x, -3.0) for x in moved.flatten().tolist()]


def test_reading_rectify_the_floor_is_the_least_of_the_whole_batch_head_rows_included():
    features = maps()
    features[1, 0, 0, 0] = -0.2  # of a head class
    raw, made = (run(trained(rectify=rectify), features).features[7:] for rectify in (False, True))
    of_tail = features[[row for row, label in enumerate(LABELS) if label not in HEAD]].min()
    assert ((raw > -0.2) & (raw < of_tail)).any()
    torch.testing.assert_close(made, raw.clamp(min=-0.2), rtol=0, atol=1e-12)


def above(moved: Tensor, floor: float) -> Tensor:
    """What SAFA leaves of moved features at its identity start, whose G adds nothing."""
    safa = augmenter().to(moved.dtype)
    return safa.move(torch.zeros_like(moved), moved, torch.tensor(floor, dtype=moved.dtype))


def test_no_loss_is_finite_beside_parameters_whose_sum_half_precision_does_not_hold():
    safa = augmenter()
    for parameter in safa.parameters():
        nn.init.constant_(parameter, 60000.0)
    out = run(safa.half(), maps([1, 3]).half(), [1, 3])
    assert len(out.features) == 2
    assert out.loss.item() == 0


def test_reading_without_rectify_generated_features_may_be_negative():
    assert_equations_hold(rectify=False)
    assert run(trained(rectify=False), maps()).features[7:].min() < 0


def test_reading_target_is_the_partner_and_can_be_the_printed_feature_itself():
    assert_equations_hold(target="partner")
    assert_equations_hold(target="self")


def test_reading_reduction_is_mean_and_can_be_sum():
    assert_equations_hold(reduction="mean")
    assert_equations_hold(reduction="sum")


def test_reading_ratio_is_per_pair_and_can_be_over_the_batch():
    assert_equations_hold(ratio="per_pair")
    assert_equations_hold(ratio="batch")
    assert_equations_hold(ratio="batch", head_ratio_of="deltas")


def test_reading_mode_seeking_head_relates_the_shift_and_can_relate_deltas():
    assert_equations_hold(head_ratio_of="shift")
    assert_equations_hold(head_ratio_of="deltas")
    assert_equations_hold(head_ratio_of="deltas", direction="printed")


def test_reading_deltas_is_gamed_by_shrinking_the_deltas_and_shift_is_not():
    values = {}
    for of in ("shift", "deltas"):
        for size in (1.0, 1e-3):
            safa = augmenter(start="random", head_ratio_of=of).double()
            with torch.no_grad():  # E shrinks by size, D makes up for it
                for parameter in safa.delta_extractor[-1].parameters():
                    parameter.mul_(size)
                safa.delta_adapter[0].weight[:, :3].div_(size)
            values[of, size] = run(safa, maps()).terms["mode_seeking_head"].item()
    assert values["deltas", 1e-3] == pytest.approx(1e-3 * values["deltas", 1.0], rel=1e-6)
    assert values["shift", 1e-3] == pytest.approx(values["shift", 1.0], rel=1e-6)


def test_reading_pairs_of_q_are_half_same_class_and_can_be_random_as_printed():
    labels = [0, 2, 4, 1, 1, 3, 3] * 4
    for choice in ("balanced", "random"):
        out, pairs, _, _ = seen_by_q(trained(pairs=choice), maps(labels), labels)
        assert len(pairs) == len(out.labels) // 2
        if choice == "random":
            assert len({row for pair in pairs for row in pair}) == 2 * len(pairs)  # a row is in one pair at most
        else:
            same = sum(bool(out.labels[i] == out.labels[j]) for i, j in pairs)
            assert same >= len(pairs) // 2


def test_same_class_pairs_of_every_class_are_shown_to_q():
    """There are more than Q is shown; were they not drawn at random, those of the last classes would never be."""
    labels, shown = [c for c in range(5) for _ in range(4)], set()
    for seed in range(12):
        out, pairs, _, _ = seen_by_q(trained(seed=seed), maps(labels, seed=seed), labels, seed=seed)
        for i, j in pairs[len(pairs) - len(pairs) // 2 :]:
            assert out.labels[i] == out.labels[j]
            shown.add(out.labels[i].item())
    assert shown == set(range(5))


def test_reading_q_sees_real_head_real_tail_and_generated_rows():
    kinds = set()
    for seed in range(5):
        features = maps(seed=seed)
        out, pairs, _, _ = seen_by_q(trained(seed=seed), features, LABELS)
        for row in (row for pair in pairs for row in pair):
            kinds.add("generated" if row >= 7 else "head" if out.labels[row].item() in HEAD else "tail")
    assert kinds == {"head", "tail", "generated"}


@pytest.mark.parametrize("detach", [True, False])
def test_reading_detach_decides_whether_generated_rows_train_the_layers_below(detach):
    features = maps().requires_grad_()
    out = run(trained(detach=detach), features)
    (out.features[7:].square().sum() + out.loss).backward()
    assert (features.grad.abs().sum() == 0) == detach


@pytest.mark.parametrize("deltas", [1, 2, 3])
def test_reading_deltas_is_how_many_tail_pairs_each_head_pair_moves(deltas):
    labels = [1, 1, 0, 0, 2, 2, 4, 4]
    features = maps(labels)
    out = run(augmenter(deltas=deltas, rectify=False).double(), features, labels)
    assert sorted(Counter(out.labels[8:].tolist()).values()) == [2] * deltas  # both rows of so many tail pairs
    for row, label in zip(out.features[8:], out.labels[8:].tolist(), strict=True):
        assert any(close(row, features[tail] + d) for tail in range(8) if labels[tail] == label for d in both(features))


def test_reading_heads_are_random_and_can_be_the_nearest():
    labels = [1, 1, 3, 3, 0, 2]
    features = torch.rand(6, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features[[0, 1, 4]] += 10  # class 0 is near to class 1, class 2 to class 3
    for seed in range(5):
        out = run(augmenter(heads="nearest", rectify=False).double(), features, labels, seed)
        for row, label in zip(out.features[6:], out.labels[6:].tolist(), strict=True):
            tail, nearest = (features[4], features[:2]) if label == 0 else (features[5], features[2:4])
            assert any(close(row, tail + delta) for delta in both(nearest))


def test_reading_tails_are_moved_equally_often_and_can_be_in_inverse_proportion_to_their_class_counts():
    labels, rows = [1, 1, 0, 2, 4], {"rows": Counter(), "classes": Counter()}
    for tails, moved in rows.items():
        safa, features = augmenter(tails=tails, contrastive=0.0).double(), maps(labels)
        for seed in range(300):
            moved.update(run(safa, features, labels, seed).labels[5:].tolist())
    shares = {0: 1 / 3, 2: 1 / 2, 4: 1}  # COUNTS are 3, 2 and 1
    for label, share in shares.items():
        assert rows["rows"][label] == pytest.approx(100, abs=35)  # sd 8
        assert rows["classes"][label] == pytest.approx(300 * share / sum(shares.values()), abs=35)


def test_reading_moves_pairs_of_tail_classes_and_can_move_those_of_all_classes():
    labels, moved = [1, 1, 0, 2], {"tail": Counter(), "all": Counter()}
    features = maps(labels)
    for moves, classes in moved.items():
        safa = augmenter(moves=moves, rectify=False, contrastive=0.0).double()
        for seed in range(300):
            out = run(safa, features, labels, seed)
            classes.update(out.labels[4:].unique().tolist())
            for row, label in zip(out.features[4:], out.labels[4:].tolist(), strict=True):
                own = [features[t] for t in range(4) if labels[t] == label]
                assert any(close(row, sample + delta) for sample in own for delta in both(features))
    assert moved["tail"].keys() == {0, 2}
    assert all(moved["all"][label] == pytest.approx(100, abs=35) for label in (0, 1, 2))  # sd 8


def test_reading_reach_is_the_whole_way_to_the_generated_feature_and_can_be_drawn_along_it():
    labels, shares = [1, 1, 0], []
    features = maps(labels)
    for seed in range(40):
        whole, drawn = (run(trained(reach=reach), features, labels, seed) for reach in ("whole", "drawn"))
        way, made = whole.features[3] - features[2], drawn.features[3] - features[2]
        share = ((made * way).sum() / way.square().sum()).item()
        assert close(made, share * way)
        shares.append(share)
        assert drawn.loss.item() == whole.loss.item()  # the terms are those of the generated feature
    assert 0 <= min(shares) < 0.2
    assert 0.8 < max(shares) <= 1


def test_reading_every_generated_feature_has_a_drawn_share_of_its_own():
    labels, found = [1, 1, 0, 0], []
    features = maps(labels)
    whole, drawn = (run(trained(reach=reach), features, labels) for reach in ("whole", "drawn"))
    for order in ([2, 3], [3, 2]):  # which of the two tail features comes first is drawn
        way, made = (out.features[4:] - features[order] for out in (whole, drawn))
        shares = (made * way).flatten(1).sum(1) / way.square().flatten(1).sum(1)
        if close(made, shares[:, None, None, None] * way):
            found.append(shares)
    (shares,) = found
    assert abs(shares[0] - shares[1]) > 1e-3


def test_reading_reach_can_be_as_far_as_q_finds_it_probable_that_both_ends_are_of_one_class():
    labels = [1, 1, 0, 0]
    features = maps(labels)
    whole, judged = (run(trained(reach=reach), features, labels) for reach in ("whole", "judged"))
    q, rows = trained().pair_classifier, whole.features[4:].detach()
    made = {}
    for order in ([2, 3], [3, 2]):  # which of the two tail features comes first is drawn
        tail = features[order]
        share = torch.sigmoid(q(torch.cat([tail, rows], dim=1))).detach()
        made[tuple(share.tolist())] = tail + share[:, None, None, None] * (rows - tail)
    (share,) = [share for share, expected in made.items() if close(judged.features[4:].detach(), expected)]
    assert 0 < min(share) < max(share) < 1
    assert judged.diagnostics["reach"].item() == pytest.approx(sum(share) / 2)
    assert judged.loss.item() == whole.loss.item()  # the terms are those of the generated feature


def test_what_q_judges_of_a_row_teaches_q_nothing():
    safa = trained(reach="judged")
    out = run(safa, maps())
    out.features[len(LABELS) :].square().sum().backward()
    assert all(p.grad is None for p in safa.pair_classifier.parameters())
    assert any(p.grad.abs().sum() > 0 for p in safa.generator.parameters())


def test_reading_reach_can_grow_to_the_whole_way_over_steps_that_generate_and_goes_on_from_a_saved_state():
    labels = [1, 1, 0]
    features = maps(labels)
    whole = run(trained(), features, labels)
    way = whole.features[3] - features[2]
    safa, shares = trained(reach="growing", growing_steps=4), []
    for step in range(6):
        if step == 2:
            saved, safa = safa.state_dict(), trained(reach="growing", growing_steps=4)
            safa.load_state_dict(saved)
        safa.active = False
        run(safa, features, labels)
        safa.active = True
        run(safa, features[:2], labels[:2])  # no tail row, so nothing to generate
        with torch.no_grad():
            run(safa, features, labels)  # looked at, not trained
        grown = run(safa, features, labels)
        share = grown.diagnostics["reach"].item()
        assert close(grown.features[3] - features[2], share * way)
        assert grown.loss.item() == whole.loss.item()  # the terms are those of the generated feature
        shares.append(share)
    assert shares == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("reach", ["drawn", "judged", "growing"])
@pytest.mark.parametrize("start", ["identity", "random"])
def test_reading_reach_can_be_short_where_autocast_gives_modules_another_type_than_their_features(start, reach):
    labels = [1, 1, 0]
    safa = augmenter(start=start, reach=reach)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(safa, maps(labels).float(), labels)
    assert out.features.dtype == torch.float32
    assert len(out.features) == 4


def test_reading_practice_lets_e_d_g_and_q_learn_by_their_terms_while_nothing_is_generated():
    idle, practising = trained(), trained(practice=True)
    assert not idle.learns_while_idle
    assert practising.learns_while_idle
    features = maps().requires_grad_()
    idle.active = practising.active = False
    assert run(idle, features).loss.item() == 0
    out = run(practising, features)
    assert out.features is features
    assert out.labels.tolist() == LABELS
    assert set(out.terms) == set(TERMS)
    practising.active = True
    assert out.loss.item() == run(practising, features).loss.item()
    out.loss.backward()
    assert not without_gradient(practising)
    assert features.grad is None


def test_practice_without_any_term_is_a_zero_that_touches_every_parameter():
    safa = trained(practice=True, **dict.fromkeys(TERMS, 0.0))
    safa.active = False
    out = run(safa, maps())
    assert out.loss.item() == 0
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in safa.parameters())


# --- learning ----------------------------------------------------------------------------------------------


def without_gradient(safa: SAFA) -> list[str]:
    return [name for name, p in safa.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


def learn(safa: SAFA, out: Augmented) -> None:
    safa.zero_grad()
    (out.features.square().mean() + out.loss).backward()


def test_gradients_reach_every_parameter_of_e_d_g_q():
    safa = augmenter(start="random").double()
    learn(safa, run(safa, maps()))
    assert without_gradient(safa) == []


def test_gradients_reach_every_parameter_from_the_second_step_of_an_identity_start():
    safa = augmenter().double()
    optimizer = torch.optim.SGD(safa.parameters(), lr=0.1)
    learn(safa, run(safa, maps()))
    behind_a_silent_layer = {
        f"{module}.{name}"
        for module in ("delta_extractor", "delta_adapter", "generator")
        for name in ("0.weight", "1.weight", "1.bias")
    }
    assert set(without_gradient(safa)) == behind_a_silent_layer
    optimizer.step()
    learn(safa, run(safa, maps()))
    assert without_gradient(safa) == []


def only(term: str) -> dict[str, float]:
    return {name: float(name == term) for name in TERMS}


MODULES = ("delta_extractor", "delta_adapter", "generator", "pair_classifier")  # E, D, G and Q


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_trains_e_d_and_g_and_eq_6_q_besides(term):
    safa = trained(**only(term))
    out = run(safa, maps())
    assert list(out.terms) == [term]
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in safa.parameters())
    trained_by_it = {name.partition(".")[0] for name, p in safa.named_parameters() if p.grad.abs().sum() > 0}
    assert trained_by_it == set(MODULES if term == "contrastive" else MODULES[:3])


def differentiable(step: literal.Step, safa: SAFA) -> literal.Step:
    """The same step on leaves: its features, and the parameters of E, D and G."""
    e, d, g = (leaves(getattr(safa, name)) for name in MODULES[:3])
    modules = dataclasses.replace(step.modules, e=e, d=d, g=g)
    return dataclasses.replace(step, modules=modules, features=step.features.detach().clone().requires_grad_())


def assert_same_gradients(safa: SAFA, features: Tensor, step: literal.Step) -> None:
    torch.testing.assert_close(features.grad, step.features.grad)
    for name, expected in zip(MODULES, (step.modules.e, step.modules.d, step.modules.g), strict=False):
        for where, parameter in getattr(safa, name).named_parameters():
            torch.testing.assert_close(parameter.grad, expected[where].grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("start", ["identity", "random"])
@pytest.mark.parametrize(
    ("term", "choice"),
    [
        ("reconstruction", {}),
        ("reconstruction", {"target": "self"}),
        ("mode_seeking_tail", {}),
        ("mode_seeking_tail", {"ratio": "batch"}),
        ("mode_seeking_head", {}),
        ("mode_seeking_head", {"head_ratio_of": "deltas"}),
    ],
)
def test_gradients_of_eq_4_5_and_7_are_those_of_the_equations_written_out(term, choice, start):
    """With features that are not detached, so that the way to the layers below is compared too."""
    safa, features = trained(start=start, detach=False, **only(term), **choice), maps().requires_grad_()
    out = run(safa, features)
    out.loss.backward()
    step, reading = differentiable(explanation(safa, features.detach(), out), safa), safa.reading
    values = {
        "reconstruction": lambda: step.reconstruction(reading.target, reading.reduction),
        "mode_seeking_tail": lambda: step.mode_seeking_tail(reading.ratio),
        "mode_seeking_head": lambda: step.mode_seeking_head(reading.ratio, reading.head_ratio_of),
    }
    values[term]().backward()
    assert_same_gradients(safa, features, step)


@pytest.mark.parametrize("start", ["identity", "random"])
def test_gradients_of_generated_rows_are_those_of_eq_3_with_a_fixed_floor(start):
    safa, features = trained(start=start, detach=False), maps().requires_grad_()
    out = run(safa, features)
    out.features[len(LABELS) :].square().sum().backward()
    step = differentiable(explanation(safa, features.detach(), out), safa)
    step.generated().square().sum().backward()
    assert_same_gradients(safa, features, step)


@pytest.mark.parametrize("pairs", ["balanced", "random"])
def test_gradients_of_eq_6_are_those_of_the_equation_written_out(pairs):
    safa, features = trained(pairs=pairs, detach=False, **only("contrastive")), maps().requires_grad_()
    out, shown, _, _ = seen_by_q(safa, features, LABELS)
    out.loss.backward()
    step = differentiable(explanation(safa, features.detach(), out), safa)
    block, linear = leaves(safa.pair_classifier.block), leaves(safa.pair_classifier.fc)
    rows = torch.cat([step.features, step.generated()])
    given = torch.cat([rows[[pair[side] for pair in shown]] for side in (0, 1)], dim=1)
    logits = literal.pair_logits(block, (linear["weight"], linear["bias"]), given)
    same = [bool(out.labels[i] == out.labels[j]) for i, j in shown]
    literal.contrastive(logits, same, balanced=pairs == "balanced").backward()
    assert_same_gradients(safa, features, step)
    for module, expected in ((safa.pair_classifier.block, block), (safa.pair_classifier.fc, linear)):
        for where, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[where].grad)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_zero_is_not_computed(term, monkeypatch):
    functions = {
        "reconstruction": ["cycle_delta", "cycle_features"],
        "mode_seeking_tail": [],  # shares its function with the other; the terms tell
        "mode_seeking_head": [],
        "contrastive": ["contrastive"],
    }
    for name in functions[term]:
        monkeypatch.setattr(f"safa.augmenters.terms.{name}", lambda *_: pytest.fail("was computed"))
    out = run(trained(**{term: 0.0}), maps())
    assert set(out.terms) == set(TERMS) - {term}


def test_without_the_contrastive_term_there_is_no_q():
    safa = augmenter(contrastive=0.0)
    assert safa.pair_classifier is None
    assert not any(name.startswith("pair_classifier") for name in safa.state_dict())


def test_without_any_term_rows_are_generated_all_the_same():
    safa = trained(**dict.fromkeys(TERMS, 0.0))
    out = run(safa, maps())
    assert len(out.features) == 10
    assert out.loss.item() == 0
    assert out.terms == {}
    (out.features[7:].square().sum() + out.loss).backward()
    assert all(p.grad is not None for p in safa.parameters())


# --- head and tail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array, lambda c: np.array(c, np.float64)])
def test_class_counts_may_be_a_list_tensor_or_array(kind):
    assert SAFA(2, kind(COUNTS), head_ratio=0.4).is_head.tolist() == [False, True, False, True, False]


def test_head_classes_are_those_of_its_own_counts_whatever_state_it_takes_over():
    other, safa = SAFA(2, COUNTS, head_ratio=0.4), SAFA(2, [90, 1, 80, 2, 3], head_ratio=0.4)
    state = other.state_dict()
    safa.load_state_dict(state)
    assert safa.is_head.tolist() == [True, False, True, False, False]
    safa.load_state_dict({**state, "is_head": other.is_head})  # as states held them
    assert safa.is_head.tolist() == [True, False, True, False, False]
    assert torch.equal(safa.delta_adapter[0].weight, other.delta_adapter[0].weight)


def test_a_class_without_training_images_is_a_tail_class():
    assert SAFA(2, [0, 90, 0, 80, 1], head_ratio=0.4).is_head.tolist() == [False, True, False, True, False]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 2**31))
def test_any_batch_keeps_its_rows_and_grows_by_tail_rows_only(labels, seed):
    features = maps(labels).requires_grad_()
    safa = trained()
    out = run(safa, features, labels, seed)
    b = len(labels)
    assert torch.equal(out.features[:b], features)
    assert out.labels[:b].tolist() == labels
    assert len(out.features) == len(out.labels)
    assert not HEAD & set(out.labels[b:].tolist())
    assert out.features.isfinite().all()
    pairs = sum(labels.count(c) // 2 for c in HEAD)
    assert (len(out.labels) > b) == (pairs > 0 and not HEAD.issuperset(labels))
    assert len(out.labels) - b <= 2 * pairs
    (out.features.sum() + out.loss).backward()
    assert all(p.grad.isfinite().all() for p in safa.parameters())


def test_a_batch_without_a_head_pair_passes_unchanged_with_a_differentiable_zero():
    """Other batches with nothing to do are in ``tests/conformance/test_augmenters.py``."""
    labels = [1, 3, 0, 0, 2]
    safa, features = trained(), maps(labels)
    out = run(safa, features, labels)
    assert out.features is features
    assert out.labels.tolist() == labels
    assert out.terms == {}
    assert out.loss.item() == 0
    out.loss.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in safa.parameters())


def test_one_head_class_and_one_tail_image_are_enough():
    out = run(trained(), maps([3, 3, 4]), [3, 3, 4])
    assert out.labels.tolist() == [3, 3, 4, 4]
    assert out.loss.isfinite()


def test_an_image_paired_with_its_own_copy_is_no_nan():
    """PairSampler pairs an image that is alone in its class with itself."""
    features = maps([1, 1, 4, 4])
    features[3] = features[2]
    safa = trained()
    out = run(safa, features, [1, 1, 4, 4])
    assert out.terms["mode_seeking_tail"].item() == 0
    learn(safa, out)
    assert all(p.grad.isfinite().all() for p in safa.parameters())


def test_equal_head_features_are_no_nan():
    features = maps([1, 1, 0, 0])
    features[1] = features[0]
    for start in ("identity", "random"):
        safa = augmenter(start=start).double()
        out = run(safa, features, [1, 1, 0, 0])
        learn(safa, out)
        assert out.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in safa.parameters())


# --- layouts and precision ---------------------------------------------------------------------------------


def test_token_sequences_follow_the_same_equations():
    assert_equations_hold(layout="tokens")


def test_tokens_are_mixed_by_channel_alone():
    tokens, order = maps().flatten(2).transpose(1, 2), [3, 0, 5, 1, 4, 2]
    one, other = (run(trained(layout="tokens"), given).features for given in (tokens, tokens[:, order]))
    torch.testing.assert_close(other, one[:, order])


def test_vectors_follow_the_same_equations():
    assert_equations_hold(layout="vector")


@pytest.mark.parametrize(("layout", "shape"), [("map", (3, 2, 3)), ("tokens", (6, 3)), ("vector", (3,))])
def test_generated_rows_have_the_shape_of_real_ones(layout, shape):
    features = torch.rand(7, *shape)
    assert run(augmenter(layout=layout), features).features.shape == (10, *shape)


@pytest.mark.parametrize("layout", ["map", "vector"])
def test_a_single_position_needs_two_head_pairs_for_batch_norm(layout):
    shape = (3, 1, 1) if layout == "map" else (3,)
    safa = augmenter(layout=layout)
    assert len(run(safa, torch.rand(5, *shape), [1, 1, 0, 0, 2]).labels) == 5
    assert len(run(safa, torch.rand(5, *shape), [1, 1, 3, 3, 2]).labels) == 7


def test_float64_in_float64_out():
    out = run(trained(), maps())
    assert out.features.dtype == out.loss.dtype == torch.float64


# --- what it is made of ------------------------------------------------------------------------------------


def test_e_d_g_are_conv_bn_relu_conv_and_q_has_a_linear_layer_more():
    safa = augmenter(channels=8)
    layers = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    for module in (safa.delta_extractor, safa.delta_adapter, safa.generator, safa.pair_classifier.block):
        assert [type(layer) for layer in module] == layers
    assert isinstance(safa.pair_classifier.fc, nn.Linear)
    assert [m[0].in_channels for m in (safa.delta_extractor, safa.delta_adapter, safa.generator)] == [
        8,
        16,
        8,
    ]


def test_safa_is_an_augmenter():
    assert isinstance(augmenter(), Augmenter)


def test_settings_show_in_the_representation():
    shown = repr(augmenter(layout="tokens"))
    assert "channels=3, head_ratio=0.4, layout='tokens', reading=Reading(reconstruction=1.0" in shown


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reading": "measurd"}, "no reading 'measurd'; did you mean 'measured'"),
        ({"reading": None}, "no reading None; there are measured, paper"),
        ({"reading": {"start": "random"}}, "no reading {'start': 'random'}; .* single choices are keywords"),
        ({"reconstrution": 1.0}, "no option 'reconstrution'; did you mean 'reconstruction'"),
        (
            {"start": "identiy"},
            "start must be one of identity, random, got 'identiy'; did you mean 'identity'",
        ),
        ({"reading": Reading(pairs="balance")}, "pairs must be one of balanced, random, got 'balance'"),
        ({"reach": "judged", "contrastive": 0}, "reach is judged by Q, .* give contrastive a weight above 0"),
        ({"contrastive": -1.0}, "contrastive is a weight of at least 0, got -1.0"),
        ({"contrastive": float("nan")}, "contrastive is a weight of at least 0, got nan"),
        ({"contrastive": True}, "contrastive is a weight of at least 0, got True"),
        ({"detach": "no"}, "detach must be true or false, got 'no'"),
        ({"deltas": 0}, "deltas is a whole number of at least 1, got 0"),
        ({"reach": "growing", "growing_steps": 0}, "growing_steps is a whole number of at least 1, got 0"),
        ({"growing_steps": 7}, "growing_steps does nothing where the reach is whole; .* set reach: growing"),
        ({"deltas": True}, "deltas is a whole number of at least 1, got True"),
        ({"tails": "class"}, "tails must be one of rows, classes, got 'class'; did you mean 'classes'"),
        ({"layout": "token"}, "layout must be map, tokens or vector, got 'token'; did you mean 'tokens'"),
        ({"head_ratio": 20}, r"head_ratio is the share of classes that are head, in \(0, 1\), got 20"),
        ({"class_counts": [7]}, "at least two classes"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_with_the_closest_name(options, said):
    with pytest.raises(UserError, match=said):
        SAFA(3, **{"class_counts": COUNTS, **options})


@pytest.mark.parametrize(
    ("layout", "shape", "said"),
    [
        ("map", (7, 5, 2, 2), "built for 3 channels but receives 5; pass channels=5"),
        ("tokens", (7, 2, 5), "built for 3 channels but receives 5; pass channels=5"),
        (
            "map",
            (7, 2, 3),
            r"layout 'map' with 4 dimensions but receives shape \(7, 2, 3\); pass layout='tokens'",
        ),
        ("tokens", (7, 3), "pass layout='vector'"),
        ("vector", (7, 3, 2, 2), "pass layout='map'"),
        ("map", (7, 3, 2, 2, 2), "name another layer"),
    ],
)
def test_features_of_another_shape_are_refused_with_the_way_out(layout, shape, said):
    with pytest.raises(UserError, match=said):
        run(augmenter(layout=layout), torch.rand(shape))
