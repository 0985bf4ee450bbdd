"""Folds batch norms with fixed statistics into the convolutions before them.

A convolution with weights w, followed by a batch norm with fixed statistics (mean μ, deviation σ, scale γ, shift β),
equals one convolution with weights w·γ/σ and biases β − μ·γ/σ. Computed that way from the same parameters, gradients
differ only by rounding, and a CPU saves a pass over every feature map in each direction. Inference engines do the same
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 3.2).

A copy of the backbone runs on the folded weights, so its layers can be replaced by faster equivalents: those of
`cpu_layers.py`, and convolutions that pad like TensorFlow without copying the map.

Without all this, a step of lite0 at 128 px takes 1.4 times as long (`python benchmarks/alternatives.py folding`).
"""

import copy
import functools
import itertools
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn

from catdog.models.cpu_layers import InPlaceReLU6, StripedDepthwiseConv2d
from catdog.models.petnet import ModelOutput, PetNet
from catdog.models.stages import sockets_in

_TOLERANCE = 1e-4


class FoldedNet(nn.Module):
    """`model` with the same parameters, folded while its batch norms are in evaluation mode.

    The first image shows which batch norm follows which convolution, and whether folding reproduces the features; a
    backbone that cannot be folded runs unchanged.
    """

    def __init__(self, model: PetNet) -> None:
        super().__init__()
        self.model = model
        self._folding: _Folding | None = None
        self._looked = False

    def forward(self, images_BCHW: torch.Tensor) -> ModelOutput:
        """Return the model's output, computed folded where possible."""
        if not self._looked:
            self._folding = _find_folding(self.model.backbone, images_BCHW[:1])
            self._looked = True
        if self._folding is None or self._folding.norms_learn:
            output: ModelOutput = self.model(images_BCHW)
        else:
            output = self.model.finish(self._folding(images_BCHW), self._folding.plain)
        return output


class _Pair(NamedTuple):
    """A batch norm and the convolution before it, with their names in the backbone."""

    norm_name: str
    norm: nn.BatchNorm2d
    conv_name: str
    conv: nn.Conv2d


class _Folding:
    """A copy of a backbone without its batch norms, run on the original's folded weights.

    `turned`: images and kernels are rotated by 180°. Where TensorFlow halves an even side, it pads only the end, which
    timm reproduces by copying the map; rotated, PyTorch's own padding does the same.
    """

    def __init__(self, backbone: nn.Module, pairs: list[_Pair], turned: bool) -> None:
        self._backbone = backbone
        self._pairs = pairs
        self._turned = turned
        self.plain = copy.deepcopy(backbone)
        """The copy."""
        for pair in pairs:
            self.plain.get_submodule(pair.conv_name).bias = nn.Parameter(torch.zeros(pair.conv.out_channels))
            self.plain.set_submodule(pair.norm_name, _rest_of_norm(self.plain.get_submodule(pair.norm_name)))
        for name, module in list(self.plain.named_modules()):
            faster = _faster_layer(module, turned)
            if faster is not module:
                self.plain.set_submodule(name, faster)
        modules = dict(self.plain.named_modules())
        self._twins = [(module, modules[name]) for name, module in backbone.named_modules() if name in modules]
        self._folded = {f"{pair.norm_name}.{name}" for pair in pairs for name in pair.norm.state_dict()}
        self._kernels = {
            f"{name}.weight"
            for name, module in backbone.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
        }

    def use_modules(self) -> None:
        """Put the modules between the backbone's stages, which are the head's, into the copy."""
        for own, copied in zip(sockets_in(self._backbone), sockets_in(self.plain), strict=True):
            copied.refer_to(own)

    @property
    def norms_learn(self) -> bool:
        """Whether any batch norm takes its statistics from the batch."""
        return any(module.training for module in self._backbone.modules() if isinstance(module, nn.BatchNorm2d))

    @property
    def is_whole(self) -> bool:
        """Whether the backbone supplies every tensor of the copy (not if it uses a module twice)."""
        names = (name for name, _ in itertools.chain(self.plain.named_parameters(), self.plain.named_buffers()))
        return self._tensors().keys() >= set(names)

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        for module, twin in self._twins:
            twin.training = module.training
        if self._turned:
            images_BCHW = images_BCHW.flip(2, 3)
        features: torch.Tensor = torch.func.functional_call(self.plain, self._tensors(), (images_BCHW,))
        return features.flip(2, 3) if self._turned else features

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that the copy runs on: the backbone's, folded, and rotated if `turned`."""
        own = itertools.chain(self._backbone.named_parameters(), self._backbone.named_buffers())
        tensors: dict[str, torch.Tensor] = {name: tensor for name, tensor in own if name not in self._folded}
        for _, norm, conv_name, conv in self._pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift_C = norm.bias - norm.running_mean * scale_C
            tensors[f"{conv_name}.weight"] = conv.weight * scale_C.view(-1, 1, 1, 1)
            tensors[f"{conv_name}.bias"] = shift_C if conv.bias is None else shift_C + conv.bias * scale_C
        if self._turned:
            tensors |= {name: tensors[name].flip(2, 3) for name in self._kernels}
        return tensors


