"""Files and folders become class names, whatever the files are called and in whatever batches they come."""

from __future__ import annotations

import csv
import io
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safa import evaluate
from safa.data.batches import Batches, InOrder, Normalise
from safa.deploy.predict import Prediction, predict_paths, to_csv, to_json
from safa.errors import UserError
from tests.deploy.runs import CLASS_NAMES, MEAN, STD, expected_probabilities, network, some_images


def colour(path: Path, mode: str, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value).save(path)
    return path


def written(write, predictions) -> str:
    stream = io.StringIO()
    write(predictions, stream)
    return stream.getvalue()


def evaluated() -> evaluate.Predictions:
    """What the evaluation says of the images that ``photos`` holds as files."""
    images = some_images()
    cpu = torch.device("cpu")
    batches = Batches(images, InOrder(len(images), 500), Normalise(MEAN, STD, cpu), device=cpu, image_size=8)
    return evaluate.predict(network(), batches)


def test_files_get_the_labels_and_confidences_of_the_evaluation(deployed, photos):
    predictions = list(predict_paths(deployed, [photos]))
    known = evaluated()
    assert len(set(known.predictions)) >= 8  # or the test would say nothing
    assert [p.label for p in predictions] == [CLASS_NAMES[i] for i in known.predictions]
    assert np.allclose([p.probability for p in predictions], known.confidence, atol=1e-5)


def test_predictions_are_the_same_twice(deployed, photos):
    assert list(predict_paths(deployed, [photos])) == list(predict_paths(deployed, [photos]))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_predictions_do_not_depend_on_the_batch_size(deployed, photos, batch_size):
    whole = list(predict_paths(deployed, [photos], top=10))
    parts = list(predict_paths(deployed, [photos], top=10, batch_size=batch_size))
    assert [p.path for p in parts] == [p.path for p in whole]
    assert [p.label for p in parts] == [p.label for p in whole]
    largest = np.abs(np.subtract([p.probabilities for p in parts], [p.probabilities for p in whole])).max()
    assert largest < 1e-5  # sums of float32 are split otherwise in another batch


def test_folders_are_searched_deep_and_in_order(deployed, photos):
    paths = [Path(p.path) for p in predict_paths(deployed, [photos])]
    assert paths == sorted(photos.rglob("*.png"))
    assert len(paths) == 60


def test_files_come_in_the_order_given_and_once(deployed, photos):
    last, first = photos / "2" / "059.png", photos / "0" / "000.png"
    predictions = predict_paths(deployed, [last, str(first), photos / "2"])
    paths = [Path(p.path) for p in predictions]
    assert paths[:2] == [last, first]
    assert len(paths) == 21


def test_hidden_and_other_files_are_passed_over_and_links_back_are_not_followed(deployed, tmp_path):
    kept = colour(tmp_path / "a" / "kept.PNG", "RGB", "red")
    colour(tmp_path / "a" / ".hidden.png", "RGB", "red")
    colour(tmp_path / "__MACOSX" / "copy.png", "RGB", "red")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert [p.path for p in predict_paths(deployed, [tmp_path])] == [str(kept)]


def test_a_file_named_by_the_user_is_read_whatever_its_extension(deployed, tmp_path):
    path = colour(tmp_path / "image.png", "RGB", "red").rename(tmp_path / "image")
    assert [p.path for p in predict_paths(deployed, [path])] == [str(path)]


def test_grayscale_and_transparent_files_are_read_as_rgb(deployed, tmp_path):
    gray = colour(tmp_path / "gray.png", "L", 51)
    clear = colour(tmp_path / "clear.png", "RGBA", (0, 0, 0, 0))
    predictions = predict_paths(deployed, [gray, clear], top=10)
    for prediction, value in zip(predictions, [51 / 255, 1.0], strict=True):
        (expected,) = expected_probabilities(torch.full((1, 3, 8, 8), value))
        found = dict(zip(prediction.labels, prediction.probabilities, strict=True))
        assert [found[name] for name in CLASS_NAMES] == pytest.approx(expected.tolist(), abs=1e-5)


def test_other_sizes_are_brought_to_that_of_training(deployed, tmp_path):
    Image.new("RGB", (31, 17), "red").save(tmp_path / "wide.png")
    colour(tmp_path / "square.png", "RGB", "red")
    square, wide = predict_paths(deployed, [tmp_path])
    assert wide.label == square.label
    assert wide.probability == pytest.approx(square.probability, abs=1e-5)


def test_top_names_the_likeliest_classes_best_first(deployed, photos):
    (prediction,) = predict_paths(deployed, [photos / "0" / "000.png"], top=10)
    assert sorted(prediction.labels) == sorted(CLASS_NAMES)
    assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert (prediction.label, prediction.probability) == (prediction.labels[0], prediction.probabilities[0])


