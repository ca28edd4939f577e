"""Training: what a stage changes and what it leaves, what is logged, and what happens when a loss breaks."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from safa import assembly, checkpoint, evaluate, runs
from safa.assembly import network
from safa.data import dataset
from safa.errors import UserError
from safa.job import Job
from safa.losses import CrossEntropyLoss
from safa.progress import Progress
from safa.recipe import Augmenter, Model, Named, Optimizer, Recipe, Schedule, Stage
from safa.train import CHECKPOINT, Trainer
from safa.types import Augmented, Lookahead
from safa.weighting import effective_number_weights

SAFA = Augmenter("safa")
RESNET8 = Model(Named("resnet8"), Named("cosine", {"scale": 30}))
CONSTANT = Schedule(milestones=(), warmup_epochs=0)
STEPS = 7  # per epoch of 98 images in batches of 16


class Watched(Trainer):
    """Notes the optimizer's state when a stage ends, and the optimizer and augmenter that the next begins with."""

    def _enter(self, epoch, resumed=False):
        before = copy.deepcopy(self.optimizer.state_dict()["state"]) if self.stage else {}
        super()._enter(epoch, resumed)
        after = copy.deepcopy(self.optimizer.state_dict())
        self.entered = [*getattr(self, "entered", []), (before, after, self.augmenter)]


class Noting(CrossEntropyLoss):
    """Notes the class weights in force at every step."""

    weights: list[torch.Tensor | None] = []  # noqa: RUF012

    def forward(self, logits, labels):
        self.weights.append(self.weight)
        return super().forward(logits, labels)


class Breaking(CrossEntropyLoss):
    """Not a number from a step on, or a number whose gradient is none."""

    def __init__(self, at: int, gradient: bool = False, weight=None) -> None:
        super().__init__(weight=weight)
        self.at, self.gradient, self.seen = at, gradient, 0

    def forward(self, logits, labels):
        self.seen += 1
        loss = super().forward(logits, labels)
        if self.seen <= self.at:
            return loss
        return loss + (logits.sum() * 0).sqrt() if self.gradient else loss * math.nan


class Odd(nn.Module):
    """An augmenter with one broken term that generates nothing."""

    active, learns_while_idle = True, False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, features, labels):
        loss = self.weight.sum() * math.nan
        return Augmented(features, labels, loss, {"fine": torch.tensor(1.0), "odd": loss.detach()})


class Bent(Odd):
    """An augmenter whose one term is 0, with a gradient that is no number."""

    def forward(self, features, labels):
        return Augmented(features, labels, (self.weight.sum() * 0).sqrt())


class NoModule:
    active, learns_while_idle = True, False

    def __init__(self, channels: int) -> None: ...


@pytest.fixture
def make(tiny_data, tmp_path):
    """A trainer of some stages on the tiny tail."""

    def build(*stages: Stage, data=tiny_data, kind=Watched, folder=tmp_path, **options) -> Watched:
        settings = {"model": RESNET8, "batch_size": 16, "schedule": CONSTANT, **options}
        recipe = Recipe("x", stages, data.spec, **settings)
        return kind(recipe, data, folder, runs.accelerator_for(recipe, runs.Machine()))

    return build


@pytest.fixture
def meta_data(tiny_data):
    """The tiny tail with two images of every class held out to steer by."""
    return dataset.load(replace(tiny_data.spec, meta_per_class=2, largest=None))


@pytest.fixture
def trained(make):
    """A trainer that has run."""

    def build(*stages: Stage, **options) -> Watched:
        trainer = make(*stages, **options)
        trainer.run()
        return trainer

    return build


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(trainer.model.state_dict())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- stages ------------------------------------------------------------------------------------------------


def test_class_weights_are_in_force_from_the_second_stage_on(trained, tiny_data):
    Noting.weights.clear()
    loss = Named("tests.test_train:Noting")
    trained(Stage(1, loss=loss), Stage(1, loss=loss, weighting=Named("effective_number")))
    seen = Noting.weights[-2 * STEPS :]
    assert seen[:STEPS] == [None] * STEPS
    expected = effective_number_weights(tiny_data.class_counts)
    assert all(torch.equal(weight, expected) for weight in seen[STEPS:])


def test_a_run_cut_into_equal_stages_is_the_same_run(trained, tmp_path):
    whole = trained(Stage(2, loss=Named("ldam")), folder=tmp_path / "whole")
    halves = trained(*[Stage(1, loss=Named("ldam"))] * 2, folder=tmp_path / "halves")
    assert equal(weights(whole), weights(halves))
    assert whole.plan[-1].key == halves.plan[-1].key


def test_momentum_goes_on_into_the_next_stage(trained):
    trainer = trained(Stage(1), Stage(1, weighting=Named("effective_number")))
    before, after, _ = trainer.entered[1]
    assert len(before) == len(list(trainer.model.parameters()))
    for index, state in before.items():
        assert torch.equal(after["state"][index]["momentum_buffer"], state["momentum_buffer"])


