"""Parts: what is built for the images, the device and the place among the processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from safa import assembly
from safa.data import dataset
from safa.errors import UserError
from safa.parts import Parts
from safa.recipe import Stage


@pytest.mark.parametrize(("image_size", "images"), [(8, 500), (64, 500), (128, 125), (224, 40), (2000, 1)])
def test_as_many_pixels_are_tested_at_once_whatever_the_size_of_the_images(image_size, images, parts_of, tiny_data):
    larger = replace(tiny_data, source=replace(tiny_data.source, image_size=image_size))
    assert parts_of(Stage(1), data=larger).evaluation_batch == images


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(tiny_data, tiny_recipe):
    three = SimpleNamespace(
        device=torch.device("cpu"), num_processes=3, process_index=0, is_main_process=True, scaler=None
    )
    message = "batch_size 16 cannot be split over 3 processes; make it a multiple"
    with pytest.raises(UserError, match=f"^{message}$"):
        Parts(tiny_recipe, tiny_data, three).sampler(tiny_recipe.stages[0])


def test_heads_are_fitted_to_training_images_and_choose_on_validation_images(parts_of, tiny_data):
    data = dataset.load(replace(tiny_data.spec, validation_per_class=2, validation_from="left_out"))
    parts = parts_of(Stage(1), data=data)
    model = parts.network().eval()
    fitting = parts.fitting(model)
    for found, split in ((fitting.train(), data.train), (fitting.validation(), data.validation)):
        images, labels = parts.images_of(split, range(len(split)))
        with torch.no_grad(), assembly.head_inputs(model) as seen:
            model(images)
        assert torch.equal(found[1], labels)
        torch.testing.assert_close(found[0], seen[0], rtol=1e-4, atol=1e-5)
