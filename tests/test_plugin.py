"""The two invariants of the plug-in, what idling costs, where it can sit, and what it says of mistakes."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from safa.augmenters import RSG, SAFA, CutMix, Mixup, Remix
from safa.backbones import densenet40, resnet8
from safa.errors import UserError
from safa.plugin import INPUT, Place, PlugIn
from safa.types import Augmented, Augmenter, Output

COUNTS = [60, 40, 5, 3, 2]  # classes 0 and 1 are head at a head_ratio of 0.4
LABELS = torch.tensor([0, 0, 2, 1, 0, 3, 1, 2, 0, 4])
B = len(LABELS)
NO_TAIL = torch.zeros_like(LABELS)

dynamo_reads_grad = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Small(nn.Module):
    """Two stages and a classifier, quick to compile."""

    before = "body"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, len(COUNTS))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(images)).mean(dim=(2, 3)))


class Repeat(nn.Module):
    """Adds the first three rows once more, scaled; counts its calls."""

    active = True
    learns_while_idle = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.calls = 0
        self.unpicklable = lambda: None

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        self.calls += 1
        if not self.active:
            return Augmented(features, labels, 0 * self.scale)
        rows = torch.cat([features, self.scale * features[:3]])
        terms, diagnostics = {"scale": self.scale.detach()}, {"watched": torch.tensor(7.0)}
        return Augmented(rows, torch.cat([labels, labels[:3]]), self.scale**2, terms, diagnostics)


class Reverse(nn.Module):
    """Mixes every row with the one at the other end, half and half."""

    active, learns_while_idle, mixes = True, False, True

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        self.entered.append((features, labels))
        soft = labels if labels.dim() == 2 else F.one_hot(labels, len(COUNTS)).float()
        return Augmented((features + features.flip(0)) / 2, (soft + soft.flip(0)) / 2, features.new_zeros(()))


def images(n: int = B, seed: int = 0, size: int = 12) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def safa_of(channels: int, **options) -> SAFA:
    return SAFA(channels, COUNTS, head_ratio=0.4, **options)


def plugged(augmenter: Augmenter | None = None, seed: int = 0) -> PlugIn:
    model = small(seed)
    return PlugIn(model, augmenter=augmenter if augmenter is not None else safa_of(4))


def train(plug: Callable[..., Output], parameters, steps: int = 2, labels: Tensor = LABELS) -> None:
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for step in range(steps):
        out = plug(images(seed=step), labels)
        loss = F.cross_entropy(out.logits, out.labels) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def hooks_of(model: nn.Module) -> list[dict]:
    return [
        hooks
        for module in model.modules()
        for hooks in (
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
            module._backward_hooks,
            module._backward_pre_hooks,
            module._state_dict_hooks,
            module._state_dict_pre_hooks,
            module._load_state_dict_pre_hooks,
        )
        if hooks
    ]


def assert_left_as_it_was(model: nn.Module) -> None:
    assert hooks_of(model) == []
    assert list(model.state_dict()) == list(Small().state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in Small().named_modules()]
    assert set(vars(model)) == set(vars(Small()))


# --- the first invariant: real rows first and in order -----------------------------------------------------


@pytest.mark.parametrize("augmenter", [Repeat, lambda: safa_of(4)], ids=["repeat", "safa"])
def test_real_rows_come_first_and_in_order(augmenter):
    plug = plugged(augmenter())
    entered, reached = [], []
    plug.model.stem.register_forward_hook(lambda _, given, made: entered.append(made.clone()))
    plug.model.body.register_forward_hook(lambda _, given, made: reached.append(given[0].clone()))
    out = plug(images(), LABELS)
    assert len(reached[-1]) == len(out.logits) == len(out.labels) > B
    assert torch.equal(reached[-1][:B], entered[-1])
    assert torch.equal(out.labels[:B], LABELS)


def test_labels_match_logits_and_generated_ones_are_of_tail_classes():
    out = plugged()(images(), LABELS)
    assert out.labels.shape == out.logits.shape[:1]
    assert set(out.labels[B:].tolist()) <= {2, 3, 4}


def test_loss_terms_and_diagnostics_are_those_of_the_augmenter():
    augmenter = Repeat()
    out = plugged(augmenter)(images(), LABELS)
    assert out.loss.item() == 4
    assert out.terms == {"scale": torch.tensor(2.0)}
    assert out.diagnostics == {"watched": torch.tensor(7.0)}
    out.loss.backward()
    assert augmenter.scale.grad.item() == 4


def test_a_batch_without_tail_is_plain_training():
    plug, bare = plugged(), small()
    out = plug(images(), NO_TAIL)
    assert torch.equal(out.logits, bare(images()))
    assert out.labels is NO_TAIL
    assert out.loss.item() == 0
    assert out.terms == {}


def test_gradients_reach_model_and_augmenter():
    plug = plugged(safa_of(4, start="random"))
    out = plug(images(), LABELS)
    (F.cross_entropy(out.logits, out.labels) + out.loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in plug.parameters())
    silent = [name for name, p in plug.named_parameters() if p.grad.abs().sum() == 0]
    assert silent == []


# --- the second invariant: the model is left exactly as it was ---------------------------------------------


def test_model_is_unchanged_after_a_training_step_with_the_plug_in():
    plug = plugged()
    train(plug, plug.parameters())
    assert_left_as_it_was(plug.model)


def test_hooks_of_the_user_stay():
    plug, fired = plugged(), []
    plug.model.body.register_forward_pre_hook(lambda *_: fired.append("before"))
    plug.model.body.register_forward_hook(lambda *_: fired.append("after"))
    plug(images(), LABELS)
    assert fired == ["before", "after"] * 3  # in the two passes that look at the layer first, too
    plug(images(), LABELS)
    plug.model(images())
    assert fired == ["before", "after"] * 5
    assert len(hooks_of(plug.model)) == 2


@pytest.mark.parametrize("error", [RuntimeError("spilled"), ValueError("spilled"), KeyboardInterrupt("spilled")])
@pytest.mark.parametrize("where", ["augmenter", "model"])
def test_model_is_unchanged_after_an_exception(error, where):
    plug = plugged(Repeat())

    def spill(*_):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plug.augmenter if where == "augmenter" else plug.model.fc, "forward", spill)
        with pytest.raises(type(error), match="spilled"):
            plug(images(), LABELS)
    assert_left_as_it_was(plug.model)
    assert len(plug(images(), LABELS).logits) == B + 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_of_the_model_takes_nothing_of_the_plug_in_along(copied):
    plug = plugged(Repeat())  # which cannot be pickled
    train(plug, plug.parameters())
    twin = copied(plug.model)
    assert_left_as_it_was(twin)
    assert torch.equal(twin.eval()(images()), plug.model.eval()(images()))


def test_a_saved_model_takes_nothing_of_the_plug_in_along():
    plug, whole, state = plugged(Repeat()), io.BytesIO(), io.BytesIO()
    train(plug, plug.parameters())
    torch.save(plug.model, whole)
    torch.save(plug.model.state_dict(), state)
    fresh = small(seed=7)
    fresh.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
    loaded = torch.load(io.BytesIO(whole.getvalue()), weights_only=False)
    expected = plug.model.eval()(images())
    assert torch.equal(fresh.eval()(images()), expected)
    assert torch.equal(loaded.eval()(images()), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copy_of_the_plug_in_goes_on_the_same_way(copied):
    plug = plugged()
    train(plug, plug.parameters())
    outs = []
    for each in (plug, copied(plug)):
        torch.manual_seed(3)
        outs.append(each(images(), LABELS))
    assert torch.equal(outs[0].logits, outs[1].logits)
    assert torch.equal(outs[0].loss, outs[1].loss)


def test_evaluation_has_the_bits_of_the_bare_model():
    plug = plugged()
    train(plug, plug.parameters())
    fresh = small(seed=7)
    fresh.load_state_dict(plug.model.state_dict())
    plug.eval()
    out = plug(images())
    assert torch.equal(out.logits, plug.model(images()))
    assert torch.equal(out.logits, fresh.eval()(images()))
    assert out.labels is None
    assert out.loss.item() == 0


def test_the_bare_model_can_be_exported_after_training():
    plug = plugged()
    train(plug, plug.parameters())
    plug.eval()
    exported = torch.export.export(plug.model, (images(),))
    assert set(exported.state_dict) == set(Small().state_dict())
    torch.testing.assert_close(exported.module()(images()), plug.model(images()))


# --- compiled ----------------------------------------------------------------------------------------------


@dynamo_reads_grad
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_plug_in_does_what_the_plain_one_does(backend):
    torch.compiler.reset()
    plug = plugged()
    compiled = torch.compile(plug, backend=backend)
    optimizer = torch.optim.SGD(plug.parameters(), lr=0.1)
    mixed = LABELS.flip(0) % 3
    for step, (active, labels) in enumerate(
        [(False, LABELS), (True, LABELS), (True, mixed), (False, LABELS), (True, NO_TAIL), (True, LABELS)]
    ):
        compiled.active = active
        outs = []
        for each in (copy.deepcopy(plug), compiled):
            torch.manual_seed(step)
            outs.append(each(images(seed=step), labels))
        torch.testing.assert_close(outs[1].logits, outs[0].logits)
        torch.testing.assert_close(outs[1].loss, outs[0].loss)
        assert torch.equal(outs[1].labels, outs[0].labels)
        assert hooks_of(plug) == []
        optimizer.zero_grad()
        (F.cross_entropy(outs[1].logits, outs[1].labels) + outs[1].loss).backward()
        optimizer.step()
    compiled.eval()
    torch.testing.assert_close(compiled(images()).logits, plug.model(images()))
    assert_left_as_it_was(plug.model)


@dynamo_reads_grad
def test_a_compiled_plug_in_is_compiled_in_few_pieces_whatever_the_labels():
    torch.compiler.reset()
    plug, pieces = plugged(), []

    def collect(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        pieces.append(graph)
        return graph

    compiled = torch.compile(plug, backend=collect)
    for step in range(6):
        compiled(images(seed=step), LABELS.roll(step) % (2 + step % 3))
    assert 0 < len(pieces) <= 8


@dynamo_reads_grad
def test_a_mistake_is_explained_by_a_compiled_plug_in_too():
    torch.compiler.reset()
    with pytest.raises(UserError, match="built for 7 channels but receives 4; pass channels=4"):
        torch.compile(plugged(safa_of(7)), backend="eager")(images(), LABELS)


def test_the_bare_model_can_be_compiled_after_training():
    torch.compiler.reset()
    plug = plugged()
    train(plug, plug.parameters())
    plug.eval()
    torch.testing.assert_close(torch.compile(plug.model, backend="eager")(images()), plug.model(images()))


def test_a_model_compiled_before_attaching_is_refused():
    in_place = small()
    in_place.compile(backend="eager")
    for model in (torch.compile(small(), backend="eager"), in_place):
        with pytest.raises(UserError, match=r"is compiled and would ignore .* plain model, then torch.compile\(plug\)"):
            PlugIn(model, "body", safa_of(4))


@pytest.mark.parametrize("make", [Repeat, Reverse])
@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
def test_a_model_compiled_after_attaching_is_refused_rather_than_trained_without_augmentation(make, active):
    plug = PlugIn(small(), "body", make())
    plug.active = active
    plug.model.compile(backend="eager")
    with pytest.raises(UserError, match="is compiled and would ignore the augmenter"):
        plug(images(), LABELS)


# --- idle --------------------------------------------------------------------------------------------------


def test_idle_the_augmenter_is_not_called_no_hook_is_set_and_the_logits_are_the_models(monkeypatch):
    augmenter, model, returned = Repeat(), small(), []
    plug = PlugIn(model, "body", augmenter)
    plug.active = False
    plug(images(), LABELS)  # the first pass looks at the layer
    model.register_forward_hook(lambda _, given, logits: returned.append(logits))
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", lambda *_: pytest.fail("set a hook"))
    out = plug(images(), LABELS)
    assert len(returned) == 1
    assert out.logits is returned[0]
    assert out.labels is LABELS
    assert out.loss.item() == 0
    assert out.terms == {}
    assert augmenter.calls == 0


def test_the_first_idle_pass_looks_at_the_layer_and_changes_nothing_by_it():
    plug, bare, calls = plugged(Repeat()), small(), []
    plug.active = False
    plug.model.fc.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    state = torch.get_rng_state()
    for _ in range(2):
        assert torch.equal(plug(images()).logits, bare(images()))
    assert calls == [2, 4, B, B]
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in bare.state_dict().items():
        assert torch.equal(plug.model.state_dict()[name], tensor), name
    assert all(module.training for module in plug.modules())
    assert plug.augmenter.calls == 0
    assert hooks_of(plug.augmenter) == []


def test_a_pass_that_adds_rows_needs_no_further_look():
    plug, calls = plugged(Repeat()), []
    plug.model.fc.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    plug(images(), LABELS)
    plug.active = False
    plug(images())
    assert calls == [2, 4, B + 3, B]


class Keeps(Small):
    """Keeps the features and logits of its last pass, as networks of a second loss do."""

    def forward(self, images: Tensor) -> Tensor:
        self.features = self.body(self.stem(images))
        self.logits = self.fc(self.features.mean(dim=(2, 3)))
        return self.logits


@pytest.mark.parametrize("augmenter", [Repeat, Reverse])
@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
@pytest.mark.parametrize("rows", [B, 1])
def test_what_a_network_keeps_of_its_first_pass_is_of_that_pass(augmenter, active, rows):
    plug = PlugIn(Keeps(), "body", augmenter())
    plug.model.requires_grad_().body[1].eval()  # whose batch statistics want more than a row of one position
    plug.active = active
    out = plug(images(rows), LABELS[:rows])
    assert out.logits is plug.model.logits
    assert len(plug.model.features) == len(out.logits)
    plug.model.features.sum().backward()
    assert plug.model.stem[0].weight.grad.any()


def test_idle_a_training_step_has_the_bits_of_one_without_the_plug_in():
    plug, bare = plugged(), small()
    plug.active = False
    torch.manual_seed(1)
    before = copy.deepcopy(plug.augmenter.state_dict())
    train(plug, plug.model.parameters())
    train(lambda x, y: Output(bare(x), y, torch.zeros(())), bare.parameters())
    for name, tensor in bare.state_dict().items():  # batch-norm statistics among them
        assert torch.equal(plug.model.state_dict()[name], tensor), name
    for name, tensor in plug.augmenter.state_dict().items():
        assert torch.equal(before[name], tensor), name


def test_idle_labels_may_be_left_out_or_be_mixed():
    plug = plugged()
    plug.active = False
    assert plug(images()).labels is None
    mixed = F.one_hot(LABELS, 5).float()
    assert plug(images(), mixed).labels is mixed


def test_active_switches_generation_on_and_off():
    plug = plugged()
    assert plug.active
    rows = []
    for active in (True, False, True):
        plug.active = active
        assert plug.active == plug.augmenter.active == active
        rows.append(len(plug(images(), LABELS).logits) > B)
    assert rows == [True, False, True]


def test_an_augmenter_that_learns_while_idle_is_called_while_idle():
    augmenter = Repeat()
    augmenter.learns_while_idle = True
    plug = plugged(augmenter)
    plug.active = False
    out = plug(images(), LABELS)
    assert augmenter.calls == 1
    assert len(out.logits) == B
    with pytest.raises(UserError, match="labels are needed while Repeat learns, though idle"):
        plug(images())
    plug.eval()
    plug(images(), LABELS)
    assert augmenter.calls == 1


def test_without_an_augmenter_images_pass_through():
    plug = PlugIn(small())
    out = plug(images(), LABELS)
    assert not plug.active
    assert torch.equal(out.logits, small()(images()))
    assert out.labels is LABELS
    with pytest.raises(UserError, match="no augmenter to activate"):
        plug.active = True


def test_loss_is_float32_under_autocast_idle_and_active():
    for active in (False, True):
        plug = plugged()
        plug.active = active
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = plug(images(), LABELS)
        assert out.logits.dtype == torch.bfloat16
        assert out.loss.dtype == torch.float32


# --- two processes -----------------------------------------------------------------------------------------


def gradients(plug: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in plug.named_parameters()}


def backward(run: Callable[..., Output], plug: PlugIn, rank: int, labels: Tensor) -> dict[str, Tensor | None]:
    plug.zero_grad()
    torch.manual_seed(rank)
    out = run(images(seed=rank), labels)
    (F.cross_entropy(out.logits, out.labels) + out.loss).backward()
    return gradients(plug)


def one_process(rank: int, folder: str) -> None:
    """Idle and frozen, active, without a tail on one rank, mixed; each beside the gradients of this one alone."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=200)
    )
    plug, seen = plugged(safa_of(4, start="random")), {}
    plug.active = False
    plug.augmenter.requires_grad_(False)
    parallel = DistributedDataParallel(plug)
    for step in ("idle", "idle again", "active", "no tail on rank 1", "no tail", "active again"):
        if step == "active":
            plug.active = True
            plug.augmenter.requires_grad_(True)
            parallel = DistributedDataParallel(plug)
        without = step == "no tail" or (step == "no tail on rank 1" and rank == 1)
        labels = NO_TAIL if without else LABELS
        alone = copy.deepcopy(plug)
        seen[step] = backward(parallel, plug, rank, labels), backward(alone, alone, rank, labels)
    plug = plugged(safa_of(4, start="random"))  # as the docstring of PlugIn has it: wrapped once
    parallel = DistributedDataParallel(plug, find_unused_parameters=True)
    for step in (
        "idle, wrapped once",
        "idle again, wrapped once",
        "active, wrapped once",
        "active again, wrapped once",
    ):
        plug.active = step.startswith("active")
        alone = copy.deepcopy(plug)
        seen[step] = backward(parallel, plug, rank, LABELS), backward(alone, alone, rank, LABELS)
    for before in ("input", "body"):
        plug = PlugIn(small(), before, Remix(COUNTS))
        parallel, alone = DistributedDataParallel(plug), copy.deepcopy(plug)
        seen[f"mixed before {before}"] = backward(parallel, plug, rank, LABELS), backward(alone, alone, rank, LABELS)
    bare = plugged(safa_of(4, start="random"))
    inner = PlugIn(DistributedDataParallel(small()), "module.body", safa_of(4, start="random"))
    bare.augmenter.load_state_dict(inner.augmenter.state_dict())
    labels = NO_TAIL if rank == 1 else LABELS
    backward(inner, inner, rank, labels), backward(bare, bare, rank, labels)
    seen["the network alone wrapped"] = gradients(inner.model.module), gradients(bare.model)
    torch.save(seen, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_on_gradients_idle_active_mixed_and_with_a_tail_on_one_rank_only(tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for step, (together, alone) in first.items():
        for name, gradient in together.items():
            frozen = step.startswith("idle") and name.startswith("augmenter")
            assert (gradient is None) == frozen, (step, name)
            if not frozen:
                assert torch.equal(gradient, second[step][0][name]), (step, name)
                mean = (alone[name] + second[step][1][name]) / 2
                torch.testing.assert_close(gradient, mean, msg=lambda text: f"{step}, {name}: {text}")  # noqa: B023


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def times_added_up(parallel: DistributedDataParallel, loss: Callable[[Output], Tensor]) -> list[int]:
    """How often gradients went to the other processes, of which there are none, in each of three steps."""
    seen = [0]

    def count(_, bucket):  # annotations would be text here, which torch takes for other ones than it wants
        seen[-1] += 1
        added = torch.futures.Future()
        added.set_result(bucket.buffer())
        return added

    parallel.register_comm_hook(None, count)
    for step in range(3):
        seen.append(0)
        loss(parallel(images(seed=step), LABELS)).backward()
    return seen[1:]


@pytest.mark.parametrize("options", [{}, {"static_graph": True}])
@pytest.mark.parametrize("make", [lambda: None, lambda: Remix(COUNTS)], ids=["bare", "mixed"])
def test_processes_add_their_gradients_up_in_every_step_of_a_graph_that_is_said_to_be_static(make, options, alone):
    parallel = DistributedDataParallel(PlugIn(small(), "body", make()), **options)
    assert times_added_up(parallel, lambda out: F.cross_entropy(out.logits, out.labels) + out.loss) == [1, 1, 1]


def test_a_loop_that_leaves_the_loss_of_the_augmenter_out_goes_on_where_parameters_may_be_unused(alone):
    parallel = DistributedDataParallel(plugged(safa_of(4, start="random")), find_unused_parameters=True)
    assert times_added_up(parallel, lambda out: F.cross_entropy(out.logits, out.labels)) == [1, 1, 1]


# --- where it can sit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: safa_of(4), lambda: Mixup(COUNTS), lambda: CutMix(COUNTS)])
def test_an_empty_batch_passes_and_the_layer_is_looked_at_when_there_is_something_to_see(make):
    class Beside(Small):
        """A shortcut past the body."""

        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            return self.fc(self.body(features).mean(dim=(2, 3)) + features.mean(dim=(2, 3)))

    plug = PlugIn(Beside(), "body", make())
    assert len(plug(images()[:0], LABELS[:0]).logits) == 0
    with pytest.raises(UserError, match="'body' is not crossed by every path"):
        plug(images(), LABELS)


def test_in_data_parallel_it_says_what_to_use_instead():
    """There a hook of one replica is called in the networks of all."""
    replica = plugged(safa_of(4))._replicate_for_data_parallel()
    with pytest.raises(UserError, match="cannot be trained in DataParallel; wrap it in DistributedDataParallel"):
        replica(torch.rand(len(LABELS), 3, 8, 8), LABELS)


def test_reading_the_place_of_the_paper_is_the_models_own_default():
    assert PlugIn(resnet8(5), augmenter=safa_of(32)).before == "layer3"
    assert PlugIn(densenet40(5), augmenter=safa_of(312)).before == "dense3"
    assert PlugIn(resnet8(5), "layer2", safa_of(16)).before == "layer2"


PLACES = [
    Place("input", (3, 32, 32)),
    Place("conv1", (3, 32, 32)),
    Place("bn1", (16, 32, 32)),
    Place("layer1", (16, 32, 32)),
    Place("layer1.0", (16, 32, 32)),
    Place("layer2", (16, 32, 32)),
    Place("layer2.0", (16, 32, 32)),
    Place("layer3", (32, 16, 16)),
    Place("layer3.0", (32, 16, 16)),
    Place("fc", (64,)),
]


def test_probe_lists_the_layers_that_every_path_crosses_with_what_enters_them():
    assert PlugIn.probe(resnet8(5), 32) == PLACES


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_place_of_probe_can_be_used(place):
    layout = "map" if len(place.shape) == 3 else "vector"
    plug = PlugIn(resnet8(5), place.name, safa_of(place.shape[0], layout=layout))
    out = plug(images(), LABELS)
    assert len(out.logits) > B
    (F.cross_entropy(out.logits, out.labels) + out.loss).backward()
    assert hooks_of(plug) == []


def test_probe_leaves_modes_statistics_and_random_numbers_alone():
    model = resnet8(5)
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    PlugIn.probe(model, 12)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks_of(model) == []


def test_probe_takes_height_width_and_channels_and_tries_one_layer_if_asked():
    gray = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 8 * 3, 5))
    assert PlugIn.probe(gray, (10, 5), channels=1, only="2") == [Place("2", (96,))]
    assert PlugIn.probe(gray, (10, 5), channels=1, only=INPUT) == [Place("input", (1, 10, 5))]
    assert [place.name for place in PlugIn.probe(gray, (10, 5), channels=1)] == ["input", "0", "1", "2"]


