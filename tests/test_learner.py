"""What learns, stage by stage: what a stage changes and what it leaves, and what one step does."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from safa import assembly, checkpoint, evaluate
from safa.assembly import network
from safa.errors import UserError
from safa.files import CHECKPOINT
from safa.learner import Learner
from safa.losses import CrossEntropyLoss
from safa.recipe import Augmenter, Model, Named, Optimizer, Schedule, Stage
from safa.rehearsal import rehearse
from safa.sums import Sums
from safa.train import Trainer
from safa.types import Lookahead
from safa.weighting import effective_number_weights
from tests.conftest import CONSTANT, STEPS

SAFA = Augmenter("safa")


class Watched(Learner):
    """Notes the optimizer's state when a stage ends, and the optimizer and augmenter that the next begins with."""

    def enter(self, epoch, *, resumed=False):
        before = copy.deepcopy(self.optimizer.state_dict()["state"]) if self.stage else {}
        super().enter(epoch, resumed=resumed)
        after = copy.deepcopy(self.optimizer.state_dict())
        self.entered = [*getattr(self, "entered", []), (before, after, self.augmenter)]


class Noting(CrossEntropyLoss):
    """Notes the class weights in force at every step."""

    weights: list[torch.Tensor | None] = []  # noqa: RUF012

    def forward(self, logits, labels):
        self.weights.append(self.weight)
        return super().forward(logits, labels)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(trainer.learner.model.state_dict())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- stages -------------------------------------------------------------------------------------------------


def test_class_weights_are_in_force_from_the_second_stage_on(trained, tiny_data):
    Noting.weights.clear()
    loss = Named("tests.test_learner:Noting")
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
    trainer = trained(Stage(1), Stage(1, weighting=Named("effective_number")), kind=Watched)
    before, after, _ = trainer.learner.entered[1]
    assert len(before) == len(list(trainer.learner.model.parameters()))
    for index, state in before.items():
        assert torch.equal(after["state"][index]["momentum_buffer"], state["momentum_buffer"])


def test_a_stage_that_names_an_optimizer_starts_it_anew_with_its_own_settings(trained):
    trainer = trained(
        Stage(1), Stage(1, optimizer=Optimizer(momentum=0.5, weight_decay=0.1, nesterov=True)), Stage(1), kind=Watched
    )
    _, after, _ = trainer.learner.entered[1]
    assert after["state"] == {}
    for _, entered, _ in trainer.learner.entered[1:]:  # and the stage after goes on with it
        group = entered["param_groups"][0]
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.1, True)
    assert trainer.learner.entered[2][1]["state"]


def test_an_augmenter_gets_a_group_of_its_own_with_a_scaled_rate_and_no_momentum(trained):
    trainer = trained(Stage(1), Stage(1, sampler=Named("pairs"), augmenter=replace(SAFA, lr_scale=0.25)), kind=Watched)
    before, after, augmenter = trainer.learner.entered[1]
    network_group, augmenter_group = trainer.learner.optimizer.param_groups
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
        kind=Watched,
    )
    (_, _, first), (before, after, second), (_, rebuilt, third) = trainer.learner.entered
    assert first is second
    assert third is not second
    assert set(before) == set(after["state"])
    assert len(rebuilt["state"]) == len(list(trainer.learner.model.parameters()))


def test_an_augmenter_leaves_with_its_stage(trained):
    trainer = trained(Stage(1, augmenter=SAFA, sampler=Named("pairs")), Stage(1))
    assert trainer.learner.augmenter is None
    assert len(trainer.learner.optimizer.param_groups) == 1
    assert len(trainer.learner.optimizer.state_dict()["state"]) == len(list(trainer.learner.model.parameters()))


def test_an_augmenter_that_may_not_generate_is_left_alone(trained, tmp_path):
    idle = trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path / "idle")
    plain = trained(Stage(1), folder=tmp_path / "plain")
    assert equal(weights(idle), weights(plain))
    assert not any(parameter.requires_grad for parameter in idle.learner.augmenter.parameters())
    fresh = make_augmenter(idle)
    assert equal(idle.learner.augmenter.state_dict(), fresh.state_dict())