@pytest.fixture
def damaged(tmp_path) -> Path:
    """Two good images around one that is empty and one that is no image."""
    colour(tmp_path / "a.png", "RGB", "red")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_text("no image")
    colour(tmp_path / "d.png", "RGB", "blue")
    return tmp_path


def test_corrupt_files_stop_by_name(deployed, damaged):
    with pytest.raises(UserError) as caught:
        list(predict_paths(deployed, [damaged]))
    message = str(caught.value)
    assert f"{damaged / 'b.png'} (the file is empty)" in message
    assert f"{damaged / 'c.jpg'} (not a known image format)" in message
    assert "a.png" not in message
    assert message.endswith("or skip them with --on_corrupt skip (in Python on_corrupt='skip')")


@pytest.mark.parametrize("batch_size", [1, 64])
def test_corrupt_files_are_skipped_by_name_and_counted(deployed, damaged, batch_size):
    said: list[str] = []
    predictions = predict_paths(deployed, [damaged], batch_size=batch_size, on_corrupt="skip", say=said.append)
    assert [Path(p.path).name for p in predictions] == ["a.png", "d.png"]
    assert said == [
        f"cannot read {damaged / 'b.png'} as an image: the file is empty; skipped",
        f"cannot read {damaged / 'c.jpg'} as an image: not a known image format; skipped",
        "2 of 4 files could not be read and were skipped",
    ]


def test_that_no_file_at_all_could_be_read_is_an_error_even_when_skipping(deployed, damaged):
    broken = [damaged / "b.png", damaged / "c.jpg"]
    with pytest.raises(UserError, match="none of the 2 files could be read as an image"):
        list(predict_paths(deployed, broken, on_corrupt="skip", batch_size=1))


def test_what_cannot_be_predicted_is_said_at_once(deployed, tmp_path, photos):
    (tmp_path / "empty").mkdir()
    for paths, options, message in [
        ([tmp_path / "nothing"], {}, "there is no file or folder"),
        ([tmp_path / "empty"], {}, r"holds no image; images end in \.bmp"),
        ([], {}, "no image to predict"),
        ([""], {}, "one of the paths is empty"),
        ([photos], {"top": 0}, "top must lie between 1 and the number of classes, 10, got 0"),
        ([photos], {"top": 11}, "got 11"),
        ([photos], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([photos], {"on_corrupt": "ignore"}, "on_corrupt must be stop or skip, got 'ignore'"),
    ]:
        with pytest.raises(UserError, match=message):
            predict_paths(deployed, paths, **options)


AWKWARD = [
    Prediction('a,b "c"\nd.png', ("se,ven", 'ei"ght'), (0.75, 0.25)),
    Prediction("ñ.png", ("one", "two"), (1 / 3, 1 / 7)),
]


def test_csv_brings_commas_quotes_and_line_breaks_through():
    header, *rows = csv.reader(io.StringIO(written(partial(to_csv, top=2), AWKWARD), newline=""))
    assert header == ["path", "label", "probability", "label_2", "probability_2"]
    assert rows == [
        ['a,b "c"\nd.png', "se,ven", "0.750000", 'ei"ght', "0.250000"],
        ["ñ.png", "one", "0.333333", "two", "0.142857"],
    ]


def test_a_file_with_commas_and_quotes_in_its_name_is_found_in_the_csv(deployed, tmp_path):
    path = colour(tmp_path / 'a,"b" c.png', "RGB", "red")
    (row,) = csv.DictReader(io.StringIO(written(to_csv, predict_paths(deployed, [tmp_path]))))
    assert row.keys() == {"path", "label", "probability"}
    assert row["path"] == str(path)
    assert row["label"] in CLASS_NAMES


def test_json_is_an_array_of_objects():
    assert json.loads(written(to_json, AWKWARD)) == [
        {
            "path": 'a,b "c"\nd.png',
            "label": "se,ven",
            "probability": 0.75,
            "top": [{"label": "se,ven", "probability": 0.75}, {"label": 'ei"ght', "probability": 0.25}],
        },
        {
            "path": "ñ.png",
            "label": "one",
            "probability": 0.333333,
            "top": [{"label": "one", "probability": 0.333333}, {"label": "two", "probability": 0.142857}],
        },
    ]
    single = Prediction("a.png", ("one",), (1.0,))
    assert json.loads(written(to_json, [single])) == [{"path": "a.png", "label": "one", "probability": 1.0}]


def test_no_prediction_is_a_header_or_an_empty_array():
    assert written(to_csv, []) == "path,label,probability\n"
    assert written(partial(to_csv, top=2), []) == "path,label,probability,label_2,probability_2\n"
    assert json.loads(written(to_json, [])) == []


def test_a_name_that_is_no_text_can_be_written(deployed, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        colour(path, "RGB", "red")
    except OSError:
        pytest.skip("this file system takes only names of text")
    text = written(to_csv, predict_paths(deployed, [tmp_path]))
    assert r"\udcff.png" in text.encode("utf-8").decode()