class ByKeyword(nn.Module):
    def forward(self, *, features: Tensor) -> Tensor:
        return features


class Branches(nn.Module):
    """A residual branch, a layer used twice, one never used, and two that see no images as first input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.branch = nn.Conv2d(4, 4, 1)
        self.twice = nn.ReLU()
        self.spare = nn.Conv2d(4, 4, 1)
        self.table = nn.Embedding(6, 4)
        self.by_keyword = ByKeyword()
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.by_keyword(features=self.twice(self.stem(images)))
        features = self.twice(features + self.branch(features))
        features = features + self.table(torch.arange(1)).sum(0)[:, None, None]
        return self.fc(features.mean(dim=(2, 3)))


def test_probe_leaves_out_branches_layers_used_twice_or_never_and_inputs_that_are_no_images():
    assert [place.name for place in PlugIn.probe(Branches(), 12)] == ["input", "stem", "fc"]


def test_probe_leaves_out_layers_after_which_the_network_insists_on_its_number_of_rows():
    class Picky(Small):
        def forward(self, images: Tensor) -> Tensor:
            features = self.body(self.stem(images))
            assert len(features) == len(images)
            return self.fc(features.mean(dim=(2, 3)))

    assert [place.name for place in PlugIn.probe(Picky(), 12)] == ["input", "fc"]


class TwoNames(Small):
    """Its body is registered once more, inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.ModuleDict({"trunk": self.body})


