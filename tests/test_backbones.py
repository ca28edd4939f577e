"""Networks against the sizes printed in their papers, and what the plug-in and the heads rely on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from safa import backbones
from safa.backbones.cifar import BasicBlock, CifarDenseNet, CifarResNet, CifarResNeXt, SubsampledShortcut
from safa.errors import UserError
from safa.heads import CosineHead

RESNETS = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet56", "resnet110"]
PLACES = dict.fromkeys(RESNETS, (32, 16, 16)) | {"densenet40": (312, 8, 8), "resnext29": (512, 16, 16)}
SMALL = {
    "resnet": partial(CifarResNet, 8),
    "densenet": partial(CifarDenseNet, 10, growth=4, stem=8),
    "resnext": partial(CifarResNeXt, 11, groups=2, group_width=4),
}
every_network = pytest.mark.parametrize("name", PLACES)
every_kind = pytest.mark.parametrize("build", SMALL.values(), ids=SMALL.keys())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_paper(name: str, *args: int, **settings: object) -> nn.Module:
    """The network without memory or arithmetic: enough for counting and for shapes."""
    with torch.device("meta"):
        return getattr(backbones, name)(*args, **settings)


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("resnet20", 0.27, 2),  # He et al. 2016, Table 6
        ("resnet32", 0.46, 2),
        ("resnet56", 0.85, 2),
        ("resnet110", 1.7, 1),
        ("resnext29", 34.4, 1),  # Xie et al. 2017, Table 7
    ],
)
def test_parameter_count_is_the_published_one(name, millions, digits):
    assert round(parameters(on_paper(name)) / 1e6, digits) == millions


def test_densenet40_with_the_papers_stem_has_the_published_count():
    with torch.device("meta"):
        model = CifarDenseNet(40, growth=12, stem=16)
    assert round(parameters(model) / 1e6, 1) == 1.0  # Huang et al. 2017, Table 2


def test_densenet40_follows_rsgs_wider_stem():
    assert parameters(on_paper("densenet40")) == 1_059_298


def test_resnet32_for_10_classes_counted_by_hand():
    # 3x3 convolutions and two numbers per batch-norm channel: stem, 5 blocks of two at each width, fc.
    stem = 3 * 16 * 9 + 2 * 16
    stage1 = 10 * (16 * 16 * 9 + 2 * 16)
    stage2 = 16 * 32 * 9 + 2 * 32 + 9 * (32 * 32 * 9 + 2 * 32)
    stage3 = 32 * 64 * 9 + 2 * 64 + 9 * (64 * 64 * 9 + 2 * 64)
    assert parameters(on_paper("resnet32")) == stem + stage1 + stage2 + stage3 + 64 * 10 + 10 == 464_154


@every_network
def test_the_name_counts_the_layers_with_weights(name):
    model = on_paper(name)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    beside = [m for key, m in model.named_modules() if "shortcut" in key and isinstance(m, nn.Conv2d)]
    assert f"{len(weighted) - len(beside)}" == name.lstrip("abcdefghijklmnopqrstuvwxyz")


# --- what the plug-in and the heads rely on ----------------------------------------------------------------


@every_network
def test_the_place_of_the_plug_in_has_rsgs_shape(name):
    model = on_paper(name)
    seen: list[Tensor] = []
    dict(model.named_children())[model.before].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits = model.eval()(torch.empty(2, 3, 32, 32, device="meta"))
    assert [tuple(features.shape) for features in seen] == [(2, *PLACES[name])]
    assert logits.shape == (2, 10)


@every_network
def test_number_of_classes_and_head_can_be_chosen(name):
    model = on_paper(name, 100, head=partial(CosineHead, scale=16.0))
    assert isinstance(model.fc, CosineHead)
    assert model.fc.scale == 16.0
    assert tuple(model.fc.weight.shape) == (100, model.in_features)


@every_kind
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_any_image_size_from_8_pixels_on(build, size):
    assert build(5)(torch.randn(2, 3, size, size)).shape == (2, 5)


@every_kind
def test_rows_may_be_added_before_the_named_stage(build):
    model = build(5).eval()
    stage = model.get_submodule(model.before)
    handle = stage.register_forward_pre_hook(lambda _, args: torch.cat((args[0], args[0][:1])))
    images = torch.randn(3, 3, 16, 16)
    longer = model(images)
    handle.remove()
    torch.testing.assert_close(longer, torch.cat((model(images), model(images[:1]))))


@every_kind
def test_the_stage_does_not_write_on_its_input(build):
    model = build(5)
    seen: list[tuple[Tensor, Tensor]] = []
    stage = model.get_submodule(model.before)
    stage.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[0].detach().clone())))
    model(torch.randn(3, 3, 16, 16))
    ((features, before),) = seen
    assert torch.equal(features, before)


def test_features_before_layer3_of_a_resnet_are_not_negative_and_those_of_a_densenet_are():
    for build, negative in ((SMALL["resnet"], False), (SMALL["resnext"], False), (SMALL["densenet"], True)):
        model = build(5)
        seen: list[Tensor] = []
        model.get_submodule(model.before).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model(torch.randn(3, 3, 16, 16))
        assert bool((seen[0] < 0).any()) is negative


@every_kind
def test_gradients_reach_every_parameter(build):
    model = build(5)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@every_kind
def test_channels_last_changes_nothing(build):
    model = build(5).double()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = model(images)
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)), expected
    )


# --- the parts ---------------------------------------------------------------------------------------------


def test_option_a_shortcut_matches_the_loop():
    features = torch.randn(2, 4, 5, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for n in range(2):
        for c in range(4):
            for i in range(3):
                for j in range(3):
                    expected[n, c + 2, i, j] = features[n, c, 2 * i, 2 * j]
    assert torch.equal(SubsampledShortcut(added_channels=4)(features), expected)


def test_a_block_whose_last_batch_norm_is_zero_is_its_shortcut():
    for block, shortcut in ((BasicBlock(4, 4), nn.Identity()), (BasicBlock(4, 8, 2), SubsampledShortcut(4))):
        nn.init.zeros_(block.bn2.weight)
        features = torch.rand(2, 4, 8, 8)
        torch.testing.assert_close(block(features), shortcut(features))


def test_dense_layers_keep_what_they_were_given():
    model = CifarDenseNet(10, growth=4, stem=8)
    features = torch.randn(2, 8, 8, 8)
    out = model.dense1(features)
    assert out.shape == (2, 16, 8, 8)
    assert torch.equal(out[:, :8], features)


# --- the start ---------------------------------------------------------------------------------------------


def test_resnets_start_with_he_normal_weights_by_fan_in():
    torch.manual_seed(0)
    model = backbones.resnet32(100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)


def test_resnexts_start_with_he_normal_weights_by_fan_out():
    torch.manual_seed(0)
    model = CifarResNeXt(11, 10, groups=2, group_width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert torch.count_nonzero(model.fc.bias) == 0


@every_kind
def test_a_cosine_head_keeps_its_own_start(build):
    model = build(7, head=CosineHead)
    torch.testing.assert_close(model.fc.weight.detach().norm(dim=1), torch.ones(7))


@every_kind
def test_the_seed_fixes_the_start(build):
    starts = []
    for _ in range(2):
        torch.manual_seed(0)
        starts.append(build(7).state_dict())
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: CifarResNet(33), r"depth 6 m \+ 2, got 33; try 20, 32"),
        (lambda: CifarResNet(2), "got 2"),
        (lambda: CifarDenseNet(41), r"depth 3 m \+ 4, got 41"),
        (lambda: CifarDenseNet(40, growth=0), "got 0 and 24"),
        (lambda: CifarResNeXt(30), r"depth 9 m \+ 2, got 30"),
        (lambda: CifarResNeXt(29, groups=0), "got 0 and 64"),
        (lambda: backbones.resnet8(0), "num_classes must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
