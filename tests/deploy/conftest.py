"""One run, its exports and its images as files, made once for all tests of deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from safa.deploy.export import Exported, export
from safa.deploy.formats import FORMATS
from safa.deploy.network import Deployed, load_run
from tests.deploy.runs import some_images, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="session")
def deployed(run) -> Deployed:
    return load_run(run)


@pytest.fixture(scope="session")
def exported(deployed, tmp_path_factory) -> dict[str, Exported]:
    """One file of every format."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    return {name: export(deployed, name, folder / f"network{f.suffix}") for name, f in FORMATS.items()}


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Digits as PNG files in two levels of folders, in the order of their names."""
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(some_images().images):
        path = folder / f"{index // 20}" / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder
