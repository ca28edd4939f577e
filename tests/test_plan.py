"""The plan: which epochs two recipes share, and addresses that nothing irrelevant changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from safa import catalog, library, plan
from safa import recipe as recipes
from safa.plan import epochs_of, shared_epochs, start_key
from safa.recipe import Augmenter, Data, Model, Named, Optimizer, Recipe, Schedule, Stage

FACTS = {"images": "a" * 64, "subset": "b" * 64, "image_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
LDAM, DRW = Stage(160, loss=Named("ldam")), Stage(40, loss=Named("ldam"), weighting=Named("effective_number"))
SAFA = replace(DRW, augmenter=Augmenter("safa"))
HOT = replace(DRW, epochs=20, schedule=Schedule(lr=0.05, milestones=(14,), warmup_epochs=0))
MODEL = Model(Named("resnet32"), Named("cosine", {"scale": 30}))


def run(*stages: Stage, **options) -> Recipe:
    return Recipe("x", stages, **{"model": MODEL, **options})


def keys(recipe: Recipe, **options) -> list[str]:
    return [epoch.key for epoch in epochs_of(recipe, FACTS, **options)]


def shared(first: Recipe, second: Recipe) -> int:
    return shared_epochs(epochs_of(first, FACTS), epochs_of(second, FACTS))


def cifar(name: str) -> Recipe:
    return recipes.load(library.find(f"table1/cifar100/{name}")[1])


# --- what is shared ----------------------------------------------------------------------------------------


def test_validation_images_are_part_of_a_classifier_that_may_choose_on_them_and_of_nothing_before():
    chosen = Stage(0, head=Named("tau_normalised"))
    recipe, held_out = run(LDAM, DRW, chosen, chosen), {**FACTS, "validation": "c" * 64}
    assert start_key(recipe, FACTS) == start_key(recipe, held_out)
    assert shared_epochs(epochs_of(recipe, FACTS), epochs_of(recipe, held_out)) == 200
    assert epochs_of(recipe, held_out)[-1].key != epochs_of(recipe, {**FACTS, "validation": "d" * 64})[-1].key


@pytest.mark.parametrize("other", [run(replace(LDAM, epochs=200)), run(LDAM, replace(LDAM, epochs=40))])
@pytest.mark.parametrize("second", [DRW, SAFA])
def test_ldam_shares_160_epochs_with_drw_and_safa_however_it_is_cut_into_stages(other, second):
    assert shared(other, run(LDAM, second)) == 160
    assert shared(run(LDAM, second), other) == 160


def test_drw_and_drw_with_safa_share_160_epochs():
    assert shared(run(LDAM, DRW), run(LDAM, SAFA)) == 160


def test_one_stage_of_200_epochs_is_two_of_160_and_40():
    assert shared(run(replace(LDAM, epochs=200)), run(LDAM, replace(LDAM, epochs=40))) == 200


def test_the_three_recipes_of_the_library_share_their_first_160_epochs():
    names = ("ldam", "ldam-drw", "ldam-drw-safa")
    assert {shared(cifar(a), cifar(b)) for a in names for b in names if a != b} == {160}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"precision": "bf16"},
        {"batch_size": 64},
        {"clip": 1.0},
        {"model": Model(Named("resnet32"))},
        {"optimizer": Optimizer(weight_decay=5e-4)},
        {"schedule": Schedule(lr=0.05)},
    ],
)
def test_what_changes_the_weights_shares_nothing(change):
    assert shared(run(LDAM, DRW), run(LDAM, DRW, **change)) == 0


@pytest.mark.parametrize("fact", FACTS)
def test_other_images_share_nothing(fact):
    recipe = run(LDAM, DRW)
    assert shared_epochs(epochs_of(recipe, FACTS), epochs_of(recipe, {**FACTS, fact: "other"})) == 0


def test_another_number_of_processes_shares_nothing():
    assert shared_epochs(epochs_of(run(LDAM), FACTS), epochs_of(run(LDAM), FACTS, world_size=2)) == 0


def test_a_later_milestone_parts_two_runs_where_their_rates_part():
    assert shared(run(LDAM, DRW), run(LDAM, DRW, schedule=Schedule(milestones=(100, 180)))) == 100


@pytest.mark.parametrize(
    "stage",
    [
        replace(LDAM, epochs=40, sampler=Named("class_balanced")),
        replace(LDAM, epochs=40, generate=False),
        replace(LDAM, epochs=40, optimizer=Optimizer()),  # the same settings, but momentum starts anew
        replace(LDAM, epochs=40, schedule=Schedule(lr=0.3, milestones=(), warmup_epochs=0)),
    ],
)
def test_another_second_stage_shares_the_first(stage):
    assert shared(run(LDAM, replace(LDAM, epochs=40)), run(LDAM, stage)) == 160


CRT = Stage(30, sampler=Named("class_balanced"), head=Named("linear"), trainable=("fc",), optimizer=Optimizer())
NCM = Stage(0, head=Named("nearest_mean"))


@pytest.mark.parametrize("last", [CRT, NCM])
def test_another_classifier_shares_all_that_was_trained_before_it(last):
    assert shared(run(LDAM), run(LDAM, last)) == 160


def test_a_stage_of_no_epochs_with_a_head_is_one_item_that_trains_nothing():
    *before, item = epochs_of(run(LDAM, NCM), FACTS)
    assert all(epoch.trains for epoch in before)
    assert (item.index, item.stage_index, item.trains, item.lr) == (160, 1, False, 0.0)
    assert item.first
    assert item.evaluate
    assert item.key not in {epoch.key for epoch in before}


def test_and_is_no_epoch_where_epochs_are_counted():
    recipe = run(replace(LDAM, epochs=2), NCM, replace(LDAM, epochs=1))
    assert [plan.epochs_trained(recipe, done) for done in range(5)] == [0, 1, 2, 2, 3]
    assert plan.epochs_trained(recipe, len(epochs_of(recipe, FACTS))) == recipe.epochs


def test_an_item_that_trains_nothing_does_not_shift_the_schedule():
    rates = [epoch.lr for epoch in epochs_of(run(LDAM, NCM, replace(LDAM, epochs=40)), FACTS) if epoch.trains]
    assert rates == [epoch.lr for epoch in epochs_of(run(replace(LDAM, epochs=200)), FACTS)]


def test_two_stages_that_each_build_a_head_are_not_one_longer_stage():
    halves = epochs_of(run(replace(CRT, epochs=15), replace(CRT, epochs=15)), FACTS)
    assert shared_epochs(halves, epochs_of(run(CRT), FACTS)) == 15


def test_a_new_classifier_belongs_to_its_stage_whose_number_draws_its_weights():
    whole, cut = run(LDAM, CRT), run(replace(LDAM, epochs=100), replace(LDAM, epochs=60), CRT)
    assert shared(whole, cut) == 160
    assert shared(whole, run(LDAM, CRT)) == 190


def test_stages_end_where_the_next_begins_and_at_the_end():
    epochs = epochs_of(run(LDAM, DRW, NCM), FACTS)
    assert plan.ends_of_stages(epochs) == {epochs[159].key, epochs[199].key, epochs[200].key}


def test_a_stage_with_an_average_shares_its_epochs_but_not_its_end_with_a_longer_one():
    short, long = (run(replace(LDAM, epochs=epochs, averaged_epochs=3)) for epochs in (5, 9))
    assert shared(short, long) == 4  # after the fifth, the short one's network is its average
    assert shared(short, run(replace(LDAM, epochs=5))) == 0


# --- what an address does not depend on --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"method": "another name"},
        {"data": Data(root="elsewhere")},
        {"stages": (replace(LDAM, evaluate_every=20), replace(DRW, evaluate_every=3))},
    ],
)
def test_names_places_and_evaluation_do_not_change_an_address(change):
    assert keys(replace(run(LDAM, DRW), **change)) == keys(run(LDAM, DRW))


def test_a_later_key_at_its_default_changes_no_address():
    @dataclass(frozen=True)
    class LaterStage(Stage):
        novelty: int = 3

    later = LaterStage(**{f.name: getattr(LDAM, f.name) for f in dataclasses.fields(LDAM)})
    assert keys(run(later)) == keys(run(LDAM))
    assert not set(keys(run(replace(later, novelty=4)))) & set(keys(run(LDAM)))


def test_the_addresses_are_what_they_were():
    """Cached states are found by these; when a change here is meant, raise ``plan.SEMANTICS`` and say so."""
    tiny = Recipe(
        "LDAM-DRW-SAFA",
        (replace(LDAM, epochs=1), replace(SAFA, epochs=1, sampler=Named("pairs"), optimizer=Optimizer(momentum=0.8))),
        model=MODEL,
        precision="bf16",
        clip=1.0,
    )
    assert start_key(tiny, FACTS) == "6f1c9153a04ad34e1b55f4ee30406cd0"
    assert keys(tiny) == ["3aca36003329540e67027efdd3c4cda3", "cd827ea5abd353df505449416185043b"]
    assert keys(tiny, world_size=2) == ["0ab9ada7239f3aa13f894b34fd6838ba", "03e735de857bd132733f329e18530014"]


def test_an_address_depends_on_the_semantics_of_the_code(monkeypatch):
    before = keys(run(LDAM))
    monkeypatch.setattr(plan, "SEMANTICS", plan.SEMANTICS + 1)
    assert not set(before) & set(keys(run(LDAM)))


def test_code_of_the_users_own_is_part_of_the_addresses_from_where_it_is_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "losses_of_test_plan.py"
    own = replace(DRW, loss=Named("losses_of_test_plan:Mine"))

    def now(code: str) -> list[str]:
        module.write_text(code)
        catalog.source_hash.cache_clear()
        return keys(run(LDAM, own))

    first, second, again = now("Mine = 1"), now("Mine = 2"), now("Mine = 1")
    assert first == again
    assert first[:160] == second[:160]
    assert not set(first[160:]) & set(second[160:])


def keys_with(file: Path, content: bytes, recipe: Recipe) -> list[str]:
    """The addresses of a recipe that names a file, with that content in it."""
    file.write_bytes(content)
    catalog._content_hash.cache_clear()
    return keys(recipe)


def test_weights_that_a_network_of_the_users_own_begins_with_are_part_of_the_addresses(tmp_path):
    file = tmp_path / "weights.pt"
    own, ours = (run(LDAM, model=Model(Named(name, {"path": str(file)}))) for name in ("nobodys:Net", "resnet32"))
    first, second, again = (keys_with(file, content, own) for content in (b"first", b"second", b"first"))
    assert first == again
    assert not set(first) & set(second)
    # An option of the library's is what it says.
    assert keys_with(file, b"first", ours) == keys_with(file, b"second", ours)


@pytest.mark.parametrize("where", [lambda file: file, lambda file: [file], lambda file: {"of": [1, file]}])
@pytest.mark.parametrize("kind", ["loss", "weighting", "sampler", "augmenter"])
def test_a_file_that_an_option_of_the_users_own_names_is_part_of_the_addresses_of_its_stage(tmp_path, kind, where):
    file = tmp_path / "weights.csv"
    own = run(LDAM, replace(DRW, **{kind: Named("nobodys:Part", {"given": where(str(file))})}))
    first, second, again = (keys_with(file, content, own) for content in (b"1,2", b"2,1", b"1,2"))
    assert first == again
    assert first[:160] == second[:160]
    assert not set(first[160:]) & set(second[160:])


# --- the epochs --------------------------------------------------------------------------------------------


def test_epochs_know_their_stage_rate_and_whether_they_are_tested():
    first, second = replace(LDAM, epochs=5, evaluate_every=2), replace(DRW, epochs=2, evaluate_every=9)
    epochs = epochs_of(run(first, second, schedule=Schedule(warmup_epochs=2, milestones=(5,), factor=0.1)), FACTS)
    assert [epoch.index for epoch in epochs] == list(range(7))
    assert [epoch.stage_index for epoch in epochs] == [0] * 5 + [1] * 2
    assert [epoch.index for epoch in epochs if epoch.first] == [0, 5]
    assert [epoch.index for epoch in epochs if epoch.evaluate] == [1, 3, 4, 6]
    assert [epoch.lr for epoch in epochs] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_a_schedule_of_a_stage_counts_from_its_first_epoch():
    local = Schedule(lr=1.0, kind="cosine", warmup_epochs=0)
    epochs = epochs_of(run(replace(LDAM, epochs=3), replace(LDAM, epochs=2, schedule=local)), FACTS)
    assert [epoch.lr for epoch in epochs[3:]] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (run(replace(LDAM, epochs=100)), ["schedule.milestones has 160, 180, beyond the last epoch, 99"]),
        (run(LDAM, replace(DRW, epochs=10)), ["schedule.milestones has 180, beyond the last epoch, 169"]),
        (run(LDAM, HOT), []),  # the run's milestones are left to the stage that takes over
        (run(LDAM, replace(HOT, epochs=5)), ["stages.1.schedule.milestones has 14, beyond the last epoch, 4"]),
        (run(LDAM, replace(HOT, epochs=14)), ["stages.1.schedule.milestones has 14, beyond the last epoch, 13"]),
        (run(LDAM, replace(HOT, epochs=15)), []),
        (run(replace(LDAM, epochs=181), Stage(0)), []),
        (run(Stage(5), schedule=Schedule(milestones=())), []),
        (run(Stage(5), schedule=Schedule(kind="cosine")), []),
    ],
)
def test_a_milestone_that_no_epoch_reaches_is_told(recipe, told):
    assert [remark.partition(":")[0] for remark in plan.remarks(recipe)] == told


@pytest.mark.parametrize(
    ("epochs", "averaged_epochs", "share"),
    [(20, 6, None), (5, 6, "43%"), (6, 3, "14%"), (7, 3, None), (1, 0.5, "14%"), (0, 6, None)],
)
def test_an_average_that_keeps_much_of_the_weights_its_stage_begins_with_is_told(epochs, averaged_epochs, share):
    averaging = replace(DRW, epochs=epochs, averaged_epochs=averaged_epochs, schedule=Schedule(milestones=()))
    told = plan.remarks(run(LDAM, averaging, schedule=Schedule(milestones=())))
    if share is None:
        assert told == []
    else:
        (remark,) = told
        assert remark.startswith(f"stages.1.averaged_epochs is {averaged_epochs} in a stage of {epochs} epochs")
        assert share in remark


def test_what_an_average_keeps_of_its_beginning_is_what_torchs_average_keeps():
    steps, epochs, reach = 40, 5, 6
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    update = torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / (reach * steps))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=update)
    average.update_parameters(network)  # the first one copies
    torch.nn.init.zeros_(network.weight)
    for _ in range(epochs * steps):
        average.update_parameters(network)
    kept = average.module.weight.item()
    (remark,) = plan.remarks(run(replace(LDAM, epochs=epochs, averaged_epochs=reach), schedule=Schedule(milestones=())))
    assert f": {kept:.0%} of the average" in remark


def test_an_augmenter_that_is_built_anew_for_another_rate_is_told():
    practising = Augmenter("safa", {"practice": True}, lr_scale=0.1)
    idle = Stage(100, augmenter=practising, generate=False)
    told = plan.remarks(run(idle, Stage(100, augmenter=replace(practising, lr_scale=100))))
    assert told == [
        "stages.1.augmenter is safa with other settings than in the stage before, so it begins anew: what the former "
        "one learnt is dropped"
    ]
    assert plan.remarks(run(idle, Stage(100, augmenter=practising))) == []
    assert plan.remarks(run(idle, Stage(100, augmenter=Augmenter("mixup")))) == []


@pytest.mark.parametrize("between", [Stage(100), Stage(0, head=Named("nearest_mean"))])
def test_an_augmenter_that_a_stage_between_does_not_name_is_told_to_begin_anew(between):
    rsg = Stage(100, augmenter=Augmenter("rsg"))
    (told,) = plan.remarks(run(rsg, between, rsg, schedule=Schedule(milestones=())))
    assert told.startswith("stages.2.augmenter is rsg as before, but not in the stage between, so it begins anew")


def test_an_epoch_at_a_rate_of_0_is_not_taken_for_a_stage_of_no_epochs():
    """It moves the statistics of batch norm."""
    head, still = Named("linear"), Schedule(lr=0, milestones=(), warmup_epochs=0)
    keys = [
        plan.epochs_of(run(LDAM, last), {})[-1].key
        for last in (Stage(0, head=head), Stage(1, head=head, schedule=still))
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", library.names())
def test_nothing_is_remarked_on_a_recipe_of_the_library(name):
    assert plan.remarks(recipes.load(library.find(name)[1])) == []


def test_an_optimizer_stays_in_force_until_another_is_named():
    own = Optimizer(momentum=0.5)
    recipe = run(LDAM, replace(LDAM, optimizer=own), LDAM)
    assert [plan.optimizer_of(recipe, index) for index in range(3)] == [Optimizer(), own, own]
