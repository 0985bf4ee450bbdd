"""`PetNet`: a backbone and a head; `build_model` builds one from a variant's name."""

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from catdog.config.head_registry import HEAD_CLASSES
from catdog.config.variants import VariantSpec, parse_variant
from catdog.errors import UserError
from catdog.models.backbones.build import build_backbone, feature_shape
from catdog.models.stages import Shape, Staged, choose_places, places_of, take_outputs

BRANCH = "branch"
"""The task of a classifier inside the backbone: the classes."""


class ModelOutput(NamedTuple):
    """Logits, the masks behind them, and the head's auxiliary loss."""

    logits_BK: torch.Tensor
    masks_BMHW: torch.Tensor | None
    """None for heads without spatial masks. Not negative: they are drawn and measured as shares."""
    aux_loss: torch.Tensor
    """Scalar, already weighted."""
    stage_masks: Mapping[str, torch.Tensor] | None = None
    """Masks at other places, (B, M, H, W) each at its own resolution, by the backbone's stage; None if there are none.
    Not negative."""
    side_logits: Mapping[str, torch.Tensor] | None = None
    """Logits of other classifiers, (B, classes) each, by task; None if there are none. Each has a loss of its own."""

    def changed(self, **fields: Any) -> "ModelOutput":
        """Return the same but for these fields: what `_replace` does, which torch.compile of torch 2.11 cannot."""
        return ModelOutput(**{**self._asdict(), **fields})


class SideTask(NamedTuple):
    """What the other logits of a head, `ModelOutput.side_logits`, are to predict. A head has them in `side_tasks`."""

    target: str
    """`class`, or a group column of the dataset."""
    weight: float = 1.0
    """Of its cross-entropy in the training loss."""


class SecondTask(NamedTuple):
    """A group column that a head learns besides the classes, whichever head it is."""

    column: str
    num_groups: int
    weight: float = 1.0


def _split_logits(num_classes: int, column: str, head: nn.Module, inputs: object, output: ModelOutput) -> ModelOutput:
    """Make the last G of a head's K + G logits those of the second task: a hook, so that any head will do."""
    side_logits = {name: logits[:, :num_classes] for name, logits in (output.side_logits or {}).items()}
    side_logits[column] = output.logits_BK[:, num_classes:]
    return output.changed(logits_BK=output.logits_BK[:, :num_classes], side_logits=side_logits)


class PetNet(nn.Module):
    """images (B, 3, S, S) → backbone → features (B, C, H, W) → head → `ModelOutput`.

    A head may have modules `inside` the backbone, by place, and may list places whose maps it `reads`; then it gets all
    of these, and the last one, by place (see `catdog.models.stages`).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        inside: Mapping[str, nn.Module] = getattr(head, "inside", {})
        self._reads: Sequence[str] = getattr(head, "reads", ())
        if isinstance(backbone, Staged) and (inside or self._reads):
            backbone.connect(inside, self._reads[:-1])

    @property
    def side_tasks(self) -> Mapping[str, SideTask]:
        """Return the tasks of the head's other logits, by name."""
        return getattr(self.head, "side_tasks", {})

    def forward(self, images_BCHW: torch.Tensor) -> ModelOutput:
        """Return the head's output for the backbone's features."""
        return self.finish(self.backbone(images_BCHW), self.backbone)

    def finish(self, features: torch.Tensor | Mapping[str, torch.Tensor], ran: nn.Module) -> ModelOutput:
        """Return the output for the features, with what the stages of the backbone that `ran` gave besides.

        `features` are maps by place if they were cached.
        """
        outputs = take_outputs(ran)
        if self._reads and isinstance(features, torch.Tensor):
            features = {place: outputs[place].map_BCHW for place in self._reads[:-1]} | {self._reads[-1]: features}
        output: ModelOutput = self.head(features)
        masks = {place: one.masks_BMHW for place, one in outputs.items() if one.masks_BMHW is not None}
        branch = next((one.logits_BK for one in outputs.values() if one.logits_BK is not None), None)
        if masks:
            output = output.changed(stage_masks=masks)
        if branch is not None:  # built for as many outputs as the head; those of a second task are the head's alone
            own = {BRANCH: branch[:, : output.logits_BK.shape[1]]}
            output = output.changed(side_logits={**own, **(output.side_logits or {})})
        return output


