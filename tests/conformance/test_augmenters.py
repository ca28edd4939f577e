"""What holds for every augmenter of the catalog, in the slot before the body of a small network.

| check | for an augmenter |
|---|---|
| finite and falling | classification and its own loss, for the same draws before and after training |
| gradients | reach every parameter that is trained, active and idle |
| state | saved in the middle and restored, network and augmenter go on bit for bit |
| other class names | the same rows under the new names, for the same draws |
| no tail, no head, one class | the real rows first and in order, the loss finite, with finite gradients |
| float32 and bf16 | rows keep their type, the loss is float32, under autocast and in a network of bf16 |
| `predict` deterministic | in evaluation nothing happens: no row, no random number, no change of state |
| export | after training the network has the hooks and keys it had before |

Those that mix rows (``mixes = True``) put as many in the place of the real ones, with soft labels; what is said of
real rows is not asked of them. What each makes of its rows is compared with its equations in ``tests/augmenters``.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.catalog import CATALOG, build
from safa.errors import UserError
from safa.plugin import PlugIn
from safa.types import Augmented, Augmenter
from tests.conformance import toy

CHANNELS = toy.Network.channels
LABELS = [1, 0, 1, 2, 1, 0, 1, 1, 2, 1, 0, 1]

JUDGED = "safa, as far as Q judges"
OTHER_PAIRS = "safa, other pairs"  # its choices of who meets whom, how far and when
WITH_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CATALOG["augmenter"]},
    JUDGED: ("safa", {"reach": "judged"}),
    "safa, growing": ("safa", {"reach": "growing"}),
    OTHER_PAIRS: ("safa", {"deltas": 2, "heads": "nearest", "tails": "classes", "reach": "drawn", "practice": True}),
}


def augmenter(name: str, counts: list[int] = toy.COUNTS, seed: int = 0, active: bool = True) -> Any:
    torch.manual_seed(seed)
    entry, options = WITH_OPTIONS[name]
    built = build("augmenter", entry, options, channels=CHANNELS, class_counts=counts, head_ratio=0.2)
    built.active = active
    return built


every_augmenter = pytest.mark.parametrize("name", WITH_OPTIONS)
mixing = {name: bool(getattr(augmenter(name), "mixes", False)) for name in WITH_OPTIONS}
every_generating = pytest.mark.parametrize("name", [name for name in mixing if not mixing[name]])
every_class_of_generators = pytest.mark.parametrize("name", [name for name in CATALOG["augmenter"] if not mixing[name]])
learning_idle = [name for name in mixing if augmenter(name).learns_while_idle]
active_or_idle = pytest.mark.parametrize(
    ("name", "active"), [(name, True) for name in mixing] + [(name, False) for name in learning_idle]
)
in_whatever_phase = pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])


def off_start(name: str, seed: int = 0, active: bool = True) -> Any:
    """One whose every parameter is away from its start."""
    built = augmenter(name, seed=seed, active=active)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built


def maps(labels: list[int] = LABELS, seed: int = 1) -> Tensor:
    """Post-ReLU features (n, 8, 3, 2), different for every row."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + torch.randn(len(labels), CHANNELS, 3, 2, generator=generator)).relu()


def run(module: Any, features: Tensor, labels: list[int] = LABELS, seed: int = 2) -> Augmented:
    torch.manual_seed(seed)
    return module(features, torch.tensor(labels, dtype=torch.int64))


def plugged(name: str, seed: int = 0, active: bool = True) -> PlugIn:
    net = toy.network(seed)
    return PlugIn(net, "body", augmenter(name, seed=seed + 1, active=active))