def _pads_behind(module: nn.Module) -> bool:
    """Return whether a convolution is timm's TensorFlow-style one, without importing timm for other backbones."""
    return type(module).__name__ == "Conv2dSame" and module.dilation == (1, 1)


def _faster_layer(module: nn.Module, turned: bool) -> nn.Module:
    """Return a faster equivalent of `module`, rotated if `turned`; or `module` itself."""
    if turned and isinstance(module, nn.Conv2d) and _pads_behind(module):
        # Pads both ends by the larger of the two paddings; the convolution never reaches the excess.
        module = _convert_conv(module, nn.Conv2d, (module.kernel_size[0] // 2, module.kernel_size[1] // 2))
    if isinstance(module, nn.Conv2d) and StripedDepthwiseConv2d.gains(module):
        return _convert_conv(module, StripedDepthwiseConv2d, module.padding)
    if isinstance(module, nn.ReLU6) and module.inplace:
        return InPlaceReLU6()
    return module


def _convert_conv(conv: nn.Conv2d, kind: type[nn.Conv2d], padding: Any) -> nn.Conv2d:
    (height, width), (down, along) = conv.kernel_size, conv.stride
    channels, bias = (conv.in_channels, conv.out_channels), conv.bias is not None
    # Without weights of its own, which it never uses and which would be drawn from the generator of dropout.
    return kind(*channels, (height, width), (down, along), padding, groups=conv.groups, bias=bias, device="meta")


def _rest_of_norm(norm: nn.Module) -> nn.Module:
    """Return what else a batch norm does: timm's include the dropout and activation after it."""
    return nn.Sequential(OrderedDict((name, child) for name, child in norm.named_children() if name in ("drop", "act")))


@torch.inference_mode(False)
@torch.no_grad()
def _find_folding(backbone: nn.Module, image_1CHW: torch.Tensor) -> _Folding | None:
    """Return a folding that reproduces the backbone's features of this image, if there is one.

    Modules between the stages are left out meanwhile. With them, maps are not turned: the modules are not.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    sockets = sockets_in(backbone)
    for socket in sockets:
        socket.is_active = False
    try:
        with torch.autocast(image_1CHW.device.type, enabled=False):
            image = image_1CHW.clone()
            pairs, features = _find_pairs(backbone, image)
            tolerance = _TOLERANCE * features.abs().max().item()
            ways = (True, False) if any(map(_pads_behind, modes)) and not sockets else (False,)
            for turned in ways if pairs else ():
                folding = _Folding(backbone, pairs, turned)
                if folding.is_whole and torch.allclose(folding(image), features, rtol=_TOLERANCE, atol=tolerance):
                    folding.use_modules()
                    return folding
            return None
    finally:
        for module, mode in modes.items():
            module.training = mode
        for socket in sockets:
            socket.is_active = True


def _find_pairs(backbone: nn.Module, image_1CHW: torch.Tensor) -> tuple[list[_Pair], torch.Tensor]:
    """Return each batch norm directly after a convolution, with that convolution; and the features."""
    given: list[tuple[str, nn.Conv2d, torch.Tensor]] = []
    pairs: list[_Pair] = []
    calls: Counter[str] = Counter()

    def note_output(name: str, conv: nn.Conv2d, output: torch.Tensor) -> None:
        calls[name] += 1
        given.append((name, conv, output))

    def note_input(name: str, norm: nn.BatchNorm2d, tensor: torch.Tensor) -> None:
        calls[name] += 1
        pairs.extend(_Pair(name, norm, conv_name, conv) for conv_name, conv, output in given if output is tensor)

    hooks = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            hook = functools.partial(note_output, name)
            hooks.append(module.register_forward_hook(lambda conv, _, output, hook=hook: hook(conv, output)))
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            hook = functools.partial(note_input, name)
            hooks.append(module.register_forward_pre_hook(lambda norm, inputs, hook=hook: hook(norm, inputs[0])))
    try:
        features: torch.Tensor = backbone(image_1CHW)
    finally:
        for handle in hooks:
            handle.remove()
    return [pair for pair in pairs if calls[pair.norm_name] == calls[pair.conv_name] == 1], features
