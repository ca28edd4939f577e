"""A rehearsal finds what would stop a later stage, and says what to do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from safa.errors import UserError
from safa.losses import CrossEntropyLoss
from safa.parts import Parts
from safa.recipe import Augmenter, Model, Named, Optimizer, Stage
from safa.rehearsal import rehearse
from safa.types import Augmented
from tests.conftest import RESNET8

SAFA = Augmenter("safa")
LINEAR = Model(Named("resnet8"))
CLASSIFIER = Stage(1, head=Named("linear"), trainable=("fc",))


class NoModule:
    active, learns_while_idle = True, False

    def __init__(self, channels: int = 0) -> None: ...


def weights_in_a_list(class_counts):
    return [1.0] * len(class_counts)


def weights_of_two(class_counts):
    return torch.ones(2)


def refused(parts: Parts) -> str:
    with pytest.raises(UserError) as error:
        rehearse(parts)
    return str(error.value)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (Stage(1, loss=Named("ldma")), "no loss is called 'ldma'; did you mean 'ldam'?"),
        (Stage(1, loss=Named("ldam", {"margin": 1})), "loss 'ldam' has no option 'margin'"),
        (Stage(1, sampler=Named("pair")), "no sampler is called 'pair'; did you mean 'pairs'?"),
        (Stage(1, weighting=Named("effective_number", {"beta": 2})), "beta"),
        (Stage(1, augmenter=Augmenter("saffa")), "no augmenter is called 'saffa'; did you mean 'safa'?"),
        (Stage(1, augmenter=Augmenter("safa", before="layer9")), "no module named 'layer9' in"),
        (Stage(1, augmenter=Augmenter("safa", before="layer2.0.conv1")), "not every path crosses it exactly once"),
        (
            Stage(1, augmenter=Augmenter("safa", options={"start": "zero"})),
            "start must be one of identity, random, got 'zero'",
        ),
        (Stage(1, augmenter=Augmenter("tests.test_rehearsal:NoModule")), "must be a torch.nn.Module"),
        (
            Stage(1, loss=Named("tests.test_rehearsal:NoModule")),
            "loss 'tests.test_rehearsal:NoModule' must be a torch.nn.Module, and makes NoModule; derive the class from",
        ),
        (
            Stage(1, head=Named("tests.test_rehearsal:NoModule")),
            "head 'tests.test_rehearsal:NoModule' must be a torch.nn.Module, and makes NoModule",
        ),
        (
            Stage(1, weighting=Named("tests.test_rehearsal:weights_in_a_list")),
            "weights_in_a_list' must give one number per class, a tensor of shape (10,); it gives list",
        ),
        (
            Stage(1, weighting=Named("tests.test_rehearsal:weights_of_two")),
            "a tensor of shape (10,); it gives shape (2,)",
        ),
        (Stage(1, augmenter=Augmenter("safa", before="fc")), "SAFA was built for layout 'map'"),
        (Stage(1, augmenter=Augmenter("cutmix", before="fc")), "CutMix cuts maps (b, c, h, w) but"),
        (
            Stage(0, head=Named("tau_normalised", {"tau": 0.5})),
            "CosineHead is none; give the stage before head: linear",
        ),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_is_trained(last, message, parts_of):
    assert message in refused(parts_of(Stage(1), last))


def test_a_batch_that_does_not_divide_over_the_processes_is_found_before_training(tiny_data, tiny_recipe):
    three = SimpleNamespace(device=torch.device("cpu"), num_processes=3, process_index=0)
    assert "cannot be split over 3 processes" in refused(Parts(tiny_recipe, tiny_data, three))


def test_a_head_that_cannot_follow_another_is_found_before_the_first_stage_is_trained(parts_of):
    message = refused(parts_of(Stage(1), Stage(0, head=Named("scaled")), Stage(0, head=Named("adjusted"))))
    assert "a linear or cosine head can be taken over, not ScaledHead" in message


def test_trying_what_the_stages_name_leaves_the_generators_as_they_are(parts_of):
    stages = Stage(1, augmenter=SAFA), Stage(1, augmenter=Augmenter("mixup")), Stage(0, head=Named("nearest_mean"))
    parts = parts_of(*stages)
    before = torch.get_rng_state()
    rehearse(parts)
    assert torch.equal(torch.get_rng_state(), before)


class Nameless(nn.Module):
    """A backbone that calls its classifier otherwise."""

    before = "body"

    def __init__(self, num_classes: int, head) -> None:
        super().__init__()
        self.body, self.classifier = nn.Flatten(), head(3 * 8 * 8, num_classes)

    def forward(self, images):
        return self.classifier(self.body(images))


def test_a_network_whose_classifier_has_another_name_is_refused(parts_of):
    message = refused(parts_of(Stage(1), model=Model(Named("tests.test_rehearsal:Nameless"))))
    assert message.startswith("Nameless has no classifier 'fc'; call its last layer so")


class Picky(nn.Module):
    """A backbone of vectors of a fixed length, with batch norm of one value per image, that may name no class."""

    def __init__(self, num_classes: int, head, length: int = 192, silent: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(length, 6), nn.BatchNorm1d(6))
        self.fc = nn.Identity() if silent else head(6, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (Stage(1), {"length": 12}, "Picky cannot take images of 8 x 8 pixels: RuntimeError: mat1 and mat2"),
        (Stage(1), {"silent": True}, "Picky must give one logit per image and class, shape (2, 10) for two images; it"),
        (Stage(1, loss=Named("torch.nn:MSELoss")), {}, "loss 'torch.nn:MSELoss' cannot be computed from logits and"),
        (Stage(1, loss=Named("torch.nn:Identity")), {}, "loss 'torch.nn:Identity' cannot be computed from logits"),
        (
            Stage(1, loss=Named("tests.test_rehearsal:Single")),
            {},
            "must give a tensor of shape (); it gives shape (2,)",
        ),
        (Stage(1, augmenter=Augmenter("torch.nn:ReLU", before="body")), {}, "ReLU is no augmenter: it has no active"),
    ],
)
def test_what_does_not_fit_the_network_is_found_before_training(stage, options, message, parts_of):
    assert message in refused(parts_of(stage, model=Model(Named("tests.test_rehearsal:Picky", options))))


class Plain(nn.Module):
    """A backbone that takes no head, with a classifier of its own."""

    def __init__(self, num_classes: int, bias: bool = True, broken: bool = False) -> None:
        super().__init__()
        if broken:
            raise RuntimeError("size mismatch for fc.weight")
        self.body, self.fc = nn.Flatten(), nn.Linear(192, num_classes, bias=bias)

    def forward(self, images):
        return self.fc(self.body(images))


def test_a_linear_head_that_a_restored_network_would_lack_is_refused(parts_of):
    """By its recipe the network has a linear head with it and without it, and here these are two."""
    plain, other = (Model(Named("tests.test_rehearsal:Plain", {"bias": bias})) for bias in (True, False))
    rehearse(parts_of(Stage(1), CLASSIFIER, model=plain))
    rehearse(parts_of(Stage(1), CLASSIFIER, model=replace(plain, head=Named("cosine"))))
    rehearse(parts_of(Stage(1), replace(CLASSIFIER, head=Named("torch.nn:Linear")), model=other))
    message = refused(parts_of(Stage(1), CLASSIFIER, model=other))
    assert message.startswith(
        "a head 'linear' of a stage cannot be told from the classifier of backbone 'tests.test_re"
    )


def test_a_constructor_of_ones_own_that_fails_is_named(parts_of):
    broken = Model(Named("tests.test_rehearsal:Plain", {"broken": True}))
    message = refused(parts_of(Stage(1), model=broken))
    assert message == (
        "backbone 'tests.test_rehearsal:Plain' cannot be made: RuntimeError: size mismatch for fc.weight"
    )


class Counting(CrossEntropyLoss):
    """Counts its calls, or learns."""

    def __init__(self, weight=None, learns: bool = False) -> None:
        super().__init__(weight=weight)
        self.register_buffer("prior", torch.ones(10))
        self.register_buffer("calls", torch.zeros(()))
        if learns:
            self.centres = nn.Parameter(torch.zeros(10))

    def forward(self, logits, labels):
        self.calls += 1
        return super().forward(logits, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "changes its 'calls' when it is called, which is neither saved nor known to a run that is resumed"),
        ({"learns": True}, "has parameters, which nothing trains or saves; put what learns into the network"),
    ],
)
def test_a_loss_that_remembers_is_refused(options, message, parts_of):
    loss = Named("tests.test_rehearsal:Counting", options)
    assert message in refused(parts_of(Stage(1), Stage(1, loss=loss)))


def test_margins_of_cosines_are_refused_on_a_linear_head(parts_of):
    for stages in ((Stage(1, loss=Named("ldam")),), (Stage(1), replace(CLASSIFIER, loss=Named("ldam", {"scale": 16})))):
        message = refused(parts_of(*stages, model=LINEAR))
        scale = stages[-1].loss.options.get("scale", 30)
        assert f"takes its margins off cosines times {scale}, and the head is a linear one" in message
        assert f"set model.head to {{name: cosine, scale: {scale}}}" in message


class Odd(nn.Module):
    """An augmenter of one's own that gives rows back as no plug-in takes them, where there are rows of two classes."""

    active, learns_while_idle = True, False

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, features, labels):
        if self.way == "fails" and len(labels.unique()) > 1:
            raise ValueError("no room for two classes")
        if self.way == "tuple":
            return features, labels
        return Augmented(torch.cat([features, features]), labels, features.new_zeros(()))