def loss_of(plug: PlugIn, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    out = plug(images, labels)
    return F.cross_entropy(out.logits, out.labels) + out.loss


def train(plug: PlugIn, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        loss = loss_of(plug, *toy.batch(seed=step), seed=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sgd(plug: PlugIn) -> torch.optim.Optimizer:
    return torch.optim.SGD(plug.parameters(), lr=0.1, momentum=0.9)


@torch.no_grad()
def plain_loss(model: toy.Network, images: Tensor, labels: Tensor) -> float:
    """Cross-entropy of the bare network in evaluation, which is left in training."""
    loss = F.cross_entropy(model.eval()(images), labels).item()
    model.train()
    return loss


def differentiate(out: Augmented) -> None:
    (out.features.float().square().mean() + out.loss).backward()


# --- learning ----------------------------------------------------------------------------------------------


@active_or_idle
def test_the_loss_stays_finite_and_falls(name, active):
    plug, whole = plugged(name, active=active), toy.batch(toy.COUNTS, seed=99)
    before = loss_of(plug, *whole, seed=4).item(), plain_loss(plug.model, *whole)
    losses = train(plug, sgd(plug), range(20))
    assert all(abs(loss) < float("inf") for loss in losses)
    assert loss_of(plug, *whole, seed=4).item() < 0.8 * before[0]
    assert plain_loss(plug.model, *whole) < 0.6 * before[1]


@active_or_idle
def test_gradients_reach_every_parameter_that_is_trained(name, active):
    plug = plugged(name, active=active)
    optimizer = sgd(plug)
    train(plug, optimizer, range(2))  # an identity starts with silent layers
    optimizer.zero_grad()
    loss_of(plug, *toy.batch(toy.COUNTS, seed=99), seed=4).backward()
    assert any(p.requires_grad for p in plug.augmenter.parameters()) or not list(plug.augmenter.parameters())
    for where, parameter in plug.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, where
        assert not reached or parameter.grad.isfinite().all(), where


@every_generating
def test_real_rows_pass_their_gradient_on_whole(name):
    features = maps().requires_grad_()
    out = run(off_start(name), features)
    out.features[: len(LABELS)].sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))


@every_augmenter
@in_whatever_phase
def test_the_loss_is_a_scalar_and_its_terms_are_detached_ones(name, active):
    out = run(off_start(name, active=active), maps())
    assert out.loss.shape == ()
    assert all(term.shape == () and not term.requires_grad for term in out.terms.values())


# --- state -------------------------------------------------------------------------------------------------


@active_or_idle
def test_saved_in_the_middle_and_restored_it_goes_on_bit_for_bit(name, active):
    plug, file = plugged(name, active=active), io.BytesIO()
    optimizer = sgd(plug)
    train(plug, optimizer, range(3))
    parts = plug.model, plug.augmenter, optimizer
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    restored = plugged(name, seed=9, active=active)
    other = sgd(restored)
    states = torch.load(file, weights_only=True)
    for part, state in zip((restored.model, restored.augmenter, other), states, strict=True):
        part.load_state_dict(state)
    assert train(plug, optimizer, range(3, 6)) == train(restored, other, range(3, 6))
    toy.assert_same(toy.tensors_of(plug), toy.tensors_of(restored))


@every_augmenter
def test_the_seed_fixes_the_rows_and_a_copy_makes_the_same(name):
    module = off_start(name)
    twin = copy.deepcopy(module)
    one, other = run(module, maps()), run(twin, maps())
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.loss, other.loss)


# --- class names -------------------------------------------------------------------------------------------


@every_augmenter
@in_whatever_phase
def test_other_class_names_give_the_same_rows_under_the_new_names(name, active):
    """If a newcomer fails here for its random pairs, let it draw them with ``safa.augmenters.pairing``."""
    one = off_start(name, active=active)
    other = augmenter(name, toy.RENAMED_COUNTS, seed=5, active=active)
    with torch.no_grad():  # parameters only: buffers start from the counts, or empty
        for own, given in zip(other.parameters(), one.parameters(), strict=True):
            own.copy_(given)
    toy.renamed_rows(other)
    renamed = toy.NEW_OF_OLD[LABELS].tolist()
    for seed in range(3):  # running statistics run along
        first = run(one, maps(seed=seed), seed=seed)
        with toy.draws_of_old_names():
            second = run(other, maps(seed=seed), renamed, seed=seed)
        torch.testing.assert_close(second.features, first.features)
        torch.testing.assert_close(second.loss, first.loss)
        soft = first.labels.dim() == 2
        expected = first.labels[:, toy.OLD_OF_NEW] if soft else toy.NEW_OF_OLD[first.labels]
        torch.testing.assert_close(second.labels, expected)