def test_a_stage_that_names_an_optimizer_starts_it_anew_with_its_own_settings(trained):
    trainer = trained(Stage(1), Stage(1, optimizer=Optimizer(momentum=0.5, weight_decay=0.1, nesterov=True)), Stage(1))
    _, after, _ = trainer.entered[1]
    assert after["state"] == {}
    for _, entered, _ in trainer.entered[1:]:  # and the stage after goes on with it
        group = entered["param_groups"][0]
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.1, True)
    assert trainer.entered[2][1]["state"]


def test_an_augmenter_gets_a_group_of_its_own_with_a_scaled_rate_and_no_momentum(trained):
    trainer = trained(Stage(1), Stage(1, sampler=Named("pairs"), augmenter=replace(SAFA, lr_scale=0.25)))
    before, after, augmenter = trainer.entered[1]
    network_group, augmenter_group = trainer.optimizer.param_groups
    assert len(network_group["params"]) == len(before)
    assert len(augmenter_group["params"]) == len(list(augmenter.parameters()))
    assert augmenter_group["lr"] == 0.25 * network_group["lr"] == 0.25 * 0.1
    assert set(after["state"]) == set(before)


def test_an_augmenter_stays_while_its_recipe_does(trained):
    pairs = Named("pairs")
    trainer = trained(
        Stage(1, augmenter=SAFA, sampler=pairs),
        Stage(1, augmenter=SAFA),
        Stage(1, augmenter=replace(SAFA, lr_scale=0.5)),
    )
    (_, _, first), (before, after, second), (_, rebuilt, third) = trainer.entered
    assert first is second
    assert third is not second
    assert set(before) == set(after["state"])
    assert len(rebuilt["state"]) == len(list(trainer.model.parameters()))


def test_an_augmenter_leaves_with_its_stage(trained):
    trainer = trained(Stage(1, augmenter=SAFA, sampler=Named("pairs")), Stage(1))
    assert trainer.augmenter is None
    assert len(trainer.optimizer.param_groups) == 1
    assert len(trainer.optimizer.state_dict()["state"]) == len(list(trainer.model.parameters()))


def test_an_augmenter_that_may_not_generate_is_left_alone(trained, tmp_path):
    idle = trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path / "idle")
    plain = trained(Stage(1), folder=tmp_path / "plain")
    assert equal(weights(idle), weights(plain))
    assert not any(parameter.requires_grad for parameter in idle.augmenter.parameters())
    fresh = make_augmenter(idle)
    assert equal(idle.augmenter.state_dict(), fresh.state_dict())


def test_an_augmenter_that_may_not_generate_stays_idle_when_a_finished_run_is_read_back(trained, tmp_path):
    trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path)
    again = trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path)
    assert not again.augmenter.active


def make_augmenter(trainer: Trainer) -> nn.Module:
    return trainer.parts.augmenter(trainer.recipe.stages[0].augmenter, trainer.model, 0)


def test_an_idle_augmenter_that_wakes_up_learns(trained):
    trainer = trained(
        Stage(1, augmenter=SAFA, generate=False, sampler=Named("pairs")),
        Stage(1, augmenter=SAFA, sampler=Named("pairs")),
    )
    assert not equal(trainer.augmenter.state_dict(), make_augmenter(trainer).state_dict())


def test_an_augmenter_that_learns_while_idle_does_so_in_a_stage_that_generates_nothing(trained):
    trainer = trained(Stage(1, augmenter=Augmenter("rsg"), generate=False))
    assert trainer.augmenter.centers.any()  # they start at 0


def test_the_rate_of_every_epoch_is_that_of_the_plan(trained):
    schedule = Schedule(lr=0.05, milestones=(2,), factor=0.1, warmup_epochs=2)
    trainer = trained(Stage(3), schedule=schedule)
    assert [entry["lr"] for entry in trainer.history] == pytest.approx([0.025, 0.05, 0.005])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


# --- other classifiers -------------------------------------------------------------------------------------

CRT = Stage(
    1,
    sampler=Named("class_balanced"),
    head=Named("linear"),
    trainable=("fc",),
    optimizer=Optimizer(weight_decay=5e-4),
)
LINEAR = Model(Named("resnet8"))


