"""Batches: which images an epoch holds, what the seeds determine, and whether crops, flips and features are right.

In all toy data an image's label is its index, so a batch's labels show which images it holds.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from catdog.data.batches import (
    CLASS,
    Batch,
    EvaluationSplit,
    FeatureBatches,
    ImageBatches,
    copy_rows,
    crop_and_resize,
    draw_crops,
    pixel_centres,
    resize_whole,
    sampling_lines,
)
from catdog.data.features import SPLITS, Features, features_digest, open_features, write_features
from catdog.data.pack import Pack
from catdog.data.split import Split
from catdog.errors import UserError
from catdog.trial.inputs import choose_probes

COUNT, SIZE = 120, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
SPLIT = Split(  # validation is longer than one evaluation batch; no split is contiguous
    train=np.arange(0, 60, 2), validation=np.sort(np.r_[1:60:2, 60:100]), test=np.arange(100, 120)
)


@pytest.fixture(scope="module")
def pack() -> Pack:
    """120 random images of 16 px; the label of an image is its index."""
    generator = torch.Generator().manual_seed(0)
    return Pack(
        dataset="toy",
        fingerprint="0" * 16,
        classes=tuple(f"breed {i}" for i in range(COUNT)),
        names=tuple(f"image {i}" for i in range(COUNT)),
        images_NSSC=torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator),
        labels_N=torch.arange(COUNT),
        is_test_N=torch.arange(COUNT) >= 100,
        trimaps_TSS=torch.empty(0, SIZE, SIZE, dtype=torch.uint8),
        trimap_images_T=torch.empty(0, dtype=torch.int64),
    )


def image_batches(
    pack: Pack,
    split: Split = SPLIT,
    batch_size: int = 8,
    image_size: int = SIZE,
    crop_scale: float = 0.35,
    flip: bool = True,
    device: torch.device = CPU,
) -> ImageBatches:
    return ImageBatches(
        pack,
        split,
        image_size=image_size,
        batch_size=batch_size,
        mean=MEAN,
        std=STD,
        crop_scale=crop_scale,
        flip=flip,
        device=device,
    )


def normalised(pack: Pack, indices: list[int]) -> torch.Tensor:
    """Whole images, normalised by the textbook formula."""
    images = pack.images_NSSC[indices].permute(0, 3, 1, 2) / 255
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def together(batches: list[Batch]) -> tuple[torch.Tensor, list[int]]:
    """The inputs of all batches, and the images' labels."""
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([labels for _, labels in batches]).tolist()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 255


# Batches of images


@pytest.mark.parametrize(("batch_size", "steps", "in_a_batch"), [(8, 3, 8), (30, 1, 30), (7, 4, 7), (64, 1, 30)])
def test_an_epoch_shows_every_training_image_at_most_once(
    pack: Pack, batch_size: int, steps: int, in_a_batch: int
) -> None:
    batches = image_batches(pack, batch_size=batch_size, image_size=12)
    epoch = list(batches.train(order_seed=1, augment_seed=2))
    assert len(epoch) == batches.steps_per_epoch == steps
    assert batches.batch_size == in_a_batch
    assert all(inputs.shape == (in_a_batch, 3, 12, 12) and inputs.dtype == torch.float32 for inputs, _ in epoch)
    _, seen = together(epoch)
    assert len(set(seen)) == len(seen) == steps * in_a_batch
    assert set(seen) <= set(SPLIT.train.tolist())


def test_the_same_seeds_give_the_same_epoch_bit_for_bit(pack: Pack) -> None:
    first, seen = together(list(image_batches(pack).train(1, 2)))
    torch.manual_seed(99)  # the global generator must not matter
    again, seen_again = together(list(image_batches(pack).train(1, 2)))
    assert torch.equal(first, again)
    assert seen == seen_again


def test_the_augment_seed_changes_the_pixels_and_the_order_seed_the_order(pack: Pack) -> None:
    batches = image_batches(pack)
    inputs, seen = together(list(batches.train(1, 2)))
    augmented, seen_augmented = together(list(batches.train(1, 3)))
    _, seen_reordered = together(list(batches.train(2, 2)))
    assert seen_augmented == seen
    assert not torch.allclose(augmented, inputs, atol=0.1)
    assert seen_reordered != seen
    assert seen != sorted(seen)


