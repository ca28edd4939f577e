"""The benchmark: what the ordinary loop does to an image, fair turns, and figures that are all there."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from safa.bench import memory, run
from safa.bench.inference import with_and_without
from safa.bench.loop import Loop
from safa.bench.ordinary import OrdinaryLoop, PillowImages
from safa.bench.setting import COUNTS, Setting
from safa.bench.turns import Spread, ratios, take_turns
from safa.errors import UserError

TINY = Setting("resnet8", batch_size=16)

# Python 3.12 and later warn that a forked worker may inherit a lock; torch's loader forks on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def one_thread():
    """Where other programs run beside the tests, two threads spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def literal_transforms(image: np.ndarray) -> list[np.ndarray]:
    """Everything RandomCrop(32, 4), RandomHorizontalFlip, ToTensor and Normalize can make of an image."""
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    padded = np.zeros((40, 40, 3))
    padded[4:36, 4:36] = image
    crops = [padded[top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    both = [pixels for crop in crops for pixels in (crop, crop[:, ::-1])]
    return [((pixels / 255 - mean) / std).transpose(2, 0, 1) for pixels in both]


def test_the_ordinary_transform_is_one_of_all_crops_mirrored_or_not_and_all_of_them_occur():
    images = PillowImages()
    ways = literal_transforms(images.arrays[0])
    middle = np.stack([way[:, 14:18, 14:18] for way in ways])
    torch.manual_seed(0)
    seen = np.zeros(len(ways), dtype=int)
    for _ in range(2500):
        result = images[0][0].numpy()
        found = abs(middle - result[:, 14:18, 14:18]).max(axis=(1, 2, 3)).argmin()
        np.testing.assert_allclose(result, ways[found], atol=1e-5)
        seen[found] += 1
    assert seen.min() > 0
    assert abs(seen[1::2].sum() / seen.sum() - 0.5) < 0.05


def test_the_ordinary_loop_trains_on_contiguous_float32_batches_of_the_long_tail():
    loop = OrdinaryLoop(TINY)
    loop.workers = 0
    assert np.array_equal(np.bincount(loop.dataset.labels), COUNTS)
    images, labels = next(iter(loop._loader(2)))
    assert images.shape == (16, 3, 32, 32) and images.dtype == torch.float32 and images.is_contiguous()
    assert labels.shape == (16,)
    before = loop.model.conv1.weight.clone()
    assert loop.turn(1) > 0
    assert not torch.equal(loop.model.conv1.weight, before)
    assert loop.model.conv1.weight.dtype == torch.float32


def test_our_loop_generates_rows_with_safa_and_none_without():
    plain, with_safa = Loop(TINY), Loop(TINY, safa=True)
    for loop in (plain, with_safa):
        for _ in range(4):
            loop.step()
    assert sum(plain.generated_rows) == 0
    assert sum(with_safa.generated_rows) > 0


class Counted:
    """A variant that takes a second per step and notes that it had its turn."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def turn(self, steps: int) -> float:
        self.turns.append(self.name)
        return float(steps)


def test_variants_take_turns_there_and_back():
    turns: list[str] = []
    seconds = take_turns({name: Counted(name, turns) for name in "abc"}, rounds=3, steps=5)
    assert "".join(turns) == "abccbaabc"
    assert seconds == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_ratios_are_taken_round_by_round_so_that_drift_cancels():
    assert ratios([2.0, 4.0, 30.0], [1.0, 2.0, 10.0]) == Spread(median=2.0, low=2.0, high=3.0)


def test_a_single_changed_bit_is_reported():
    trained = Loop(TINY)

    class Changed(nn.Module):
        model = trained.plug.model

        def forward(self, images):
            logits = self.model(images)
            logits.view(torch.int32)[3, 5] ^= 1
            return SimpleNamespace(logits=logits)

    trained.plug = Changed()
    with pytest.raises(RuntimeError, match="differs from the bare network"):
        with_and_without(TINY, trained)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count a process from its own start")
def test_peak_memory_does_not_count_what_the_parent_held():
    held = np.ones(2**27)  # 1 GiB
    assert memory.resident_peak() > 2**10
    assert 100 < memory.peak(TINY, safa=False) < 2**10
    assert held.all()


def test_every_figure_is_measured_printed_and_appended(tmp_path, capsys):
    path = tmp_path / "bench.jsonl"
    line = run(steps=1, rounds=1, batch_size=16, model="resnet8", precision="bf16", results=str(path))
    assert json.loads(path.read_text()) == line
    assert line["kind"] == "bench" and line["n"] == 1
    figures = line["figures"]
    assert list(figures["speed"]) == ["our batches, float32", "+ channels-last", "+ bf16"]
    assert len(figures["images_per_second"]) == 4
    spreads = [figures["safa_step"], figures["inference"], *figures["memory"].values()]
    for spread in [*spreads, *figures["speed"].values(), *figures["images_per_second"].values()]:
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert figures["identical"] is True
    assert figures["generated_rows"] > 0
    printed = capsys.readouterr().out
    for words in ("SAFA step / plain step, bf16", "peak memory, SAFA", "bit-identical", "n = 1 rounds"):
        assert words in printed


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"precision": "fp16"}, "precision must be float32 or bf16, got 'fp16'"),
        ({"batch_size": 7}, "batch_size must be even"),
        ({"model": "resnet33"}, "no backbone is called 'resnet33'"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(choice, message):
    with pytest.raises(UserError, match=message):
        Loop(Setting(**choice))