@pytest.mark.parametrize("name", ["body", "again.trunk"])
def test_a_layer_of_two_names_can_be_named_by_either(name):
    assert len(PlugIn(TwoNames(), name, Repeat())(images(), LABELS).logits) == B + 3
    assert PlugIn.probe(TwoNames(), 12, only=name) == [Place(name, (4, 10, 10))]


def test_probe_passes_the_images_twice_and_once_for_every_layer():
    model, calls = small(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    places = PlugIn.probe(model, 12)
    assert len(calls) == 2 + len(places)


# --- mixing, and the network's own input -------------------------------------------------------------------


def test_an_augmenter_that_mixes_gives_as_many_rows_with_soft_labels():
    plug, bare = PlugIn(small(), INPUT, Reverse()), small()
    out = plug(images(), LABELS)
    assert torch.equal(out.logits, bare((images() + images().flip(0)) / 2))
    ids = F.one_hot(LABELS, 5).float()
    assert torch.equal(out.labels, (ids + ids.flip(0)) / 2)


def test_soft_labels_go_to_an_augmenter_that_mixes():
    plug, given = PlugIn(small(), INPUT, Reverse()), torch.rand(B, 5).softmax(1)
    out = plug(images(), given)
    assert plug.augmenter.entered[0][1] is given
    torch.testing.assert_close(out.labels, (given + given.flip(0)) / 2)


def test_before_the_input_the_images_themselves_are_given():
    plug, x = PlugIn(small(), "input", Reverse()), images()
    plug(x, LABELS)
    assert plug.augmenter.entered[0][0] is x


def test_before_the_input_rows_can_be_added_as_well():
    plug, bare = PlugIn(small(), INPUT, Repeat()), small()
    x, out = images(), plug(images(), LABELS)
    assert torch.equal(out.logits, bare(torch.cat([x, 2 * x[:3]])))
    assert out.labels.tolist() == [*LABELS.tolist(), *LABELS[:3].tolist()]


@pytest.mark.parametrize(
    ("make", "before"),
    [(make, place) for make in (Mixup, Remix, CutMix) for place in ("input", "body")] + [(Mixup, "fc"), (Remix, "fc")],
)
def test_a_network_learns_from_mixed_rows_and_is_left_as_it_was(make, before):
    plug = PlugIn(small(), before, make(COUNTS))
    train(plug, plug.parameters(), steps=4)
    assert_left_as_it_was(plug.model)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in plug.parameters())
    copied = copy.deepcopy(plug.model).eval()
    assert torch.equal(plug.eval()(images()).logits, copied(images()))