def test_retraining_the_classifier_leaves_the_rest_bit_for_bit_with_its_statistics(trained, tmp_path):
    trunk = weights(trained(Stage(2), model=LINEAR, folder=tmp_path / "trunk"))
    after = weights(trained(Stage(2), CRT, model=LINEAR, folder=tmp_path / "crt"))
    assert trunk.keys() == after.keys()
    changed = {name for name in trunk if not torch.equal(trunk[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_retrained_classifier_does_not_start_from_the_former_one(trained, tmp_path):
    still = replace(CRT, epochs=0)
    after = weights(trained(Stage(2), still, model=LINEAR, folder=tmp_path / "crt"))["fc.weight"]
    other = weights(trained(Stage(1), still, model=LINEAR, folder=tmp_path / "other"))["fc.weight"]
    assert torch.equal(after, other)  # whatever was learnt before


@pytest.mark.parametrize("head", ["nearest_mean", "adjusted", "scaled"])
def test_a_stage_of_no_epochs_changes_the_classifier_alone_and_is_tested(head, trained, tmp_path):
    trunk = weights(trained(Stage(2), model=LINEAR, folder=tmp_path / "trunk"))
    trainer = trained(Stage(2), Stage(0, head=Named(head)), model=LINEAR, folder=tmp_path / "other")
    after = weights(trainer)
    body = {name for name in trunk if not name.startswith("fc.")}
    assert body == {name for name in after if not name.startswith("fc.")}
    assert all(torch.equal(trunk[name], after[name]) for name in body)
    assert [entry["epoch"] for entry in trainer.history] == [0, 1, 2]
    assert trainer.history[2]["loss"] is None
    assert trainer.history[2]["test"]["error"] <= 100


def test_the_nearest_mean_is_taken_of_the_training_images_as_they_are(trained, tiny_data):
    trainer = trained(Stage(2), Stage(0, head=Named("nearest_mean")), model=LINEAR)
    images, labels = trainer.parts.images_of(tiny_data.train, range(len(tiny_data.train)))
    trainer.model.eval()
    with torch.no_grad(), assembly.head_inputs(trainer.model) as seen:
        trainer.model(images)
    features = nn.functional.normalize(seen[0] - seen[0].mean(dim=0))
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(10)])
    expected = -torch.cdist(features, means).square()
    torch.testing.assert_close(trainer.model.fc(seen[0]), expected, rtol=1e-3, atol=1e-4)


def test_scales_are_all_that_learns_in_a_stage_of_scaled_weights(trained, tmp_path):
    stage = replace(CRT, head=Named("scaled"))
    before = weights(trained(Stage(2), replace(stage, epochs=0), model=LINEAR, folder=tmp_path / "still"))
    after = weights(trained(Stage(2), stage, model=LINEAR, folder=tmp_path / "lws"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.scales"}


def test_a_strength_to_be_chosen_without_validation_images_is_found_before_training(make):
    message = refused(make(Stage(1), Stage(0, head=Named("tau_normalised")), model=LINEAR))
    assert "head 'tau_normalised' chooses a setting on validation images and there are none" in message


def test_heads_are_fitted_to_training_images_and_choose_on_validation_images(make, tiny_data):
    data = dataset.load(replace(tiny_data.spec, validation_per_class=2, validation_from="left_out"))
    parts = make(Stage(1), data=data).parts
    model = parts.network().eval()
    fitting = parts.fitting(model)
    for found, split in ((fitting.train(), data.train), (fitting.validation(), data.validation)):
        images, labels = parts.images_of(split, range(len(split)))
        with torch.no_grad(), assembly.head_inputs(model) as seen:
            model(images)
        assert torch.equal(found[1], labels)
        torch.testing.assert_close(found[0], seen[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "model", "message"),
    [
        ([Stage(1)], Model(Named("resnet8"), Named("nearest_mean")), "starts from a head learnt before it"),
        ([Stage(1), replace(CRT, head=Named("adjusted"))], LINEAR, "nothing learns in stage 1: fc has no parameter"),
        ([Stage(1), replace(CRT, trainable=("fcc",))], LINEAR, "did you mean 'fc'?"),
    ],
)
def test_a_head_out_of_place_is_found_before_training(stages, model, message, make):
    assert message in refused(make(*stages, model=model))


# --- weights of single images ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2rw", "meta_weight_net", "meta_class_weight"])
def test_image_weights_are_learnt_in_a_stage_and_the_run_repeats_bit_for_bit(name, trained, meta_data, tmp_path):
    stages = Stage(1), Stage(1, reweighting=Named(name))
    first = trained(*stages, data=meta_data, model=LINEAR, folder=tmp_path / "first")
    plain = trained(Stage(2), data=meta_data, model=LINEAR, folder=tmp_path / "plain")
    torch.manual_seed(5)
    second = trained(*stages, data=meta_data, model=LINEAR, folder=tmp_path / "second")
    assert equal(weights(first), weights(second))
    assert not equal(weights(first), weights(plain))
    assert math.isfinite(first.history[1]["loss"])
    assert first.history[0]["diagnostics"] == {}
    assert 0 < first.history[1]["diagnostics"]["images_weighing"] <= 100


class Looked(nn.Module):
    """Weighs all images alike and notes by what it could have told them apart."""

    seen: list[Lookahead] = []  # noqa: RUF012

    def forward(self, look):
        self.seen.append(look)
        return torch.full((len(look.labels),), 1 / len(look.labels))


def test_image_weights_look_at_the_meta_set_and_at_the_rate_of_the_epoch(trained, meta_data):
    Looked.seen.clear()
    falling = replace(CONSTANT, milestones=(1,), factor=0.1)
    stage = Stage(2, reweighting=Named("tests.test_train:Looked"))
    steps = len(trained(stage, data=meta_data, model=LINEAR, schedule=falling).batches)
    assert [look.lr for look in Looked.seen] == pytest.approx([0.1] * steps + [0.01] * steps)
    first_round = torch.cat([look.meta_labels for look in Looked.seen[:2]])  # batches of 16 and of 4
    assert sorted(first_round.tolist()) == sorted(meta_data.meta.labels.tolist())


def test_image_weights_without_a_meta_set_are_refused_with_a_way_out(make):
    message = refused(make(Stage(1), Stage(1, reweighting=Named("l2rw"))))
    assert "reweighting 'l2rw' steers by a balanced meta set; set data.meta_per_class" in message


# --- mixed images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["input", "layer2"])
@pytest.mark.parametrize("name", ["mixup", "cutmix", "remix"])
def test_mixed_images_train_under_soft_labels_and_leave_with_their_stage(name, before, trained):
    loss = Named("ldam")
    mixed = Stage(1, loss=loss, augmenter=Augmenter(name, before=before))
    trainer = trained(mixed, Stage(1, loss=loss, weighting=Named("effective_number"), sampler=Named("pairs")))
    assert all(math.isfinite(entry["loss"]) for entry in trainer.history)
    assert trainer.augmenter is None


# --- averaged weights --------------------------------------------------------------------------------------


class Seeing(Trainer):
    """Notes the weights after every step, and those that are tested after every epoch."""

    def _train_step(self, epoch, images, labels):
        super()._train_step(epoch, images, labels)
        self.seen = [*getattr(self, "seen", []), weights(self)]

    def predict(self, split):
        self.of_epoch = [*getattr(self, "of_epoch", []), copy.deepcopy(self.tested.state_dict())]
        return super().predict(split)


def assert_average(found: dict[str, torch.Tensor], seen: list[dict[str, torch.Tensor]], decay: float) -> None:
    """By the definition of a moving average that starts with the first weights; batch-norm statistics included.

    Counters of batches have no average: they are the latest.
    """
    for name, value in found.items():
        if not value.is_floating_point():
            assert torch.equal(value, seen[-1][name])
        if value.is_floating_point():
            average = seen[0][name]
            for now in seen[1:]:
                average = decay * average + (1 - decay) * now[name]
            torch.testing.assert_close(value, average)


def test_a_stage_is_tested_with_the_moving_average_of_its_weights_and_ends_as_it(trained):
    trainer = trained(Stage(2, averaged_epochs=5 / STEPS), kind=Seeing)
    assert_average(trainer.of_epoch[0], trainer.seen[:STEPS], 0.8)
    assert_average(trainer.of_epoch[1], trainer.seen, 0.8)
    assert equal(weights(trainer), trainer.of_epoch[1])
    assert equal(checkpoint.load(trainer.folder / CHECKPOINT)["model"], trainer.of_epoch[1])


def test_averaging_does_not_change_the_steps_and_the_next_stage_goes_on_from_the_average(trained, tmp_path):
    plain = trained(Stage(2), kind=Seeing, folder=tmp_path / "plain")
    trainer = trained(Stage(2, averaged_epochs=5 / STEPS), Stage(1), kind=Seeing, folder=tmp_path / "averaged")
    assert all(equal(a, b) for a, b in zip(plain.seen, trainer.seen, strict=False))
    states = trainer.of_epoch[1], plain.seen[-1], trainer.seen[2 * STEPS]
    average, last, after = (state["conv1.weight"] for state in states)
    assert (after - average).norm() < 0.5 * (after - last).norm()
    assert trainer.tested is trainer.model


# --- one step ----------------------------------------------------------------------------------------------


def one_step(trained, folder, **options) -> float:
    """Length of the update of one step at rate 1."""
    plain = {
        "optimizer": Optimizer(momentum=0, weight_decay=0),
        "schedule": replace(CONSTANT, lr=1.0),
        "batch_size": 128,
    }
    trainer = trained(Stage(1), folder=folder, **plain, **options)
    start = dict(network(trainer.recipe.model, trainer.data.num_classes, trainer.recipe.seed).named_parameters())
    moved = [(after - start[name]).detach().square().sum() for name, after in trainer.model.named_parameters()]
    return float(torch.stack(moved).sum().sqrt())


def test_clipping_bounds_the_length_of_an_update(trained, tmp_path):
    assert one_step(trained, tmp_path / "free") > 0.02
    assert one_step(trained, tmp_path / "clipped", clip=0.01) == pytest.approx(0.01, rel=1e-3)


def test_clipping_leaves_to_the_network_what_is_left_to_it_without_an_augmenter(trained, tmp_path):
    """RSG's centres have gradients many times the network's; idle, it must not shorten the network's steps."""
    plain = trained(Stage(2), folder=tmp_path / "plain", clip=0.5)
    beside = trained(Stage(2, augmenter=Augmenter("rsg"), generate=False), folder=tmp_path / "beside", clip=0.5)
    assert beside.augmenter is not None
    assert equal(weights(plain), weights(beside))


class Clipped(Trainer):
    """Notes the length of the augmenter's gradient after every clipping."""

    def _clip(self, largest):
        super()._clip(largest)
        gradients = [p.grad.flatten() for p in self.augmenter.parameters() if p.grad is not None]
        self.lengths = [*getattr(self, "lengths", []), torch.cat(gradients).norm().item()]


def test_clipping_bounds_the_augmenters_gradient_on_its_own(trained):
    trainer = trained(Stage(1, augmenter=Augmenter("rsg")), kind=Clipped, clip=1e-3)
    assert trainer.lengths == pytest.approx([1e-3] * STEPS, rel=1e-3)


def test_bf16_trains_weights_that_are_float32(trained, tmp_path):
    stages = Stage(1, loss=Named("ldam")), Stage(1, loss=Named("ldam"), sampler=Named("pairs"), augmenter=SAFA)
    exact = trained(*stages, folder=tmp_path / "exact")
    mixed = trained(*stages, folder=tmp_path / "mixed", precision="bf16")
    assert {value.dtype for value in mixed.model.state_dict().values()} == {torch.float32, torch.int64}
    assert not equal(weights(exact), weights(mixed))
    assert mixed.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.1)
    assert math.isfinite(mixed.history[1]["loss"])


def test_fp16_on_the_cpu_is_refused_with_a_way_out(tiny_recipe, tiny_data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    job = Job("x", replace(tiny_recipe, precision="fp16"), tmp_path)
    with pytest.raises(UserError, match="precision fp16 needs a GPU; use bf16 or float32 on the CPU"):
        runs.run(job, runs.Machine(), tiny_data)


# --- what is found before training starts ------------------------------------------------------------------


def refused(trainer: Trainer) -> str:
    with pytest.raises(UserError) as error:
        trainer.parts.try_all()
        trainer.run()
    assert not (trainer.folder / CHECKPOINT).exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (Stage(1, loss=Named("ldma")), "no loss is called 'ldma'; did you mean 'ldam'?"),
        (Stage(1, loss=Named("ldam", {"margin": 1})), "loss 'ldam' has no option 'margin'"),
        (Stage(1, sampler=Named("pair")), "no sampler is called 'pair'; did you mean 'pairs'?"),
        (Stage(1, weighting=Named("effective_number", {"beta": 2})), "beta"),
        (Stage(1, augmenter=Augmenter("saffa")), "no augmenter is called 'saffa'; did you mean 'safa'?"),
        (Stage(1, augmenter=Augmenter("safa", before="layer9")), "no module named 'layer9' in"),
        (Stage(1, augmenter=Augmenter("safa", before="layer2.0.conv1")), "not every path crosses it exactly once"),
        (
            Stage(1, augmenter=Augmenter("safa", options={"start": "zero"})),
            "start must be one of identity, random, got 'zero'",
        ),
        (Stage(1, augmenter=Augmenter("tests.test_train:NoModule")), "must be a torch.nn.Module"),
        (Stage(1, augmenter=Augmenter("safa", before="fc")), "SAFA was built for layout 'map'"),
        (Stage(1, augmenter=Augmenter("cutmix", before="fc")), "CutMix cuts maps (b, c, h, w) but"),
        (
            Stage(0, head=Named("tau_normalised", {"tau": 0.5})),
            "CosineHead is none; give the stage before head: linear",
        ),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_is_trained(last, message, make):
    assert message in refused(make(Stage(1), last))


def test_a_head_that_cannot_follow_another_is_found_before_the_first_stage_is_trained(make):
    message = refused(make(Stage(1), Stage(0, head=Named("scaled")), Stage(0, head=Named("adjusted"))))
    assert "a linear or cosine head can be taken over, not ScaledHead" in message


def test_trying_what_the_stages_name_leaves_the_generators_as_they_are(make):
    stages = Stage(1, augmenter=SAFA), Stage(1, augmenter=Augmenter("mixup")), Stage(0, head=Named("nearest_mean"))
    trainer = make(*stages)
    before = torch.get_rng_state()
    trainer.parts.try_all()
    assert torch.equal(torch.get_rng_state(), before)


class Nameless(nn.Module):
    """A backbone that calls its classifier otherwise."""

    before = "body"

    def __init__(self, num_classes: int, head) -> None:
        super().__init__()
        self.body, self.classifier = nn.Flatten(), head(3 * 8 * 8, num_classes)

    def forward(self, images):
        return self.classifier(self.body(images))


def test_a_network_whose_classifier_has_another_name_is_refused(make):
    message = refused(make(Stage(1), model=Model(Named("tests.test_train:Nameless"))))
    assert message.startswith("Nameless has no classifier 'fc'; call its last layer so")


class Tokens(nn.Module):
    """A backbone whose layer takes 16 tokens of 12 numbers each."""

    before = "mix"

    def __init__(self, num_classes: int, head) -> None:
        super().__init__()
        self.mix, self.fc = nn.Linear(12, 12), head(12, num_classes)

    def forward(self, images):
        tokens = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        return self.fc(self.mix(tokens).mean(1))


def test_an_augmenter_of_tokens_is_built_for_the_length_of_a_token(make):
    trainer = make(
        Stage(1, augmenter=Augmenter("safa", options={"layout": "tokens"}), sampler=Named("pairs")),
        model=Model(Named("tests.test_train:Tokens")),
    )
    trainer.parts.try_all()
    assert make_augmenter(trainer).channels == 12
    trainer.run()
    assert "reconstruction" in trainer.history[0]["terms"]


class Picky(nn.Module):
    """A backbone of vectors of a fixed length, with batch norm of one value per image, that may name no class."""

    def __init__(self, num_classes: int, head, length: int = 192, silent: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(length, 6), nn.BatchNorm1d(6))
        self.fc = nn.Identity() if silent else head(6, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (Stage(1), {"length": 12}, "Picky cannot take images of 8 x 8 pixels: RuntimeError: mat1 and mat2"),
        (Stage(1), {"silent": True}, "Picky must give one logit per image and class, shape (2, 10) for two images; it"),
        (Stage(1, loss=Named("torch.nn:MSELoss")), {}, "loss 'torch.nn:MSELoss' cannot be computed from logits and"),
        (Stage(1, loss=Named("torch.nn:Identity")), {}, "loss 'torch.nn:Identity' cannot be computed from logits"),
        (Stage(1, loss=Named("tests.test_train:Single")), {}, "must give a tensor of shape (); it gives tensor(["),
        (Stage(1, augmenter=Augmenter("torch.nn:ReLU", before="body")), {}, "ReLU is no augmenter: it has no active"),
    ],
)
def test_what_does_not_fit_the_network_is_found_before_training(stage, options, message, make):
    assert message in refused(make(stage, model=Model(Named("tests.test_train:Picky", options))))


class Single(CrossEntropyLoss):
    """The losses of single images, which nobody asked for."""

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")


def test_a_single_image_at_the_end_of_an_epoch_is_found_where_the_network_cannot_train_on_one(make):
    picky = Model(Named("tests.test_train:Picky"))
    message = refused(make(Stage(1), model=picky, batch_size=97))  # of 98 images
    assert message.startswith("batches of 97 leave one image at the end; try another batch_size, or drop_last of the")
    for options in {"sampler": Named("instance", {"drop_last": True})}, {}:
        model = picky if options else RESNET8
        make(Stage(1, **options), model=model, batch_size=97).parts.try_all()


@pytest.mark.parametrize(("image_size", "images"), [(8, 500), (64, 500), (128, 125), (224, 40), (2000, 1)])
def test_as_many_pixels_are_tested_at_once_whatever_the_size_of_the_images(image_size, images, make, tiny_data):
    larger = replace(tiny_data, source=replace(tiny_data.source, image_size=image_size))
    assert make(Stage(1), data=larger).parts.evaluation_batch == images


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (Named("rand_augment", {"magnitud": 9}), "augmentation 'rand_augment' has no option 'magnitud'"),
        (Named("crop_flip", {"padding": -1}), "padding is a number of whole pixels"),
        (Named("cutout", {}), "no augmentation is called 'cutout'"),
    ],
)
def test_a_mistake_in_the_augmentation_is_found_before_training(augmentation, message, make, tiny_data):
    data = replace(tiny_data, spec=replace(tiny_data.spec, augmentation=augmentation))
    assert message in refused(make(Stage(1), data=data))


