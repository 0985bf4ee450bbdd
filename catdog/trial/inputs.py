"""What the trials of one process share: the opened data, and the backbones of a few combinations of settings."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec
from catdog.data.batches import Batches, FeatureBatches, ImageBatches
from catdog.data.datasets.base import Groups, IntArray, features_key, pack_key
from catdog.data.features import Features, features_digest, open_features, write_features
from catdog.data.groups import read_groups
from catdog.data.pack import Pack, open_pack
from catdog.data.prepare import check_split
from catdog.data.split import Split, SplitName, split_images
from catdog.formatting import ReportProgress
from catdog.models.backbones.build import backbone_places, build_backbone, feature_shape, normalisation
from catdog.models.backbones.weights import named_weights
from catdog.models.petnet import PetNet, SecondTask, build_head, check_frozen
from catdog.models.stages import CachedMaps, JoinedMaps, Staged, joined_shape
from catdog.runs.weights_digest import local_weights
from catdog.storage import StoreLocation
from catdog.storage.node_cache import fetch_or_make, file_digest, is_stored
from catdog.training.precision import autocast_for
from catdog.training.seeding import DeriveSeed
from catdog.trial.contact_sheet import Probes
from catdog.trial.context import RunContext
from catdog.trial.device import has_room


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a backbone's weights came from; nothing for random ones."""

    package: str | None
    """Name and version."""
    sha256: str | None

    @classmethod
    def of(cls, recipe: Recipe, digest: str | None) -> "WeightsOrigin":
        """Return the origin of the recipe's weights, loaded before; `digest` is known of a user's file."""
        package, path = named_weights(recipe.backbone, recipe.weights)
        return cls(package, file_digest(path) if path is not None else digest)


@dataclass(frozen=True)
class TrialInputs:
    """Opened data and the pretrained backbone. C channels of an H × W feature map."""

    pack: Pack
    split: Split
    batches: Batches
    backbone: nn.Module | None
    """The pretrained backbone to copy; None if every trial draws its own weights."""
    feature_shape: tuple[int, int, int]
    """(C, H, W)."""
    probe_positions: tuple[int, ...]
    """Positions in the validation split of the images on contact sheets."""
    weights: WeightsOrigin
    pooled_batches: Batches | None = None
    """With a frozen backbone: the same batches, already pooled."""
    read_batches: Callable[[Sequence[str]], Batches] | None = None
    """With a frozen backbone: places → batches of their maps, all in one."""

    def batches_for(self, head: nn.Module) -> Batches:
        """Return the batches for a head; one that pools first gets pooled maps, a fraction of the bytes."""
        if self.read_batches is not None and (read := getattr(head, "reads", ())):
            return self.read_batches(read)
        if self.pooled_batches is not None and getattr(head, "pools_first", False):
            return self.pooled_batches
        return self.batches

    def measured_positions(self, split: SplitName) -> IntArray:
        """Return the positions in a split of the images whose outlines are measured."""
        return np.flatnonzero(np.isin(self.split.indices(split), self.pack.measured_images))

    @property
    def probes(self) -> Probes:
        """Return the images on contact sheets."""
        indices = torch.from_numpy(self.split.validation[list(self.probe_positions)])
        return Probes(
            images_PSSC=self.pack.images_NSSC[indices.to(self.pack.images_NSSC.device)].cpu().numpy(),
            names=tuple(self.pack.names[i] for i in indices.tolist()),
            labels_P=self.pack.labels_N[indices].numpy(),
            classes=self.pack.classes,
        )


@dataclass(frozen=True)
class _Network:
    """What takes memory and time to load, besides the images: a backbone, and its features if it is frozen."""

    backbone: Staged
    feature_shape: tuple[int, int, int]
    weights: WeightsOrigin
    features: Features | None

    @property
    def host_bytes(self) -> int:
        """Return the memory of the backbone's weights; features on the host are mapped from their file."""
        return sum(tensor.nbytes for tensor in self.backbone.state_dict().values())

    @property
    def device_bytes(self) -> int:
        """Return the memory of features on a GPU."""
        tensors = [] if self.features is None else [one for kind in self.features for one in kind.values()]
        return sum(tensor.nbytes for tensor in tensors if tensor.device.type != "cpu")


_networks: dict[tuple[Any, ...], _Network] = {}
"""The networks that this process keeps, the one used last at the end: variants may differ in theirs."""
KEPT_BYTES = 1_000_000_000
"""Host memory of the backbones that a process keeps; those used least recently go first, the last one stays."""


