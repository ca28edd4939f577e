"""The catalog: every name leads somewhere, and a wrong name or option says what there is."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import pytest
import torch

from safa.augmenters import SAFA
from safa.catalog import CATALOG, DATASETS, build, resolve, source_hash
from safa.data.sources import BUILT_IN
from safa.errors import UserError
from safa.losses import CrossEntropyLoss, LDAMLoss
from safa.types import Augmenter

ENTRIES = [(kind, name) for kind, entries in CATALOG.items() for name in entries]


class Doubled(CrossEntropyLoss):
    """Somebody's own loss, named by module and class."""

    def forward(self, logits, labels):
        return 2 * super().forward(logits, labels)


def demanding(size: int) -> int:
    """A target that refuses some values."""
    if size < 0:
        raise ValueError("size must be positive")
    return size


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_name_leads_to_something_that_can_be_called_and_has_a_source(kind, name):
    assert callable(resolve(kind, name))
    assert CATALOG[kind][name].source


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_name_leads_to_something_documented_or_foreign(kind, name):
    target = resolve(kind, name)
    assert inspect.getdoc(target)


def test_the_data_sets_are_those_that_can_be_loaded():
    assert set(DATASETS) == {*BUILT_IN, "FOLDER", "FILE.csv"}


@pytest.mark.parametrize("name", CATALOG["loss"])
def test_every_loss_is_built_from_what_the_library_knows(name):
    loss = build("loss", name, {}, class_counts=[5, 2, 1], weight=torch.ones(3))
    assert loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).shape == ()


@pytest.mark.parametrize("name", CATALOG["weighting"])
def test_every_weighting_is_built_from_what_the_library_knows(name):
    assert build("weighting", name, {}, class_counts=[5, 2, 1]).shape == (3,)


@pytest.mark.parametrize("name", CATALOG["sampler"])
def test_every_sampler_is_built_from_what_the_library_knows(name):
    known = {"labels": [0, 0, 1, 1], "batch_size": 2, "seed": 0, "rank": 0, "world_size": 1}
    assert len(build("sampler", name, {}, **known)) > 0


@pytest.mark.parametrize("name", CATALOG["augmenter"])
def test_every_augmenter_is_built_from_what_the_library_knows(name):
    augmenter = build("augmenter", name, {}, channels=4, class_counts=[9, 5, 2, 2, 1], head_ratio=0.4)
    out = augmenter(torch.rand(6, 4, 3, 3), torch.tensor([0, 0, 1, 1, 3, 3]))
    assert len(out.features) == len(out.labels)
    assert isinstance(augmenter, Augmenter)


@pytest.mark.parametrize(
    ("kind", "name", "published"),
    [
        ("augmenter", "rsg", {"num_centers": 15, "contrastive_dim": 256, "cesc": 0.1, "mv": 0.01}),
        ("augmenter", "delta_encoder", {"code": 16, "dropout": 0.5}),
        ("augmenter", "feature_transfer", {"energy": 0.95}),
        ("loss", "focal", {"gamma": 1.0}),
        ("loss", "ldam", {"max_margin": 0.5, "scale": 30.0}),
        ("sampler", "effective_number", {"beta": 0.9999}),
        ("weighting", "effective_number", {"beta": 0.9999}),
    ],
)
def test_what_a_recipe_leaves_out_is_as_published(kind, name, published):
    """No recipe names these, and a state in the cache is not found anew when one of them changes."""
    parameters = inspect.signature(resolve(kind, name)).parameters
    assert {option: parameters[option].default for option in published} == published


def test_only_what_the_target_asks_for_is_given():
    loss = build("loss", "cross_entropy", {"label_smoothing": 0.1}, class_counts=[2, 1], weight=None, nonsense=3)
    assert isinstance(loss, CrossEntropyLoss)


def test_an_option_of_the_user_goes_before_what_the_library_knows():
    augmenter = build("augmenter", "safa", {"head_ratio": 0.5}, channels=4, class_counts=[4, 3, 2, 1], head_ratio=0.2)
    assert isinstance(augmenter, SAFA)
    assert augmenter.head_ratio == 0.5


@pytest.mark.parametrize(
    ("kind", "name", "option", "context"),
    [
        ("sampler", "instance", "batch_size", {"labels": [0, 1], "batch_size": 2, "seed": 0}),
        ("backbone", "resnet8", "num_classes", {"num_classes": 10}),
        ("loss", "ldam", "class_counts", {"class_counts": [2, 1], "weight": None}),
    ],
)
def test_but_what_the_result_line_tells_of_is_no_option(kind, name, option, context):
    with pytest.raises(UserError, match=f"{kind} '{name}' is given its {option} by the library; leave the option out"):
        build(kind, name, {option: 5}, **context)


