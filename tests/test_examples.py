"""Everything a reader may copy runs: the examples, and the README's first block of Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa import cli
from safa.data.longtail import draw_subset
from safa.data.sources import load_source
from safa.deploy.export import export
from safa.deploy.network import load_run
from safa.deploy.predict import predict_paths
from tests.deploy.runs import write_run

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHORT = {
    "plain_pytorch.py": ["2"],
    "your_own_forward.py": ["4"],
    "tail_as_folder.py": ["digits", "digits_folder", "100"],
}


def run(*arguments: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} >= {
        "plain_pytorch.py",
        "your_own_forward.py",
        "timm_task.py",
        "lightning_module.py",
        "tail_as_folder.py",
    }


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, tmp_path):
    said = run(str(example), *SHORT.get(example.name, []), folder=tmp_path)
    if "this example needs" in said:
        pytest.skip(said.strip())
    assert said


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example):
    assert len(example.read_text().splitlines()) < 60


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_folder_of_a_tail_has_the_images_of_the_set_it_is_from(tmp_path):
    run(str(ROOT / "examples" / "tail_as_folder.py"), "digits", "folder", "100", folder=tmp_path)
    found, drawn = load_source(str(tmp_path / "folder"), image_size=8), load_source("digits")
    subset = draw_subset(drawn.train.labels, 10, profile="exponential", imbalance_factor=100, largest=100)
    assert found.class_names == drawn.class_names
    for split, expected in ((found.train, drawn.train.take(subset.train)), (found.test, drawn.test)):
        by_class = np.argsort(expected.labels, kind="stable")
        assert np.array_equal(split.labels, expected.labels[by_class])
        assert np.array_equal(split.images, expected.images[by_class])


def test_the_readmes_python_runs_as_it_stands(tmp_path):
    (tmp_path / "readme.py").write_text(blocks("python")[0])
    run("-W", "error", "readme.py", folder=tmp_path)
    assert (tmp_path / "model.pt").is_file()


def test_every_name_of_the_library_that_the_readme_has_is_there_once_it_is_imported():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`safa\.([a-z_]+(?:\.\w+)*)\(", text)) | {
        name for block in blocks("python") for name in re.findall(r"\bsafa\.(\w+(?:\.\w+)*)", block)
    }
    assert {"averaging.moving_average", "PlugIn", "losses.LDAMLoss"} <= names
    program = "import operator, safa\n" + "".join(f"operator.attrgetter({name!r})(safa)\n" for name in sorted(names))
    subprocess.run([sys.executable, "-c", program], check=True)


def test_exported_files_are_used_as_the_page_of_own_images_says(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run_of_digits = load_run(write_run(tmp_path / "run"))
    for name in ("onnx", "pt2"):
        export(run_of_digits, name, tmp_path / f"model.{name}")
    (tmp_path / "new_photos").mkdir()
    for side, path in ((8, "photo.jpg"), (100, "new_photos/a.png")):
        noise = np.random.default_rng(side).integers(0, 256, (side, side + 30 * (side > 8), 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / path)
    monkeypatch.chdir(tmp_path)
    with_library, without = blocks("python", "docs/own_images.md")
    for photo in ("photo.jpg", "new_photos/a.png"):
        exec(without.replace("photo.jpg", photo), {})
        label, probability = capsys.readouterr().out.rsplit(maxsplit=1)
        (found,) = predict_paths(run_of_digits, [photo])
        assert (label, float(probability)) == (found.label, pytest.approx(found.probability, abs=1e-4))
    exec(with_library, {})
    path, label, _ = capsys.readouterr().out.rsplit(maxsplit=2)
    assert (path, label) == ("new_photos/a.png", found.label)


@pytest.mark.usefixtures("pages_without_charts")
def test_a_loss_in_ten_lines_trains(tmp_path, monkeypatch, capsys):
    (python,) = (block for block in blocks("python", "docs/recipes.md") if "class Poly1Loss" in block)
    (recipe,) = (block for block in blocks("yaml", "docs/recipes.md") if "my_losses:Poly1Loss" in block)
    (tmp_path / "my_losses.py").write_text(python)
    (tmp_path / "poly.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["--set", "stages.0.epochs=1", "stages.1.epochs=1", "model.backbone=resnet8"]
    assert cli.main(["train", "poly.yaml", *short]) == 0
    assert "Poly1-DRW" in capsys.readouterr().out


def test_every_safa_command_of_the_readme_is_one():
    calls = [line.split("#")[0] for block in blocks("bash") for line in re.findall(r"\bsafa (?!:)[^&|\n]*", block)]
    assert len(calls) >= 4
    for call in calls:
        cli.parser().parse_args(call.split()[1:])
