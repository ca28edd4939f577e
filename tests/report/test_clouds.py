"""Fig. 1 as a file: which runs and classes it has, and what it refuses."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from safa.errors import UserError
from safa.report.clouds import write_features
from tests.report.synthetic import write_run


@pytest.fixture
def runs(tmp_path):
    methods = ("LDAM", "LDAM-DRW", "LDAM-DRW-SAFA")
    return [write_run(tmp_path / method, method, test_images=5, epochs=2) for method in methods]


def texts(svg: str) -> list[str]:
    return [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_every_method_has_a_panel_and_every_class_and_kind_a_key(runs, tmp_path):
    shown = texts(write_features(runs, tmp_path / "f.svg").read_text())
    assert shown[:3] == ["LDAM", "LDAM-DRW", "LDAM-DRW-SAFA"]
    assert shown[3] == "apple, 500 images"  # the largest class comes first
    assert len(shown) == 3 + 5 + 3
    assert shown[-3:] == ["real training image", "generated", "test image"]


def test_a_class_is_a_name_whatever_it_is_called(tmp_path):
    names = ["_$1$^{", "\x1b<b>\udcff", "#5afa01 🐱", *(f"class {number}" for number in range(9)), "W" * 300]
    run = write_run(tmp_path / "run", "LDAM", names=[str(number) for number in range(13)], test_images=2, epochs=2)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"class_names": names}))
    shown = texts(write_features([run], tmp_path / "f.svg").read_text(encoding="utf-8"))
    assert shown[1].startswith("_$1$^{, ")
    assert shown[2].startswith("\N{REPLACEMENT CHARACTER}<b>\N{REPLACEMENT CHARACTER}, ")
    assert any(text.startswith(f"{'W' * 15}…, ") for text in shown)


def test_the_file_is_an_svg_that_stands_alone_and_is_the_same_every_time(runs, tmp_path):
    first, second = (write_features(runs[:2], tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert re.match(rb"<svg [^>]*role=\"img\"", first)
    assert b"t-SNE of what enters the classifier, cifar100, factor 100: LDAM, LDAM-DRW</title>" in first


def test_a_run_without_features_has_no_panel(runs, tmp_path):
    (runs[0] / "features.npz").unlink()
    assert texts(write_features(runs, tmp_path / "f.svg").read_text())[:2] == ["LDAM-DRW", "LDAM-DRW-SAFA"]


def test_without_any_features_there_is_no_picture(runs, tmp_path):
    for run in runs:
        (run / "features.npz").unlink()
    with pytest.raises(UserError, match="no run stored features"):
        write_features(runs, tmp_path / "f.svg")
    assert not (tmp_path / "f.svg").exists()


def test_too_few_features_are_named_with_their_method(runs, tmp_path):
    stored = dict(np.load(runs[0] / "features.npz"))
    np.savez(runs[0] / "features.npz", **{name: values[:3] for name, values in stored.items()})
    with pytest.raises(UserError, match="LDAM: only .* too few to embed"):
        write_features(runs[:1], tmp_path / "f.svg")