def test_mixing_before_a_layer_mixes_what_enters_it():
    plug, bare = PlugIn(small(), "body", Reverse()), small()
    out = plug(images(), LABELS)
    entering = bare.stem(images())
    mixed = (entering + entering.flip(0)) / 2
    torch.testing.assert_close(out.logits, bare.fc(bare.body(mixed).mean(dim=(2, 3))))


class Entrance(Small):
    """Has a layer of the name that stands for the network's own input; what enters it is something else."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.AvgPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.input(1 - images))


def test_a_layer_called_input_goes_before_the_networks_own_input():
    model = Entrance()
    plug = PlugIn(model, "input", Reverse())
    plug(images(), LABELS)
    assert torch.equal(plug.augmenter.entered[0][0], 1 - images())
    assert [place.name for place in PlugIn.probe(model, 12)] == ["input", "stem", "stem.0", "stem.1", "stem.2", "body",
                                                               "body.0", "body.1", "body.2", "fc"]  # fmt: skip


def test_reading_mixing_is_done_on_the_input_unless_a_layer_is_named():
    assert PlugIn(resnet8(5), augmenter=Mixup(COUNTS)).before == "input"
    assert PlugIn(resnet8(5), "layer3", Mixup(COUNTS)).before == "layer3"
    assert PlugIn(resnet8(5), augmenter=safa_of(32)).before == "layer3"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_rows_can_be_mixed_at_every_place_of_probe(place):
    plug = PlugIn(resnet8(5), place.name, Mixup(COUNTS))
    out = plug(images(), LABELS)
    assert out.labels.shape == out.logits.shape == (B, 5)
    F.cross_entropy(out.logits, out.labels).backward()
    assert hooks_of(plug) == []


@pytest.mark.parametrize("before", ["layer3.0.conv1", "layer3.0.bn2", "layer3.0.shortcut"])
def test_mixing_inside_a_residual_branch_is_refused_though_no_shape_tells(before):
    plug = PlugIn(resnet8(5), before, Mixup(COUNTS))
    with pytest.raises(UserError, match=f"{before!r} is not crossed by every path"):
        plug(images(), LABELS)
    assert hooks_of(plug) == []


def test_mixing_looks_once_whether_every_path_is_crossed_and_changes_nothing_by_it(monkeypatch):
    plug, calls = PlugIn(small(), "body", Mixup(COUNTS)), []
    plug.model.fc.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(plug.model.state_dict())
    torch.manual_seed(0)
    looked = plug(images(), LABELS).logits
    assert len(calls) == 3
    plug.model.load_state_dict(before)
    torch.manual_seed(0)
    assert torch.equal(plug(images(), LABELS).logits, looked)
    assert len(calls) == 4
    assert all(module.training for module in plug.modules())


@pytest.mark.parametrize("before", ["input", "layer2", "fc"])
def test_mixing_works_under_autocast_and_in_half_precision(before):
    plug = PlugIn(resnet8(5), before, Mixup(COUNTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = plug(images(size=32), LABELS)
    assert (out.logits.dtype, out.labels.dtype, out.loss.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    half = PlugIn(resnet8(5).bfloat16(), before, Mixup(COUNTS))
    out = half(images(size=32).bfloat16(), LABELS)
    assert (out.logits.dtype, out.labels.dtype) == (torch.bfloat16, torch.float32)


def test_half_precision_images_are_mixed_under_autocast_in_a_float32_network():
    plug = PlugIn(resnet8(5), "layer3", Mixup(COUNTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plug(images().bfloat16(), LABELS).logits.dtype == torch.bfloat16


def test_hooks_of_the_user_on_the_network_itself_stay():
    plug, fired = PlugIn(small(), INPUT, Reverse()), []
    plug.model.register_forward_pre_hook(lambda *_: fired.append("before"))
    plug(images(), LABELS)
    plug.model(images())
    assert fired == ["before"] * 2
    assert len(hooks_of(plug.model)) == 1


def test_idle_mixing_is_plain_training():
    plug, bare = PlugIn(small(), INPUT, Mixup(COUNTS)), small()
    plug.active = False
    out = plug(images(), LABELS)
    assert out.labels is LABELS
    assert torch.equal(out.logits, bare(images()))


@dynamo_reads_grad
@pytest.mark.parametrize("before", ["input", "body"])
def test_a_compiled_plug_in_mixes_as_the_plain_one_does_and_in_few_pieces(before):
    torch.compiler.reset()
    plug, pieces = PlugIn(small(), before, Mixup(COUNTS)), []

    def collect(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        pieces.append(graph)
        return graph

    compiled = torch.compile(plug, backend=collect)
    optimizer = torch.optim.SGD(plug.parameters(), lr=0.1)
    for step, active in enumerate([False, True, True, False, True]):
        compiled.active = active
        outs = []
        for each in (copy.deepcopy(plug), compiled):
            torch.manual_seed(step)
            outs.append(each(images(seed=step), LABELS.roll(step)))
        torch.testing.assert_close(outs[1].logits, outs[0].logits)
        assert torch.equal(outs[1].labels, outs[0].labels)
        assert hooks_of(plug) == []
        optimizer.zero_grad()
        F.cross_entropy(outs[1].logits, outs[1].labels).backward()
        optimizer.step()
    assert 0 < len(pieces) <= 8
    assert_left_as_it_was(plug.model)


def test_before_the_input_a_model_compiled_after_attaching_is_trained_on_mixed_rows():
    torch.compiler.reset()
    plug = PlugIn(small(), INPUT, Reverse())
    plug.model.compile(backend="eager")
    plug.active = False
    plug(images(), LABELS)
    plug.active = True
    out = plug(images(), LABELS)
    bare = small()
    bare(images())
    torch.testing.assert_close(out.logits, bare((images() + images().flip(0)) / 2))


# --- mistakes ----------------------------------------------------------------------------------------------


def complaint(model: nn.Module, before: str | None, augmenter: Augmenter, labels: Tensor | None = LABELS) -> str:
    with pytest.raises(UserError) as caught:
        PlugIn(model, before, augmenter)(images(), labels)
    assert hooks_of(model) == []
    return str(caught.value)


def test_an_unknown_layer_is_refused_with_the_closest_name_and_the_top_level_modules():
    said = complaint(resnet8(5), "layer3.0.con1", Repeat())
    assert "no module named 'layer3.0.con1' in CifarResNet; did you mean 'layer3.0.conv1'?" in said
    assert "top-level modules are ['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'fc']" in said


def test_a_misspelt_input_is_refused_with_its_name():
    assert "no module named 'inputs' in CifarResNet; did you mean 'input'?" in complaint(resnet8(5), "inputs", Repeat())


@pytest.mark.parametrize("before", ["", "layer9", "layer3.7"])
def test_a_name_that_is_no_layer_is_refused(before):
    assert f"no module named {before!r} in CifarResNet" in complaint(resnet8(5), before, Repeat())


def test_a_model_without_a_default_place_asks_for_one():
    said = complaint(Branches(), None, Repeat())
    assert "Branches names no default layer; pass before=" in said
    assert "'stem', 'branch'" in said


def test_another_number_of_channels_is_refused_with_the_layer_and_the_right_number():
    said = complaint(resnet8(5), "layer3", safa_of(64))
    assert said == "before 'layer3': SAFA was built for 64 channels but receives 32; pass channels=32"


@pytest.mark.parametrize("before", ["layer3.0.conv1", "layer3.0.bn2", "layer3.0.shortcut"])
def test_a_layer_inside_a_residual_branch_is_refused_with_what_to_name_instead(before):
    said = complaint(resnet8(5), before, Repeat())
    assert f"{before!r} is not crossed by every path" in said
    assert "name the block or stage around it" in said


def test_a_layer_beside_the_path_to_the_logits_is_refused():
    class Aside(Small):
        def forward(self, images: Tensor) -> Tensor:
            self.body(self.stem(images))
            return self.fc(self.stem(images).mean(dim=(2, 3)))

    assert "'body' is not crossed by every path" in complaint(Aside(), "body", Repeat())


def test_a_layer_reached_twice_is_refused():
    assert "'twice' is reached twice in one forward pass" in complaint(Branches(), "twice", Repeat())


def test_a_layer_that_is_never_reached_is_refused():
    assert "'spare' was never reached" in complaint(Branches(), "spare", Repeat())


@pytest.mark.parametrize("before", ["table", "by_keyword"])
def test_a_layer_whose_first_input_is_not_one_row_per_image_is_refused(before):
    said = complaint(Branches(), before, Repeat())
    assert f"the first input of {before!r} is not one row per image" in said


def test_an_error_that_has_nothing_to_do_with_the_added_rows_passes_as_it_is():
    plug = plugged(Repeat())
    plug.model.fc = nn.Linear(9, 5)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        plug(images(), LABELS)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, r"labels are needed while the augmenter is active: plug\(images, labels\)"),
        (LABELS[1:], r"one class id per image, shape \(10,\), got \(9,\) of torch.int64"),
        (F.one_hot(LABELS, 5).float(), r"got \(10, 5\) of torch.float32; SAFA makes rows of whole classes: mix labels"),
        (LABELS.float(), r"got \(10,\) of torch.float32"),
    ],
    ids=["missing", "too few", "mixed", "float"],
)
def test_labels_that_are_missing_or_no_class_ids_are_refused_while_active(labels, said):
    with pytest.raises(UserError, match=said):
        plugged()(images(), labels)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "labels are needed while the augmenter is active"),
        (
            LABELS[1:],
            r"shape \(10,\), or one probability per image and class, shape \(10, k\); got \(9,\) of torch.int64",
        ),
        (F.one_hot(LABELS[1:], 5).float(), r"got \(9, 5\) of torch.float32"),
        (F.one_hot(LABELS, 5), r"got \(10, 5\) of torch.int64"),
        (LABELS.float(), r"got \(10,\) of torch.float32"),
    ],
    ids=["missing", "too few", "too few and soft", "ids of two dimensions", "float"],
)
def test_labels_that_are_neither_class_ids_nor_soft_are_refused_where_rows_are_mixed(labels, said):
    with pytest.raises(UserError, match=said):
        plugged(Reverse())(images(), labels)


class Pair(Small):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return logits, logits


@pytest.mark.parametrize("augmenter", [Repeat, Reverse, lambda: None], ids=["repeat", "mix", "no augmenter"])
@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_model_that_returns_more_than_logits_is_refused(augmenter, active, training):
    plug = PlugIn(Pair(), "body", augmenter()).train(training)
    if plug.augmenter is not None:
        plug.active = active
    for _ in range(2):
        with pytest.raises(UserError, match="Pair returns tuple, not logits; wrap it in a module"):
            plug(images(), LABELS)


@pytest.mark.parametrize(
    ("model", "before", "said"),
    [
        (lambda: resnet8(5), "layer3.0.conv1", "'layer3.0.conv1' is not crossed by every path"),
        (Branches, "twice", "'twice' is reached twice in one forward pass"),
        (Branches, "spare", "'spare' was never reached"),
        (Branches, "table", "the first input of 'table' is not one row per image"),
    ],
    ids=["in a branch", "reached twice", "never reached", "no rows"],
)
@pytest.mark.parametrize("augmenter", [Repeat, Reverse])
def test_a_layer_that_does_not_fit_is_refused_in_the_first_idle_pass(model, before, said, augmenter):
    plug = PlugIn(model(), before, augmenter())
    plug.active = False
    with pytest.raises(UserError, match=said):
        plug(images())
    assert hooks_of(plug) == []


def test_a_layer_inside_a_residual_branch_is_refused_though_the_first_batch_has_no_tail():
    plug = PlugIn(resnet8(5), "layer3.0.bn2", safa_of(64))
    with pytest.raises(UserError, match="'layer3.0.bn2' is not crossed by every path"):
        plug(images(), NO_TAIL)


class InTrainingOnly(Small):
    """In evaluation it returns something else, or fails."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return super().forward(images)
        if self.fails:
            raise NotImplementedError("no evaluation")
        return ()


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "no logits"])
def test_a_network_for_training_only_can_be_given_rows_and_is_not_looked_at(fails):
    plug = PlugIn(InTrainingOnly(fails), "body", Repeat())
    plug.active = False
    assert len(plug(images()).logits) == B
    plug.active = True
    assert len(plug(images(), LABELS).logits) == B + 3


