"""The images of a run: what is drawn, what is set aside, and what of it addresses a cached state."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from safa import recipe as recipes
from safa.data import dataset
from safa.data.sources import load_source
from safa.errors import UserError
from safa.recipe import Data, Named

TAIL = Data("digits", imbalance_factor=20, largest=30)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 8×8 images: 12 and 4 for training, 2 each for test; with val/ on request."""

    def make(**splits: tuple[int, int]):
        for split, numbers in {"train": (12, 4), "test": (2, 2), **splits}.items():
            for name, number in zip(("cat", "dog"), numbers, strict=True):
                (tmp_path / split / name).mkdir(parents=True)
                for i in range(number):
                    pixels = (
                        np.random.RandomState([*split.encode(), *name.encode(), i])
                        .randint(0, 256, (8, 8, 3))
                        .astype(np.uint8)
                    )
                    Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
        return tmp_path

    return make


def test_the_tail_is_the_exponential_one_over_classes_by_count():
    drawn = dataset.load(TAIL)
    expected = [int(30 * 20 ** (-c / 9)) for c in range(10)]
    assert sorted(drawn.class_counts, reverse=True) == expected
    assert np.bincount(drawn.train.labels).tolist() == drawn.class_counts
    assert drawn.imbalance_factor == 20


def test_the_images_are_those_of_the_subset():
    drawn, source = dataset.load(TAIL), load_source("digits")
    np.testing.assert_array_equal(drawn.train.images, source.train.images[drawn.subset.train])
    np.testing.assert_array_equal(drawn.source.test.images, source.test.images)


def test_a_validation_split_is_cut_from_the_training_images_alone():
    drawn = dataset.load(replace(TAIL, validation=0.2))
    whole = dataset.load(TAIL)
    assert whole.validation is None
    together = [*drawn.subset.train, *drawn.subset.validation]
    assert sorted(together) == sorted(whole.subset.train)
    assert len(drawn.validation) == len(drawn.subset.validation) > 0
    assert min(drawn.class_counts) >= 1


def test_a_fraction_that_is_no_image_of_any_class_is_refused_and_not_passed_over(folder):
    spec = Data(str(folder(val=(3, 3))), profile="as_found", image_size=8, validation=0.08)
    with pytest.raises(UserError, match=r"data\.validation=0\.08 of a class is less than one image in every class .*"):
        dataset.load(spec)
    assert len(dataset.load(replace(spec, validation=0.09)).validation) == 1  # of twelve


def test_validation_images_alike_of_every_class_leave_the_tail_nearly_whole():
    drawn = dataset.load(replace(TAIL, validation_per_class=3))
    assert np.bincount(drawn.validation.labels).tolist() == [3] * 10
    assert set(drawn.subset.train) <= set(dataset.load(TAIL).subset.train)


def test_a_folders_own_validation_split_is_used_unless_one_is_cut(folder):
    spec = Data(str(folder(val=(3, 3))), profile="as_found", image_size=8)
    assert len(dataset.load(spec).validation) == 6
    assert len(dataset.load(replace(spec, validation=0.25)).validation) == 3 + 1