def test_an_augmenter_that_may_not_generate_stays_idle_when_a_finished_run_is_read_back(trained, tmp_path):
    trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path)
    again = trained(Stage(1, augmenter=SAFA, generate=False), folder=tmp_path)
    assert not again.learner.augmenter.active


def make_augmenter(trainer: Trainer) -> nn.Module:
    return trainer.learner.parts.augmenter(trainer.recipe.stages[0].augmenter, trainer.learner.model, 0)


def test_an_idle_augmenter_that_wakes_up_learns(trained):
    trainer = trained(
        Stage(1, augmenter=SAFA, generate=False, sampler=Named("pairs")),
        Stage(1, augmenter=SAFA, sampler=Named("pairs")),
    )
    assert not equal(trainer.learner.augmenter.state_dict(), make_augmenter(trainer).state_dict())


def test_an_augmenter_that_learns_while_idle_does_so_in_a_stage_that_generates_nothing(trained):
    trainer = trained(Stage(1, augmenter=Augmenter("rsg"), generate=False))
    assert trainer.learner.augmenter.centers.any()  # they start at 0


def test_the_rate_of_every_epoch_is_that_of_the_plan(trained):
    schedule = Schedule(lr=0.05, milestones=(2,), factor=0.1, warmup_epochs=2)
    trainer = trained(Stage(3), schedule=schedule)
    assert [entry["lr"] for entry in trainer.history] == pytest.approx([0.025, 0.05, 0.005])
    assert trainer.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


# --- other classifiers --------------------------------------------------------------------------------------

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
    images, labels = trainer.learner.parts.images_of(tiny_data.train, range(len(tiny_data.train)))
    trainer.learner.model.eval()
    with torch.no_grad(), assembly.head_inputs(trainer.learner.model) as seen:
        trainer.learner.model(images)
    features = nn.functional.normalize(seen[0] - seen[0].mean(dim=0))
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(10)])
    expected = -torch.cdist(features, means).square()
    torch.testing.assert_close(trainer.learner.model.fc(seen[0]), expected, rtol=1e-3, atol=1e-4)