def test_a_network_for_training_only_is_not_mixed_since_nothing_would_tell_of_a_branch():
    with pytest.raises(NotImplementedError, match="no evaluation"):
        PlugIn(InTrainingOnly(fails=True), "body", Reverse())(images(), LABELS)


class Flat(Small):
    """Flattens by the number of images; with a shortcut around its body, or one that is all there is at the start."""

    def __init__(self, shortcut: bool = False, start: float = 1.0) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        nn.init.constant_(self.body[1].weight, start)
        self.fc = nn.Linear(400, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = features + self.body(features) if self.shortcut else self.body(features)
        return self.fc(features.view(len(images), -1))


@pytest.mark.parametrize("rows", [B, 1])
def test_a_network_that_insists_on_its_number_of_rows_can_be_mixed_where_every_path_crosses(rows):
    plug = PlugIn(Flat(), "body", Reverse())
    out = plug(images(rows), LABELS[:rows])
    assert len(plug.augmenter.entered) == 1
    assert len(out.logits) == rows
    assert "'body' is not crossed by every path" in complaint(Flat(), "body", Repeat())


@pytest.mark.parametrize("start", [0.0, 1.0], ids=["a branch of zeros", "a branch"])
@pytest.mark.parametrize("rows", [B, 1])
def test_nor_is_its_branch_mixed(start, rows):
    plug = PlugIn(Flat(shortcut=True, start=start), "body", Reverse())
    with pytest.raises(UserError, match="'body' is not crossed by every path"):
        plug(images(rows), LABELS[:rows])


@pytest.mark.parametrize("error", [AssertionError, ValueError])
def test_a_network_that_insists_on_its_number_of_rows_is_explained_whatever_it_raises(error):
    class Picky(Small):
        def forward(self, images: Tensor) -> Tensor:
            features = self.body(self.stem(images))
            if len(features) != len(images):
                raise error("another number of rows")
            return self.fc(features.mean(dim=(2, 3)))

    assert "'body' is not crossed by every path" in complaint(Picky(), "body", Repeat())


# --- activation checkpointing: backward runs the region again, when the hook is gone


class Checkpointed(Small):
    def __init__(self, region: str, use_reentrant: bool) -> None:
        super().__init__()
        self.region, self.use_reentrant = region, use_reentrant

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for name in ("stem", "body"):
            layer = getattr(self, name)
            if name == self.region and self.training:
                features = checkpoint(layer, features, use_reentrant=self.use_reentrant)
            else:
                features = layer(features)
        return self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("region", "before", "use_reentrant"),
    [("body", "body", True), ("body", "body.1", True), ("body", "body", False), ("stem", "stem", False)],
)
@pytest.mark.parametrize("augmenter", [lambda: Mixup(COUNTS), Repeat], ids=["mixup", "repeat"])
@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
def test_a_checkpointed_layer_is_refused_by_its_name(region, before, use_reentrant, augmenter, active):
    plug = PlugIn(Checkpointed(region, use_reentrant), before, augmenter())
    plug.active = active
    with pytest.raises(UserError, match=f"^'{before}' runs inside a region under torch.utils.checkpoint"):
        plug(images(), LABELS)
    assert hooks_of(plug) == []


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("before", ["input", "stem", "fc"])
def test_outside_a_checkpointed_region_gradients_are_those_of_the_plain_network(before, use_reentrant):
    found = []
    for model in (Checkpointed("body", use_reentrant), Checkpointed("nothing", use_reentrant)):
        model.load_state_dict(small().state_dict())
        plug = PlugIn(model, before, Reverse())
        out = plug(images(), LABELS)
        F.cross_entropy(out.logits, out.labels).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for with_region, without in zip(*found, strict=True):
        torch.testing.assert_close(with_region, without)