def test_a_loss_and_a_head_of_different_scale_are_refused(make):
    message = refused(make(Stage(1, loss=Named("ldam", {"scale": 20}))))
    assert message == "loss 'ldam' has scale 20 but the cosine head has 30; make them equal"


def test_stages_that_all_train_for_no_epoch_are_refused(make):
    assert "the stages train for 0 epochs together" in refused(make(Stage(0), Stage(0, head=Named("nearest_mean"))))


def test_a_stage_that_neither_trains_nor_names_a_head_is_refused(make):
    idle = Stage(0, optimizer=Optimizer(momentum=0.1))
    assert "stage 1 trains for 0 epochs and names no head; name one or" in refused(make(Stage(1), idle, Stage(1)))


def test_pairs_in_an_odd_batch_are_refused(make):
    assert "batch_size of PairSampler must be a positive multiple of 2, got 15" in refused(
        make(Stage(1, sampler=Named("pairs")), batch_size=15)
    )


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(tiny_data, tiny_recipe, tmp_path):
    three = SimpleNamespace(
        device=torch.device("cpu"), num_processes=3, process_index=0, is_main_process=True, scaler=None
    )
    message = refused(Trainer(tiny_recipe, tiny_data, tmp_path, three))
    assert message == "batch_size 16 cannot be split over 3 processes; make it a multiple"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(Named("resnet33")), "no backbone is called 'resnet33'; did you mean 'resnet3"),
        (Model(Named("resnet8"), Named("cosin")), "no head is called 'cosin'; did you mean 'cosine'?"),
        (
            Model(Named("resnet8"), Named("cosine", {"skale": 1})),
            "head 'cosine' has no option 'skale'; did you mean 'scale'?",
        ),
    ],
)
def test_a_mistake_in_the_model_is_found_at_once(model, message, make):
    with pytest.raises(UserError) as error:
        make(Stage(1), model=model)
    assert message in str(error.value)