def build_head(
    variant: VariantSpec,
    in_channels: int,
    num_classes: int,
    places: Mapping[str, Shape] | None = None,
    second_task: SecondTask | None = None,
) -> nn.Module:
    """Return a variant's head, with weights drawn from torch's global generator.

    A head whose parameter `stages` is given gets the backbone's `places`, too. With a second task, any head is built
    for K + G classes, and its logits are split.

    Raises:
        UserError: the backbone has no such stages or the head no such places, or it has a task of the second one's name
            itself.
    """
    head_class = HEAD_CLASSES.get(variant.head)
    if head_class is None:
        module_name, class_name = variant.head.split(".")
        head_class = getattr(importlib.import_module(f"catdog.models.heads.{module_name}"), class_name)
    arguments: dict[str, Any] = dict(variant.arguments)
    if "stages" in arguments:
        try:
            arguments["stages"] = choose_places(str(arguments["stages"]), places or {})
        except UserError as error:
            raise UserError(f"variant {variant.label!r}: {error}") from None
        arguments["places"] = places
    outputs = num_classes if second_task is None else num_classes + second_task.num_groups
    head: nn.Module = head_class(in_channels=in_channels, num_classes=outputs, **arguments)
    if places:
        _check_places(variant, head, list(places))
    if second_task is not None:
        _add_task(head, variant, num_classes, second_task)
    return head


def _check_places(variant: VariantSpec, head: nn.Module, places: Sequence[str]) -> None:
    """Raise `UserError` if a head works at, or reads, other places than it can: a mistake in a head of the user's."""
    inside, reads = list(getattr(head, "inside", {})), list(getattr(head, "reads", ()))
    if unknown := [place for place in inside if place not in places[:-1]]:
        raise UserError(
            f"variant {variant.label!r}: has a module inside the backbone at {unknown[0]}, which is "
            "no place before the last: the head itself gets the last place's map"
        )
    if reads and not (set(reads) <= set(places) and len(set(reads)) == len(reads) and reads[-1] == places[-1]):
        raise UserError(
            f"variant {variant.label!r}: reads {', '.join(reads)}: name places, each once, the last one last"
        )


def _add_task(head: nn.Module, variant: VariantSpec, num_classes: int, task: SecondTask) -> None:
    own = getattr(head, "side_tasks", {})
    if task.column in own:
        raise UserError(f"--second-task {task.column}: {variant.label} has a task of this name: rename the column")
    head.side_tasks = {**own, task.column: SideTask(task.column, task.weight)}  # type: ignore[assignment]
    head.register_forward_hook(functools.partial(_split_logits, num_classes, task.column))


def check_frozen(variant: VariantSpec, head: nn.Module) -> None:
    """Raise `UserError` if a head changes the inside of the backbone, whose maps are computed once with `--freeze`."""
    if inside := list(getattr(head, "inside", {})):
        raise UserError(
            f"variant {variant.label!r}: works inside the backbone ({', '.join(inside)}), and --freeze computes its "
            "maps once: take stages=last, or --train-modules-only in place of --freeze"
        )


def build_model(
    variant: str | VariantSpec,
    *,
    backbone: str,
    num_classes: int,
    weights: str | Path | None = None,
    image_size: int | None = None,
    second_task: SecondTask | None = None,
) -> PetNet:
    """Return the network of a variant.

    Args:
        variant: a label such as `multi-attention:num_masks=8`, or a parsed one.
        backbone: a torchvision model's name, `timm/NAME`, or `tiny`.
        num_classes: K.
        weights: `imagenet`, `lite0`, `lite1`, `lite2`, a file, or None (or `none`) for random ones.
        image_size: side length of the images that the network will get, in pixels; None: the backbone's own.
            Transformers take no other.
        second_task: what the head learns besides the classes; that a variant implies one does not say of how many
            groups.

    Raises:
        UserError: for an unknown name, a parameter out of range, or weights or a size that do not fit.
    """
    spec = parse_variant(variant) if isinstance(variant, str) else variant
    body = build_backbone(backbone, weights, image_size)
    size = image_size or body.own_size
    places = places_of(body, size) if "stages" in spec.arguments else None
    return PetNet(body, build_head(spec, feature_shape(body, size)[0], num_classes, places, second_task))


def count_parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