@pytest.mark.parametrize("augmenter", [Repeat, Reverse])
@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
def test_a_network_of_two_types_is_looked_at_under_the_autocast_that_it_runs_in(augmenter, active):
    model = small()
    model.stem.bfloat16()
    plug = PlugIn(model, "body", augmenter())
    plug.active = active
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = plug(images(), LABELS)
        places = [place.name for place in PlugIn.probe(model, 12)]
    assert len(out.logits) == B + 3 * (active and augmenter is Repeat)
    assert places == [place.name for place in PlugIn.probe(small(), 12)]
    assert hooks_of(plug.model) == []


@pytest.mark.parametrize("around", [torch.no_grad, torch.autograd.graph.save_on_cpu])
def test_a_whole_pass_without_gradients_or_with_hooks_on_saved_tensors_is_no_checkpointed_region(around):
    plug = plugged(Repeat())
    with around():
        assert len(plug(images(), LABELS).logits) == B + 3


# --- augmenters and labels that are none


class Returns(Repeat):
    """Returns what it is told to."""

    def __init__(self, made: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.made = made

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        return self.made(features, labels)


def test_an_augmenter_with_another_number_of_labels_than_rows_is_blamed_for_it():
    augmenter = Returns(lambda features, labels: Augmented(features, labels[:7], torch.zeros(())))
    assert complaint(small(), "body", augmenter).startswith("Returns returns 10 rows of features with 7 labels")


def test_an_augmenter_that_loses_real_rows_or_mixes_into_more_is_refused():
    generated_alone = Returns(lambda features, labels: Augmented(features[:4], labels[:4], torch.zeros(())))
    assert complaint(small(), "body", generated_alone) == (
        "Returns returns 4 rows where it is given 10; an augmenter returns these, and those that it makes after them"
    )
    doubled = Returns(
        lambda features, labels: Augmented(features.repeat(2, 1, 1, 1), labels.repeat(2), torch.zeros(()))
    )
    assert len(PlugIn(small(), "body", doubled)(images(), LABELS).logits) == 2 * B
    doubled.mixes = True
    assert complaint(small(), "body", doubled) == (
        "Returns returns 20 rows where it is given 10; an augmenter returns as many"
    )


def test_a_single_image_whose_shortcut_would_be_added_to_every_row_is_refused_too():
    """The shortcut of one row fits a branch of any number of them, so that the lengths do not tell."""
    doubled = Returns(
        lambda features, labels: Augmented(features.repeat(2, 1, 1, 1), labels.repeat(2), torch.zeros(()))
    )

    class Shortcut(Small):
        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            return self.fc((features.mean(dim=(2, 3), keepdim=True) + self.body(features)).mean(dim=(2, 3)))

    plug = PlugIn(Shortcut(), "body", doubled)
    with pytest.raises(UserError, match="'body' is not crossed by every path"):
        plug(images()[:1], LABELS[:1])
    plug = PlugIn(small(), "body", doubled)
    assert len(plug(images()[:1], LABELS[:1]).logits) == 2
    assert plug._crossing_is_known


def test_an_augmenter_that_returns_no_augmented_batch_is_refused():
    augmenter = Returns(lambda features, labels: (features, labels))
    assert complaint(small(), "body", augmenter).startswith("Returns returns tuple; an augmenter returns safa.types")


@pytest.mark.parametrize(
    ("augmenter", "said"),
    [
        (SAFA, r"augmenter is the class SAFA; pass an object, SAFA\(…\)"),
        (RSG, "augmenter is the class RSG"),
        (nn.Identity(), "Identity is no augmenter: it has no active and no learns_while_idle; safa.types.Augmenter"),
    ],
    ids=["a class", "a class with the attributes", "another module"],
)
def test_what_is_no_augmenter_is_refused_when_attached(augmenter, said):
    with pytest.raises(UserError, match=said):
        PlugIn(small(), "body", augmenter)


@pytest.mark.parametrize("active", [True, False], ids=["active", "idle"])
@pytest.mark.parametrize("augmenter", [lambda: safa_of(4), lambda: Mixup(COUNTS)], ids=["safa", "mixup"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_class_ids_of_any_integer_type_do_what_int64_does(augmenter, dtype, active):
    outs = []
    for labels in (LABELS, LABELS.to(dtype)):
        torch.manual_seed(0)
        plug = plugged(augmenter())
        plug.active = active
        torch.manual_seed(1)
        outs.append(plug(images(), labels))
    assert torch.equal(outs[1].logits, outs[0].logits)
    assert torch.equal(outs[1].labels, outs[0].labels)
    assert outs[1].labels.dtype == outs[0].labels.dtype


@pytest.mark.parametrize(
    ("augmenter", "wrong", "said"),
    [
        (lambda: safa_of(4), -1, "labels are class ids from 0 on, got -1"),
        (lambda: safa_of(4), 5, "SAFA was built with the counts of 5 classes, so labels are 0 to 4, got 5"),
        (lambda: Mixup(COUNTS), -1, "labels are class ids from 0 on, got -1"),
        (lambda: Mixup(COUNTS), 5, "Small tells 5 classes apart, so labels are 0 to 4, got 5"),
    ],
)
def test_labels_out_of_range_are_refused_before_they_are_taken_for_another_class(augmenter, wrong, said):
    with pytest.raises(UserError, match=said):
        plugged(augmenter())(images(), LABELS.clone().index_fill_(0, torch.tensor(3), wrong))


def test_attaching_does_not_load_the_compiler():
    code = "import sys, safa.plugin; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_show_in_the_representation():
    assert repr(plugged()).startswith("PlugIn(\n  before='body'")