def test_training_images_without_crops_are_whole_images_or_their_mirror_images(pack: Pack) -> None:
    inputs, seen = together(list(image_batches(pack, crop_scale=1).train(1, 2)))
    whole = normalised(pack, seen)
    is_whole = (inputs - whole).abs().amax(dim=(1, 2, 3)) < 1e-3
    is_mirrored = (inputs - whole.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert torch.equal(is_whole, ~is_mirrored)
    assert is_whole.any()
    assert is_mirrored.any()
    unflipped, seen = together(list(image_batches(pack, crop_scale=1, flip=False).train(1, 2)))
    assert torch.allclose(unflipped, normalised(pack, seen), atol=1e-3)


@pytest.mark.parametrize("part", get_args(EvaluationSplit))
def test_evaluation_sees_every_image_whole_and_in_order(pack: Pack, part: EvaluationSplit) -> None:
    batches = image_batches(pack)
    inputs, seen = together(list(batches.split(part)))
    assert seen == SPLIT.indices(part).tolist() == batches.targets(part)[CLASS].tolist()
    assert torch.allclose(inputs, normalised(pack, seen), atol=1e-5)
    positions = [19, 0, 7]
    assert torch.equal(batches.some(part, positions), inputs[positions])


def test_a_frozen_backbone_sees_the_training_images_and_their_mirror_images_in_order(pack: Pack) -> None:
    batches = image_batches(pack)
    whole = torch.cat(list(batches.mirrored_train(False)))
    assert torch.allclose(whole, normalised(pack, SPLIT.train.tolist()), atol=1e-5)
    assert torch.equal(torch.cat(list(batches.mirrored_train(True))), whole.flip(3))
    assert batches.feature_images == {"train": 30 + 30, "validation": 70, "test": 20}


def test_making_batches_leaves_the_pack_as_it_was(pack: Pack) -> None:
    before = pack.images_NSSC.clone()
    batches = image_batches(pack)
    list(batches.train(1, 2))
    list(batches.split("validation"))
    assert torch.equal(pack.images_NSSC, before)


# Crops


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.05, 1), st.booleans(), st.integers(0, 2**62))
def test_crops_lie_inside_the_image_and_have_the_required_area(
    count: int, crop_scale: float, flip: bool, seed: int
) -> None:
    boxes, flips = draw_crops(count, crop_scale, flip, torch.Generator().manual_seed(seed))
    assert boxes.shape == (count, 4)
    assert flips.shape == (count,)
    centre, size = boxes[:, :2], boxes[:, 2:]
    assert torch.all(centre - size / 2 >= -1e-6)
    assert torch.all(centre + size / 2 <= 1 + 1e-6)
    # A box wider or taller than the image is clipped: at most 1 - sqrt(3/4) of its area is lost.
    area, ratio = size.prod(dim=1), size[:, 0] / size[:, 1]
    assert torch.all(area >= crop_scale * (3 / 4) ** 0.5 - 1e-6)
    assert torch.all(area <= 1 + 1e-6)
    assert torch.all((ratio >= 3 / 4 - 1e-5) & (ratio <= 4 / 3 + 1e-5))
    assert flip or not flips.any()


def test_a_crop_scale_of_one_is_always_the_whole_image() -> None:
    boxes, _ = draw_crops(100, 1, True, torch.Generator().manual_seed(0))
    assert torch.equal(boxes, torch.tensor([0.5, 0.5, 1, 1]).expand(100, 4))


def test_areas_are_uniform_and_half_of_the_images_are_flipped() -> None:
    boxes, flips = draw_crops(20_000, 0.3, True, torch.Generator().manual_seed(0))
    assert boxes[:, 2:].prod(dim=1).mean().item() == pytest.approx(0.65, abs=0.02)
    assert flips.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert boxes[:, :2].mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_crops_area_shape_place_and_flip_are_drawn_independently_and_uniformly() -> None:
    boxes, flips = draw_crops(20_000, 0.1, True, torch.Generator().manual_seed(0))
    area = boxes[:, 2] * boxes[:, 3]
    unclipped = area < 3 / 4  # so narrow or flat that it would leave the image: only if the area is larger
    centre, size = boxes[unclipped, :2], boxes[unclipped, 2:]
    drawn = {
        "area": (area[unclipped] - 0.1) / (3 / 4 - 0.1),
        "shape": (size[:, 0] / size[:, 1]).log() / math.log(16 / 9) + 1 / 2,
        "x": ((centre - size / 2) / (1 - size))[:, 0],
        "y": ((centre - size / 2) / (1 - size))[:, 1],
    }
    for name, values in drawn.items():
        assert stats.kstest(values.numpy(), "uniform").statistic < 0.02, name
    correlations = np.corrcoef([values.numpy() for values in (*drawn.values(), flips[unclipped])])
    assert np.abs(correlations - np.eye(5)).max() < 0.04


