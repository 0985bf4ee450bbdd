"""What each head of the package computes, as stored numbers: a change that moves one needs another RESULT_FORMAT."""

import pytest
import torch
import torch.nn.functional as F

from catdog.config.variants import parse_variant
from catdog.models import VARIANTS, ModelOutput, build_model
from catdog.runs.manifest import RESULT_FORMAT

GOLDEN: dict[str, list[float]] = {
    "baseline": [1.48425, 1.409, 1.25132, 1.05685, 1.00235, 4.02105, 0],
    "attention": [1.44118, 1.40412, 1.32444, 1.30266, 1.175, 2.29883, 230.698],
    "multi-attention": [1.5644, 1.49302, 1.45927, 1.41692, 1.38503, 1.70231, 865.01],
    "attention-relu": [1.41783, 1.39285, 1.34573, 1.32168, 1.24899, 2.13673, 63.1678],
    "attention-softmax": [1.49762, 1.38577, 1.18943, 1.0771, 0.803878, 2.47232, 432],
    "se": [1.36428, 1.39829, 1.30503, 1.20299, 1.23668, 2.18314, 0],
    "eca": [1.40595, 1.1862, 1.22598, 1.07262, 0.898605, 2.76259, 0],
    "cbam": [1.37793, 1.32325, 1.18532, 1.08408, 0.936393, 0.950017, 435.857],
    "abn": [1.44148, 1.3316, 1.23807, 0.989817, 0.904679, 3.26059, 0],
    "stage-attention": [1.49334, 1.44227, 1.28211, 1.1442, 0.922908, 0.962054, 432.0],
    "residual-attention": [1.42251, 1.32725, 1.17064, 1.02909, 0.908973, 2.44387, 0.948169],
    "multi-attention-free": [1.41181, 1.37698, 1.36805, 1.34067, 1.3164, 1.70065, 893.85],
    "multi-attention-fixed": [1.41181, 1.37699, 1.36794, 1.34077, 1.31654, 1.70143, 893.524],
    "query": [1.34655, 1.37121, 1.27484, 1.18376, 0.997795, 1.91199, 3456],
    "ep": [1.38294, 1.41727, 1.38225, 1.24546, 1.15276, 3.67716, 3456],
    "simpool": [1.81316, 1.31054, 1.10238, 0.541544, 0.314543, 57.9127, 432],
    "abmil": [1.34737, 1.32803, 1.15538, 1.05851, 0.916629, 3.98559, 432],
    "gem": [1.6327, 1.39996, 0.917137, 0.736885, 0.58709, 4.12065, 0],
    "max": [2.1951, 2.49766, 2.57886, 2.89308, 2.15465, 33.6782, 0],
}
GOLDEN["multi-task"] = GOLDEN["baseline"]  # one head; the second task is a setting
"""The losses of five steps, then the sums of |logits| and of masks, at RESULT_FORMAT 3; processors differ by 1e-6."""


def numbers(name: str) -> list[float]:
    """Train a variant on the backbone `tiny` for five steps on random images; return `GOLDEN`'s numbers."""
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand((12, 3, 48, 48), generator=generator) * 2 - 1
    labels_B = torch.arange(12) % 4
    torch.manual_seed(0)
    model = build_model(parse_variant(name), backbone="tiny", num_classes=4).train()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05, momentum=0.9)
    found = []
    for step in range(5):
        torch.manual_seed(step)
        output: ModelOutput = model(images_BCHW)
        loss = F.cross_entropy(output.logits_BK, labels_B) + output.aux_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    with torch.inference_mode():
        output = model.eval()(images_BCHW)
    masks = 0.0 if output.masks_BMHW is None else output.masks_BMHW.double().sum().item()
    return [*found, output.logits_BK.double().abs().sum().item(), masks]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_computes_what_it_did(name: str) -> None:
    assert RESULT_FORMAT == 3, "store what the heads compute now"
    assert numbers(name) == pytest.approx(GOLDEN[name], rel=1e-3)