# --- batches -----------------------------------------------------------------------------------------------

BATCHES = {
    "every class": LABELS,
    "no tail": [1, 1, 1, 1],
    "no head": [0, 2, 0, 2, 0],
    "one tail class": [2, 2, 2],
    "one head image": [1],
    "one tail image": [0],
    "a head and a tail image": [1, 2],
    "no image": [],
}


@every_augmenter
@in_whatever_phase
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES.keys())
def test_whatever_classes_a_batch_lacks_rows_are_in_order_and_the_loss_is_differentiable(name, active, labels):
    module, features = off_start(name, active=active), maps(labels).requires_grad_()
    out, b = run(module, features, labels), len(labels)
    assert len(out.features) == len(out.labels)
    assert out.features.isfinite().all()
    assert out.loss.isfinite()
    if mixing[name]:
        assert_mixed(out, features, labels, active)
    else:
        assert torch.equal(out.features[:b], features)
        assert out.labels[:b].tolist() == labels
        assert set(out.labels[b:].tolist()) <= toy.TAIL & set(labels)
        assert active or len(out.labels) == b
        assert out.features is features or len(out.labels) > b
    learns = active or name in learning_idle
    if name not in learning_idle and len(out.labels) == b:
        assert out.loss == 0
        assert out.terms == {}
        assert not learns or not any(gradient.any() for gradient in gradients_of(out.loss, module))
    assert module.active is active
    (out.features.sum() + out.loss).backward()
    assert features.grad is not None
    for parameter in module.parameters():
        # What learns, DDP waits for on every rank; what stands still has no gradient, not even 0.
        assert (parameter.grad is not None) == (parameter.requires_grad and learns)
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all() for parameter in (features, *module.parameters())
    )
    assert all(value.isfinite().all() for value in module.state_dict().values())


def gradients_of(loss: Tensor, module: torch.nn.Module) -> tuple[Tensor, ...]:
    """By every parameter; a loss that forgets one cannot be differentiated by it."""
    parameters = list(module.parameters())
    return torch.autograd.grad(loss, parameters, retain_graph=True) if parameters else ()


def assert_mixed(out: Augmented, features: Tensor, labels: list[int], active: bool) -> None:
    """As many rows; their soft labels of classes of the batch, with sum 1."""
    assert out.features.shape == features.shape
    if not active:
        assert out.features is features
        assert out.labels.tolist() == labels
        return
    assert out.labels.shape == (len(labels), toy.CLASSES)
    torch.testing.assert_close(out.labels.sum(1), torch.ones(len(labels)))
    absent = sorted(set(range(toy.CLASSES)) - set(labels))
    assert (out.labels >= 0).all()
    assert not out.labels[:, absent].any()


@every_generating
def test_a_batch_of_every_class_grows_by_tail_rows(name):
    assert set(run(off_start(name), maps(LABELS * 2), LABELS * 2).labels[2 * len(LABELS) :].tolist()) == toy.TAIL


# --- idle and in evaluation --------------------------------------------------------------------------------


@every_augmenter
@pytest.mark.parametrize("switch", ["idle", "evaluation"])
def test_idle_or_in_evaluation_nothing_happens(name, switch):
    """But what learns while it is idle does that."""
    module, features, labels = off_start(name), maps(), torch.tensor(LABELS)
    module.active = switch != "idle"
    module.train(switch != "evaluation")
    before, random = toy.tensors_of(module), torch.get_rng_state()
    out = module(features, labels)
    assert out.features is features
    assert out.labels is labels
    if switch == "evaluation" or name not in learning_idle:
        assert out.loss == 0
        assert torch.equal(torch.get_rng_state(), random)
        toy.assert_same(toy.tensors_of(module), before)