def cropped_to(size: int, images: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    return crop_and_resize(images, sampling_lines(boxes, flips), pixel_centres(size, images.device))


@pytest.mark.parametrize("flipped", [False, True])
def test_cropping_the_whole_image_reproduces_it_or_its_mirror_image(flipped: bool) -> None:
    images = noise(3, 3, SIZE, SIZE)
    whole = torch.tensor([[0.5, 0.5, 1, 1]]).expand(3, 4)
    cropped = cropped_to(SIZE, images, whole, torch.full((3,), flipped))
    assert torch.allclose(cropped, images.flip(3) if flipped else images, atol=1e-3)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("left", "top", "width", "height", "size"),
    [(3, 5, 16, 16, 16), (0, 0, 32, 48, 16), (30, 8, 24, 40, 8), (7, 40, 48, 24, 12), (0, 0, 64, 64, 160)],
)
def test_a_crop_equals_the_box_cut_out_and_resized_by_torch(
    left: int, top: int, width: int, height: int, size: int, flipped: bool
) -> None:
    """Pixel-aligned boxes that are not enlarged, or the whole image: no sample falls outside the box."""
    images = noise(2, 3, 64, 64)
    cut = images[:, :, top : top + height, left : left + width]
    expected = F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)
    box = torch.tensor([left + width / 2, top + height / 2, width, height]) / 64
    cropped = cropped_to(size, images, box.expand(2, 4), torch.tensor([False, flipped]))
    assert torch.allclose(cropped[0], expected[0], atol=1e-2)  # pixels are 0..255
    assert torch.allclose(cropped[1], expected[1].flip(2) if flipped else expected[1], atol=1e-2)