def test_scales_are_all_that_learns_in_a_stage_of_scaled_weights(trained, tmp_path):
    stage = replace(CRT, head=Named("scaled"))
    before = weights(trained(Stage(2), replace(stage, epochs=0), model=LINEAR, folder=tmp_path / "still"))
    after = weights(trained(Stage(2), stage, model=LINEAR, folder=tmp_path / "lws"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.scales"}


# --- weights of single images -------------------------------------------------------------------------------


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
    stage = Stage(2, reweighting=Named("tests.test_learner:Looked"))
    steps = len(trained(stage, data=meta_data, model=LINEAR, schedule=falling).learner.batches)
    assert [look.lr for look in Looked.seen] == pytest.approx([0.1] * steps + [0.01] * steps)
    first_round = torch.cat([look.meta_labels for look in Looked.seen[:2]])  # batches of 16 and of 4
    assert sorted(first_round.tolist()) == sorted(meta_data.meta.labels.tolist())


class Column(nn.Linear):
    """Gives its weights as the column that a linear layer makes."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, look):
        return super().forward(look.labels[:, None].float())


def test_weights_that_are_not_one_for_each_image_are_refused_and_not_spread_over_all(trained, meta_data):
    stage = Stage(1, reweighting=Named("tests.test_learner:Column"))
    with pytest.raises(UserError, match=r"Column must give one weight per image, \(16,\); it gives \(16, 1\)"):
        trained(stage, data=meta_data, model=LINEAR)


class Attached(Looked):
    """Its weights carry a gradient."""

    def forward(self, look):
        return super().forward(look).requires_grad_()


def test_weights_of_images_that_carry_a_gradient_are_constants_of_the_step(trained, meta_data, tmp_path):
    runs = [
        trained(
            Stage(1, reweighting=Named(f"tests.test_learner:{name}")),
            data=meta_data,
            model=LINEAR,
            folder=tmp_path / name,
        )
        for name in ("Looked", "Attached")
    ]
    assert equal(*map(weights, runs))


def test_images_that_all_weigh_alike_train_as_without_weights(trained, meta_data, tmp_path):
    """The loss of a step is the weighted sum: of weights 1 / n, the mean."""
    alike = Stage(1, reweighting=Named("tests.test_learner:Looked"))
    weighed = trained(alike, data=meta_data, model=LINEAR, folder=tmp_path / "weighed")
    plain = trained(Stage(1), data=meta_data, model=LINEAR, folder=tmp_path / "plain")
    assert weighed.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-3)
    assert weighed.history[0]["test"]["error"] == pytest.approx(plain.history[0]["test"]["error"], abs=2)


# --- mixed images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["input", "layer2"])
@pytest.mark.parametrize("name", ["mixup", "cutmix", "remix"])
def test_mixed_images_train_under_soft_labels_and_leave_with_their_stage(name, before, trained):
    loss = Named("ldam")
    mixed = Stage(1, loss=loss, augmenter=Augmenter(name, before=before))
    trainer = trained(mixed, Stage(1, loss=loss, weighting=Named("effective_number"), sampler=Named("pairs")))
    assert all(math.isfinite(entry["loss"]) for entry in trainer.history)
    assert trainer.learner.augmenter is None


# --- averaged weights ---------------------------------------------------------------------------------------


class Seeing(Learner):
    """Notes the weights after every step, and those that are tested after every epoch."""

    def steps(self, epoch, first, sums):
        for _ in super().steps(epoch, first, sums):
            self.seen = [*getattr(self, "seen", []), copy.deepcopy(self.model.state_dict())]
            yield


@pytest.fixture
def tested(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """Fills with the weights that are tested after every epoch."""
    states, predict = [], evaluate.predict

    def noting(model, batches):
        states.append(copy.deepcopy(model.state_dict()))
        return predict(model, batches)

    monkeypatch.setattr(evaluate, "predict", noting)
    return states


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


def test_a_stage_is_tested_with_the_moving_average_of_its_weights_and_ends_as_it(trained, tested):
    trainer = trained(Stage(2, averaged_epochs=5 / STEPS), kind=Seeing)
    seen, (first, second) = trainer.learner.seen, tested
    assert_average(first, seen[:STEPS], 0.8)
    assert_average(second, seen, 0.8)
    assert equal(weights(trainer), second)
    assert equal(checkpoint.load(trainer.folder / CHECKPOINT)["model"], second)


def test_averaging_does_not_change_the_steps_and_the_next_stage_goes_on_from_the_average(trained, tested, tmp_path):
    plain = trained(Stage(2), kind=Seeing, folder=tmp_path / "plain").learner.seen
    tested.clear()
    averaging = Stage(2, averaged_epochs=5 / STEPS)
    learner = trained(averaging, Stage(1), kind=Seeing, folder=tmp_path / "averaged").learner
    assert all(equal(a, b) for a, b in zip(plain, learner.seen, strict=False))
    states = tested[1], plain[-1], learner.seen[2 * STEPS]
    average, last, after = (state["conv1.weight"] for state in states)
    assert (after - average).norm() < 0.5 * (after - last).norm()
    assert learner.tested is learner.model


class Remembering(CrossEntropyLoss):
    """Has state that is no tensor."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        """Nothing to do with it."""


def test_state_that_is_no_tensor_is_not_asked_whether_it_is_finite(trained):
    learner = trained(Stage(1)).learner
    learner.augmenter = Remembering()
    learner.refuse_broken(Sums())


# --- one step -----------------------------------------------------------------------------------------------


def one_step(trained, folder, **options) -> float:
    """Length of the update of one step at rate 1."""
    plain = {
        "optimizer": Optimizer(momentum=0, weight_decay=0),
        "schedule": replace(CONSTANT, lr=1.0),
        "batch_size": 128,
    }
    trainer = trained(Stage(1), folder=folder, **plain, **options)
    start = dict(network(trainer.recipe.model, trainer.data.num_classes, trainer.recipe.seed).named_parameters())
    moved = [(after - start[name]).detach().square().sum() for name, after in trainer.learner.model.named_parameters()]
    return float(torch.stack(moved).sum().sqrt())


def test_whoever_takes_steps_of_a_loss_that_is_no_number_gets_a_sentence(trainer_of):
    """Without a trainer around it, too, as a benchmark does."""
    trainer = trainer_of(Stage(1, loss=Named("tests.test_train:Breaking", {"at": 0})))
    epoch = trainer.learner.enter_up_to(trainer.plan, 0)
    with pytest.raises(UserError, match="^the loss term 'classification' is not finite$"):
        next(trainer.learner.steps(epoch, 0, Sums()))


def test_clipping_bounds_the_length_of_an_update(trained, tmp_path):
    assert one_step(trained, tmp_path / "free") > 0.02
    assert one_step(trained, tmp_path / "clipped", clip=0.01) == pytest.approx(0.01, rel=1e-3)


def test_clipping_leaves_to_the_network_what_is_left_to_it_without_an_augmenter(trained, tmp_path):
    """RSG's centres have gradients many times the network's; idle, it must not shorten the network's steps."""
    plain = trained(Stage(2), folder=tmp_path / "plain", clip=0.5)
    beside = trained(Stage(2, augmenter=Augmenter("rsg"), generate=False), folder=tmp_path / "beside", clip=0.5)
    assert beside.learner.augmenter is not None
    assert equal(weights(plain), weights(beside))


class Clipped(Learner):
    """Notes the length of the augmenter's gradient after every clipping."""

    def _clip(self, largest):
        super()._clip(largest)
        gradients = [p.grad.flatten() for p in self.augmenter.parameters() if p.grad is not None]
        self.lengths = [*getattr(self, "lengths", []), torch.cat(gradients).norm().item()]


def test_clipping_bounds_the_augmenters_gradient_on_its_own(trained):
    trainer = trained(Stage(1, augmenter=Augmenter("rsg")), kind=Clipped, clip=1e-3)
    assert trainer.learner.lengths == pytest.approx([1e-3] * STEPS, rel=1e-3)


def test_bf16_trains_weights_that_are_float32(trained, tmp_path):
    stages = Stage(1, loss=Named("ldam")), Stage(1, loss=Named("ldam"), sampler=Named("pairs"), augmenter=SAFA)
    exact = trained(*stages, folder=tmp_path / "exact")
    mixed = trained(*stages, folder=tmp_path / "mixed", precision="bf16")
    assert {value.dtype for value in mixed.learner.model.state_dict().values()} == {torch.float32, torch.int64}
    assert not equal(weights(exact), weights(mixed))
    assert mixed.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.1)
    assert math.isfinite(mixed.history[1]["loss"])


class Tokens(nn.Module):
    """A backbone whose layer takes 16 tokens of 12 numbers each."""

    before = "mix"

    def __init__(self, num_classes: int, head) -> None:
        super().__init__()
        self.mix, self.fc = nn.Linear(12, 12), head(12, num_classes)

    def forward(self, images):
        tokens = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        return self.fc(self.mix(tokens).mean(1))


def test_an_augmenter_of_tokens_is_built_for_the_length_of_a_token(trainer_of):
    trainer = trainer_of(
        Stage(1, augmenter=Augmenter("safa", options={"layout": "tokens"}), sampler=Named("pairs")),
        model=Model(Named("tests.test_learner:Tokens")),
    )
    rehearse(trainer.learner.parts)
    assert make_augmenter(trainer).channels == 12
    trainer.run()
    assert "reconstruction" in trainer.history[0]["terms"]


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
def test_a_mistake_in_the_model_is_found_at_once(model, message, trainer_of):
    with pytest.raises(UserError) as error:
        trainer_of(Stage(1), model=model)
    assert message in str(error.value)
