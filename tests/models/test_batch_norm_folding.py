"""Folded batch norms: the same outputs and gradients up to rounding, from the same parameters, or no folding."""

import copy

import pytest
import torch
from torch import nn

from catdog.config.variants import parse_variant
from catdog.models import build_model
from catdog.models.batch_norm_folding import FoldedNet
from catdog.models.cpu_layers import StripedDepthwiseConv2d
from catdog.models.petnet import PetNet, build_head
from catdog.training.loop import set_training_mode

BACKBONES = ["tiny", "resnet18", "vgg11_bn", "mobilenet_v2", "densenet121", "timm/tf_efficientnet_lite0"]
"""vgg11_bn has biases before its batch norms; densenet121 has batch norms that follow no convolution."""


def experienced(model: PetNet) -> PetNet:
    """The model with batch norms as after training, and no dropout."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def pretrained(backbone: str) -> PetNet:
    return experienced(build_model("attention", backbone=backbone, num_classes=5))


def around(backbone: nn.Module) -> PetNet:
    return experienced(PetNet(backbone, build_head(parse_variant("baseline"), 4, 3)))


def is_folded(network: FoldedNet) -> bool:
    return network._folding is not None


@pytest.mark.parametrize(("name", "size"), [*((name, 64) for name in BACKBONES), ("timm/tf_efficientnet_lite0", 71)])
def test_outputs_and_gradients_equal_those_of_the_model(name: str, size: int) -> None:
    model = pretrained(name).double()  # in double precision, rounding cannot hide a mistake
    twin = copy.deepcopy(model)
    network, images = FoldedNet(twin), torch.randn(3, 3, size, size, dtype=torch.float64)
    for net in (model, twin):
        set_training_mode(net, freeze_batch_norm=True)
    expected, output = model(images), network(images)
    assert is_folded(network)
    torch.testing.assert_close(output.logits_BK, expected.logits_BK)
    for logits in (expected.logits_BK, output.logits_BK):
        logits.square().sum().backward()
    for (parameter_name, parameter), same in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None
        assert same.grad is not None
        torch.testing.assert_close(same.grad, parameter.grad, msg=parameter_name)
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(images).logits_BK, model.eval()(images).logits_BK)


def test_tensorflow_padding_copies_no_map_and_wide_depthwise_kernels_run_in_strips() -> None:
    network = FoldedNet(pretrained("timm/tf_efficientnet_lite0")).eval()
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 64))
    assert network._folding is not None
    convolutions = [module for module in network._folding.plain.modules() if isinstance(module, nn.Conv2d)]
    assert {type(conv) for conv in convolutions} == {nn.Conv2d, StripedDepthwiseConv2d}
    for conv in convolutions:
        assert isinstance(conv, StripedDepthwiseConv2d) == (conv.kernel_size == (5, 5))


def test_folding_draws_no_random_numbers_which_a_resumed_trial_would_lack() -> None:
    network = FoldedNet(pretrained("timm/tf_efficientnet_lite0")).eval()
    image, before = torch.zeros(1, 3, 64, 64), torch.get_rng_state()
    network(image)
    assert is_folded(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_keeps_its_parameters_and_their_names() -> None:
    model = pretrained("tiny")
    names = list(model.state_dict())
    network = FoldedNet(model)
    set_training_mode(model, freeze_batch_norm=True)
    modes = [module.training for module in model.modules()]
    network(torch.randn(2, 3, 48, 48))
    assert [module.training for module in model.modules()] == modes
    assert list(model.state_dict()) == names
    assert list(network.state_dict()) == [f"model.{name}" for name in names]


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_new_weights_and_statistics_take_effect_at_once(name: str) -> None:
    model = pretrained(name)
    network, images = FoldedNet(model).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = network(images).logits_BK
    model.load_state_dict(pretrained(name).state_dict())
    with torch.inference_mode():
        after = network(images).logits_BK
        torch.testing.assert_close(after, model(images).logits_BK, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before, after, rtol=0.1)


def test_batch_norms_that_learn_are_not_folded() -> None:
    model = pretrained("tiny")
    twin = copy.deepcopy(model)
    network, images = FoldedNet(twin), torch.randn(4, 3, 48, 48)
    for net in (model, twin):
        net.train()
    assert torch.equal(network(images).logits_BK, model(images).logits_BK)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


def test_it_can_be_trained_after_evaluation_came_first() -> None:
    network = FoldedNet(pretrained("resnet18"))
    with torch.inference_mode():
        network.eval()(torch.randn(2, 3, 64, 64))
    set_training_mode(network.model, freeze_batch_norm=True)
    network(torch.randn(2, 3, 64, 64)).logits_BK.sum().backward()
    assert is_folded(network)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_folding_works_with_bfloat16() -> None:
    model = pretrained("resnet18")
    network, images = FoldedNet(model).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits, expected = network(images).logits_BK, model(images).logits_BK
    assert is_folded(network)
    assert (logits - expected).norm() < 0.05 * expected.norm()


class UsedTwice(nn.Module):
    """A convolution whose output is used both by a batch norm and directly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv(images)
        return self.norm(maps) + maps


class CalledTwice(nn.Module):
    """A convolution called twice, only once followed by a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.norm(self.conv(images[:, [0, 1, 2, 0]]))
        return self.conv(maps)


class NamedTwice(nn.Module):
    """A replaceable layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.wide = self.again = nn.Conv2d(4, 4, 5, padding=2, groups=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.again(self.wide(self.norm(self.conv(images))))
        return maps


@pytest.mark.parametrize("backbone", [UsedTwice, CalledTwice, NamedTwice, lambda: nn.Conv2d(3, 4, 3)])
def test_a_backbone_that_cannot_be_folded_runs_unchanged(backbone: type[nn.Module]) -> None:
    model = around(backbone())
    network, images = FoldedNet(model).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(network(images).logits_BK, model(images).logits_BK)
    assert not is_folded(network)
