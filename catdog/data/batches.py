"""Batches of images or of cached features, ready for the network; shapes: B batch, S side, N images.

Both kinds share one interface, so training need not know which it gets. With a second task, an image's label stands for
its class and its group together: class · G + group, of K · G. Augmentation works on whole batches on the
training device, from seeds that the caller passes; evaluation sees every image uncropped, in a fixed order. Everything
an epoch needs (order, crops, labels) is drawn and sent to the device before its first step, so no step waits for the
host, unless the images or features themselves stay there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from catdog.data.datasets.base import Groups, IntArray
from catdog.data.pack import Pack
from catdog.data.split import SPLITS, Split, SplitName

ASPECT_RATIO = (3 / 4, 4 / 3)

EvaluationSplit = Literal["validation", "test"]
Batch = tuple[torch.Tensor, torch.Tensor]
"""Network inputs (B, channels, height, width) and labels (B,), of classes or of classes and groups."""
Shard = tuple[int, int]
"""Which worker's share of the images this is, of how many."""
WHOLE: Shard = (0, 1)
CLASS = "class"
"""The main task's target; a second task's is called after its group column."""
EVALUATION_BATCH = 64


class Batches(Protocol):
    """The data as training sees it."""

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training batches per epoch."""
        ...

    @property
    def batch_size(self) -> int:
        """Return the size of a training batch."""
        ...

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        ...

    @property
    def groups(self) -> Groups | None:
        """Return what the second task learns, if there is one."""
        ...

    def train(self, order_seed: int, augment_seed: int, first_step: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield the augmented training batches of one epoch from a step on; a worker gets its rows of each."""
        ...

    def split(self, name: EvaluationSplit, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield a whole split in its fixed order; worker i of n gets the batches i, i + n, ..."""
        ...

    def some(self, name: EvaluationSplit, positions: Sequence[int]) -> torch.Tensor:
        """Return the network inputs of some images of a split, by position."""
        ...

    def targets(self, name: EvaluationSplit) -> Mapping[str, torch.Tensor]:
        """Return the targets of each task on a split, (N,), on the CPU."""
        ...


def _labels(pack: Pack, groups: Groups | None) -> torch.Tensor:
    if groups is None:
        return pack.labels_N
    return pack.labels_N * len(groups.names) + torch.from_numpy(groups.labels)


def targets_of(labels: torch.Tensor, groups: Groups | None) -> Mapping[str, torch.Tensor]:
    """Return the targets of each task: labels (B,) for labels (B,), shares (B, K) and (B, G) for shares (B, K · G)."""
    if groups is None:
        return {CLASS: labels}
    size = len(groups.names)
    if labels.ndim == 1:
        return {CLASS: labels // size, groups.column: labels % size}
    shares_BKG = labels.unflatten(1, (-1, size))
    return {CLASS: shares_BKG.sum(dim=2), groups.column: shares_BKG.sum(dim=1)}


class ImageBatches:
    """Batches of images from the pack, wherever its images are (see `gather`)."""

    def __init__(
        self,
        pack: Pack,
        split: Split,
        *,
        image_size: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_scale: float,
        flip: bool,
        device: torch.device,
        groups: Groups | None = None,
    ) -> None:
        self.images_NSSC = pack.images_NSSC
        self.num_classes = len(pack.classes)
        self.groups = groups
        self.image_size = image_size
        self._centres_S = pixel_centres(image_size, device)
        self.batch_size = min(batch_size, len(split.train))
        self.crop_scale = crop_scale
        self.flip = flip
        self.device = device
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255
        self._labels = _labels(pack, groups)
        self._train = torch.from_numpy(split.train)
        splits: dict[EvaluationSplit, torch.Tensor] = {
            "validation": torch.from_numpy(split.validation),
            "test": torch.from_numpy(split.test),
        }
        self._splits = {name: indices.to(pack.images_NSSC.device) for name, indices in splits.items()}
        self._split_labels = {name: self._labels[indices].to(device) for name, indices in splits.items()}
        self.feature_images = {
            "train": 2 * len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        }
        """How many images a frozen backbone sees: training images count twice, plain and mirrored."""

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training batches per epoch; an incomplete last one is dropped."""
        return len(self._train) // self.batch_size

    def train(self, order_seed: int, augment_seed: int, first_step: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield the training batches of one epoch, randomly cropped and flipped (see `Batches`)."""
        order_N = _permutation(self._train, order_seed)
        indices_N = send(order_N, self.images_NSSC.device)
        crops = draw_crops(len(indices_N), self.crop_scale, self.flip, torch.Generator().manual_seed(augment_seed))
        lines_N4 = send(sampling_lines(*crops), self.device)
        labels_N = send(self._labels[order_N], self.device)
        for rows in _rows(self.batch_size, range(first_step, self.steps_per_epoch), shard):
            yield self._cropped(indices_N[rows], lines_N4[rows]), labels_N[rows]

    def split(self, name: EvaluationSplit, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield a whole split in its fixed order (see `Batches`)."""
        for indices, labels in _evaluation_batches(self._splits[name], self._split_labels[name], shard):
            yield self._whole(indices), labels

    def some(self, name: EvaluationSplit, positions: Sequence[int]) -> torch.Tensor:
        """Return the network inputs of some images of a split, by position."""
        return self._whole(self._splits[name][list(positions)])

    def targets(self, name: EvaluationSplit) -> Mapping[str, torch.Tensor]:
        """Return the targets of each task on a split, (N,), on the CPU."""
        return targets_of(self._split_labels[name].cpu(), self.groups)

    def mirrored_train(self, mirrored: bool) -> Iterator[torch.Tensor]:
        """Yield the training images for a frozen backbone: uncropped, in order, plain or mirrored."""
        for indices in send(self._train, self.images_NSSC.device).split(EVALUATION_BATCH):
            images = self._whole(indices)
            yield images.flip(3) if mirrored else images

    def _cropped(self, indices_B: torch.Tensor, lines_B4: torch.Tensor) -> torch.Tensor:
        """Return the network inputs for crops of these images; the images themselves are free again before the step."""
        # Channels-last, as the pack is: to gather takes half as long, and to sample no longer.
        images = gather(self.images_NSSC, indices_B, self.device, torch.channels_last)
        return self._normalise(crop_and_resize(images, lines_B4, self._centres_S))

    def _whole(self, indices: torch.Tensor) -> torch.Tensor:
        return self._normalise(resize_whole(gather(self.images_NSSC, indices, self.device), self.image_size))

    def _normalise(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        return images_B3SS.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


class FeatureBatches:
    """Batches of a frozen backbone's cached feature maps; with `flip`, training mirrors a random half of the images.

    The features are those of the same split, or of one that has all images of trainval in `train`.
    """

    def __init__(
        self,
        features: Mapping[str, torch.Tensor],
        pack: Pack,
        split: Split,
        cached: Split,
        *,
        batch_size: int,
        flip: bool,
        device: torch.device,
        groups: Groups | None = None,
    ) -> None:
        """`features`: (N, H, W, C) of the `cached` images: `train` (followed by its N mirror images), and so on."""
        self._maps, self._rows = {}, {}
        for name in SPLITS:
            home, rows_N = _find(split.indices(name), cached)
            self._maps[name] = features[home]
            self._rows[name] = torch.from_numpy(rows_N).to(features[home].device)
        self._mirrored = len(cached.train)
        self.num_classes = len(pack.classes)
        self.groups = groups
        self.batch_size = min(batch_size, len(split.train))
        self.flip = flip
        self.device = device
        labels_N = _labels(pack, groups)
        self._train_labels = labels_N[torch.from_numpy(split.train)]
        self._split_labels: dict[EvaluationSplit, torch.Tensor] = {
            "validation": labels_N[torch.from_numpy(split.validation)].to(device),
            "test": labels_N[torch.from_numpy(split.test)].to(device),
        }

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training batches per epoch; an incomplete last one is dropped."""
        return len(self._train_labels) // self.batch_size

    def train(self, order_seed: int, augment_seed: int, first_step: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield the training batches of one epoch, randomly mirrored (see `Batches`)."""
        count = len(self._train_labels)
        order_N = _permutation(torch.arange(count), order_seed)
        mirrored_N = torch.rand(count, generator=torch.Generator().manual_seed(augment_seed)) < 0.5 * self.flip
        maps_NHWC, rows_N = self._maps["train"], self._rows["train"]
        indices_N = rows_N[send(order_N, rows_N.device)] + send(self._mirrored * mirrored_N, rows_N.device)
        labels_N = send(self._train_labels[order_N], self.device)
        for rows in _rows(self.batch_size, range(first_step, self.steps_per_epoch), shard):
            yield gather(maps_NHWC, indices_N[rows], self.device, torch.channels_last), labels_N[rows]

    def split(self, name: EvaluationSplit, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield a whole split in its fixed order (see `Batches`)."""
        for rows_B, labels_B in _evaluation_batches(self._rows[name], self._split_labels[name], shard):
            yield gather(self._maps[name], rows_B, self.device, torch.channels_last), labels_B

    def some(self, name: EvaluationSplit, positions: Sequence[int]) -> torch.Tensor:
        """Return the network inputs of some images of a split, by position."""
        return gather(self._maps[name], self._rows[name][list(positions)], self.device, torch.channels_last)

    def targets(self, name: EvaluationSplit) -> Mapping[str, torch.Tensor]:
        """Return the targets of each task on a split, (N,), on the CPU."""
        return targets_of(self._split_labels[name].cpu(), self.groups)


def _rows(batch_size: int, steps: range, shard: Shard) -> Iterator[slice]:
    """Yield where in the epoch's order the images of each step are that one worker computes."""
    index, count = shard
    share = batch_size // count
    for step in steps:
        start = step * batch_size + index * share
        yield slice(start, start + share)


def _evaluation_batches(indices_N: torch.Tensor, labels_N: torch.Tensor, shard: Shard) -> Iterator[Batch]:
    """Yield the indices and labels of each batch of a split that one worker computes."""
    batches = zip(*(whole.split(EVALUATION_BATCH) for whole in (indices_N, labels_N)), strict=True)
    yield from itertools.islice(batches, shard[0], None, shard[1])


def _find(images: IntArray, cached: Split) -> tuple[SplitName, IntArray]:
    """Return which split of the cached images has these, and where."""
    home = next(name for name in SPLITS if np.isin(images, cached.indices(name)).all())
    return home, np.searchsorted(cached.indices(home), images)


def gather(
    maps_NHWC: torch.Tensor,
    indices_B: torch.Tensor,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Return the maps at `indices_B` on `device` as float (B, C, H, W), in `memory_format` or still channels-last.

    The indices are where the maps are: on `device`, or on the host if a GPU has no room for them.
    """
    if maps_NHWC.device.type != device.type:
        return copy_rows(maps_NHWC, indices_B, device).permute(0, 3, 1, 2).float()
    if device.type != "cpu" or maps_NHWC.dtype == torch.float32:
        return maps_NHWC.index_select(0, indices_B).permute(0, 3, 1, 2).float()
    # Converting each map as it is copied takes a third less time than gathering first and converting afterwards.
    shape = (len(indices_B), maps_NHWC.shape[3], *maps_NHWC.shape[1:3])
    maps_BCHW = torch.empty(shape, memory_format=memory_format)
    torch._foreach_copy_(maps_BCHW.permute(0, 2, 3, 1).unbind(), [maps_NHWC[index] for index in indices_B.tolist()])
    return maps_BCHW


def copy_rows(maps_NHWC: torch.Tensor, indices_B: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Gather rows of maps on the host and copy them to `device`; on a GPU the host does not wait for the copy.

    As no step of training waits for the GPU, the host gathers the next batch while the GPU computes. Each batch has
    pinned memory of its own, which torch gives to another one only once the copy is done.
    """
    shape, is_pinned = (len(indices_B), *maps_NHWC.shape[1:]), device.type == "cuda"
    rows_BHWC = torch.empty(shape, dtype=maps_NHWC.dtype, pin_memory=is_pinned)
    torch.index_select(maps_NHWC, 0, indices_B, out=rows_BHWC)
    return rows_BHWC.to(device, non_blocking=True)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on `device`; copying it from the host to a GPU does not block the host."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _permutation(indices: torch.Tensor, seed: int) -> torch.Tensor:
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]


def draw_crops(
    count: int, crop_scale: float, flip: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw random resized crops (like torchvision's RandomResizedCrop) and flips.

    Returns boxes (count, 4): centre x, centre y, width, height as fractions of the image; and flips (count,), bool.
    """
    area, ratio, x, y, coin = torch.rand(5, count, generator=generator)
    area = crop_scale + (1 - crop_scale) * area
    log_ratio = np.log(ASPECT_RATIO[0]) + np.log(ASPECT_RATIO[1] / ASPECT_RATIO[0]) * ratio
    if crop_scale == 1:
        log_ratio = torch.zeros_like(log_ratio)
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)
    boxes = torch.stack([width / 2 + x * (1 - width), height / 2 + y * (1 - height), width, height], dim=1)
    return boxes, (coin < 0.5) & flip


def sampling_lines(boxes_N4: torch.Tensor, flips_N: torch.Tensor) -> torch.Tensor:
    """Return where crops sample their images, each flipped where asked: (N, 4), slope and offset along x, then along y.

    They map the output's coordinates to the image's; both run from -1 to 1.
    """
    x_N, y_N, widths_N, heights_N = boxes_N4.unbind(1)
    signs_N = torch.where(flips_N, -1.0, 1.0)
    return torch.stack([widths_N * signs_N, x_N * 2 - 1, heights_N, y_N * 2 - 1], dim=1)


def crop_and_resize(images_B3SS: torch.Tensor, lines_B4: torch.Tensor, centres_S: torch.Tensor) -> torch.Tensor:
    """Crop one box from each image, by its `sampling_lines`, and resample it to the `pixel_centres` (bilinear)."""
    # `F.affine_grid` to the last bit, but without its matrix product: GPUs compute that in TF32, to 10 bits.
    size = len(centres_S)
    x_slope, x_offset, y_slope, y_offset = lines_B4.unsqueeze(2).unbind(1)  # (B, 1) each
    x_BS, y_BS = centres_S * x_slope + x_offset, centres_S * y_slope + y_offset
    grid = torch.stack([x_BS.unsqueeze(1).expand(-1, size, -1), y_BS.unsqueeze(2).expand(-1, -1, size)], dim=3)
    return F.grid_sample(images_B3SS, grid, padding_mode="border", align_corners=False)


def pixel_centres(size: int, device: torch.device) -> torch.Tensor:
    """Return the coordinates of `size` pixels along a side that runs from -1 to 1."""
    return torch.linspace(-1, 1, size, device=device) * (size - 1) / size


def resize_whole(images_B3SS: torch.Tensor, size: int) -> torch.Tensor:
    """Resize whole images (values 0..255) to size × size, bicubic and antialiased."""
    if images_B3SS.shape[-1] == size:
        return images_B3SS
    resized = F.interpolate(images_B3SS, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp_(0, 255)