# --- what breaks in training -------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(make):
    loss = Named("tests.test_train:Breaking", {"at": STEPS + 2})
    trainer = make(Stage(3, loss=loss))
    with pytest.raises(UserError) as error:
        trainer.run()
    path = trainer.folder / CHECKPOINT
    assert f"the loss term 'classification' is not finite in epoch 1, step 2; the last good state is in {path}" in str(
        error.value
    )
    state = checkpoint.load(path)
    assert (state["done"], state["step"]) == (1, 0)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_no_good_state_is_promised_where_there_is_none(make):
    message = refused(make(Stage(1, loss=Named("tests.test_train:Breaking", {"at": 0}))))
    assert "epoch 0, step 0; no state was saved before" in message


def test_a_broken_term_of_the_augmenter_is_named_rather_than_the_total(make):
    message = refused(make(Stage(1, augmenter=Augmenter("tests.test_train:Odd"))))
    assert "the loss term 'odd' is not finite in epoch 0, step 0" in message


def test_an_update_that_breaks_the_augmenter_is_not_saved(make):
    one_step_an_epoch = make(Stage(1, augmenter=Augmenter("tests.test_train:Bent")), batch_size=128)
    assert "'weight' of the augmenter is not finite in epoch 0" in refused(one_step_an_epoch)
    assert not (one_step_an_epoch.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("at", [STEPS - 1, 2 * STEPS - 1])
def test_an_update_that_breaks_the_weights_in_an_epochs_last_step_is_not_saved(at, make):
    loss = Named("tests.test_train:Breaking", {"at": at, "gradient": True})
    trainer = make(Stage(3, loss=loss))
    with pytest.raises(UserError, match="of the network is not finite in epoch"):
        trainer.run()
    path = trainer.folder / CHECKPOINT
    assert path.exists() == (at > STEPS)
    if path.exists():
        assert all(torch.isfinite(value).all() for value in checkpoint.load(path)["model"].values())


def test_a_full_disk_stops_the_run_and_loses_no_earlier_checkpoint(make, monkeypatch):
    trainer, saved = make(Stage(3)), checkpoint.save

    def save(path, state):
        if state["done"] == 2:
            raise UserError(f"cannot write {path}: No space left on device; what was there before is untouched")
        saved(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(UserError, match="No space left on device"):
        trainer.run()
    assert checkpoint.load(trainer.folder / CHECKPOINT)["done"] == 1


# --- what is written ---------------------------------------------------------------------------------------


def test_the_log_has_a_line_per_epoch_with_every_term_of_eq_1_and_the_diagnostics(trained):
    safa = Stage(1, loss=Named("ldam"), sampler=Named("pairs"), augmenter=SAFA)
    trainer = trained(Stage(2, loss=Named("ldam"), evaluate_every=2), safa)
    log = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    assert log == trainer.history
    assert [(entry["epoch"], entry["stage"]) for entry in log] == [(0, 0), (1, 0), (2, 1)]
    assert [entry["test"] is None for entry in log] == [True, False, False]
    assert set(log[0]["terms"]) == {"classification"}
    assert set(log[2]["terms"]) == {
        "classification",
        "reconstruction",
        "mode_seeking_tail",
        "mode_seeking_head",
        "contrastive",
    }
    assert log[0]["diagnostics"] == log[1]["diagnostics"] == {}
    assert set(log[2]["diagnostics"]) == {
        "delta_size",
        "delta_cosine",
        "pair_accuracy_real",
        "pair_accuracy_generated",
        "assigned_real",
        "assigned_generated",
    }
    assert all(entry["images_per_second"] > 0 and entry["seconds"] > 0 for entry in log)


def test_validation_images_are_tested_beside_the_test_images(trained, tiny_data):
    data = dataset.load(replace(tiny_data.spec, validation=0.2))
    trainer = trained(Stage(1), data=data)
    (entry,) = trainer.history
    assert set(entry["validation"]) == set(entry["test"]) == {"error", "error_many", "error_medium", "error_few"}
    for split in ("validation", "test"):
        assert entry[split] == evaluate.summary(trainer.predict(split), data.groups)
    assert len(trainer.predict("validation").labels) == len(data.validation)


@pytest.fixture
def taking_over(make, tmp_path):
    """A trainer with nothing left to train, since the cache has the epochs of a run on other data."""

    def build(data, theirs, state=lambda state: state) -> Trainer:
        cache = checkpoint.StageCache(tmp_path / "cache")
        first = make(Stage(1), data=theirs, kind=Trainer, folder=tmp_path / "first")
        second = make(Stage(1), data=data, kind=Trainer, folder=tmp_path / "second")
        assert first.plan[-1].key == second.plan[-1].key
        first.run()
        cache.save(first.plan[-1].key, state(checkpoint.load(first.folder / CHECKPOINT)))
        second.cache = cache
        second.run()
        assert second.reused_epochs == 1
        return second

    return build


def test_groups_of_other_bounds_are_not_taken_over_into_the_log(taking_over, tiny_data):
    few = replace(tiny_data, spec=replace(tiny_data.spec, many_above=10, few_below=5))
    trainer = taking_over(few, tiny_data)
    entry = trainer.history[0]["test"]
    assert entry["error"] == checkpoint.load(trainer.folder / CHECKPOINT)["history"][0]["test"]["error"] > 0
    assert entry == {"error": entry["error"], "error_many": None, "error_medium": None, "error_few": None}


def without_its_tests(state):
    """A state as versions wrote it that did not say what it was tested on and made with."""
    return {key: value for key, value in state.items() if key not in ("tested_on", "made_with")}


@pytest.mark.parametrize("state", [lambda state: state, without_its_tests])
def test_the_log_is_taken_over_as_it_is_where_groups_and_validation_images_are_the_same(state, taking_over, tiny_data):
    trainer = taking_over(tiny_data, tiny_data, state)
    first = checkpoint.load(trainer.folder.with_name("first") / CHECKPOINT)["history"]
    assert trainer.history == first
    assert first[0]["test"]["error_few"] is not None


@pytest.mark.parametrize("state", [lambda state: state, without_its_tests])
def test_validation_figures_of_another_run_are_not_taken_over_into_the_log(state, taking_over, tiny_data):
    """Images that the tail leaves out are validated on without changing an address."""
    theirs = dataset.load(replace(tiny_data.spec, validation_per_class=2, validation_from="left_out"))
    trainer = taking_over(tiny_data, theirs, state)
    assert "validation" in checkpoint.load(trainer.folder.with_name("first") / CHECKPOINT)["history"][0]
    assert "validation" not in trainer.history[0]
    assert "validation" not in (trainer.folder / "log.jsonl").read_text()


def test_a_checkpoint_holds_tensors_and_plain_containers(trained):
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, (str, int)) and plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (torch.Tensor, str, int, float))

    trainer = trained(Stage(1, sampler=Named("pairs"), augmenter=SAFA))
    state = torch.load(trainer.folder / CHECKPOINT, weights_only=True)
    assert plain(state)
    bare = network(trainer.recipe.model, trainer.data.num_classes, trainer.recipe.seed)
    bare.load_state_dict(state["model"])  # strict: the network alone, without the plug-in's names


