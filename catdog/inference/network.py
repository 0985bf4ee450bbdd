"""A kept network, built again with its preprocessing, and what it says of photos.

Shapes: B batch, S side of packed images, K classes, M masks, N networks (seeds of one variant).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import nn

from catdog.config.head_registry import known_heads, load_installed_head
from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec
from catdog.data.batches import resize_whole
from catdog.data.images import read_photo
from catdog.errors import NotFoundError, UserError, first_line
from catdog.models.backbones.build import build_backbone, feature_shape
from catdog.models.petnet import PetNet, SecondTask, build_head
from catdog.models.stages import places_of
from catdog.runs.model_card import ModelCard
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.places import HEAD, at_place, by_place
from catdog.storage import Store, sha256
from catdog.trial.grad_cam import grad_cam
from catdog.trial.last_map import last_map

PROBABILITIES = "probabilities"
MASKS = "masks"


class KeptNetwork(nn.Module):
    """A trained network that takes images as they are packed, and gives probabilities and masks."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: ModelCard, network: PetNet) -> None:
        super().__init__()
        self.card = card
        self.network = network.eval().requires_grad_(False)
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1))

    def inputs(self, images_BSSC: torch.Tensor) -> torch.Tensor:
        """Return what the backbone gets: images (B, S, S, 3) in uint8, resized and normalised as in training."""
        images_B3SS = images_BSSC.permute(0, 3, 1, 2).float()
        return (resize_whole(images_B3SS, self.card.image_size) - self.mean) / self.std

    def forward(self, images_BSSC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `probabilities` (B, K), `probabilities@TASK` of a second task, and `masks` (B, M, H, W) if any.

        Masks inside the backbone are `masks@PLACE`, as in a trial's files.
        """
        output = self.network(self.inputs(images_BSSC))
        found = {PROBABILITIES: output.logits_BK.softmax(dim=1)}
        if self.card.second_task is not None:
            side_logits = output.side_logits[self.card.second_task]
            found[f"{PROBABILITIES}@{self.card.second_task}"] = side_logits.softmax(dim=1)
        masks = by_place(output.masks_BMHW, output.stage_masks)
        return found | {at_place(MASKS, place): masks_BMHW for place, masks_BMHW in masks.items()}

    def predict(self, photo: str) -> "Prediction":
        """Return what the network says of a photo, the path of an image file; raises `UserError` if it is none."""
        return predict([self], photo)


@dataclass(frozen=True)
class SecondAnswer:
    """What N networks with a second task say of a photo besides its class."""

    task: str
    names: tuple[str, ...]
    """Of the G groups."""
    probabilities_NG: npt.NDArray[np.float32]

    @property
    def likeliest(self) -> tuple[str, float]:
        """Return the name of the group that is likeliest on average, and its mean probability."""
        mean_G = self.probabilities_NG.mean(axis=0)
        return self.names[int(mean_G.argmax())], float(mean_G.max())


@dataclass(frozen=True)
class Prediction:
    """What N networks say of a photo."""

    photo: str
    """Its path."""
    classes: tuple[str, ...]
    probabilities_NK: npt.NDArray[np.float32]
    maps: Mapping[str, npt.NDArray[np.float32]]
    """Where the first network looks: its masks (M, H, W) by place, or Grad-CAM of a network without masks."""
    second: SecondAnswer | None = None
    """None without a second task."""

    @property
    def mean_K(self) -> npt.NDArray[np.float32]:
        """Return the probabilities averaged over networks."""
        return np.asarray(self.probabilities_NK.mean(axis=0))

    def top(self, count: int = 5) -> list[int]:
        """Return the likeliest classes, by number, the likeliest first."""
        return [int(label) for label in np.argsort(-self.mean_K, kind="stable")[:count]]

    @property
    def agreeing(self) -> int:
        """Return how many of the networks find the class likeliest that is likeliest on average."""
        return int((self.probabilities_NK.argmax(axis=1) == self.top(1)[0]).sum())


@torch.no_grad()
def predict(networks: Sequence[KeptNetwork], photo: str) -> Prediction:
    """Return what networks of one variant say of a photo; raises `UserError` if it cannot be read as an image."""
    first = networks[0]
    pixels = read_photo(photo, first.card.side, first.card.resize).pixels
    images_1SSC = torch.from_numpy(np.array(pixels)).unsqueeze(0)
    outputs = [network(images_1SSC) for network in networks]
    masks = {
        name.partition("@")[2] or HEAD: one[0] for name, one in outputs[0].items() if name.partition("@")[0] == MASKS
    }
    maps = masks or {"Grad-CAM": grad_cam_of(first, images_1SSC)[0]}

    def probabilities(name: str) -> npt.NDArray[np.float32]:
        return np.concatenate([one[name].numpy() for one in outputs])

    task = first.card.second_task
    return Prediction(
        photo,
        first.card.classes,
        probabilities(PROBABILITIES),
        {place: one.float().numpy() for place, one in maps.items()},
        None if task is None else SecondAnswer(task, first.card.groups, probabilities(f"{PROBABILITIES}@{task}")),
    )


def grad_cam_of(network: KeptNetwork, images_BSSC: torch.Tensor) -> torch.Tensor:
    """Return where a network finds the class that it predicts, (B, 1, H, W), from 0 to 1."""
    features_BCHW, head = last_map(network.network, network.inputs(images_BSSC))
    return grad_cam(head, features_BCHW)[0]


def load_network(store: Store, where: TrialPaths, spec: VariantSpec, recipe: Recipe) -> KeptNetwork:
    """Return a trial's kept network, of a variant and of the recipe with the variant's own settings.

    Raises:
        UserError: it was not kept, is damaged or another one, or its head is code that is not here.
    """
    card, tensors = _read(store, where.weights)
    described = card.variant, card.seed, card.backbone, card.image_size, card.backbone_sha256 is not None
    if described != (spec.label, where.seed, recipe.backbone, recipe.image_size, recipe.freeze):
        raise UserError(f"{where.weights}: is not the network of {spec.label}, seed {where.seed}: restore it")
    if card.backbone_sha256 is not None:
        tensors |= _read_backbone(store, RunPaths(where.run).backbone(card.backbone_sha256), card.backbone_sha256)
    network = _build(card, spec, where)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        wrong = " ".join(str(error).split())[:300]
        raise UserError(f"{where.weights}: its weights are not those of {card.variant} ({wrong})") from None
    return KeptNetwork(card, network)


def _read(store: Store, key: str) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    try:
        data = store.get(key)
        tensors = safetensors.torch.load(data)  # checks the header
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return ModelCard.from_metadata(header.get("__metadata__")), tensors
    except NotFoundError:
        raise UserError(
            f"{key}: the network was not kept: run the sweep with --keep-weights best or all (a finished run's trials "
            "do not run again: choose another --run)"
        ) from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{key} cannot be used: {first_line(error)}") from None


def _read_backbone(store: Store, key: str, digest: str) -> dict[str, torch.Tensor]:
    try:
        data = store.get(key)
    except NotFoundError:
        raise UserError(f"{key}: the frozen backbone is missing: restore it; the network needs it") from None
    if sha256(data) != digest:
        raise UserError(f"{key}: is damaged, its sha256 is another: restore it")
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{key} cannot be used: {first_line(error)}") from None
    return tensors


def _build(card: ModelCard, spec: VariantSpec, where: TrialPaths) -> PetNet:
    """Build the network with random weights; raises `UserError` if its head is unknown, or not the same code."""
    if spec.arguments.get("masks") == "swapped":
        raise UserError(
            f"variant {card.variant}: a control, scored with the masks of other images: take it without masks=swapped"
        )
    if spec.name not in known_heads():
        load_installed_head(spec.name)
    known, trained = known_heads().get(spec.name), (card.head, card.head_code, dict(card.arguments))
    if known is None or (known.head, known.code, dict(spec.arguments)) != trained:
        remedy = (
            f" (code {card.head_code}): give the file of heads with --import (from Python: "
            f"load_run(..., imports=[FILE])); the run keeps it in "
            f"{RunPaths(where.run).imports}"
            if card.head_code
            else ": use the version of catdog that trained it, or restore the network's file"
        )
        raise UserError(f"variant {card.variant}: its head {spec.name!r} is not here as it was trained{remedy}")
    backbone = build_backbone(card.backbone, None, card.image_size)
    places = places_of(backbone, card.image_size) if "stages" in spec.arguments else None
    task = None if card.second_task is None else SecondTask(card.second_task, len(card.groups))
    channels = feature_shape(backbone, card.image_size)[0]
    try:
        return PetNet(backbone, build_head(spec, channels, len(card.classes), places, task))
    except Exception as error:  # of many classes: the head's code
        raise UserError(f"variant {card.variant}: its head cannot be built ({first_line(error)})") from None