@pytest.mark.parametrize(
    ("name", "switch"),
    [(name, "evaluation") for name in mixing] + [(name, "idle") for name in mixing if name not in learning_idle],
)
def test_idle_or_in_evaluation_weight_decay_leaves_what_does_not_learn_where_it_is(name, switch):
    """A gradient of 0, unlike none, lets an optimizer decay a weight, and Adam by as much as by a large one."""
    module = off_start(name)
    module.active = switch != "idle"
    module.train(switch != "evaluation")
    before = toy.tensors_of(module)
    out = module(maps().requires_grad_(), torch.tensor(LABELS))
    (out.features.sum() + out.loss).backward()
    if parameters := [*module.parameters()]:
        torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1).step()
    toy.assert_same(toy.tensors_of(module), before)


@every_augmenter
@in_whatever_phase
def test_a_loop_may_add_to_its_loss_in_place(name, active):
    module = off_start(name)
    module.active = active
    loss = module(maps(), torch.tensor(LABELS)).loss
    without = float(loss.detach())
    loss += 1
    assert float(loss.detach()) == pytest.approx(without + 1)


@every_augmenter
def test_it_follows_the_protocol(name):
    module = augmenter(name)
    assert isinstance(module, Augmenter)
    assert isinstance(module, torch.nn.Module)
    assert module.active is True  # as it is built
    assert module.training


# --- precision and memory ----------------------------------------------------------------------------------


@every_augmenter
@in_whatever_phase
@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16])
def test_under_bf16_autocast_rows_keep_their_type_and_the_loss_is_float32(name, active, entering):
    module, features = augmenter(name, active=active), maps().to(entering)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(module, features.requires_grad_())
    assert out.features.dtype == entering
    assert {value.dtype for value in (out.loss, *out.terms.values())} == {torch.float32}
    assert mixing[name] or torch.equal(out.features[: len(LABELS)], features)
    differentiate(out)
    for where, parameter in module.named_parameters():
        assert parameter.dtype == torch.float32, where
        assert parameter.grad is None or parameter.grad.isfinite().all(), where
    full = run(augmenter(name, active=active), features.detach().float())
    torch.testing.assert_close(out.features.float(), full.features, rtol=0.05, atol=0.05)
    torch.testing.assert_close(out.loss, full.loss, rtol=0.05, atol=0.05)
    torch.testing.assert_close(out.labels, full.labels)


@active_or_idle
def test_in_a_network_of_bf16_it_does_what_it_does_in_float32(name, active):
    plug = plugged(name, active=active).to(torch.bfloat16)
    images, labels = toy.batch(toy.COUNTS, seed=99)
    out = plug(images.bfloat16(), labels)
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32
    assert mixing[name] or (len(out.logits) > len(labels)) == active
    (F.cross_entropy(out.logits.float(), out.labels) + out.loss).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in plug.parameters())
    features = maps().bfloat16()
    half = run(augmenter(name, active=active).to(torch.bfloat16), features)
    full = run(augmenter(name, active=active), features.float())
    torch.testing.assert_close(half.features.float(), full.features, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.loss, full.loss, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.labels, full.labels)


@every_augmenter
def test_channels_last_is_kept(name):
    features = maps().contiguous(memory_format=torch.channels_last)
    module = augmenter(name).to(memory_format=torch.channels_last)
    assert run(module, features).features.is_contiguous(memory_format=torch.channels_last)


@every_generating
def test_features_of_another_shape_are_refused_with_the_way_out(name):
    with pytest.raises(UserError, match="was built for 8 channels but receives 5; pass channels=5"):
        run(augmenter(name), torch.rand(len(LABELS), 5, 2, 2))
    with pytest.raises(UserError, match=r"layout 'map' with 4 dimensions .* pass layout='vector'"):
        run(augmenter(name), torch.rand(len(LABELS), CHANNELS))
    with pytest.raises(UserError, match="whose 8 channels are last; permute them to the second place, or name another"):
        run(augmenter(name), torch.rand(len(LABELS), 3, 2, CHANNELS))


