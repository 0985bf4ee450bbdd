"""Keeps a trial's trained network, with what is needed to build it again: see `catdog.runs.model_card`."""

import functools
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import nn

from catdog.config.head_registry import known_heads
from catdog.models.backbones.build import normalisation
from catdog.runs.model_card import ModelCard
from catdog.runs.paths import RunPaths
from catdog.storage import BackgroundUploads, StoreLocation, sha256
from catdog.trial.setup import Trial

MOST_BYTES = 100_000_000
"""Of the weights of a network that is kept unasked."""
BACKBONE = "backbone."
"""What the names of a backbone's tensors begin with, as in a `PetNet`."""


def queue_network(trial: Trial, uploads: BackgroundUploads) -> None:
    """Queue the network as it is, with the chosen epoch's weights, unless it is not to be kept."""
    model, keep = trial.state.model, trial.context.keep_weights
    frozen = trial.inputs.backbone if trial.recipe.freeze else None
    parts = (model, frozen) if frozen is not None else (model,)
    size = sum(one.nbytes for part in parts for one in (*part.parameters(), *part.buffers()))
    is_plain = all(isinstance(one, torch.Tensor) for one in model.state_dict().values())  # a head may keep other state
    if keep == "none" or (keep == "auto" and (size > MOST_BYTES or not is_plain)):
        return
    digest = None if frozen is None else _stored_backbone(frozen, trial.context.location, trial.context.run)
    save = functools.partial(safetensors.torch.save, _tensors(model), card_of(trial, digest).to_metadata())
    uploads.put(trial.where.weights, save)


def card_of(trial: Trial, backbone_sha256: str | None) -> ModelCard:
    """Return the description of a trial's network."""
    recipe, pack, groups = trial.recipe, trial.inputs.pack, trial.batches.groups
    normalise, variant = normalisation(recipe.backbone, recipe.weights), trial.variant
    return ModelCard(
        variant=variant.label,
        seed=trial.seed,
        epoch=trial.state.best.epoch,
        head=variant.head,
        arguments=variant.arguments,
        head_code=known_heads()[variant.name].code,
        backbone=recipe.backbone,
        image_size=recipe.image_size,
        mean=normalise.mean,
        std=normalise.std,
        side=pack.images_NSSC.shape[1],
        resize=pack.resize,
        classes=pack.classes,
        second_task=None if groups is None else groups.column,
        groups=() if groups is None else groups.names,
        backbone_sha256=backbone_sha256,
    )


@functools.lru_cache(maxsize=1)
def _stored_backbone(backbone: nn.Module, location: StoreLocation, run: str) -> str:
    """Store a frozen backbone, once per process, and return the sha256 of its file."""
    data = safetensors.torch.save(_tensors(backbone, BACKBONE))
    digest, store = sha256(data), location.open()
    if not store.exists(key := RunPaths(run).backbone(digest)):
        store.put(key, data)
    return digest


def _tensors(module: nn.Module, prefix: str = "") -> Mapping[str, torch.Tensor]:
    """Return copies of a module's tensors: safetensors refuses those that share memory, as tied weights do."""
    return {
        f"{prefix}{name}": one.to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, one in module.state_dict().items()
    }
