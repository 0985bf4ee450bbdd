"""timm's models as backbones: maps (B, C, H, W) from convolutional models and from token models alike."""

from typing import Any

import torch
from torch import nn

from catdog.errors import UserError, first_line
from catdog.models.stages import Socket, Staged


class TimmBackbone(Staged):
    """A timm model up to its pooling."""

    def __init__(self, model: nn.Module, own_size: int) -> None:
        super().__init__()
        self.model = model
        self.own_size = own_size
        config: dict[str, Any] = vars(model)["pretrained_cfg"]
        classifiers = config.get("classifier") or ()
        self.dropped = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        """The modules that timm leaves out without classes."""
        self.stage_channels = _stages(model)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the feature maps (B, C, H, W)."""
        features: torch.Tensor = self.model.forward_features(images_BCHW)  # type: ignore[operator]
        if not isinstance(features, torch.Tensor):
            raise UserError("--backbone: gives several outputs, not one feature map: choose another")
        if features.ndim == 4 and features.shape[1] != self.model.num_features:
            features = features.permute(0, 3, 1, 2)  # some timm models return (B, H, W, C)
        return features

    def put(self, stage: str, socket: Socket) -> None:
        """Place a socket behind a stage."""
        self.model.get_submodule(stage).register_forward_hook(socket.hook)


class TokenBackbone(TimmBackbone):
    """A timm model of tokens (ViT, DeiT, DINO, EVA, SigLIP, CaiT, …): its last map of patch tokens.

    The model's final norm is applied if it comes before the pooling. Class and register tokens take part in attention
    but not in the map; layers that serve only the class token or the classifier are removed.
    """

    def __init__(self, model: nn.Module, own_size: int) -> None:
        super().__init__(model, own_size)
        whole = model.state_dict().keys()
        model.prune_intermediate_layers(1)  # type: ignore[operator]
        self.dropped += tuple(sorted(whole - model.state_dict().keys()))
        self.stage_channels = {}  # between them are tokens, not maps
        self._has_norm = type(model).__name__ != "Hiera"  # whose norm follows the pooling

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the feature maps (B, C, H, W)."""
        maps: list[torch.Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            images_BCHW, indices=1, norm=self._has_norm, output_fmt="NCHW", intermediates_only=True
        )
        return maps[-1]


def _stages(model: nn.Module) -> dict[str, int | None]:
    """Return the modules at whose end timm takes maps of a quarter of the image's side or smaller, with channels."""
    info: Any = getattr(model, "feature_info", [])
    levels: list[dict[str, Any]] = info.get_dicts() if hasattr(info, "get_dicts") else info
    modules = {name for name, _ in model.named_modules()}
    return {
        level["module"]: level["num_chs"]
        for level in levels
        if level.get("module") in modules and level.get("reduction", 0) >= 4
    }


def build_timm(name: str, pretrained: bool, image_size: int | None) -> TimmBackbone:
    """Return timm's model `name` as a backbone for square images of `image_size` (None: the model's own).

    Raises:
        UserError: the size does not fit the model, or timm offers no feature map of it.
        AssertionError, OSError, RuntimeError, ValueError: timm cannot build it, or its weights cannot be downloaded.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    own_size: int = config.input_size[-1] if config is not None else 224
    size = image_size or own_size
    # A model of one input size is built for it; timm resamples pretrained positions.
    has_one_size = config is not None and config.fixed_input_size
    arguments = {"img_size": size} if has_one_size and size != own_size else {}
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
        if not has_one_size and not hasattr(model, "num_prefix_tokens"):  # convolutional: not worth a look
            return TimmBackbone(model, own_size)
        _check_patches(model, size)
        gives_tokens = _gives_tokens(model, size)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        if pretrained or not arguments:
            raise
        raise UserError(
            f"--image-size {size}: timm/{name} cannot be built for it ({first_line(error)[:120]}); "
            f"its own size is {own_size}"
        ) from None
    if not gives_tokens:
        return TimmBackbone(model, own_size)
    if not hasattr(model, "prune_intermediate_layers"):
        raise UserError(f"--backbone timm/{name}: gives tokens, of which this timm makes no map: update timm")
    return TokenBackbone(model, own_size)


def _check_patches(model: nn.Module, image_size: int) -> None:
    """Raise `UserError` if the image does not divide into patches: timm would leave out its border."""
    from timm.layers import PatchEmbed

    for module in model.modules():
        if isinstance(module, PatchEmbed) and not module.dynamic_img_pad and image_size % module.patch_size[0]:
            raise UserError(
                f"--image-size {image_size}: the backbone reads patches of {module.patch_size[0]} px: "
                f"use a multiple of {module.patch_size[0]}"
            )


@torch.no_grad()
def _gives_tokens(model: nn.Module, image_size: int) -> bool:
    """Return whether a model's own features of an image are tokens (B, N, C), not a map."""
    training = model.training
    try:
        features = model.eval().forward_features(torch.zeros(1, 3, image_size, image_size))  # type: ignore[operator]
    finally:
        model.train(training)
    return isinstance(features, torch.Tensor) and features.ndim == 3
