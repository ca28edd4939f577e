"""Recipes: YAML to frozen dataclasses and back, and a clear word about whatever does not fit."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safa import library
from safa import recipe as recipes
from safa.errors import UserError
from safa.recipe import Augmenter, Data, Model, Named, Optimizer, Recipe, Schedule, Stage, learning_rate

FULL = Recipe(
    method="LDAM-DRW-SAFA",
    data=Data(
        "cifar100", root="images", imbalance_factor=50.0, largest=400, augmentation=Named("shift", {"padding": 2})
    ),
    model=recipes.Model(Named("resnet56"), Named("cosine", {"scale": 30})),
    optimizer=Optimizer(weight_decay=5e-4, nesterov=True),
    schedule=Schedule(lr=0.05, milestones=(10, 20), factor=0.1),
    stages=(
        Stage(30, loss=Named("ldam", {"max_margin": 0.3})),
        Stage(
            10,
            weighting=Named("effective_number", {"beta": 0.999}),
            sampler=Named("pairs"),
            augmenter=Augmenter("safa", before="layer2", lr_scale=0.1, options={"start": "random"}),
            optimizer=Optimizer(momentum=0.8),
            schedule=Schedule(kind="cosine", lr=1e-5, warmup_epochs=0),
            evaluate_every=5,
        ),
    ),
    batch_size=64,
    precision="bf16",
    clip=1.5,
    seed=7,
)


@pytest.fixture
def load(tmp_path):
    """Read a recipe from text."""

    def read(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return recipes.load(path, overrides)

    return read


def with_keys(text: str = "") -> str:
    return "method: CE\nstages: [{epochs: 3}]\n" + text


# --- there and back ----------------------------------------------------------------------------------------


def test_a_recipe_survives_yaml(load):
    assert load(recipes.dump(FULL)) == FULL


@pytest.mark.parametrize("name", library.names())
def test_the_recipes_of_the_library_load_and_survive_yaml(name, load):
    recipe = recipes.load(library.find(name)[1])
    assert load(recipes.dump(recipe)) == recipe


@settings(deadline=None)  # the machine may be busy
@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    weight_decay=st.floats(0, 10),
    option=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False), st.integers(), st.booleans()
    ),
)
def test_whatever_a_name_or_number_looks_like_it_survives_yaml(name, weight_decay, option, tmp_path_factory):
    recipe = dataclasses.replace(
        FULL,
        data=Data(name),
        optimizer=Optimizer(weight_decay=weight_decay),
        stages=(Stage(1, loss=Named("ldam", {"x": option})),),
    )
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(path) == recipe


def test_defaults_are_left_out():
    assert recipes.dump(Recipe("CE", (Stage(3),))) == "method: CE\nstages:\n- epochs: 3\n"


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 3


def test_a_name_alone_and_a_mapping_with_a_name_are_the_same(load):
    short = load(with_keys("model: {backbone: resnet20}"))
    assert short == load(with_keys("model: {backbone: {name: resnet20}}"))


def test_of_an_augmenter_all_but_its_own_keys_are_options():
    plain = {"name": "safa", "before": "layer2", "lr_scale": 0.5, "start": "random"}
    recipe = recipes.from_plain({"method": "x", "stages": [{"epochs": 1, "augmenter": plain}]})
    assert recipe.stages[0].augmenter == Augmenter("safa", "layer2", 0.5, {"start": "random"})


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "+2e-4", ".2e-3", "2.e-4", "0.0002"])
def test_a_number_needs_no_dot(text, load):
    assert load(with_keys(f"optimizer: {{weight_decay: {text}}}")).optimizer.weight_decay == 2e-4


@pytest.mark.parametrize("text", ["2020-01-01", "2020-99-99", "2001-12-14t21:59:43.10-05:00"])
def test_a_date_is_a_text(text, load):
    assert load(with_keys(f"data: {{name: {text}}}")).data.name == text


def test_a_whole_number_stands_for_a_real_one_but_not_the_other_way_round(load):
    assert load(with_keys("clip: 1")).clip == 1.0
    with pytest.raises(UserError, match="batch_size must be of type int, got 64.0"):
        load(with_keys("batch_size: 64.0"))


def test_epochs_of_all_stages_add_up():
    assert FULL.epochs == 40


# --- what does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 3", "has no key 'sede'; did you mean 'seed'?"),
        ("data: {imbalance: 100}", "data has no key 'imbalance'; did you mean 'imbalance_factor'?"),
        ("model: {bakbone: resnet32}", "model has no key 'bakbone'; did you mean 'backbone'?"),
        ("optimizer: {momentun: 0.9}", "optimizer has no key 'momentun'; did you mean 'momentum'?"),
        ("schedule: {warmup: 5}", "schedule has no key 'warmup'; did you mean 'warmup_epochs'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest(text, message, load):
    with pytest.raises(UserError) as error:
        load(with_keys(text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("{epochs: 1, wieghting: x}", "stages[0] has no key 'wieghting'; did you mean 'weighting'?"),
        ("{epochs: 1, optimizer: {lr: 1}}", "stages[0].optimizer has no key 'lr'"),
        (
            "{epochs: 1, schedule: {milestone: [1]}}",
            "stages[0].schedule has no key 'milestone'; did you mean 'milestones'?",
        ),
    ],
)
def test_an_unknown_key_inside_a_stage_is_refused_with_the_closest(stage, message, load):
    with pytest.raises(UserError) as error:
        load(f"method: x\nstages: [{stage}]")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: one", "seed must be of type int, got 'one'"),
        ("seed: true", "seed must be of type int, got True"),
        ("optimizer: {nesterov: 1}", "optimizer.nesterov must be of type bool, got 1"),
        ("schedule: {milestones: 160}", "schedule.milestones must be a list, got 160"),
        ("schedule: {milestones: [a]}", "schedule.milestones[0] must be of type int, got 'a'"),
        (
            "schedule: {kind: multistp}",
            "schedule.kind must be one of multistep, cosine, got 'multistp'; did you mean 'multistep'?",
        ),
        ("precision: bf15", "precision must be one of float32, bf16, fp16, got 'bf15'; did you mean 'bf16'?"),
        ("data: cifar10", "data must be a mapping, got 'cifar10'"),
        ("model: {backbone: 32}", "model.backbone must be a name or a mapping with a 'name', got 32"),
        ("model: {head: {scale: 30}}", "model.head must be a name or a mapping with a 'name'"),
        ("data: {imbalance_factor: many}", "data.imbalance_factor must be of type float, got 'many'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(text, message, load):
    with pytest.raises(UserError) as error:
        load(with_keys(text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: 1", "batch_size must be at least 2"),
        ("clip: 0", "clip is the largest norm of the gradient, above 0, got 0"),
        ("data: {validation: 1}", "validation is a fraction in [0, 1), got 1"),
        ("data: {head_ratio: 1.5}", "head_ratio is the share of classes that are head, in (0, 1), got 1.5"),
        ("data: {image_size: 0}", "image_size is a number of pixels, got 0"),
        ("data: {imbalance_factor: .nan}", "imbalance_factor is largest over smallest class, so at least 1, got nan"),
        ("schedule: {lr: -0.1}", "schedule.lr must be at least 0, got -0.1"),
        ("schedule: {warmup_epochs: -1}", "schedule.warmup_epochs must be at least 0, got -1"),
        ("optimizer: {momentum: -1}", "optimizer.momentum must be at least 0, got -1"),
        ("optimizer: {weight_decay: .inf}", "optimizer.weight_decay must be at least 0, got inf"),
        ("optimizer: {momentum: 0, nesterov: true}", "nesterov needs a momentum above 0"),
        ("stages: []", "stages is empty; a run needs at least one stage"),
        ("stages: [{epochs: -1}]", "stages[0].epochs must be at least 0, got -1"),
        (
            "stages: [{epochs: 1, averaged_epochs: 0}]",
            "stages[0].averaged_epochs is how many epochs an average of the weights reaches back, above 0, got 0",
        ),
        ("stages: [{epochs: 1, evaluate_every: 0}]", "stages[0].evaluate_every must be at least 1, got 0"),
        ("stages: [{epochs: 1, optimizer: {momentum: -1}}]", "stages[0].optimizer.momentum must be at least 0"),
        ("stages: [{epochs: 1, schedule: {lr: -1}}]", "stages[0].schedule.lr must be at least 0"),
        (
            "stages: [{epochs: 1, augmenter: {name: safa, lr_scale: -3}}]",
            "augmenter.lr_scale must be at least 0, got -3",
        ),
        ("stages: [{epochs: 1, augmenter: {name: safa, lr_scale: .inf}}]", "lr_scale must be at least 0, got inf"),
        ("stages: [{loss: ldam}]", "stages[0] lacks the key 'epochs'"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_starts(text, message, load):
    start = "method: CE\n" if text.startswith("stages") else with_keys()
    with pytest.raises(UserError) as error:
        load(start + text)
    assert message in str(error.value)


def test_a_key_that_stands_in_a_merged_mapping_too_stands_once(load):
    text = "method: x\nstages: [&a {epochs: 1, loss: ldam}, &b {<<: *a, epochs: 2}, {<<: *b, epochs: 3}]"
    assert [(s.epochs, s.loss.name) for s in load(text).stages] == [(1, "ldam"), (2, "ldam"), (3, "ldam")]


def test_a_factor_that_is_asked_for_must_cut_a_tail(load):
    as_found = with_keys("data: {profile: as_found, imbalance_factor: 20}")  # as the folder of a run may name both
    assert load(as_found).data.imbalance_factor == 20
    with pytest.raises(UserError, match="imbalance_factor 50 cuts nothing where data.profile is as_found"):
        load(as_found, "data.imbalance_factor=50")
    with pytest.raises(UserError, match="largest 5 cuts nothing where data.profile is as_found"):
        load(as_found, "data.largest=5")
    assert load(as_found, "data.largest=null").data.largest is None
    assert load(as_found, "data.imbalance_factor=50", "data.profile=step").data.imbalance_factor == 50


def test_an_inverse_imbalance_factor_is_recognised(load):
    with pytest.raises(UserError) as error:
        load(with_keys("data: {imbalance_factor: 0.01}"))
    expected = "imbalance_factor is largest over smallest class, so at least 1, got 0.01; did you mean 100?"
    assert str(error.value) == expected


@pytest.mark.parametrize("text", ["method: x", "stages: [{epochs: 1}]"])
def test_a_missing_key_is_named(text, load):
    with pytest.raises(UserError, match=r"lacks the key '(method|stages)'"):
        load(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"method: [", "is not valid YAML"),
        (b"method: !!float many", "is not valid YAML"),
        (b"x: &a [*a]", "something in it holds itself"),
        (b"stages: 1\nmethod: x\nstages: 2\n", "the key 'stages' stands twice in one mapping, in lines 1 and 3"),
        (b"stages: [{loss: ldam, epochs: 1, loss: focal}]", "the key 'loss' stands twice in one mapping, in line 1"),
        (b"- a\n", "holds no recipe"),
        (b"", "holds no recipe"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_what_is_no_recipe_is_called_so(content, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        recipes.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the recipe .*absent\.yaml"):
        recipes.load(tmp_path / "absent.yaml")


# --- overrides ---------------------------------------------------------------------------------------------

TWO_STAGES = "method: x\nstages:\n- {epochs: 1, loss: ldam}\n- {epochs: 2, loss: ldam, augmenter: safa}\n"


def test_an_override_reaches_an_option_of_a_name_inside_a_stage(load):
    recipe = load(TWO_STAGES, "stages.1.augmenter.start=random", "stages.1.loss.max_margin=0.3")
    assert recipe.stages[1].augmenter == Augmenter("safa", options={"start": "random"})
    assert recipe.stages[1].loss == Named("ldam", {"max_margin": 0.3})
    assert recipe.stages[0].loss == Named("ldam")


@pytest.mark.parametrize(
    "path",
    [
        "photos",
        "a b/ 'c' \"d\"",
        "x: y # z",
        "true",
        "12",
        "\\u00e9",
        "né",
        "ph\U0001f600/\U00020bb7",
        "caf\udce9",
        "a\tb\x7f",
    ],
)
def test_a_text_is_overridden_as_it_is_whatever_its_characters(path, load):
    assert load(TWO_STAGES, recipes.override("data.root", path)).data.root == path


def test_a_number_is_overridden_as_a_number(load):
    assert load(TWO_STAGES, recipes.override("data.imbalance_factor", 50.0)).data.imbalance_factor == 50


def test_an_override_makes_what_is_not_there_yet(load):
    assert load(TWO_STAGES, "data.imbalance_factor=50").data.imbalance_factor == 50
    assert load(TWO_STAGES, "optimizer.weight_decay=5e-4").optimizer.weight_decay == 5e-4


def test_an_override_is_yaml(load):
    recipe = load(
        TWO_STAGES, "schedule.milestones=[3, 4]", "stages.0.weighting={name: effective_number, beta: 0.9}", "clip=null"
    )
    assert recipe.schedule.milestones == (3, 4)
    assert recipe.stages[0].weighting == Named("effective_number", {"beta": 0.9})
    assert recipe.clip is None


def test_stages_are_counted_from_0_or_from_the_end(load):
    assert [s.epochs for s in load(TWO_STAGES, "stages.0.epochs=9").stages] == [9, 2]
    assert [s.epochs for s in load(TWO_STAGES, "stages.-1.epochs=9").stages] == [1, 9]


def test_a_whole_stage_can_be_replaced_even_if_another_is_equal(load):
    text = "method: x\nstages: [{epochs: 1}, {epochs: 1}]"
    assert [s.epochs for s in load(text, "stages.1={epochs: 5}").stages] == [1, 5]


def test_an_override_changes_one_stage_alone_even_if_yaml_repeats_it(load):
    text = "method: x\nstages: [&a {epochs: 1}, *a]"
    assert [s.epochs for s in load(text, "stages.1.epochs=5").stages] == [1, 5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clip", "an override is KEY=VALUE"),
        ("stages.2.epochs=1", "'2' is not the number of one of 2 stages, 0-based"),
        ("stages.one.epochs=1", "'one' is not the number"),
        ("schedule.milestones.7=4", "'7' is not the number of one of 2 milestones, 0-based"),
        ("stages.0.loss={name: ldam, name: focal}", "is not valid YAML"),
        ("stages.0.loss=&a [*a]", "is not valid YAML"),
        ("stages.--1.epochs=1", "'--1' is not the number"),
        ("method.x=1", "method must be of type str"),
        ("seed.x=1", "cannot set 'seed.x'"),
        ("loss=[", "'[' is not valid YAML"),
        ("stages.0.los=ldam", "stages[0] has no key 'los'; did you mean 'loss'?"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override, message, load):
    text = TWO_STAGES + "seed: 1\nschedule: {milestones: [1, 2]}\n"
    with pytest.raises(UserError) as error:
        load(text, override)
    assert message in str(error.value)


# --- learning rates ----------------------------------------------------------------------------------------


def test_the_rates_are_those_of_the_released_ldam_code():
    # adjust_learning_rate of LDAM-DRW counts from 1: epoch <= 5: lr * epoch / 5; > 180: lr * 1e-4; > 160: lr * 1e-2.
    def released(epoch: int) -> float:
        counted = epoch + 1
        if counted <= 5:
            return 0.1 * counted / 5
        if counted > 180:
            return 0.1 * 0.0001
        return 0.1 * 0.01 if counted > 160 else 0.1

    rates = [learning_rate(Schedule(), epoch, 200) for epoch in range(200)]
    assert rates == pytest.approx([released(epoch) for epoch in range(200)], rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.02), (4, 0.1), (5, 0.1), (159, 0.1), (160, 1e-3), (179, 1e-3), (180, 1e-5)]
)
def test_the_default_schedule_epoch_by_epoch(epoch, lr):
    assert learning_rate(Schedule(), epoch, 200) == pytest.approx(lr, rel=1e-12)


def test_cosine_falls_from_lr_to_final_by_half_a_cosine():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=0, final=0.2)
    assert learning_rate(schedule, 0, 10) == pytest.approx(0.4)
    assert learning_rate(schedule, 5, 10) == pytest.approx(0.3)  # cos(pi / 2) = 0
    assert learning_rate(schedule, 10, 10) == pytest.approx(0.2)


def test_cosine_starts_where_the_warm_up_ends():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=2)
    assert [learning_rate(schedule, epoch, 10) for epoch in range(3)] == pytest.approx([0.2, 0.4, 0.4])


def test_cosine_after_a_warm_up_ends_where_it_would_without_one():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=2, final=0.2)
    assert [learning_rate(schedule, epoch, 10) for epoch in (6, 10)] == pytest.approx([0.3, 0.2])


def test_a_run_that_is_all_warm_up_has_rates():
    assert learning_rate(Schedule(kind="cosine", warmup_epochs=5), 4, 5) == pytest.approx(0.1)


def test_the_head_in_force_is_that_of_the_last_stage_that_named_one():
    recipe = Recipe("x", (Stage(1), Stage(1, head=Named("cosine")), Stage(1)), model=Model(Named("resnet8")))
    assert [recipe.model_in(index).head.name for index in range(3)] == ["linear", "cosine", "cosine"]
    assert recipe.model_in(2).backbone == Named("resnet8")
