"""Batches of images or of cached features, ready for the network; shapes: B batch, S side, N images.

Training need not know which kind it gets. With a second task, an image's label stands for its class and its group
together: class · G + group, of K · G. Augmentation works on whole batches on the training device, from seeds that the
caller passes; evaluation sees every image uncropped, in a fixed order. Everything an epoch needs (order, crops, labels)
is drawn and sent to the device before its first step, so no step waits for the host, unless the images or features
themselves stay there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

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


class Batches:
    """The data as training sees it; what the kinds do differently is `_augmented` and `_whole`."""

    def __init__(
        self, pack: Pack, split: Split, *, batch_size: int, flip: bool, device: torch.device, groups: Groups | None
    ) -> None:
        self.num_classes = len(pack.classes)
        self.groups = groups
        """What the second task learns, if there is one."""
        self.batch_size = min(batch_size, len(split.train))
        self.steps_per_epoch = len(split.train) // self.batch_size
        """Training batches per epoch; an incomplete last one is dropped."""
        self.flip = flip
        self.device = device
        labels_N = pack.labels_N
        if groups is not None:
            labels_N = labels_N * len(groups.names) + torch.from_numpy(groups.labels)
        self._train_labels = labels_N[torch.from_numpy(split.train)]
        self._split_labels = {
            name: labels_N[torch.from_numpy(split.indices(name))].to(device) for name in get_args(EvaluationSplit)
        }

    def train(self, order_seed: int, augment_seed: int, first_step: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield the augmented training batches of one epoch from a step on; a worker gets its rows of each."""
        order_N = torch.randperm(len(self._train_labels), generator=torch.Generator().manual_seed(order_seed))
        inputs_of = self._augmented(order_N, torch.Generator().manual_seed(augment_seed))
        labels_N = send(self._train_labels[order_N], self.device)
        index, count = shard
        share = self.batch_size // count
        for step in range(first_step, self.steps_per_epoch):
            start = step * self.batch_size + index * share
            rows = slice(start, start + share)
            yield inputs_of(rows), labels_N[rows]

    def split(self, name: EvaluationSplit, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield a whole split in its fixed order; worker i of n gets the batches i, i + n, ..."""
        labels_N, (index, count) = self._split_labels[name], shard
        for start in range(0, len(labels_N), EVALUATION_BATCH)[index::count]:
            rows = slice(start, start + EVALUATION_BATCH)
            yield self._whole(name, rows), labels_N[rows]

    def some(self, name: EvaluationSplit, positions: Sequence[int]) -> torch.Tensor:
        """Return the network inputs of some images of a split, by position."""
        return self._whole(name, list(positions))

    def targets(self, name: EvaluationSplit) -> Mapping[str, torch.Tensor]:
        """Return the targets of each task on a split, (N,), on the CPU."""
        return targets_of(self._split_labels[name].cpu(), self.groups)

    def _augmented(self, order_N: torch.Tensor, generator: torch.Generator) -> Callable[[slice], torch.Tensor]:
        """Draw an epoch's augmentation; return rows of its order → their network inputs."""
        raise NotImplementedError

    def _whole(self, name: EvaluationSplit, rows: slice | list[int]) -> torch.Tensor:
        """Return the network inputs of rows of a split."""
        raise NotImplementedError


def targets_of(labels: torch.Tensor, groups: Groups | None) -> Mapping[str, torch.Tensor]:
    """Return the targets of each task: labels (B,) for labels (B,), shares (B, K) and (B, G) for shares (B, K · G)."""
    if groups is None:
        return {CLASS: labels}
    size = len(groups.names)
    if labels.ndim == 1:
        return {CLASS: labels // size, groups.column: labels % size}
    shares_BKG = labels.unflatten(1, (-1, size))
    return {CLASS: shares_BKG.sum(dim=2), groups.column: shares_BKG.sum(dim=1)}


class ImageBatches(Batches):
    """Batches of images from the pack, wherever its images are (see `gather`); training crops and mirrors them."""

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
        super().__init__(pack, split, batch_size=batch_size, flip=flip, device=device, groups=groups)
        self.images_NSSC = pack.images_NSSC
        self.image_size = image_size
        self._centres_S = pixel_centres(image_size, device)
        self.crop_scale = crop_scale
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255
        self._images = {name: torch.from_numpy(split.indices(name)).to(pack.images_NSSC.device) for name in SPLITS}
        self.feature_images = {name: len(rows) * (2 if name == "train" else 1) for name, rows in self._images.items()}
        """How many images a frozen backbone sees: training images count twice, plain and mirrored."""

    def mirrored_train(self, mirrored: bool) -> Iterator[torch.Tensor]:
        """Yield the training images for a frozen backbone: uncropped, in order, plain or mirrored."""
        for indices in self._images["train"].split(EVALUATION_BATCH):
            images = self._resized(indices)
            yield images.flip(3) if mirrored else images

    def _augmented(self, order_N: torch.Tensor, generator: torch.Generator) -> Callable[[slice], torch.Tensor]:
        indices_N = self._images["train"][send(order_N, self.images_NSSC.device)]
        crops = draw_crops(len(order_N), self.crop_scale, self.flip, generator)
        lines_N4 = send(sampling_lines(*crops), self.device)
        return lambda rows: self._cropped(indices_N[rows], lines_N4[rows])

    def _whole(self, name: EvaluationSplit, rows: slice | list[int]) -> torch.Tensor:
        return self._resized(self._images[name][rows])

    def _cropped(self, indices_B: torch.Tensor, lines_B4: torch.Tensor) -> torch.Tensor:
        """Return the network inputs for crops of these images; the images themselves are free again before the step."""
        # Channels-last, as the pack is: to gather takes half as long, and to sample no longer.
        images = gather(self.images_NSSC, indices_B, self.device, torch.channels_last)
        return self._normalise(crop_and_resize(images, lines_B4, self._centres_S))

    def _resized(self, indices: torch.Tensor) -> torch.Tensor:
        return self._normalise(resize_whole(gather(self.images_NSSC, indices, self.device), self.image_size))

    def _normalise(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        return images_B3SS.sub_(self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


class FeatureBatches(Batches):
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
        super().__init__(pack, split, batch_size=batch_size, flip=flip, device=device, groups=groups)
        self._maps, self._rows = {}, {}
        for name in SPLITS:
            home, rows_N = _find(split.indices(name), cached)
            self._maps[name] = features[home]
            self._rows[name] = torch.from_numpy(rows_N).to(features[home].device)
        self._mirrored = len(cached.train)

    def _augmented(self, order_N: torch.Tensor, generator: torch.Generator) -> Callable[[slice], torch.Tensor]:
        mirrored_N = torch.rand(len(order_N), generator=generator) < 0.5 * self.flip
        maps_NHWC, rows_N = self._maps["train"], self._rows["train"]
        indices_N = rows_N[send(order_N, rows_N.device)] + send(self._mirrored * mirrored_N, rows_N.device)
        return lambda rows: gather(maps_NHWC, indices_N[rows], self.device, torch.channels_last)

    def _whole(self, name: EvaluationSplit, rows: slice | list[int]) -> torch.Tensor:
        return gather(self._maps[name], self._rows[name][rows], self.device, torch.channels_last)


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
