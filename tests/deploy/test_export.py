"""Every exported file says what the network says, carries its card, and holds nothing of a plug-in."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import safa
from safa import recipe as recipes
from safa.deploy import export as exporting
from safa.deploy.export import export
from safa.deploy.formats import FORMATS, load_exported
from safa.deploy.network import Deployed, classifier
from safa.deploy.predict import predict_paths
from safa.errors import UserError
from tests.deploy.runs import CLASS_NAMES, MEAN, STD, expected_probabilities, network

every_format = pytest.mark.parametrize("format", list(FORMATS))


def random_images(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


@every_format
@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_file_gives_the_probabilities_of_the_network(exported, format, n):
    images = random_images(n)
    found = load_exported(exported[format].path).probabilities(images)
    assert found.shape == (n, 10)
    assert torch.allclose(found, expected_probabilities(images), atol=1e-4, rtol=0)


@every_format
def test_files_get_the_same_labels_from_the_export(deployed, exported, photos, format):
    known = [p.label for p in predict_paths(deployed, [photos])]
    assert [p.label for p in predict_paths(load_exported(exported[format].path), [photos])] == known


@every_format
def test_the_card_comes_back(deployed, exported, format):
    assert load_exported(exported[format].path).card == deployed.card


@every_format
def test_the_report_says_what_was_written_and_how_far_it_is_off(exported, format):
    report = exported[format]
    assert (report.format, report.images) == (format, 8)
    assert report.size == report.path.stat().st_size
    assert 0 <= report.largest_difference <= 1e-4


@every_format
def test_no_path_of_this_machine_is_in_the_file(exported, format):
    content = exported[format].path.read_bytes()
    assert str(Path(safa.__file__).parent).encode() not in content


def test_safetensors_holds_exactly_the_bare_network(exported):
    with safetensors.safe_open(exported["safetensors"].path, framework="pt") as file:
        assert set(file.keys()) == set(network().state_dict())
        metadata = file.metadata()
    assert json.loads(metadata["class_names"]) == CLASS_NAMES
    assert json.loads(metadata["image_size"]) == 8
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == (MEAN, STD)
    assert json.loads(metadata["model"]) == {
        "backbone": {"name": "resnet8"},
        "head": {"name": "cosine", "scale": 20.0},
    }


def test_safetensors_fill_the_network_of_anybody(exported):
    anybody = network()
    nn.init.zeros_(anybody.conv1.weight)
    anybody.load_state_dict(safetensors.torch.load_file(exported["safetensors"].path))
    assert torch.equal(anybody.conv1.weight, network().conv1.weight)


def test_pt2_holds_exactly_the_bare_network_and_the_normalisation(exported):
    extra = dict.fromkeys(["class_names", "image_size"], "")
    program = torch.export.load(exported["pt2"].path, extra_files=extra)
    assert set(program.state_dict) == {f"network.{key}" for key in network().state_dict()} | {"mean", "std"}
    assert json.loads(extra["class_names"]) == CLASS_NAMES
    assert json.loads(extra["image_size"]) == 8


def test_onnx_says_its_shapes_and_holds_only_the_network(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported["onnx"].path)
    onnx.checker.check_model(model, full_check=True)
    (images,), (probabilities,) = model.graph.input, model.graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["n", 3, 8, 8]
    assert [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim] == ["n", 10]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    # Batch norm is folded into the convolution before it, whose new bias is called weight_bias.
    named = {tensor.name.removesuffix("_bias") for tensor in model.graph.initializer if "." in tensor.name}
    assert named <= {f"network.{key}" for key in network().state_dict()}
    stored = sum(len(onnx.numpy_helper.to_array(tensor).ravel()) for tensor in model.graph.initializer)
    assert stored < 1.1 * sum(value.numel() for value in network().state_dict().values())
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["class_names"] == CLASS_NAMES
    assert metadata["mean"] == MEAN


def test_exporting_is_quiet(deployed, tmp_path, capfd, caplog):
    pytest.importorskip("onnxscript")
    export(deployed, "onnx", tmp_path / "network.onnx")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_safetensors_file_can_be_exported_again(exported, tmp_path):
    again = load_exported(exported["safetensors"].path)
    assert export(again, "safetensors", tmp_path / "b.safetensors").largest_difference == 0
    files = (tmp_path / "b.safetensors", exported["safetensors"].path)
    first, second = (safetensors.torch.load_file(file) for file in files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_graph_cannot_be_exported_again(exported, tmp_path):
    with pytest.raises(UserError, match="export from the run, or from a safetensors file"):
        export(load_exported(exported["pt2"].path), "onnx", tmp_path / "b.onnx")


def test_an_unknown_format_names_the_closest(deployed, tmp_path):
    with pytest.raises(UserError, match=r"no format is called 'onx'; did you mean 'onnx'\?; there are safet"):
        export(deployed, "onx", tmp_path / "a")


def test_a_suffix_of_another_format_is_a_mistake(deployed, tmp_path):
    with pytest.raises(UserError, match=r"has the suffix of pt2, but the format is onnx"):
        export(deployed, "onnx", tmp_path / "a.pt2")


@pytest.mark.parametrize("name", ["a.bin", "a"])
def test_a_file_that_nobody_would_know_again_is_refused(deployed, tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} needs the suffix \.pt2, by which a file of pt2 is known"):
        export(deployed, "pt2", tmp_path / name)


def test_metadata_are_in_order_so_that_the_same_network_is_the_same_file(exported):
    content = exported["safetensors"].path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["class_names", "image_size", "mean", "model", "std"]


def test_probabilities_ask_for_no_gradient(exported):
    network = torch.export.load(exported["pt2"].path).module()
    assert not network(torch.zeros(2, 3, 8, 8)).requires_grad


def test_missing_folders_are_made(deployed, tmp_path):
    export(deployed, "safetensors", tmp_path / "a" / "b" / "network.safetensors")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["network.safetensors"]


def test_an_output_that_cannot_be_written_leaves_nothing(deployed, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file, not a folder"):
        export(deployed, "safetensors", tmp_path / "file" / "network.safetensors")
    with pytest.raises(UserError, match=r"is a folder; name a file, such as .*network\.safetensors"):
        export(deployed, "safetensors", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_without_permission_is_said_before_the_work(deployed, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write everywhere
    with pytest.raises(UserError, match="no permission to write in"):
        export(deployed, "safetensors", tmp_path / "a.safetensors")


def test_a_full_disk_keeps_the_file_that_was_there(deployed, tmp_path, monkeypatch):
    output = tmp_path / "a.safetensors"
    output.write_text("precious")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        export(deployed, "safetensors", output)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert output.read_text() == "precious"


@pytest.mark.parametrize("shift", [2e-4, float("nan")])
def test_a_file_that_says_something_else_is_refused(deployed, tmp_path, monkeypatch, shift):
    output = tmp_path / "a.safetensors"
    true = FORMATS["safetensors"]

    def read(content, network, where):
        read_back = true.read(content, network, where)
        return Deployed(lambda images: read_back.classifier(images) + shift, read_back.card)

    monkeypatch.setitem(exporting.FORMATS, "safetensors", dataclasses.replace(true, read=read))
    with pytest.raises(UserError, match=r"differ from the network's by up to .*more than 0\.0001"):
        export(deployed, "safetensors", output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(deployed, tmp_path, monkeypatch, package):
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if needed != package:
            pytest.importorskip(needed)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"needs the package {package}; pip install onnx onnxscript onnxruntime"):
        export(deployed, "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@every_format
@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_file_is_named(tmp_path, format, content):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"a{FORMATS[format].suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} is no .*, or is damaged"):
        load_exported(path)


def test_a_file_of_somebody_else_lacks_the_card(tmp_path):
    safetensors.torch.save_file(network().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="has no class_names, image_size, mean, std, model in its metadata"):
        load_exported(tmp_path / "a.safetensors")


def test_a_missing_file_and_another_suffix_are_named(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_exported(tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"in no known format; did you mean '\.onnx'\?"):
        load_exported(tmp_path / "a.onx")


class Branching(nn.Module):
    """A network of the user's own whose way depends on the images, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, images):
        pooled = images.mean(dim=(2, 3))
        return self.fc(pooled) if pooled.sum() > 0 else self.fc(-pooled)


@pytest.fixture
def own(deployed) -> Deployed:
    model = recipes.Model(recipes.Named("tests.deploy.test_export:Branching"))
    card = dataclasses.replace(deployed.card, model=model)
    return Deployed(classifier(Branching(), card), card)


def test_a_network_that_cannot_be_traced_has_safetensors(own, tmp_path, capfd):
    message = r"cannot be written as pt2: Could not guard on data-dependent .*; safetensors takes any network"
    with pytest.raises(UserError, match=message):
        export(own, "pt2", tmp_path / "a.pt2")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert export(own, "safetensors", tmp_path / "a.safetensors").largest_difference == 0


def test_a_file_does_not_say_what_is_imported(own, tmp_path):
    path = export(own, "safetensors", tmp_path / "a.safetensors").path
    with pytest.raises(UserError, match="code of your own; pass network=, an instance of it"):
        load_exported(path)
    images = random_images(4)
    read = load_exported(path, network=Branching())
    assert torch.equal(read.probabilities(images), own.probabilities(images))
