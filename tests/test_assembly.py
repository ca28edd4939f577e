"""What a recipe names, built: pure in the seed, and mistakes named before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safa import assembly
from safa.errors import UserError
from safa.heads import CosineHead
from safa.recipe import Augmenter, Model, Named, Optimizer, Stage

RESNET8 = Model(Named("resnet8"))


@pytest.fixture
def model() -> nn.Module:
    return assembly.network(RESNET8, 10, seed=0)


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_network_is_a_pure_function_of_model_and_seed():
    first = assembly.network(RESNET8, 10, seed=0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert equal(assembly.network(RESNET8, 10, seed=0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(assembly.network(RESNET8, 10, seed=1), first)


def test_a_backbone_head_or_reweighting_that_is_no_module_is_named():
    with pytest.raises(
        UserError, match="backbone 'tests.test_rehearsal:NoModule' must be a torch.nn.Module, and makes NoModule"
    ):
        assembly.network(Model(Named("tests.test_rehearsal:NoModule")), 10, seed=0)
    with pytest.raises(
        UserError, match="head 'tests.test_rehearsal:NoModule' must be a torch.nn.Module, and makes NoModule"
    ):
        assembly.network(Model(Named("resnet8"), Named("tests.test_rehearsal:NoModule")), 10, seed=0)
    with pytest.raises(
        UserError, match="reweighting 'tests.test_rehearsal:NoModule' must be a torch.nn.Module, and makes NoModule"
    ):
        assembly.reweighter(Stage(1, reweighting=Named("tests.test_rehearsal:NoModule")), [4, 2], seed=0)


def test_a_new_head_is_a_pure_function_of_its_seed_and_fits_the_features(model):
    first = assembly.new_head(Named("cosine", {"scale": 10}), model, 10, seed=3)
    torch.manual_seed(99)
    assert equal(assembly.new_head(Named("cosine", {"scale": 10}), model, 10, seed=3), first)
    assert (first.in_features, first.scale) == (64, 10)
    assert not equal(assembly.new_head(Named("cosine"), model, 10, seed=4), first)


def test_a_network_without_a_classifier_of_the_usual_name_is_given_no_other_head():
    with pytest.raises(UserError, match="Sequential cannot be given another head: it has no classifier 'fc'"):
        assembly.new_head(Named("linear"), nn.Sequential(nn.Linear(2, 2)), 2, seed=0)


class Headless(nn.Module):
    """A network that makes its own classifier and takes none, as torchvision's do."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.fc(images.mean(dim=(2, 3)))


def test_a_network_that_takes_no_head_is_given_the_recipes():
    own = Named("tests.test_assembly:Headless")
    assert type(assembly.network(Model(own), 4, seed=0).fc) is nn.Linear
    model = assembly.network(Model(own, head=Named("cosine", {"scale": 30})), 4, seed=0)
    assert (type(model.fc), model.fc.in_features, model.fc.scale) == (CosineHead, 3, 30)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)


class Alone:
    """A sampler that knows of no other process."""

    def __init__(self, labels, batch_size, seed) -> None:
        self.labels, self.batch_size = labels, batch_size


def test_a_sampler_that_knows_of_no_other_process_is_refused_beside_others():
    own, labels = Named("tests.test_assembly:Alone"), [0, 0, 1, 1]
    assert assembly.sampler(own, labels, 4, seed=0).batch_size == 4
    with pytest.raises(UserError, match="takes no rank and world_size, so all 2 processes would train on the same"):
        assembly.sampler(own, labels, 4, seed=0, rank=1, world_size=2)


def test_head_inputs_are_what_the_classifier_reads(model):
    images = torch.rand(4, 3, 8, 8)
    model.eval()
    with assembly.head_inputs(model) as seen, torch.no_grad():
        logits = model(images)
    assert torch.equal(model.fc(seen[0]), logits)
    model(images)
    assert len(seen) == 1  # nothing is left behind that goes on noting


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "ldam"])
def test_a_recipe_does_not_choose_what_the_trainer_makes_of_the_rows(loss):
    with pytest.raises(UserError, match=f"loss {loss!r}: reduction='none' is not a recipe's to choose"):
        assembly.criterion(Stage(1, loss=Named(loss, {"reduction": "none"})), [4, 2], None)


def test_classes_are_not_weighted_twice():
    stage = Stage(1, weighting=Named("effective_number"), reweighting=Named("meta_class_weight"))
    with pytest.raises(UserError, match="'effective_number' would weigh the classes twice; leave it out"):
        assembly.reweighter(stage, [4, 2], seed=0)
    assert assembly.reweighter(Stage(1, reweighting=Named("meta_class_weight")), [4, 2], seed=0).beta == 0.9999


def test_only_the_named_layers_learn_and_the_rest_stands_still(model):
    assembly.set_trainable(model, ["fc", "layer3.0"])
    assembly.train_mode(model, ["fc", "layer3.0"])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(("fc.", "layer3.0."))
    assert model.layer3[0].bn1.training
    assert not model.bn1.training
    assert not model.layer2.training


def test_everything_learns_again_where_no_layer_is_named(model):
    assembly.set_trainable(model, ["fc"])
    assembly.train_mode(model, ["fc"])
    assembly.set_trainable(model, [])
    assembly.train_mode(model, [])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_layer_that_is_not_there_is_named_with_the_closest_one(model):
    with pytest.raises(UserError) as error:
        assembly.set_trainable(model, ["fcc"])
    assert "trainable names 'fcc', which is no layer of CifarResNet; did you mean 'fc'?" in str(error.value)


def test_a_group_with_nothing_to_learn_is_left_out_of_the_optimizer(model):
    groups = [{"params": list(model.parameters()), "lr_scale": 1.0}, {"params": [], "lr_scale": 2.0}]
    optimizer = assembly.optimizer(Optimizer(momentum=0.5), 0.3, groups)
    assert [(group["lr"], group["momentum"], group["lr_scale"]) for group in optimizer.param_groups] == [
        (0.3, 0.5, 1.0)
    ]


def test_image_weights_beside_an_augmenter_are_refused():
    stage = Stage(1, reweighting=Named("l2rw"), augmenter=Augmenter("safa"))
    with pytest.raises(UserError, match="reweighting 'l2rw' weighs single images .* put them into different stages"):
        assembly.reweighter(stage, [3, 2], seed=0)