def load_inputs(
    context: RunContext,
    device: torch.device,
    seed: int = 0,
    report_progress: ReportProgress = lambda message: None,
) -> TrialInputs:
    """Return the inputs of this seed's trials; the images and the last networks stay loaded in this process.

    With a frozen backbone, opens or computes its features: of the split, or of all images if each seed has its own.

    Raises:
        UserError: data, weights or sizes do not fit.
    """
    identity, recipe = context.identity, context.identity.recipe
    pack = _open_pack_on(context.location, identity.fingerprint, device, context.gpus_per_trial)
    split, cached = _split_of(pack, recipe, seed)
    normalise, groups = normalisation(recipe.backbone, recipe.weights), _groups_of(context)
    images = ImageBatches(
        pack,
        cached,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        mean=normalise.mean,
        std=normalise.std,
        crop_scale=recipe.crop_scale,
        flip=recipe.flip,
        device=device,
        groups=groups,
    )
    labels_N = pack.labels_N[torch.from_numpy(split.validation)]
    probe_positions = tuple(choose_probes(labels_N, recipe.probe_images))
    network = _network_of(context, images, report_progress)
    shape, weights = network.feature_shape, network.weights
    if network.features is None:
        pretrained = network.backbone if recipe.weights != "none" else None
        return TrialInputs(pack, split, images, pretrained, shape, probe_positions, weights)

    def batches_of(tensors: Mapping[str, torch.Tensor]) -> FeatureBatches:
        return FeatureBatches(
            tensors, pack, split, cached, batch_size=recipe.batch_size, flip=recipe.flip, device=device, groups=groups
        )

    def read_batches(read: Sequence[str]) -> FeatureBatches:
        features = _network_of(context, images, report_progress, tuple(read)).features
        assert features is not None
        return batches_of(features.maps)

    batches, pooled = (batches_of(tensors) for tensors in network.features)
    return TrialInputs(pack, split, batches, network.backbone, shape, probe_positions, weights, pooled, read_batches)


def _split_of(pack: Pack, recipe: Recipe, seed: int) -> tuple[Split, Split]:
    """Return a seed's split, and the split whose features are cached.

    That is all of trainval if each seed has its own split, and the whole split if training takes a part of it.
    """
    given = None if pack.is_validation_N is None else pack.is_validation_N.numpy()
    check_split(recipe, pack.dataset, given is not None)
    labels_N, is_test_N = pack.labels_N.numpy(), pack.is_test_N.numpy()
    seeds, limit, few = recipe.split_seeds(seed), recipe.limit_images, recipe.train_images_per_class
    split = split_images(labels_N, is_test_N, seeds, limit, given, few)
    if not recipe.freeze:
        return split, split
    if recipe.resamples_split:
        return split, Split(np.flatnonzero(~is_test_N), np.empty(0, dtype=np.int64), split.test)
    return split, split if few is None else split_images(labels_N, is_test_N, seeds, limit, given)


def _groups_of(context: RunContext) -> Groups | None:
    identity, task = context.identity, context.identity.recipe.second_task
    return None if task is None else _read_groups(context.location, identity.fingerprint, task, identity.groups[task])


@functools.lru_cache(maxsize=4)
def _read_groups(location: StoreLocation, fingerprint: str, column: str, digest: str) -> Groups:
    return read_groups(location.open(), fingerprint, column, digest)


def _network_of(
    context: RunContext, images: ImageBatches, report_progress: ReportProgress, read: tuple[str, ...] = ()
) -> _Network:
    """Return the network, with features of the last map, or of the places that a head reads."""
    identity, recipe = context.identity, context.identity.recipe
    features = (context.location, _features_key(context, read)) if recipe.freeze else None
    key = (recipe.backbone, context.weights, identity.weights_digest, recipe.image_size, images.device, features)
    network = _networks.pop(key, None) or _load_network(context, images, report_progress, read)
    _networks[key] = network
    while len(_networks) > 1 and sum(one.host_bytes for one in _networks.values()) > KEPT_BYTES:
        _forget_oldest()
    return network


def _load_network(
    context: RunContext, images: ImageBatches, report_progress: ReportProgress, read: tuple[str, ...]
) -> _Network:
    identity, recipe = context.identity, context.identity.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that a frozen backbone with random weights is the same in every process
        weights_file = local_weights(context.weights, identity.weights_digest)
        backbone = build_backbone(recipe.backbone, weights_file, recipe.image_size)
    shape, weights = feature_shape(backbone, recipe.image_size), WeightsOrigin.of(recipe, identity.weights_digest)
    if not recipe.freeze:
        return _Network(backbone, shape, weights, None)
    features = open_features(_features_file(context, backbone, shape, images, report_progress, read))
    placed = (_place(tensors, images.device, context.gpus_per_trial) for tensors in features)
    return _Network(backbone, shape, weights, Features(*placed))