def test_a_meta_set_is_taken_out_of_training_as_many_of_every_class():
    drawn, source = dataset.load(replace(TAIL, meta_per_class=3, validation=0.2)), load_source("digits")
    assert np.bincount(drawn.meta.labels).tolist() == [3] * 10
    np.testing.assert_array_equal(drawn.meta.images, source.train.images[drawn.subset.meta])
    parts = [set(part) for part in (drawn.subset.train, drawn.subset.validation, drawn.subset.meta)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert dataset.load(TAIL).meta is None


def test_a_folder_gives_a_meta_set_beside_its_own_validation_split(folder):
    spec = Data(str(folder(val=(3, 3))), profile="as_found", image_size=8, meta_per_class=2)
    drawn = dataset.load(spec)
    assert (drawn.class_counts, len(drawn.meta), len(drawn.validation)) == ([10, 2], 4, 6)
    with pytest.raises(UserError, match="class 'dog' has 4 images: with meta_per_class=4 none is left"):
        dataset.load(replace(spec, meta_per_class=4))


def test_counts_as_found_have_the_factor_they_have(folder):
    found = dataset.load(Data(str(folder()), profile="as_found", image_size=8))
    assert found.class_counts == [12, 4]
    assert found.imbalance_factor == 3.0


def test_groups_follow_the_bounds_of_the_recipe():
    groups = dataset.load(replace(TAIL, many_above=20, few_below=5)).groups
    counts = np.array(dataset.load(TAIL).class_counts)
    assert groups["many"].tolist() == (counts > 20).tolist()
    assert groups["few"].tolist() == (counts < 5).tolist()


def test_the_augmentation_is_the_data_sets_own_unless_named():
    assert dataset.load(TAIL).augmentation == Named("shift")  # a mirrored digit is another digit
    assert dataset.load(replace(TAIL, augmentation=Named("none"))).augmentation == Named("none")


def test_what_was_decided_or_left_out_is_remarked(folder):
    root = folder()
    (root / "train" / "cat" / "broken.png").write_bytes(b"")
    remarks = dataset.load(Data(str(root), profile="as_found", image_size=8, on_corrupt="skip")).remarks
    assert "1 unreadable files were left out: train/cat/broken.png" in remarks[-1]


def test_a_validation_split_that_is_not_used_is_remarked(folder):
    spec = Data(str(folder(val=(3, 3))), profile="as_found", image_size=8)
    assert dataset.load(spec).remarks == ()
    for change in ({"validation": 0.25}, {"validation_per_class": 2}):
        assert dataset.load(replace(spec, **change)).remarks == (
            "4 training images are held out for validation; the 6 images of the data set's own validation split "
            "are not used",
        )


def test_classes_without_a_test_image_are_named(folder):
    root = folder()
    spec = Data(str(root), profile="as_found", image_size=8)
    assert dataset.load(spec).test_counts.tolist() == [2, 2]
    shutil.rmtree(root / "test" / "dog")
    assert dataset.load(spec).test_counts.tolist() == [2, 0]
    assert dataset.load(spec).remarks == ("1 of 2 classes have no test image, so nothing will be known of them: dog",)


def test_classes_without_a_validation_image_are_named(folder):
    root = folder(val=(3, 3))
    spec = Data(str(root), profile="as_found", image_size=8)
    assert dataset.load(spec).remarks == ()
    shutil.rmtree(root / "val" / "cat")
    assert dataset.load(spec).remarks == (
        "1 of 2 classes have no validation image, so what is chosen on validation images is blind to them: cat",
    )


def test_the_largest_class_has_no_validation_image_where_they_come_from_what_the_tail_leaves_out():
    all_of_the_largest = replace(TAIL, largest=None, validation_per_class=10)
    assert dataset.load(all_of_the_largest).remarks == ()
    (remark,) = dataset.load(replace(all_of_the_largest, validation_from="left_out")).remarks
    assert remark.startswith("1 of 10 classes have no validation image")


# --- addresses ---------------------------------------------------------------------------------------------


def facts(**changes: object) -> dict[str, object]:
    return dict(dataset.draw(dataset.source_of(TAIL), replace(TAIL, **changes)).facts())


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"subset_seed": 1}, {"subset"}),
        ({"imbalance_factor": 10}, {"subset"}),
        ({"largest": 25}, {"subset"}),
        ({"order": "rsg"}, {"subset"}),
        ({"validation": 0.2}, {"subset", "validation"}),
        ({"validation_per_class": 3, "validation_from": "left_out"}, {"validation"}),
        ({"meta_per_class": 2}, {"subset"}),
        ({"augmentation": Named("none")}, {"augmentation"}),
        ({"head_ratio": 0.3}, {"head_ratio"}),
    ],
)
def test_what_decides_the_weights_is_among_the_facts(change, changed):
    before, after = facts(), facts(**change)
    assert {key for key in before | after if before.get(key) != after.get(key)} == changed


@pytest.mark.parametrize(
    "change", [{"root": "elsewhere"}, {"many_above": 20}, {"few_below": 5}, {"augmentation": Named("shift")}]
)
def test_what_does_not_decide_the_weights_is_not(change):
    assert facts(**change) == facts()


def test_the_facts_have_the_keys_they_had():
    assert set(facts()) == {"images", "subset", "image_size", "mean", "std", "augmentation"}


# --- errors ------------------------------------------------------------------------------------------------


def test_more_images_than_there_are_is_an_error_that_names_the_class():
    with pytest.raises(UserError, match=r"class '\d' needs \d+ images for this profile but has"):
        dataset.load(replace(TAIL, largest=1000))


def test_no_test_images_is_an_error(monkeypatch):
    source = load_source("digits")
    empty = source.test.take(np.arange(0))
    monkeypatch.setattr(dataset, "load_source", lambda *_, **__: replace(source, test=empty))
    with pytest.raises(UserError, match="digits has no test images"):
        dataset.load(TAIL)


def test_a_data_section_without_keys_is_the_embedded_default():
    assert recipes.from_plain({"method": "x", "stages": [{"epochs": 1}]}).data == Data("digits")
