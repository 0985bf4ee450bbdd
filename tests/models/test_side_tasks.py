"""A second task with any head: its logits are split from those of the classes."""

import copy
import io

import pytest
import torch
from torch import nn

from catdog.config.head_registry import register_head
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.models import VARIANTS, ModelOutput, PetNet, build_head, build_model
from catdog.models.backbones.build import build_backbone
from catdog.models.batch_norm_folding import FoldedNet
from catdog.models.petnet import SecondTask, SideTask
from catdog.models.stages import StageOutput

TASK = SecondTask("species", 2, weight=0.5)


@pytest.mark.parametrize("name", [name for name in VARIANTS if "stages" not in parse_variant(name).arguments])
def test_any_head_returns_the_logits_of_classes_and_groups(name: str) -> None:
    spec, features = parse_variant(name), torch.rand(3, 12, 5, 5)
    torch.manual_seed(0)
    wide = build_head(spec, 12, 7).eval()
    torch.manual_seed(0)
    head = build_head(spec, 12, 5, second_task=TASK).eval()
    assert head.state_dict().keys() == wide.state_dict().keys()
    network = PetNet(nn.Identity(), head)
    assert network.side_tasks == {"species": SideTask("species", 0.5)}
    saved = io.BytesIO()
    torch.save(head, saved)
    for one in (head, copy.deepcopy(head), torch.load(io.BytesIO(saved.getvalue()), weights_only=False)):
        output, expected = one(features), wide(features)
        assert output.side_logits is not None
        assert torch.equal(output.logits_BK, expected.logits_BK[:, :5])
        assert torch.equal(output.side_logits["species"], expected.logits_BK[:, 5:])
    assert PetNet(nn.Identity(), wide).side_tasks == {}
    assert expected.side_logits is None


@pytest.mark.parametrize("name", ["baseline", "cbam"])
def test_a_folded_network_splits_them_too(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, backbone="resnet18", num_classes=5, image_size=64, second_task=TASK).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        folded, plain = FoldedNet(model)(images), model(images)
    assert folded.side_logits is not None
    assert plain.side_logits is not None
    assert (tuple(folded.logits_BK.shape), list(folded.side_logits)) == ((2, 5), ["species"])
    assert torch.allclose(folded.side_logits["species"], plain.side_logits["species"], atol=1e-3)
    assert (folded.stage_masks is not None) == (name == "cbam")


class Branching(nn.Module):
    """A head with a task of its own."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.side_tasks = {"branch": SideTask("class", 2.0)}
        self.classifier, self.branch = (nn.Linear(in_channels, num_classes) for _ in range(2))

    def forward(self, features: torch.Tensor) -> ModelOutput:
        pooled = features.mean(dim=(2, 3))
        side_logits = {"branch": self.branch(pooled)}
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()), side_logits=side_logits)


class BranchInside(nn.Module):
    """A classifier behind a stage."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(40, num_classes)

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        return StageOutput(map_BCHW, None, self.classifier(map_BCHW.mean(dim=(2, 3))))


class BranchingInside(nn.Module):
    """A head whose task of its own is one of a stage."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.side_tasks = {"branch": SideTask("class")}
        self.classifier, self.branch = nn.Linear(in_channels, num_classes), BranchInside(num_classes)
        self.inside = {"layers.1": self.branch}

    def forward(self, features: torch.Tensor) -> ModelOutput:
        pooled = features.mean(dim=(2, 3))
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()))


@pytest.mark.usefixtures("no_external_heads")
def test_a_classifier_inside_the_backbone_stays_of_the_classes() -> None:
    register_head("inside")(BranchingInside)
    for second, names in ((TASK, ["branch", "species"]), (None, ["branch"])):
        head = build_head(parse_variant("inside"), 96, 5, second_task=second)
        network = PetNet(build_backbone("tiny", None), head).eval()
        output = network(torch.rand(2, 3, 64, 64))
        assert output.side_logits is not None
        assert list(network.side_tasks) == list(output.side_logits) == names
        assert output.logits_BK.shape == output.side_logits["branch"].shape == (2, 5)


@pytest.mark.usefixtures("no_external_heads")
def test_the_own_tasks_of_a_head_stay_of_the_classes() -> None:
    register_head("branching")(Branching)
    head = build_head(parse_variant("branching"), 12, 5, second_task=TASK)
    assert head.side_tasks == {"branch": SideTask("class", 2.0), "species": SideTask("species", 0.5)}
    output = head(torch.rand(3, 12, 5, 5))
    shapes = {name: tuple(logits.shape) for name, logits in output.side_logits.items()}
    assert (tuple(output.logits_BK.shape), shapes) == ((3, 5), {"branch": (3, 5), "species": (3, 2)})
    with pytest.raises(
        UserError, match=r"^--second-task branch: branching has a task of this name: rename the column$"
    ):
        build_head(parse_variant("branching"), 12, 5, second_task=SecondTask("branch", 2))