def _forget_oldest() -> bool:
    """Free the network used least recently; return whether there was one."""
    return _networks.pop(next(iter(_networks), ()), None) is not None


def forget_inputs() -> None:
    """Free what this process keeps."""
    _networks.clear()
    _open_pack_on.cache_clear()
    _read_groups.cache_clear()


def new_model(inputs: TrialInputs, context: RunContext, variant: VariantSpec, derive_seed: DeriveSeed) -> PetNet:
    """Return a trial's network before training; with a frozen backbone, the head behind an identity."""
    recipe = context.identity.recipe
    torch.manual_seed(derive_seed("init", 0))
    groups = inputs.batches.groups
    second = None if groups is None else SecondTask(groups.column, len(groups.names), recipe.second_task_weight)
    places = backbone_places(recipe.backbone, recipe.image_size) if "stages" in variant.arguments else {}
    head = build_head(variant, inputs.feature_shape[0], len(inputs.pack.classes), places, second)
    if recipe.freeze:
        check_frozen(variant, head)
        read = getattr(head, "reads", ())
        return PetNet(CachedMaps({place: places[place] for place in read}) if read else nn.Identity(), head)
    if inputs.backbone is not None:
        backbone = copy.deepcopy(inputs.backbone)
    else:
        backbone = build_backbone(recipe.backbone, None, recipe.image_size)
    return PetNet(backbone.requires_grad_(not recipe.train_modules_only), head)


def is_prepared(context: RunContext) -> bool:
    """Return whether trials on this machine can start with nothing to download or precompute."""
    if context.weights == "imagenet" or context.location.is_shared:
        return False
    return not context.identity.recipe.freeze or is_stored(context.location.open(), _features_key(context))


def _features_key(context: RunContext, read: tuple[str, ...] = ()) -> str:
    identity, recipe = context.identity, context.identity.recipe
    places = {"places": read} if read else {}
    digest = features_digest(
        backbone=recipe.backbone,
        weights=identity.weights_digest or recipe.weights,
        image_size=recipe.image_size,
        precision=recipe.precision,
        split_seed="every" if recipe.resamples_split else recipe.split_seed,
        limit_images=recipe.limit_images,
        **places,
    )
    return features_key(identity.fingerprint, digest)


def _features_file(
    context: RunContext,
    backbone: Staged,
    shape: tuple[int, int, int],
    images: ImageBatches,
    report_progress: ReportProgress,
    read: tuple[str, ...],
) -> Path:
    recipe = context.identity.recipe
    if read:
        shape = joined_shape(backbone_places(recipe.backbone, recipe.image_size), read)

    def make(path: Path) -> None:
        def on_progress(done: int) -> None:
            if done == total or done % 512 == 0:
                report_progress(f"computing the frozen backbone's features, once: {done:,} of {total:,} images")

        total = sum(images.feature_images.values())
        network = JoinedMaps(backbone, read) if read else copy.deepcopy(backbone)
        network = network.to(memory_format=torch.channels_last).to(images.device)
        autocast = autocast_for(recipe.precision, images.device)
        write_features(network, images, shape, autocast, path, on_progress, with_means=not read)

    return fetch_or_make(context.location.open(), _features_key(context, read), make)


@functools.lru_cache(maxsize=1)
def _open_pack_on(location: StoreLocation, fingerprint: str, device: torch.device, gpus: float) -> Pack:
    """Open the pack, once per process; for a GPU, copy its images there if they fit."""
    pack = open_pack(fetch_or_make(location.open(), pack_key(fingerprint)))
    return dataclasses.replace(pack, images_NSSC=_place({"images": pack.images_NSSC}, device, gpus)["images"])


def _place(tensors: Mapping[str, torch.Tensor], device: torch.device, gpus: float) -> Mapping[str, torch.Tensor]:
    """Return the tensors on the device, in place of other networks' features if need be.

    If it has no room at all they stay as they are: batches are then copied one by one.
    """
    wanted = sum(tensor.nbytes for tensor in tensors.values())
    while not has_room(device, gpus, wanted, sum(one.device_bytes for one in _networks.values())):
        if not _forget_oldest():
            return tensors
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def choose_probes(labels: torch.Tensor, count: int) -> list[int]:
    """Return positions of up to `count` images of different classes, spread evenly over the classes present."""
    classes = torch.unique(labels).tolist()
    chosen = np.unique(np.linspace(0, len(classes) - 1, min(count, len(classes))).round().astype(int))
    return [int((labels == classes[i]).nonzero()[0]) for i in chosen]