@pytest.mark.parametrize(
    ("way", "message"),
    [("fails", "ValueError: no room for two classes"), ("tuple", "Augmented"), ("short", "labels")],
)
def test_what_an_augmenter_of_ones_own_gives_back_is_looked_at_before_training(way, message, parts_of):
    odd = Augmenter("tests.test_rehearsal:Odd", before="layer2", options={"way": way})
    assert message in refused(parts_of(Stage(1), Stage(1, augmenter=odd)))


class Twisted:
    """A sampler of one's own that gives no lists of indices."""

    def __init__(self, labels, first: list) -> None:
        self.first = [first]

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        return iter(self.first)


class Endless(Twisted):
    """A sampler of one's own that does not say how many batches an epoch has."""

    __len__ = None


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Named("torch.utils.data:SequentialSampler", {"data_source": [1, 2]}), "gives no batch: AttributeError"),
        (Named("tests.test_rehearsal:Twisted", {"first": [0, 98]}), "of the 98 training images; it gives [0, 98]"),
        (Named("tests.test_rehearsal:Twisted", {"first": 3}), "of the 98 training images; it gives 3"),
        (Named("tests.test_rehearsal:Twisted", {"first": [0.5]}), "of the 98 training images; it gives [0.5]"),
        (Named("tests.test_rehearsal:Endless", {"first": [0]}), "gives no batch: TypeError: "),
        (Named("tests.test_rehearsal:Twisted", {"first": []}), "of the 98 training images; it gives []"),
    ],
)
def test_a_sampler_of_ones_own_is_asked_for_a_batch_before_training(sampler, message, parts_of):
    assert message in refused(parts_of(Stage(1), Stage(1, sampler=sampler)))