@pytest.mark.parametrize("size", [5, 48, 96, 224])
def test_crops_sample_at_the_very_points_of_affine_grid(size: int) -> None:
    images = noise(16, 3, 64, 64)
    boxes, flips = draw_crops(16, 0.3, True, torch.Generator().manual_seed(size))
    theta = torch.zeros(16, 2, 3)
    theta[:, 0, 0] = boxes[:, 2] * torch.where(flips, -1.0, 1.0)
    theta[:, 1, 1] = boxes[:, 3]
    theta[:, :, 2] = boxes[:, :2] * 2 - 1
    grid = F.affine_grid(theta, [16, 3, size, size], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    assert torch.equal(cropped_to(size, images, boxes, flips), expected)
    as_gathered = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(cropped_to(size, as_gathered, boxes, flips), expected)


class _Calls(TorchDispatchMode):
    """Notes the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_on_a_gpu_crops_need_no_matrix_product_which_would_round_to_tf32() -> None:
    with FakeTensorMode(), _Calls() as calls:
        images, boxes = torch.empty(4, 3, 64, 64, device="cuda"), torch.empty(4, 4, device="cuda")
        cropped = cropped_to(48, images, boxes, torch.empty(4, dtype=torch.bool, device="cuda"))
        assert cropped.device.type == "cuda"
    assert "grid_sampler_2d" in calls.names
    assert not calls.names & {"mm", "bmm", "addmm", "baddbmm", "matmul", "affine_grid_generator"}


def test_whole_images_are_resized_with_antialiasing_like_pillow() -> None:
    images = noise(1, 3, 48, 48)
    resized = resize_whole(images, 20)
    for channel in range(3):
        picture = Image.fromarray(images[0, channel].numpy()).resize((20, 20), Image.Resampling.BICUBIC)
        assert np.allclose(resized[0, channel].numpy(), np.clip(np.asarray(picture), 0, 255), atol=0.05)


def test_a_resized_image_stays_in_the_range_of_pixel_values() -> None:
    images = (noise(1, 3, 48, 48) > 127).float() * 255  # black and white: bicubic weights overshoot
    for size in (20, 96):
        resized = resize_whole(images, size)
        assert resized.shape == (1, 3, size, size)
        assert 0 <= resized.min() < 10
        assert 245 < resized.max() <= 255


# Batches of features


def features_that_name_their_image() -> dict[str, torch.Tensor]:
    """(N, 2, 3, 4) float16: the image's index, plus 0.5 in mirror images, plus 200 × the channel."""
    shape, channels = (-1, 2, 3, 4), 200 * torch.arange(4)

    def of(indices: np.ndarray, offset: float = 0) -> torch.Tensor:
        return (torch.from_numpy(indices + offset).view(-1, 1, 1, 1).expand(shape) + channels).half()

    return {
        "train": torch.cat([of(SPLIT.train), of(SPLIT.train, 0.5)]),
        "validation": of(SPLIT.validation),
        "test": of(SPLIT.test),
    }


def feature_batches(pack: Pack, flip: bool = True) -> FeatureBatches:
    return FeatureBatches(features_that_name_their_image(), pack, SPLIT, SPLIT, batch_size=8, flip=flip, device=CPU)


def mirrored_rows(epoch: list[Batch]) -> torch.Tensor:
    """Which rows of an epoch are mirror images; every row must hold the complete features of its own image."""
    inputs, seen = together(epoch)
    assert inputs.shape[1:] == (4, 2, 3)
    assert inputs.dtype == torch.float32
    offsets = inputs - 200 * torch.arange(4).view(4, 1, 1) - torch.tensor(seen).view(-1, 1, 1, 1)
    assert torch.equal(offsets, offsets[:, :1, :1, :1].expand_as(offsets))
    assert set(offsets.unique().tolist()) <= {0, 0.5}
    return offsets[:, 0, 0, 0] == 0.5


def test_mirrored_features_are_used_exactly_where_a_flip_was_drawn(pack: Pack) -> None:
    batches = feature_batches(pack)
    epoch = list(batches.train(1, 2))
    _, seen = together(epoch)
    assert len(epoch) == batches.steps_per_epoch == 3
    assert len(set(seen)) == 24
    assert set(seen) <= set(SPLIT.train.tolist())
    flips = torch.rand(len(SPLIT.train), generator=torch.Generator().manual_seed(2)) < 0.5
    assert torch.equal(mirrored_rows(epoch), flips[:24])
    assert 0 < flips[:24].sum() < 24
    assert torch.equal(mirrored_rows(list(batches.train(5, 2))), flips[:24])  # regardless of the order
    assert not torch.equal(mirrored_rows(list(batches.train(1, 3))), flips[:24])


def test_without_flips_no_mirrored_features_are_used(pack: Pack) -> None:
    for augment_seed in range(5):
        assert not mirrored_rows(list(feature_batches(pack, flip=False).train(1, augment_seed))).any()


def test_an_epoch_of_features_leaves_the_cache_as_it_was(pack: Pack) -> None:
    given = features_that_name_their_image()
    batches = FeatureBatches(given, pack, SPLIT, SPLIT, batch_size=8, flip=True, device=CPU)
    list(batches.train(1, 2))
    for part, features in features_that_name_their_image().items():
        assert torch.equal(given[part], features)


@pytest.mark.parametrize("kind", Features._fields)
def test_features_of_all_images_serve_any_split_of_them_as_its_own_would(kind: str, pack: Pack, tmp_path: Path) -> None:
    backbone, trainval = torch.nn.Conv2d(3, 5, 3, stride=4), np.union1d(SPLIT.train, SPLIT.validation)
    pool = Split(trainval, SPLIT.validation[:0], SPLIT.test)
    shuffled = np.random.default_rng(4).permutation(trainval)
    for number, cut in enumerate((30, 75)):
        split = Split(np.sort(shuffled[:cut]), np.sort(shuffled[cut:]), SPLIT.test)
        both = []
        for cached in (split, pool):
            path = tmp_path / f"{number}-{len(cached.train)}.safetensors"
            features = getattr(cached_features(backbone, image_batches(pack, cached), path), kind)
            both.append(FeatureBatches(features, pack, split, cached, batch_size=8, flip=True, device=CPU))
        own, whole = both
        pairs = list(zip(own.train(1, 2), whole.train(1, 2), strict=True))
        for part in get_args(EvaluationSplit):
            pairs += zip(own.split(part), whole.split(part), strict=True)
        for (inputs, labels), (same, same_labels) in pairs:
            assert torch.equal(labels, same_labels)
            assert torch.allclose(inputs, same, atol=1e-3), "another batch may round otherwise"
        assert torch.allclose(own.some("validation", [3, 1]), whole.some("validation", [3, 1]), atol=1e-3)


def test_features_come_in_the_same_order_as_images(pack: Pack) -> None:
    images, features = image_batches(pack), feature_batches(pack)
    assert together(list(features.train(3, 4)))[1] == together(list(images.train(3, 4)))[1]
    for part in get_args(EvaluationSplit):
        inputs, seen = together(list(features.split(part)))
        assert seen == images.targets(part)[CLASS].tolist() == features.targets(part)[CLASS].tolist()
        assert inputs[:, 0, 0, 0].tolist() == seen
        assert torch.equal(features.some(part, [3, 1]), inputs[[3, 1]])
    assert features.num_classes == images.num_classes == COUNT


def cached_features(
    backbone: torch.nn.Conv2d, images: ImageBatches, path: Path, on_progress: Callable[[int], None] = lambda done: None
) -> Features:
    """The features of a convolution with a kernel of 3 and a stride of 4, written and read back."""
    shape = (backbone.out_channels, SIZE // 4, SIZE // 4)
    write_features(backbone, images, shape, torch.autocast("cpu", enabled=False), path, on_progress)
    return open_features(path)


def test_features_that_half_precision_cannot_hold_are_refused(pack: Pack, tmp_path: Path) -> None:
    backbone = torch.nn.Conv2d(3, 5, 3, stride=4)
    torch.nn.init.constant_(backbone.bias, 1e6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--freeze: .* beyond 65,504"):
        cached_features(backbone, image_batches(pack), tmp_path / "features.safetensors")


def test_cached_features_equal_the_output_of_the_backbone_and_survive_the_file(pack: Pack, tmp_path: Path) -> None:
    backbone = torch.nn.Conv2d(3, 5, 3, stride=4)
    images = image_batches(pack)
    heard: list[int] = []
    cached = cached_features(backbone, images, tmp_path / "features.safetensors", heard.append)
    assert heard[-1] == 30 + 30 + 70 + 20
    batches = FeatureBatches(cached.maps, pack, SPLIT, SPLIT, batch_size=8, flip=True, device=CPU)
    for part in get_args(EvaluationSplit):
        with torch.inference_mode():
            expected = torch.cat([backbone(inputs) for inputs, _ in images.split(part)])
        assert torch.allclose(together(list(batches.split(part)))[0], expected, atol=1e-2)
    assert tuple(cached.maps) == tuple(cached.pooled) == SPLITS
    plain, mirrored = cached.maps["train"].chunk(2)
    assert len(plain) == len(mirrored) == len(SPLIT.train)
    assert not torch.equal(plain, mirrored)


def test_features_written_batch_by_batch_are_the_file_that_safetensors_writes_of_them_all(
    pack: Pack, tmp_path: Path
) -> None:
    backbone, images = torch.nn.Conv2d(3, 5, 3, stride=4), image_batches(pack)
    cached_features(backbone, images, tmp_path / "features.safetensors")
    streams = {
        "train": [*images.mirrored_train(False), *images.mirrored_train(True)],
        "validation": [inputs for inputs, _ in images.split("validation")],
        "test": [inputs for inputs, _ in images.split("test")],
    }
    tensors = {}
    for part, inputs in streams.items():
        with torch.inference_mode():
            maps = [backbone(batch).half().contiguous(memory_format=torch.channels_last) for batch in inputs]
        tensors[f"maps.{part}"] = torch.cat([batch.permute(0, 2, 3, 1).contiguous() for batch in maps])
        pooled = torch.cat([batch.float().mean(dim=(2, 3)) for batch in maps])
        tensors[f"pooled.{part}"] = pooled[:, None, None, :].contiguous()
    safetensors.torch.save_file(tensors, tmp_path / "whole.safetensors")
    assert (tmp_path / "features.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(("channels", "threads"), [(1, 1), (5, 1), (96, 1), (96, 2)])
def test_pooled_features_are_bit_identical_to_the_means_of_the_maps_in_the_same_batches(
    channels: int, threads: int, pack: Pack, tmp_path: Path
) -> None:
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        backbone = torch.nn.Conv2d(3, channels, 3, stride=4)
        features = cached_features(backbone, image_batches(pack), tmp_path / "features.safetensors")
        maps, pooled = (
            FeatureBatches(parts, pack, SPLIT, SPLIT, batch_size=7, flip=True, device=CPU) for parts in features
        )
        pairs = list(zip(maps.train(1, 2), pooled.train(1, 2), strict=True))
        for part in get_args(EvaluationSplit):
            pairs += zip(maps.split(part), pooled.split(part), strict=True)
        for (inputs, labels), (means, same_labels) in pairs:
            assert means.shape == (len(labels), channels, 1, 1)
            assert torch.equal(inputs.mean(dim=(2, 3)), means.mean(dim=(2, 3)))
            assert torch.equal(labels, same_labels)
        assert torch.equal(maps.some("test", [3, 1]).mean(dim=(2, 3)), pooled.some("test", [3, 1])[:, :, 0, 0])
    finally:
        torch.set_num_threads(threads_before)


def test_cached_features_in_existing_stores_are_found_again() -> None:
    digest = features_digest(backbone="tiny", weights="none", image_size=96)
    assert digest == "4c953c5958fa0acf"
    assert digest == features_digest(image_size=96, weights="none", backbone="tiny")
    assert digest != features_digest(backbone="tiny", weights="none", image_size=97)


def test_a_truncated_feature_cache_is_named(pack: Pack, tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    cached_features(torch.nn.Conv2d(3, 2, 3, stride=4), image_batches(pack), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"features\.safetensors: the feature cache is damaged"):
        open_features(path)


# Images and features that a GPU has no room for


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_rows_are_gathered_on_the_host_into_memory_of_their_own(dtype: torch.dtype) -> None:
    maps, indices = noise(9, 4, 5, 3).to(dtype), torch.tensor([7, 0, 7, 3])
    first = copy_rows(maps, indices, CPU)
    second = copy_rows(maps, indices + 1, CPU)
    assert torch.equal(first, maps[[7, 0, 7, 3]])
    assert torch.equal(second, maps[[8, 1, 8, 4]])
    assert first.untyped_storage().data_ptr() not in {kept.untyped_storage().data_ptr() for kept in (maps, second)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("place", ["host", "gpu"])
def test_on_a_gpu_batches_are_the_same_wherever_images_and_features_are(pack: Pack, place: str) -> None:
    gpu = torch.device("cuda")
    where = CPU if place == "host" else gpu
    features = {name: maps.to(where) for name, maps in features_that_name_their_image().items()}
    batches = FeatureBatches(features, pack, SPLIT, SPLIT, batch_size=8, flip=True, device=gpu)
    moved = dataclasses.replace(pack, images_NSSC=pack.images_NSSC.to(where))
    on_gpu, on_cpu = image_batches(moved, device=gpu), image_batches(pack)
    for ours, expected in ((batches, feature_batches(pack)), (on_gpu, on_cpu)):
        pairs = list(zip(ours.train(1, 2), expected.train(1, 2), strict=True))
        for part in get_args(EvaluationSplit):
            pairs += zip(ours.split(part), expected.split(part), strict=True)
            assert torch.allclose(ours.some(part, [3, 1]).cpu(), expected.some(part, [3, 1]), atol=1e-3)
            assert torch.equal(ours.targets(part)[CLASS], expected.targets(part)[CLASS])
        for (inputs, labels), (same_inputs, same_labels) in pairs:
            assert torch.allclose(inputs.cpu(), same_inputs, atol=1e-3)
            assert torch.equal(labels.cpu(), same_labels)


# Probe images


@settings(deadline=None)
@given(st.lists(st.integers(0, 36), min_size=1, max_size=100), st.integers(1, 12))
def test_probe_images_are_of_different_breeds(labels: list[int], count: int) -> None:
    positions = choose_probes(torch.tensor(labels), count)
    classes = [labels[position] for position in positions]
    assert len(set(classes)) == len(classes) == min(count, len(set(labels)))
    assert count == 1 or min(labels) in classes
    assert count == 1 or max(labels) in classes
