"""Whole batches in evaluation: on a GPU one shape, with the outputs of the images that were asked for."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from catdog.data.batches import CLASS, EVALUATION_BATCH, Batch, Shard
from catdog.models import ModelOutput, build_model
from catdog.runs.places import by_place
from catdog.training.evaluation import evaluate, in_whole_batch
from catdog.training.precision import autocast_for


@pytest.mark.parametrize("label", ["baseline", "multi-attention", "cbam", "abn"])
@pytest.mark.parametrize("count", [1, 5, EVALUATION_BATCH])
def test_the_outputs_are_those_of_the_images_alone(label: str, count: int) -> None:
    torch.manual_seed(0)
    model = build_model(label, backbone="tiny", num_classes=4).eval()
    images = torch.rand(count, 3, 32, 32)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    with torch.inference_mode():
        found, expected = in_whole_batch(model, images), model(images)
    assert sizes == [EVALUATION_BATCH, count]
    for mine, theirs in (
        ({"": found.logits_BK}, {"": expected.logits_BK}),
        (by_place(found.masks_BMHW, found.stage_masks), by_place(expected.masks_BMHW, expected.stage_masks)),
        (found.side_logits or {}, expected.side_logits or {}),
    ):
        torch.testing.assert_close(dict(mine), dict(theirs))


class Images:
    """A split of so many images, without values: their device need not be there."""

    def __init__(self, count: int, device: str) -> None:
        self.labels = torch.arange(count) % 3
        with FakeTensorMode(allow_non_fake_inputs=True):
            self.images = torch.empty(count, 3, 4, 4, device=device)

    def split(self, name: str, shard: Shard) -> Iterator[Batch]:
        yield from zip(self.images.split(EVALUATION_BATCH), self.labels.split(EVALUATION_BATCH), strict=True)

    def some(self, name: str, positions: list[int]) -> torch.Tensor:
        return torch.stack([self.images[position] for position in positions])

    def targets(self, name: str) -> Mapping[str, torch.Tensor]:
        return {CLASS: self.labels}


class Means(torch.nn.Module):
    """Its logits are the means of an image's channels."""

    def forward(self, images_BCHW: torch.Tensor) -> ModelOutput:
        return ModelOutput(images_BCHW.mean(dim=(2, 3)), None, images_BCHW.new_zeros(()))


@pytest.mark.parametrize(
    ("device", "mixed", "expected"),
    [("cuda", False, [64, 64]), ("cuda", True, [51, 50]), ("cpu", False, [64, 37]), ("cpu", True, [51, 50])],
)
def test_only_on_a_gpu_and_never_where_images_get_the_masks_of_others(
    device: str, mixed: bool, expected: list[int]
) -> None:
    model, sizes = Means(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    batches = Images(101, device)
    found = evaluate(model, batches, "test", autocast_for("float32", torch.device("cpu")), mixed)  # type: ignore[arg-type]
    assert sizes == expected
    assert found.logits_NK.shape == (101, 3)