def test_what_does_not_say_what_it_takes_is_refused():
    with pytest.raises(UserError, match="backbone 'torch:relu' cannot be made: no signature found"):
        build("backbone", "torch:relu", {}, num_classes=3)


def test_somebody_elses_class_is_named_by_module_and_name():
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, 0])
    own = build("loss", "tests.test_catalog:Doubled", {}, class_counts=[2, 1], weight=None)
    torch.testing.assert_close(own(logits, labels), 2 * torch.nn.functional.cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("loss", "ldma", "no loss is called 'ldma'; did you mean 'ldam'?; there are cross_entropy"),
        ("backbone", "resnet23", "no backbone is called 'resnet23'; did you mean 'resnet"),
        ("loss", "tests.absent:Loss", "loss 'tests.absent:Loss' cannot be imported: No module named 'tests.absent'"),
        (
            "loss",
            "tests.test_catalog:Tripled",
            "cannot be imported: module 'tests.test_catalog' has no attribute 'Tripled'",
        ),
        ("loss", ":", "cannot be imported"),
        ("loss", ".losses:Own", "cannot be imported"),
        ("loss", "math:pi", "loss 'math:pi' is float, not a class or function"),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(kind, name, message):
    with pytest.raises(UserError) as error:
        resolve(kind, name)
    assert message in str(error.value)


def test_a_wrong_option_is_refused_with_the_closest():
    with pytest.raises(UserError) as error:
        build("loss", "ldam", {"max_margn": 0.3}, class_counts=[2, 1], weight=None)
    assert "loss 'ldam' has no option 'max_margn'; did you mean 'max_margin'?; it takes max_margin, scale" in str(
        error.value
    )


def test_an_option_of_a_class_that_takes_any_is_checked_by_the_class():
    with pytest.raises(UserError, match="SAFA has no option 'strat'; did you mean 'start'"):
        build("augmenter", "safa", {"strat": "random"}, channels=4, class_counts=[2, 1])


def test_a_value_the_target_refuses_is_reported_with_its_options(monkeypatch):
    with pytest.raises(UserError) as error:
        build("loss", "tests.test_catalog:demanding", {"size": -1})
    assert "loss 'tests.test_catalog:demanding' cannot be made with {'size': -1}: size must be positive" in str(
        error.value
    )


def leaving() -> None:
    raise SystemExit("enough")


def forgetful() -> None:
    raise KeyError("size")


@pytest.mark.parametrize(("name", "said"), [("leaving", "SystemExit: enough"), ("forgetful", "KeyError: 'size'")])
def test_whatever_somebody_elses_class_raises_is_said_of_it(name, said):
    with pytest.raises(UserError, match=f"sampler 'tests.test_catalog:{name}' cannot be made: {said}"):
        build("sampler", f"tests.test_catalog:{name}", {})


@pytest.mark.parametrize(
    ("code", "said"),
    [("1 +", "SyntaxError: invalid syntax"), ("{}['a']", "KeyError: 'a'"), ("exit(3)", "SystemExit: 3")],
)
def test_whatever_goes_wrong_in_somebody_elses_module_is_said_of_its_name(tmp_path, monkeypatch, code, said):
    (tmp_path / "of_somebody_else.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"augmentation 'of_somebody_else:Aug' cannot be imported: {said}"):
        resolve("augmentation", "of_somebody_else:Aug")


def test_a_defect_of_the_librarys_own_stays_one(monkeypatch):
    monkeypatch.setattr("safa.heads.CosineHead.__init__", lambda self, **_: {}["a"])
    with pytest.raises(KeyError):
        build("head", "cosine", {}, in_features=2, num_classes=2)


def test_what_is_missing_is_reported():
    with pytest.raises(UserError, match="cannot be made with {}: demanding\\(\\) missing 1 required"):
        build("loss", "tests.test_catalog:demanding", {})


def test_only_what_is_the_users_own_has_a_source_hash():
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert source_hash("tests.test_catalog:Doubled") == own
    assert {source_hash(name) for name in ("ldam", "absent_module:Loss", ".losses:Own", ":", "sys:path")} == {None}


def test_the_losses_of_the_catalog_are_the_losses_of_the_library():
    assert resolve("loss", "ldam") is LDAMLoss
