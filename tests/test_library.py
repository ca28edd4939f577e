"""The recipes that come with the library: each can be found, is titled, and names only what there is."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace

import pytest

from safa import library
from safa import recipe as recipes
from safa.catalog import resolve
from safa.errors import UserError
from safa.plan import epochs_of, shared_epochs
from safa.report import paper

TABLES = [name for name in library.names() if name.startswith("table")]
TRAINED = [name for name in library.names() if "-adjusted-" not in name]  # those add no epoch to a row
FASHION = [name for name in TRAINED if "/fashion-mnist/" in name]  # a tenth of CIFAR's cost
CONTROLS = [
    name
    for name in TRAINED
    if name.startswith(("controls/", "hot/", "cosine/", "averaged/", "ablation/", "insertion/")) and name not in FASHION
]
HOT = [name for name in CONTROLS if name.startswith("hot/")]
AVERAGED = [name for name in CONTROLS if name.startswith(("averaged/", "ablation/", "insertion/"))]
STRONG = [name for name in library.names() if name.startswith("strong/")]
COSINE = [name for name in CONTROLS if name.startswith("cosine/")]
PAPERS = ("table1/", "table6/", "controls/")
CIFARS = ("cifar10", "cifar100")
THAT_WON = "tenth-rate-ordinary-batches"
ADJUSTED = [
    *(("controls/cifar100", row) for row in ("ldam-drw", "ldam-drw-safa")),
    *((f"averaged/{dataset}", row) for dataset in (*CIFARS, "fashion-mnist") for row in ("ldam-drw", THAT_WON)),
    *(("bases/cifar100", f"{loss}-{row}") for loss in ("ce", "focal") for row in ("drw", f"drw-safa-{THAT_WON}")),
]
TERMS = {
    "l-r": "reconstruction",
    "l-ms-t": "mode_seeking_tail",
    "l-ms-h": "mode_seeking_head",
    "l-c": "contrastive",
}


@functools.cache  # recipes are frozen
def load(name: str) -> recipes.Recipe:
    return recipes.load(library.find(name)[1])


@pytest.mark.parametrize("name", library.names())
def test_every_recipe_names_only_what_the_catalog_has(name):
    recipe = load(name)
    resolve("backbone", recipe.model.backbone.name)
    resolve("head", recipe.model.head.name)
    for stage in recipe.stages:
        for kind in ("loss", "weighting", "sampler", "augmenter", "reweighting", "head"):
            named = getattr(stage, kind)
            if named is not None:
                resolve(kind, named.name)


@pytest.mark.parametrize("name", library.names())
def test_every_recipe_is_titled_and_named_after_its_method(name):
    path = library.find(name)[1]
    assert library.title(path)
    method = re.sub(r"[^a-z0-9]+", "-", load(name).method.lower().replace("w/o", "without")).strip("-")
    # Variants of LDAM-DRW-SAFA are named after what varies; what the folder says is not said again.
    folder = name.partition("/")[0]
    method = method.removesuffix("-averaged" if folder == "bases" else f"-{folder}")
    known = (method, method.removeprefix("ldam-drw-safa-"))
    # Words that are one in a method's name (RawDelta) may be two in the file's.
    assert path.stem.replace("-", "") in [stem.replace("-", "") for stem in known]


# --- the tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_the_recipes_of_tables_follow_the_papers_protocol(name):
    recipe = load(name)
    assert [stage.epochs for stage in recipe.stages[:2]] == [160, 40]
    assert all(stage.schedule is None and stage.optimizer is None for stage in recipe.stages[:2])
    assert recipe.schedule == recipes.Schedule()
    assert recipe.optimizer == recipes.Optimizer()
    assert (recipe.batch_size, recipe.precision) == (128, "bf16")
    assert recipe.data.name == name.split("/")[1]
    assert recipe.data.imbalance_factor == (200 if name.startswith("table5") else 100)


@pytest.mark.parametrize("table", paper.names())
@pytest.mark.parametrize("dataset", CIFARS)
def test_every_row_of_a_table_of_the_paper_has_its_recipe(table, dataset):
    found = {
        (recipe.model.backbone.name, paper.key(recipe.method))
        for recipe in (load(name) for name in TABLES if name.startswith(f"{table}/{dataset}/"))
    }
    rows = {(model, paper.key(method)) for model, method in paper.rows(table)}
    # Table 6 repeats a row of Table 1.
    assert rows - found == ({("resnet32", "ldam-drw")} if table == "table6" else set())


def test_the_recipes_of_both_data_sets_differ_by_the_data_set_alone():
    for name in (name for name in TABLES if "/cifar10/" in name):
        small, large = load(name), load(name.replace("/cifar10/", "/cifar100/"))
        assert replace(large, data=replace(large.data, name="cifar10")) == small


SHARED = [
    (160, "ce", "ce-drw ce-drs"),
    (200, "ce", "cb-re-tuning crt lws tau-norm tau-norm-validation ncm logit-adjustment-post-hoc"),
    (160, "cb-ce", "cb-safa"),
    (160, "focal", "focal-drw focal-safa"),
    (160, "ldam", "ldam-drw ldam-drs ldam-drw-safa"),
    (160, "ldam", "ldam-drw-deltaencoder ldam-drw-ftl ldam-drw-hallucinator"),
    (160, "mixup", "mixup-drw"),
    (0, "ldam", "ldam-drw-rsg"),  # RSG learns from the first epoch on
    (0, "ce", "meta-class-weight"),  # other training images
]


@pytest.mark.parametrize(("epochs", "trunk", "others"), SHARED, ids=lambda value: str(value))
def test_recipes_of_table_1_share_their_trunk(epochs, trunk, others):
    for other in others.split():
        assert shared(f"table1/cifar100/{trunk}", f"table1/cifar100/{other}") == epochs, other


def test_the_full_method_of_table_6_is_the_row_of_table_1_and_the_ablations_share_its_first_stage():
    names = [name for name in TABLES if name.startswith("table6/cifar100/")]
    expected = {name: 160 if "without" in name else 200 for name in names}
    assert {name: shared(name, "table1/cifar100/ldam-drw-safa") for name in names} == expected


def test_the_ablations_leave_out_what_their_names_say():
    for name, option in TERMS.items():
        assert load(f"table6/cifar10/without-{name}").stages[1].augmenter.options == {option: 0}


# --- controls and hot second stages ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_and_other_second_stages_part_from_ldam_after_its_trunk(name):
    recipe = load(name)
    assert shared(f"table1/{name.split('/')[1]}/ldam", name) == 160
    assert recipe.epochs == (184 if name in HOT else 180 if name in AVERAGED else 200)
    assert recipe.optimizer == recipes.Optimizer()
    assert all(stage.optimizer is None for stage in recipe.stages)


@pytest.mark.parametrize("name", HOT)
def test_a_hot_stage_has_two_thirds_of_its_epochs_at_its_rate_and_the_rest_at_three_hundredths_of_it(name):
    assert rates_after_the_trunk(name) == pytest.approx([0.05] * 16 + [0.0015] * 8)


@pytest.mark.parametrize("name", AVERAGED)
def test_where_weights_are_averaged_the_rate_stands_still(name):
    assert rates_after_the_trunk(name) == [0.05] * 20
    assert load(name).stages[1].averaged_epochs == 6


@pytest.mark.parametrize("name", COSINE)
def test_a_cosine_stage_falls_to_nothing_by_half_a_cosine(name):
    falling = [0.05 * (1 + math.cos(math.pi * epoch / 40)) / 2 for epoch in range(40)]
    assert rates_after_the_trunk(name) == pytest.approx(falling)


def rates_after_the_trunk(name: str) -> list[float]:
    return [epoch.lr for epoch in epochs_of(load(name), {})[160:]]


@pytest.mark.parametrize("name", [*HOT, *AVERAGED, *COSINE, *STRONG])
def test_recipes_that_are_compared_to_choose_one_have_validation_images_that_cost_no_training_image(name):
    data = load(name).data
    images = {"cifar10": 1000, "cifar100": 100}[data.name]  # of each class, as many as the test set has
    chosen = {"validation_per_class": images, "validation_from": "left_out", "augmentation": data.augmentation}
    assert data == replace(load(f"table1/{name.split('/')[1]}/ldam-drw").data, **chosen)


@pytest.mark.parametrize("name", FASHION)
def test_averaged_rows_of_fashion_mnist_part_after_20_of_30_epochs_with_the_second_stage_of_cifar100(name):
    baseline, recipe = load("averaged/fashion-mnist/ldam-drw"), load(name)
    assert shared("averaged/fashion-mnist/ldam-drw", name) == (30 if recipe == baseline else 20)
    ten_epochs = {"epochs": 10, "averaged_epochs": 3}
    assert recipe.stages[1] == replace(load(name.replace("fashion-mnist", "cifar100")).stages[1], **ten_epochs)
    data = recipe.data
    assert (data, data.validation_per_class, data.validation_from) == (baseline.data, 1000, "left_out")


@pytest.mark.parametrize("safa", ["-safa", "-safa-tenth-rate-ordinary-batches"])
@pytest.mark.parametrize("dataset", CIFARS)
def test_strong_recipes_with_safa_and_without_part_after_160_of_200_epochs(dataset, safa):
    safa, without = (f"strong/{dataset}/mixup-balanced-softmax{method}" for method in (safa, ""))
    assert shared(safa, without) == 160
    assert load(safa).epochs == load(without).epochs == 200
    last = replace(load(safa).stages[1], sampler=load(without).stages[1].sampler, augmenter=None)
    assert last == load(without).stages[1]


@pytest.mark.parametrize("stage", ["hot", "cosine", "averaged"])
def test_a_recipe_of_another_second_stage_differs_from_the_paper_s_by_the_schedule_alone(stage):
    papers = {cool.partition("/")[2]: cool for cool in library.names() if cool.startswith(PAPERS)}
    named = {name.partition("/")[2]: name for name in TRAINED if name.startswith(f"{stage}/")}
    assert {"cifar100/ldam-drw", "cifar100/ldam-drw-safa"} <= papers.keys() & named.keys()
    for row in papers.keys() & named.keys():
        cool, other = load(papers[row]), load(named[row])
        last = other.stages[1]
        differing = {name: getattr(last, name) for name in ("epochs", "schedule", "averaged_epochs", "evaluate_every")}
        stages = cool.stages[0], replace(cool.stages[1], **differing)
        assert replace(cool, method=f"{cool.method} [{stage}]", stages=stages, data=other.data) == other


def test_averaged_rows_have_every_control():
    found = {name.removeprefix("averaged/cifar100/") for name in AVERAGED}
    assert {f"ldam-drw-{name}" for name in ("pairs", "repeat", "noise", "tail-mixup", "raw-delta")} <= found


@pytest.mark.parametrize("dataset", [*CIFARS, "fashion-mnist"])
def test_the_ablation_leaves_out_every_term_of_the_averaged_row_at_a_tenth_of_the_rate_and_all(dataset):
    whole = load(f"averaged/{dataset}/tenth-rate-ordinary-batches")
    for term in (*TERMS, "any-term"):
        ablated = load(f"ablation/{dataset}/without-{term}")
        without = TERMS.values() if term == "any-term" else [TERMS[term]]
        augmenter = recipes.Augmenter("safa", lr_scale=0.1, options=dict.fromkeys(without, 0))
        stages = whole.stages[0], replace(whole.stages[1], augmenter=augmenter)
        assert replace(whole, method=ablated.method, stages=stages) == ablated


LOSS_OF_BASE = {"ce": recipes.Stage(1).loss, "focal": recipes.Named("focal")}


@pytest.mark.parametrize(
    ("base", "row", "same_as", "common"),
    [
        ("ce", "drw", "ldam-drw", 180),
        ("ce", f"drw-safa-{THAT_WON}", THAT_WON, 160),
        ("ce", "drw-raw-delta-ordinary-batches", "ldam-drw-raw-delta-ordinary-batches", 160),
        ("focal", "drw", "ldam-drw", 180),
        ("focal", f"drw-safa-{THAT_WON}", THAT_WON, 160),
    ],
)
def test_other_bases_have_the_averaged_stage_after_a_trunk_of_their_own_loss(base, row, same_as, common):
    averaged, recipe = load(f"averaged/cifar100/{same_as}"), load(f"bases/cifar100/{base}-{row}")
    stages = tuple(replace(stage, loss=LOSS_OF_BASE[base]) for stage in averaged.stages)
    linear = recipes.Model(recipes.Named("resnet32"))
    assert replace(averaged, method=recipe.method, stages=stages, model=linear) == recipe
    assert shared(f"bases/cifar100/{base}-drw", f"bases/cifar100/{base}-{row}") == common


@pytest.mark.parametrize("place", ["layer1", "layer2", "fc"])
def test_safa_before_another_layer_is_the_averaged_row_but_for_its_place(place):
    whole, moved = load("averaged/cifar100/tenth-rate-ordinary-batches"), load(f"insertion/cifar100/before-{place}")
    options = {"layout": "vector"} if place == "fc" else {}
    augmenter = recipes.Augmenter("safa", lr_scale=0.1, before=place, options=options)
    stages = whole.stages[0], replace(whole.stages[1], augmenter=augmenter)
    assert replace(whole, method=moved.method, stages=stages) == moved


def test_controls_of_the_rows_differ_from_safa_by_the_augmenter_alone():
    safa = load("table1/cifar100/ldam-drw-safa")
    augmenters = {
        "pairs": None,
        "repeat": recipes.Augmenter("repeat"),
        "noise": recipes.Augmenter("noise"),
        "noise-0-7": recipes.Augmenter("noise", options={"size": 0.7}),
        "tail-mixup": recipes.Augmenter("tail_mixup"),
        "tail-mixup-within-class": recipes.Augmenter("tail_mixup", options={"partner": "class"}),
        "raw-delta": recipes.Augmenter("raw_delta"),
    }
    for name, augmenter in augmenters.items():
        control = load(f"controls/cifar100/ldam-drw-{name}")
        stages = safa.stages[0], replace(safa.stages[1], augmenter=augmenter)
        assert replace(safa, method=control.method, stages=stages) == control


@pytest.mark.parametrize("tau", ["0-25", "0-5", "1"])
@pytest.mark.parametrize(("folder", "row"), ADJUSTED)
def test_an_adjusted_row_is_the_row_and_no_further_epoch(folder, row, tau):
    plain, adjusted = load(f"{folder}/{row}".replace("controls", "table1")), load(f"{folder}/{row}-adjusted-{tau}")
    head = recipes.Named("adjusted", {"tau": float(tau.replace("-", "."))})
    stages = *plain.stages, recipes.Stage(epochs=0, head=head)
    assert replace(plain, method=adjusted.method, stages=stages) == adjusted
    assert shared(f"{folder}/{row}".replace("controls", "table1"), f"{folder}/{row}-adjusted-{tau}") == plain.epochs


def shared(first: str, second: str) -> int:
    """Epochs two recipes have in common, as far as their images are: what cuts them is in the facts of the data."""
    plans = []
    for recipe in (load(first), load(second)):
        data = recipe.data
        taken = data.validation_per_class if data.validation_from == "any" else 0
        cut = (data.imbalance_factor, data.validation, taken, data.meta_per_class)
        plans.append(epochs_of(recipe, {"images": recipe.data.name, "cut": list(cut)}))
    return shared_epochs(*plans)


# --- the others --------------------------------------------------------------------------------------------


def test_what_belongs_together_differs_by_what_its_name_says():
    drw, safa = (load(f"digits/{name}") for name in ("ldam-drw", "ldam-drw-safa"))
    assert replace(safa, method=drw.method, stages=drw.stages) == drw
    plain = replace(safa.stages[1], augmenter=None, sampler=drw.stages[1].sampler)
    assert (safa.stages[0], plain) == drw.stages


def test_a_recipe_is_found_by_name_or_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: x")
    assert library.find(str(path)) == ("mine", path)
    name, found = library.find("digits/ldam-drw")
    assert name == "digits/ldam-drw"
    assert found.is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits/ldam-drv", "no recipe is called 'digits/ldam-drv'; did you mean 'digits/ldam-drw'?"),
        ("nothing", "no recipe is called 'nothing'"),
        ("absent.yaml", "there is no recipe file absent.yaml"),
        (".", "no recipe is called '.'"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_closest(name, message):
    with pytest.raises(UserError) as error:
        library.find(name)
    assert message in str(error.value)


def test_a_recipe_without_a_comment_has_no_title(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: x")
    assert library.title(path) == ""


def test_a_folder_stands_for_all_recipes_in_it():
    whole = library.select("table6/cifar100")
    assert len(whole) == 5
    assert whole == library.select("table6/cifar100/")
    assert whole.items() <= library.select("table6").items()
    assert all(library.find(name) == (name, path) for name, path in whole.items())
    assert library.select("digits/ce") == dict([library.find("digits/ce")])


def test_a_folder_of_own_recipes_stands_for_all_in_it(tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for name in ("b", "a", "deep/c"):
        (tmp_path / "mine" / f"{name}.yaml").write_text("method: CE\n", encoding="utf-8")
    assert [*library.select(str(tmp_path / "mine"))] == ["a", "b", "deep/c"]


def test_what_runs_keep_in_a_folder_of_own_recipes_is_no_recipe_of_it(tmp_path):
    for name in ("b.yml", "a.yaml", ".hidden/c.yaml", "runs/a-seed0/recipe.yaml", "deep/recipe.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("method: CE\n", encoding="utf-8")
    (tmp_path / "runs" / "a-seed0" / "data.json").touch()
    assert [*library.select(str(tmp_path))] == ["a", "b", "deep/recipe"]
    (tmp_path / "a.yml").touch()
    with pytest.raises(UserError, match=r"a\.yaml and .*a\.yml are two recipes of one name; rename one of them"):
        library.select(str(tmp_path))


@pytest.mark.parametrize(("folder", "match"), [(".", "holds no recipe"), ("tabl6", "no recipe is called")])
def test_a_folder_without_recipes_is_refused(folder, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=match):
        library.select(folder)
