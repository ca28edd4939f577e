"""Image folders of every layout, and the mistakes people make with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.data import folder as folders
from safa.data import listing
from safa.data.images import decode
from safa.data.sources import load_source
from safa.errors import UserError


def paint(path: Path, value: int = 0, size: tuple[int, int] = (40, 40), blue: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, blue)).save(path)
    return path


def fill(folder: Path, classes: dict[str, int], ending: str = ".png") -> None:
    blue = sum(folder.name.encode()) % 256  # so that no split has an image of another
    for number, (name, images) in enumerate(classes.items()):
        for index in range(images):
            paint(folder / name / f"{index:03d}{ending}", value=20 * number + index, blue=blue)


@pytest.fixture
def three(tmp_path):
    """train/, val/ and test/ of three classes."""
    fill(tmp_path / "train", {"cat": 4, "ant": 3, "bee": 2})
    fill(tmp_path / "val", {"ant": 1, "bee": 1})
    fill(tmp_path / "test", {"ant": 2, "bee": 1, "cat": 1})
    return tmp_path


def test_class_names_are_the_sorted_folder_names_in_every_split(three):
    source = load_source(str(three), image_size=32)
    assert source.class_names == ("ant", "bee", "cat")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert source.validation.labels.tolist() == [0, 1]
    assert source.test.labels.tolist() == [0, 0, 1, 2]
    assert (source.skipped, source.notes) == ((), ())


def test_images_are_decoded_in_the_order_of_their_names(three):
    source = load_source(str(three), image_size=32)
    assert source.train.images.shape == (9, 3, 32, 32)
    assert source.train.images[:, 0, 0, 0].tolist() == [20, 21, 22, 40, 41, 0, 1, 2, 3]
    assert [path.name for path in source.train.paths[:4]] == ["000.png", "001.png", "002.png", "000.png"]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "Test"),
        ("Train", "validation", "Test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "VAL", "TEST"),
    ],
)
def test_the_folders_of_the_splits_have_their_usual_names_in_upper_or_lower_case(tmp_path, train, validation, test):
    fill(tmp_path / train, {"a": 5, "b": 5})
    fill(tmp_path / validation, {"b": 2})
    fill(tmp_path / test, {"a": 1})
    source = load_source(str(tmp_path), image_size=32)
    assert source.class_names == ("a", "b")
    assert (len(source.train), source.validation.labels.tolist(), source.test.labels.tolist()) == (10, [1, 1], [0])
    assert source.notes == ()


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [("val", "valid", "validation"), ("Validation", "val", "validation"), ("training", "train", "train")],
)
def test_two_folders_for_one_split_are_refused_by_name(three, first, second, kind):
    for name in (first, second):
        fill(three / name, {"ant": 1})
    with pytest.raises(UserError, match=f"has '{min(first, second)}' and '{max(first, second)}', two .* {kind} split"):
        load_source(str(three))


def test_without_a_test_folder_a_fifth_of_each_class_is_kept_and_said(tmp_path):
    fill(tmp_path / "train", {"a": 20, "b": 10, "c": 3})
    source = load_source(str(tmp_path), image_size=32)
    assert np.bincount(source.test.labels).tolist() == [4, 2]
    assert np.bincount(source.train.labels).tolist() == [16, 8, 3]
    assert source.notes == ("no test split: 6 training images (20% of each class) are kept for it",)
    assert load_source(str(tmp_path), image_size=32).fingerprint == source.fingerprint


def test_a_validation_folder_without_a_test_folder_is_not_tested_on_and_the_way_to_do_so_is_said(tmp_path):
    for split, number in (("train", 10), ("val", 4)):
        fill(tmp_path / split, {"a": number, "b": number})
    source = load_source(str(tmp_path), image_size=32)
    assert (len(source.train), len(source.test), len(source.validation)) == (16, 4, 8)
    assert source.notes == (
        "no test split: 4 training images (20% of each class) are kept for it; the validation split is for choosing "
        "settings: to test on it, and train on all images, call it test",
    )
    (tmp_path / "val").rename(tmp_path / "test")  # as the note says
    source = load_source(str(tmp_path), image_size=32)
    assert (len(source.train), len(source.test), source.notes) == (20, 8, ())


@pytest.mark.skipif(os.path.normcase("A") == "a", reason="here the two are one folder")
def test_classes_that_differ_in_case_alone_are_two_and_said(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, {"Bee": 3, "ant": 3, "bee": 3})
    source = load_source(str(tmp_path), image_size=32)
    assert source.class_names == ("Bee", "ant", "bee")
    assert source.notes == ("classes that differ in upper and lower case alone stay two: Bee and bee",)


def test_class_folders_alone_are_a_training_split_and_said(tmp_path):
    fill(tmp_path, {"a": 10, "b": 5})
    source = load_source(str(tmp_path), image_size=32)
    assert source.class_names == ("a", "b")
    assert "no train/ folder" in source.notes[0]
    assert len(source.train) + len(source.test) == 15


def test_too_few_images_to_cut_a_test_split_is_said(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4})
    with pytest.raises(UserError, match="no class has the 5 images it takes to cut one"):
        load_source(str(tmp_path))


def test_large_data_sets_stay_on_disk_with_the_same_labels(three):
    here = load_source(str(three), image_size=32)
    there = load_source(str(three), image_size=32, in_memory_limit=1000)
    assert there.train.images is None
    assert len(there.train.paths) == 9
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert np.array_equal(ours.images, [decode(path, 32) for path in theirs.paths])
    assert there.mean == pytest.approx(here.mean)
    assert there.std == pytest.approx(here.std)


def test_the_limit_counts_the_bytes_of_all_splits(three):
    exact = 15 * 3 * 32 * 32
    assert load_source(str(three), image_size=32, in_memory_limit=exact).train.images is not None
    assert load_source(str(three), image_size=32, in_memory_limit=exact - 1).train.images is None


def test_statistics_are_those_of_the_training_images(three):
    source = load_source(str(three), image_size=32)
    pixels = source.train.images / 255
    assert source.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)).tolist())
    assert source.std[:2] == pytest.approx(pixels.std(axis=(0, 2, 3)).tolist()[:2])
    assert source.std[2] == 1 / 255  # a constant channel


@pytest.mark.parametrize(("side", "expected"), [(28, 32), (40, 32), (64, 64), (100, 96), (300, 224)])
def test_the_default_image_size_is_224_or_what_smaller_images_allow(tmp_path, side, expected):
    for name in "ab":
        for index in range(5):
            paint(tmp_path / name / f"{index}.png", size=(side, side + 30))
    source = load_source(str(tmp_path))
    assert source.image_size == expected
    assert f"images are read at {expected}×{expected}" in source.notes
    assert source.default_augmentation == ("resized_crop" if expected >= 96 else "crop_flip")


def test_other_files_hidden_ones_and_deeper_folders_do_not_disturb(three):
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "ant/.hidden.png",
        "ant/notes.txt",
        "__MACOSX/x.png",
        "@eaDir/x.png",
        ".git/x.png",
    ):
        path = three / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    paint(three / "train" / "ant" / "deeper" / "still" / "x.PNG", value=99)
    source = load_source(str(three), image_size=32)
    assert source.class_names == ("ant", "bee", "cat")
    assert np.bincount(source.train.labels).tolist() == [4, 2, 4]


def nested(root: Path, *outer: str) -> Path:
    """Folders that each hold folders of the same three names, with images."""
    for folder in outer:
        fill(root / folder, {"ant": 5, "bee": 5, "cat": 5})
    return root


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("seg_train", "seg_test"), ("Dev", "Val images")])
def test_folders_that_are_splits_under_names_of_their_own_are_not_taken_for_classes(tmp_path, names):
    said = "would be its classes, but each of them holds ant, bee, cat; if they are splits, call them train, val and"
    with pytest.raises(UserError, match=said):
        load_source(str(nested(tmp_path, *names)))


def test_classes_that_hold_folders_of_the_same_names_are_named_in_a_note(tmp_path):
    source = load_source(str(nested(tmp_path, "rotten", "sound")), image_size=32)
    assert source.class_names == ("rotten", "sound")
    assert "the classes are rotten, sound, each of which holds ant, bee, cat, which are none" in source.notes


@pytest.mark.parametrize("splits", [["train"], ["Test", "train"]])
def test_data_sets_beside_each_other_are_not_taken_for_classes(tmp_path, splits):
    for data_set in ("birds", "fishes"):
        for split in splits:
            fill(tmp_path / data_set / split, {"ant": 5, "bee": 5})
    said = rf"birds, fishes would be its classes, but each of them holds {', '.join(splits)}; if they are data sets, "
    with pytest.raises(UserError, match=said + f"name one of .* into folders like {splits[0]}/birds"):
        load_source(str(tmp_path))


def test_a_folder_around_one_data_set_is_told_of(tmp_path):
    fill(tmp_path / "birds" / "train", {"ant": 5, "bee": 5})
    with pytest.raises(UserError, match=r"has one folder, 'birds', which holds train; if these .* give '.*birds'"):
        load_source(str(tmp_path))


def test_a_folder_around_the_folder_of_classes_is_told_of(tmp_path):
    with pytest.raises(
        UserError, match=r"has one folder, 'base', which holds ant, bee, cat; if these .* give '.*base'"
    ):
        load_source(str(nested(tmp_path, "base")))


@pytest.mark.parametrize("name", ["train", "Test"])
def test_a_class_with_the_name_of_a_split_is_told_what_to_do(tmp_path, name):
    fill(tmp_path, {"bus": 5, name: 5})
    with pytest.raises(UserError, match=f"where {name} is a class, put all class folders into a folder called train"):
        load_source(str(tmp_path))


def test_links_that_lead_in_circles_or_to_other_classes_are_not_entered_twice(three):
    (three / "train" / "ant" / "loop").symlink_to(three / "train" / "ant")
    (three / "train" / "ant" / "up").symlink_to(three)
    (three / "train" / "ant" / "beside").symlink_to(three / "train")
    shutil.copy(next((three / "train" / "ant").glob("*.*")), three / "train")  # in no class folder, so of no class
    (three / "train" / "ant" / "self").symlink_to(three / "train" / "ant" / "self")
    (three / "train" / "bee" / "cousin").symlink_to(three / "train" / "cat")
    assert np.bincount(load_source(str(three), image_size=32).train.labels).tolist() == [3, 2, 4]


def test_a_folder_deep_in_one_class_that_another_links_to_is_refused(three):
    (three / "train" / "bee" / "deep").mkdir()
    paint(three / "train" / "bee" / "deep" / "more.png", value=90)
    (three / "train" / "ant" / "more").symlink_to(three / "train" / "bee" / "deep")
    with pytest.raises(UserError) as error:
        load_source(str(three))
    ant, bee = three / "train" / "ant" / "more", three / "train" / "bee" / "deep"
    assert str(error.value) == (
        f"{str(ant)!r} and {str(bee)!r} are one folder, reached from two classes; remove the link that leads to "
        "another class"
    )


def test_one_folder_for_two_classes_is_refused(three):
    (three / "train" / "wasp").symlink_to(three / "train" / "bee")
    with pytest.raises(UserError, match=r"bee' and '.*wasp' are one folder, reached from two classes; remove the link"):
        load_source(str(three))


def test_two_folders_for_one_class_are_shown_as_they_are_written(tmp_path):
    """As a copy from a Mac beside one from elsewhere may have them."""
    fill(tmp_path / "train", {"caf\u00e9": 3, "cafe\u0301": 3, "tea": 3})
    with pytest.raises(UserError, match=r"written 'cafe\\u0301' and 'caf\\xe9'; put their images into one of them$"):
        load_source(str(tmp_path))


def test_the_folder_that_runs_are_written_to_beside_class_folders_is_no_class(tmp_path):
    fill(tmp_path, {"a": 5, "b": 5})
    for run in ("runs/x-seed0", "y-seed0"):  # with --out runs, and with --out .
        (tmp_path / run).mkdir(parents=True)
        for file in ("recipe.yaml", "data.json"):
            (tmp_path / run / file).touch()
    (tmp_path / "a" / "deeper").mkdir()
    (tmp_path / "a" / "deeper" / "recipe.yaml").touch()  # of a cake, perhaps
    source = load_source(str(tmp_path))
    assert source.class_names == ("a", "b")
    assert "folders that hold runs are no classes: runs, y-seed0" in source.notes


def test_a_class_folder_may_itself_be_a_link(tmp_path):
    fill(tmp_path / "elsewhere", {"images": 5})
    fill(tmp_path / "data", {"a": 5})
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere" / "images")
    assert load_source(str(tmp_path / "data")).class_names == ("a", "b")


def test_a_class_folder_without_an_image_is_named(three):
    (three / "train" / "dog").mkdir()
    (three / "train" / "dog" / "readme.txt").touch()
    with pytest.raises(UserError, match=r"1 of 4 classes of .* have no training image: dog; add images .*: 1 \.txt$"):
        load_source(str(three))


def test_images_in_no_class_folder_and_folders_of_no_split_are_told(three):
    paint(three / "train" / "loose.png")
    paint(three / "train" / "b.JPG")
    paint(three / "eval" / "cat" / "0.png")
    assert load_source(str(three), image_size=32).notes == (
        "2 images in train/ are in no class folder, and not used: b.JPG, loose.png",
        "folders that are no split by their names are not used: eval",
    )


def test_images_beside_class_folders_alone_are_told(tmp_path):
    fill(tmp_path, {"cat": 6, "ant": 6})
    paint(tmp_path / "loose.png")
    notes = load_source(str(tmp_path), image_size=32).notes
    assert "1 images in the folder itself are in no class folder, and not used: loose.png" in notes


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"])
def test_files_of_every_ending_that_the_page_names_are_images(ending, tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, {"a": 2, "b": 1}, f".{ending}")
    assert len(load_source(str(tmp_path), image_size=32).train) == 3


def test_files_that_are_no_images_by_their_endings_are_counted(three):
    for name in ("a.HEIC", "deep/b.heic", "notes.txt", "LICENSE", ".hidden.heic", "__MACOSX/c.heic"):
        (three / "train" / "ant" / name).parent.mkdir(exist_ok=True)
        (three / "train" / "ant" / name).touch()
    (three / "test" / "bee" / "d.heic").touch()
    note = "files that are no images by their endings are passed over: 3 .heic, 1 without an ending, 1 .txt"
    assert load_source(str(three), image_size=32).notes == (note,)


@pytest.mark.parametrize("place", ["test", "train/dog", "val/ant"])
def test_a_link_that_leads_nowhere_where_a_split_or_a_class_is_expected_is_named(three, place):
    if (three / place).exists():
        shutil.rmtree(three / place)
    (three / place).symlink_to(three / "gone")
    with pytest.raises(UserError, match=f"the link '.*{place}' leads nowhere; mend it or remove it"):
        load_source(str(three))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_is_not_among_the_training_classes_is_named(three, split):
    paint(three / split / "dog" / "x.png")
    with pytest.raises(UserError, match=r"has the class 'dog', which is not among the training classes ant, bee, cat;"):
        load_source(str(three))


def test_names_that_look_alike_are_shown_as_they_are_written(tmp_path):
    fill(tmp_path / "train", {"caf\u00e9": 3, "tea": 3})
    fill(tmp_path / "test", {"cafe\u0301": 1, "tea": 1})
    with pytest.raises(UserError, match=r"to the letter: 'cafe\\u0301' is not 'caf\\xe9'$"):
        load_source(str(tmp_path))


def test_a_test_folder_without_images_is_named(tmp_path):
    fill(tmp_path / "train", {"a": 5, "b": 5})
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"test' holds no image"):
        load_source(str(tmp_path))


def test_a_test_folder_without_a_train_folder_is_refused(tmp_path):
    fill(tmp_path / "test", {"a": 5, "b": 5})
    with pytest.raises(UserError, match="has test but no train/CLASS/ folders"):
        load_source(str(tmp_path))


def test_a_folder_of_loose_images_is_refused(tmp_path):
    paint(tmp_path / "x.png")
    with pytest.raises(UserError, match="no class folders in"):
        load_source(str(tmp_path))


def test_a_single_class_is_refused(tmp_path):
    fill(tmp_path, {"a": 5})
    with pytest.raises(UserError, match="has one class, 'a'; classification needs at least two"):
        load_source(str(tmp_path))


def test_a_folder_that_cannot_be_read_is_named(three, monkeypatch):
    # As root every folder can be read, so the refusal is made here.
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(UserError, match=f"cannot read the folder '{three}': Permission denied"):
        load_source(str(three))


@pytest.fixture
def seven_broken(three):
    for index in range(6):
        (three / "train" / "cat" / f"broken{index}.jpg").write_bytes(b"broken")
    (three / "test" / "bee" / "empty.png").touch()
    return three


@pytest.mark.parametrize("limit", [2**30, 1000])
def test_corrupt_files_stop_with_the_first_names_and_the_count(seven_broken, limit):
    with pytest.raises(
        UserError, match=r"7 of the image files .* train/cat/broken0\.jpg \(not a known image"
    ) as caught:
        load_source(str(seven_broken), in_memory_limit=limit)
    assert "and 2 more" in str(caught.value)
    ways = "with --on_corrupt skip, in training with --set data.on_corrupt=skip (in Python on_corrupt='skip')"
    assert str(caught.value).endswith(f"{ways}; a run that was trained on them wants them back as they were")


@pytest.mark.parametrize("limit", [2**30, 1000])
def test_corrupt_files_are_skipped_by_name_when_asked(seven_broken, limit):
    source = load_source(str(seven_broken), image_size=32, on_corrupt="skip", in_memory_limit=limit)
    assert source.skipped == (*(f"train/cat/broken{i}.jpg" for i in range(6)), "test/bee/empty.png")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert source.test.labels.tolist() == [0, 0, 1, 2]
    if source.train.images is not None:
        assert source.train.images[:, 0, 0, 0].tolist() == [20, 21, 22, 40, 41, 0, 1, 2, 3]


def damage(path: Path) -> None:
    """In the middle of the file, behind its header and before its end mark."""
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[200:5000] = bytes(4800)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_file_of_a_large_set_that_is_damaged_and_only_looked_at_after_epochs_is_found_before(three, split):
    damage(three / split / "ant" / "middle.png")
    with pytest.raises(UserError, match=rf"1 of the image files .* cannot be read: {split}/ant/middle\.png"):
        load_source(str(three), image_size=32, in_memory_limit=1000)


def test_of_a_large_set_every_file_is_decoded_where_what_is_damaged_is_to_be_left_out(three, monkeypatch):
    monkeypatch.setattr(listing, "_STATISTICS_SAMPLE", 2)
    monkeypatch.setattr(listing, "_seeded_choice", lambda total, number: np.arange(total)[:number])
    damage(three / "train" / "cat" / "middle.png")  # the last of all
    assert load_source(str(three), image_size=32, in_memory_limit=1000).skipped == ()
    source = load_source(str(three), image_size=32, on_corrupt="skip", in_memory_limit=1000)
    assert source.skipped == ("train/cat/middle.png",)


def test_a_file_damaged_in_the_middle_is_found_among_the_statistics_sample(three):
    damage(three / "train" / "cat" / "middle.png")
    source = load_source(str(three), image_size=32, on_corrupt="skip", in_memory_limit=1000)
    assert source.skipped == ("train/cat/middle.png",)
    assert np.bincount(source.train.labels).tolist() == [3, 2, 4]


@pytest.mark.parametrize("limit", [2**30, 1000])
def test_a_class_whose_images_are_all_corrupt_is_an_error_even_when_skipping(three, limit):
    for path in (three / "train" / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="have no training image: bee"):
        load_source(str(three), on_corrupt="skip", in_memory_limit=limit)


def test_a_test_split_whose_images_are_all_corrupt_is_an_error(tmp_path):
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "test", {"a": 1})
    (tmp_path / "test" / "a" / "000.png").write_bytes(b"")
    with pytest.raises(UserError, match="no image of the test split"):
        load_source(str(tmp_path), on_corrupt="skip")


def test_a_relative_name_starts_from_root(three):
    assert load_source(three.name, root=str(three.parent), image_size=32).class_names == ("ant", "bee", "cat")


def test_a_class_name_that_is_not_utf_8_is_refused(three):
    try:
        (three / "train" / "caf\udce9").mkdir()  # the byte E9, as an archive of a latin-1 system unpacks
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(UserError, match=r"class folder '.*train/caf\\udce9' is not UTF-8; rename") as caught:
        load_source(str(three))
    str(caught.value).encode()  # it can be printed


def test_a_class_name_that_only_python_does_not_take_for_utf_8_is_no_fault_of_the_name(three):
    (three / "train" / "caf\u00e9").mkdir()
    code = "import sys; from safa.data.sources import load_source; load_source(sys.argv[1])"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(three)], env=environment, capture_output=True, text=True, check=False
    )
    assert "is not UTF-8; Python takes names of files for ascii here; set PYTHONUTF8=1" in ended.stderr


def test_dark_images_are_remarked(tmp_path):
    for name, value in {"a": 4095, "b": 2000}.items():  # of 12 bits
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(np.full((32, 32), value, dtype=np.uint16)).save(tmp_path / name / f"{number}.png")
    notes = load_source(str(tmp_path)).notes
    assert any("no pixel is brighter than 16 of 255; scale values of 12 bits" in note for note in notes)


@pytest.mark.parametrize("limit", [2**30, 1])
def test_images_that_are_in_training_and_in_another_split_are_counted_and_named(three, limit):
    def notes() -> tuple[str, ...]:
        return load_source(str(three), image_size=32, in_memory_limit=limit).notes

    assert notes() == ()
    shutil.copy(three / "train/ant/000.png", three / "test/ant/copy.png")
    shutil.copy(three / "train/ant/001.png", three / "test/bee/001.png")  # whatever its label
    shutil.copy(three / "train/cat/000.png", three / "val/cat.png")
    shutil.copy(three / "val/ant/000.png", three / "test/ant/z.png")  # not of training
    chosen = (
        "1 of 7 test images are validation images, too, so errors look smaller than they are; keep one copy of each: "
    )
    ending = "training images, too, so errors look smaller than they are; keep one copy of each: "
    loose = "1 images in val/ are in no class folder, and not used: cat.png"
    of_training = f"2 of 7 test images are {ending}test/ant/copy.png, test/bee/001.png"
    assert notes() == (loose, of_training, f"{chosen}test/ant/z.png")
    (three / "val/cat").mkdir()
    (three / "val/cat.png").rename(three / "val/cat/000.png")
    assert notes()[0] == f"1 of 3 validation images are {ending}val/cat/000.png"


def test_a_copy_within_a_class_that_a_test_split_is_cut_from_is_remarked(tmp_path):
    fill(tmp_path, {"a": 5, "b": 5})
    assert not any("training images, too" in note for note in load_source(str(tmp_path)).notes)
    for index in range(5):  # two of the ten are kept for the test; the twin of one is among the other eight
        shutil.copy(tmp_path / "a" / f"{index:03d}.png", tmp_path / "a" / f"{index:03d}-copy.png")
    assert any("of 3 test images are training images, too" in note for note in load_source(str(tmp_path)).notes)


def test_copies_among_the_training_images_are_counted_and_named_and_those_of_two_classes_told_apart(three):
    assert not load_source(str(three)).notes[1:]
    shutil.copy(three / "train" / "ant" / "000.png", three / "train" / "ant" / "copy.png")
    note = load_source(str(three)).notes[-1]
    assert note.startswith("1 of 10 training images are copies of others; keep one of each, or a validation split")
    assert note.endswith(": train/ant/copy.png = train/ant/000.png")
    shutil.copy(three / "train" / "ant" / "000.png", three / "train" / "cat" / "copy.png")
    both, torn = load_source(str(three)).notes[-2:]
    assert both.startswith("2 of 11 training images are copies of others")
    assert torn.startswith("1 of these copies are in another class than the first, so the network is taught both")
    assert torn.endswith("keep the one that is right: train/cat/copy.png = train/ant/000.png")


def test_images_that_stay_on_disk_are_told_apart_by_their_content(three):
    def mark() -> str:
        return load_source(str(three), image_size=32, in_memory_limit=1).fingerprint

    # Files of one size, as uncompressed ones are.
    ant, bee = paint(three / "train/ant/x.bmp", value=1), paint(three / "train/bee/x.bmp", value=2)
    held_out = paint(three / "val/ant/x.bmp", value=3)
    marks = [mark()]
    bee.write_bytes(ant.read_bytes())
    paint(ant, value=2)
    marks.append(mark())
    paint(held_out, value=4)
    marks.append(mark())
    assert len(set(marks)) == 3
    assert mark() == marks[2]


def test_names_in_any_script_work(tmp_path):
    fill(tmp_path, {"猫": 5, "naïve & co (2)": 5})
    assert load_source(str(tmp_path)).class_names == ("naïve & co (2)", "猫")