class Ids(CrossEntropyLoss):
    """Knows class ids alone."""

    def forward(self, logits, labels):
        return nn.functional.nll_loss(logits.log_softmax(1), labels)


def test_a_loss_that_does_not_know_soft_labels_is_found_where_images_are_mixed(parts_of):
    loss = Named("tests.test_rehearsal:Ids")
    rehearse(parts_of(Stage(1, loss=loss, augmenter=SAFA)))
    message = refused(parts_of(Stage(1), Stage(1, loss=loss, augmenter=Augmenter("mixup"))))
    assert message.startswith("loss 'tests.test_rehearsal:Ids' cannot be computed from logits and soft labels: ")


class Single(CrossEntropyLoss):
    """The losses of single images, which nobody asked for."""

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")


def test_a_single_image_at_the_end_of_an_epoch_is_found_where_the_network_cannot_train_on_one(parts_of):
    picky = Model(Named("tests.test_rehearsal:Picky"))
    message = refused(parts_of(Stage(1), model=picky, batch_size=97))  # of 98 images
    assert message.startswith("batches of 97 leave one image at the end; try another batch_size, or drop_last of the")
    for options in {"sampler": Named("instance", {"drop_last": True})}, {}:
        model = picky if options else RESNET8
        rehearse(parts_of(Stage(1, **options), model=model, batch_size=97))