def test_tensorboard_gets_what_the_log_has(tiny_data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = Recipe("x", (Stage(2),), tiny_data.spec, RESNET8, batch_size=64)
    trainer = Trainer(recipe, tiny_data, tmp_path, runs.accelerator_for(recipe, runs.Machine()), track=True)
    trainer.run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "train/classification", "test/error"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([entry["loss"] for entry in trainer.history], rel=1e-6)


# --- the whole ---------------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bits_twice(trained, tmp_path):
    stages = Stage(1), Stage(1, sampler=Named("pairs"), augmenter=SAFA)
    first = trained(*stages, folder=tmp_path / "first")
    torch.manual_seed(5)
    second = trained(*stages, folder=tmp_path / "second")
    assert equal(weights(first), weights(second))
    assert equal(first.augmenter.state_dict(), second.augmenter.state_dict())


def test_progress_shows_epoch_speed_and_last_error():
    progress = Progress(shown=True)
    progress.start("LDAM[x]", epochs=3, done=0)
    progress.epoch(0, steps=4, step=0)
    for images in (16, 32):
        progress.step(images)
    (task,) = progress.bars.tasks
    assert re.fullmatch(r"epoch 1/3 \d+ img/s", task.fields["note"])
    assert task.completed == 0.5
    progress.finish_epoch({"epoch": 0, "images_per_second": 7.0, "test": {"error": 12.34}})
    assert task.fields["note"] == "epoch 1/3 7 img/s · test error 12.3 %"
    assert task.completed == 1


def test_progress_draws_nothing_where_there_is_no_terminal(capsys):
    with Progress() as progress:
        assert not progress.shown
        progress.start("x", epochs=1, done=0)
        progress.epoch(0, steps=1, step=0)
        progress.step(16)
    assert capsys.readouterr() == ("", "")