@pytest.mark.parametrize("label", [3, 7])
@every_generating
def test_a_label_beyond_the_class_counts_is_refused_before_anything_is_learnt(name, label):
    built = augmenter(name)
    before = copy.deepcopy(built.state_dict())
    said = f"with the counts of 3 classes, so labels are 0 to 2, got {label}; class_counts must"
    with pytest.raises(UserError, match=said):
        built(torch.rand(3, CHANNELS, 2, 2), torch.tensor([0, label, 1]))
    toy.assert_same(built.state_dict(), before)


@every_generating
@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (torch.zeros(4, dtype=torch.int64), r"\(4,\) of torch.int64"),
        (torch.zeros(6, dtype=torch.int64), r"\(6,\) of torch.int64"),
        (torch.zeros(5, dtype=torch.uint8), r"\(5,\) of torch.uint8"),
        (torch.zeros(5, 3), r"\(5, 3\) of torch.float32"),
    ],
)
def test_labels_that_are_not_one_class_id_per_row_are_refused(name, labels, got):
    with pytest.raises(UserError, match=rf"one class id per row of the features, shape \(5,\) and int64, got {got}"):
        augmenter(name)(torch.rand(5, CHANNELS, 2, 2), labels)


@every_generating
def test_a_negative_label_is_refused_before_anything_is_learnt(name):
    built = augmenter(name)
    before = copy.deepcopy(built.state_dict())
    with pytest.raises(UserError, match="labels are class ids from 0 on, got -100; leave such images out"):
        built(torch.rand(3, CHANNELS, 2, 2), torch.tensor([0, -100, 1]))
    toy.assert_same(built.state_dict(), before)


@every_augmenter
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({1: 60, 0: 26, 2: 12}, "pass a list by class id"),
        ([0.3, 0.6, 0.1], "got 0.3 for class 0; pass numbers of images, not shares"),
        ([26, 60, -1], "got -1 for class 2"),
        ([[26, 60, 12]], r"one whole number per class, got shape \(1, 3\)"),
        (["26", "60", "12"], "must be whole numbers"),
    ],
    ids=str,
)
def test_class_counts_that_are_none_are_refused(name, counts, said):
    with pytest.raises(UserError, match=said):
        augmenter(name, counts)


@every_class_of_generators
@pytest.mark.parametrize("channels", [0, -1, "8", 8.0])
def test_channels_that_are_no_number_of_them_are_refused(name, channels):
    with pytest.raises(UserError, match=f"channels is a whole number of at least 1, got {channels!r}; pass c of the"):
        build("augmenter", name, {}, channels=channels, class_counts=toy.COUNTS, head_ratio=0.2)


@every_class_of_generators
def test_a_layout_in_a_list_is_refused(name):
    with pytest.raises(UserError, match=r"layout must be map, tokens or vector, got \['map'\]"):
        build("augmenter", name, {"layout": ["map"]}, channels=8, class_counts=toy.COUNTS, head_ratio=0.2)


# --- what is left ------------------------------------------------------------------------------------------


@every_augmenter
def test_after_training_the_network_is_a_bare_network(name):
    plug = plugged(name)
    train(plug, sgd(plug), range(2))
    model, images = plug.model.eval(), toy.batch()[0]
    assert list(model.state_dict()) == list(toy.network().state_dict())
    assert [where for where, _ in model.named_modules()] == [where for where, _ in toy.network().named_modules()]
    assert set(vars(model)) == set(vars(toy.network()))
    assert toy.hooks_of(model) == []
    bare = toy.network(seed=9)
    bare.load_state_dict(model.state_dict())
    assert torch.equal(bare.eval()(images), model(images))
    assert torch.equal(plug.eval()(images).logits, model(images))