@pytest.mark.parametrize("last", [Stage(0, head=Named("nearest_mean")), CLASSIFIER], ids=["no epoch", "still"])
def test_a_single_image_at_the_end_is_no_matter_where_batch_norm_does_not_learn_from_it(last, parts_of):
    whole = Stage(1, sampler=Named("instance", {"drop_last": True}))
    rehearse(parts_of(whole, last, model=Model(Named("tests.test_rehearsal:Picky")), batch_size=97))


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (Named("rand_augment", {"magnitud": 9}), "augmentation 'rand_augment' has no option 'magnitud'"),
        (Named("crop_flip", {"padding": -1}), "padding is a number of whole pixels"),
        (Named("cutout", {}), "no augmentation is called 'cutout'"),
    ],
)
def test_a_mistake_in_the_augmentation_is_found_before_training(augmentation, message, parts_of, tiny_data):
    data = replace(tiny_data, spec=replace(tiny_data.spec, augmentation=augmentation))
    assert message in refused(parts_of(Stage(1), data=data))


class Scaling:
    """An augmentation that gives what networks take, not what it is given."""

    def __init__(self, first: bool = False) -> None:
        self.first = first

    def __call__(self, images, generator):
        return images.permute(0, 3, 1, 2) if self.first else images.float() / 255


@pytest.mark.parametrize(
    ("options", "got"),
    [({}, "(2, 8, 8, 3) of torch.float32"), ({"first": True}, "(2, 3, 8, 8) of torch.uint8")],
    ids=["floats", "channels first"],
)
def test_an_augmentation_of_ones_own_that_gives_other_images_is_found_before_training(
    options, got, parts_of, tiny_data
):
    own = Named("tests.test_rehearsal:Scaling", options)
    data = replace(tiny_data, spec=replace(tiny_data.spec, augmentation=own))
    assert refused(parts_of(Stage(1), data=data)) == (
        "augmentation 'tests.test_rehearsal:Scaling' must give images as it is given them, shape (2, 8, 8, 3) of "
        f"torch.uint8; it gives {got}"
    )


def test_a_loss_and_a_head_of_different_scale_are_refused(parts_of):
    message = refused(parts_of(Stage(1, loss=Named("ldam", {"scale": 20}))))
    assert message == "loss 'ldam' has scale 20 but the cosine head has 30; make them equal"


def test_stages_that_all_train_for_no_epoch_are_refused(parts_of):
    assert "the stages train for 0 epochs together" in refused(parts_of(Stage(0), Stage(0, head=Named("nearest_mean"))))


def test_a_stage_that_neither_trains_nor_names_a_head_is_refused(parts_of):
    idle = Stage(0, optimizer=Optimizer(momentum=0.1))
    assert "stage 1 trains for 0 epochs and names no head; name one or" in refused(parts_of(Stage(1), idle, Stage(1)))


def test_pairs_in_an_odd_batch_are_refused(parts_of):
    assert "batch_size of PairSampler must be a positive multiple of 2, got 15" in refused(
        parts_of(Stage(1, sampler=Named("pairs")), batch_size=15)
    )


def test_a_strength_to_be_chosen_without_validation_images_is_found_before_training(parts_of):
    message = refused(parts_of(Stage(1), Stage(0, head=Named("tau_normalised")), model=LINEAR))
    assert "head 'tau_normalised' chooses a setting on validation images and there are none" in message


@pytest.mark.parametrize(
    ("stages", "model", "message"),
    [
        ([Stage(1)], Model(Named("resnet8"), Named("nearest_mean")), "starts from a head learnt before it"),
        (
            [Stage(1), replace(CLASSIFIER, head=Named("adjusted"))],
            LINEAR,
            "nothing learns in stage 1: fc has no parameter",
        ),
        ([Stage(1), replace(CLASSIFIER, trainable=("fcc",))], LINEAR, "did you mean 'fc'?"),
    ],
)
def test_a_head_out_of_place_is_found_before_training(stages, model, message, parts_of):
    assert message in refused(parts_of(*stages, model=model))


def test_image_weights_in_half_precision_are_refused_with_a_way_out(parts_of, meta_data):
    parts = parts_of(Stage(1, reweighting=Named("l2rw")), data=meta_data, model=LINEAR)
    rehearse(parts)
    parts.recipe = replace(parts.recipe, precision="fp16")
    assert refused(parts) == "image weights cannot be learnt in fp16; set precision to bf16 or float32"


def test_image_weights_without_a_meta_set_are_refused_with_a_way_out(parts_of):
    message = refused(parts_of(Stage(1), Stage(1, reweighting=Named("l2rw"))))
    assert "reweighting 'l2rw' steers by a balanced meta set; set data.meta_per_class" in message
