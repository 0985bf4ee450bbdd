"""The contract of heads: every head of the package keeps it, and each way to break it is found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from catdog.cli import run_job
from catdog.config.head_registry import register_head
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.models import VARIANTS, ModelOutput, Parameter, build_head, build_model
from catdog.models.head_contract import CHECKS, check_external_heads, check_head
from catdog.models.petnet import SideTask
from catdog.models.stages import Shape, StageOutput
from jobs import check_head as check_head_job

pytestmark = pytest.mark.usefixtures("no_external_heads")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_head_of_the_package_keeps_the_contract(name: str) -> None:
    assert dict(check_head(parse_variant(name))) == dict.fromkeys(CHECKS)


class Plain(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features: torch.Tensor) -> ModelOutput:
        pooled = features.mean(dim=(2, 3))
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()))


class ReturnsLogits(Plain):
    def forward(self, features: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(features).logits_BK


class WrongClasses(Plain):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes + 1)


class FlatMasks(Plain):
    def forward(self, features: torch.Tensor) -> ModelOutput:
        return super().forward(features)._replace(masks_BMHW=features.mean(dim=1))


class SideTaskOfAColumn(Plain):
    side_tasks: ClassVar = {"branch": SideTask("species")}

    def forward(self, features: torch.Tensor) -> ModelOutput:
        output = super().forward(features)
        return output._replace(side_logits={"branch": output.logits_BK})


class SilentSideTask(SideTaskOfAColumn):
    side_tasks: ClassVar = {}


class Unused(Plain):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.left_over = nn.Linear(2, 2)


class OnlySquare(Plain):
    def forward(self, features: torch.Tensor) -> ModelOutput:
        return super().forward(features + features.transpose(2, 3))


class Divides(Plain):
    def forward(self, features: torch.Tensor) -> ModelOutput:
        masks = features[:, :1] / features.amax(dim=(1, 2, 3), keepdim=True)
        return super().forward(features)._replace(masks_BMHW=masks)


class Signed(Plain):
    def forward(self, features: torch.Tensor) -> ModelOutput:
        return super().forward(features)._replace(masks_BMHW=features[:, :1].tanh())


class SmallMaps(Plain):
    def forward(self, features: torch.Tensor) -> ModelOutput:
        return super().forward(features + torch.zeros(100)[features[0, 0].numel()])


class Remembers(Plain):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.steps = 0

    def forward(self, features: torch.Tensor) -> ModelOutput:
        self.steps += self.training
        return super().forward(features * (1 + 0.1 * self.steps))


class Attends(Plain):
    """Layers that want channels to divide, and more than one image to train on."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.group_norm, self.batch_norm = nn.GroupNorm(32, in_channels), nn.BatchNorm1d(in_channels)
        self.attention = nn.MultiheadAttention(in_channels, num_heads=8, batch_first=True)

    def forward(self, features: torch.Tensor) -> ModelOutput:
        tokens = self.group_norm(features).flatten(2).transpose(1, 2)
        pooled = self.batch_norm(self.attention(tokens, tokens, tokens)[0].mean(dim=1))
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()))


def test_a_head_may_divide_its_channels_and_normalise_over_the_batch() -> None:
    register_head("attends")(Attends)
    assert dict(check_head(parse_variant("attends"))) == dict.fromkeys(CHECKS)


class Exits(Plain):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        raise SystemExit(0)


FAULTS = {
    Exits: ("shapes", "SystemExit: 0"),
    ReturnsLogits: ("shapes", "it returns Tensor, not a ModelOutput"),
    WrongClasses: ("shapes", "a square map: logits (4, 6), not (4, 5)"),
    FlatMasks: ("shapes", "a square map: masks (4, 5, 5), not (4, masks, 5, 5)"),
    OnlySquare: ("shapes", "RuntimeError: "),
    Unused: ("gradients", "no gradient reaches left_over.weight: use it, or set requires_grad = False"),
    Divides: ("finite masks, none negative", "masks of features scaled by 0 are not finite"),
    Signed: ("finite masks, none negative", "masks of features scaled by -1 are negative; they are drawn and measured"),
    SideTaskOfAColumn: ("shapes", "side task 'branch': another name, and target class"),
    SilentSideTask: ("shapes", "a square map: side_logits of ['branch'], but side_tasks []"),
    Remembers: ("resumed, same bits", "a resumed training and one that was not interrupted give different logits"),
}


@pytest.mark.parametrize("head", FAULTS, ids=lambda head: head.__name__)
def test_each_way_to_break_the_contract_is_found(head: type) -> None:
    register_head("broken")(head)
    name, fault = FAULTS[head]
    found = dict(check_head(parse_variant("broken")))
    assert (found[name] or "").startswith(fault)
    assert (list(found) == ["shapes"]) == (name == "shapes"), "nothing follows from wrong shapes"
    if name in ("shapes", "gradients"):
        with pytest.raises(UserError, match=r"variant 'broken': its .*; see jobs/check_head\.py"):
            check_external_heads([parse_variant("baseline"), parse_variant("broken")])
    else:
        check_external_heads([parse_variant("broken")])


class Gate(nn.Module):
    """A module behind a stage: one sigmoid mask."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, maps: torch.Tensor) -> StageOutput:
        mask = self.conv(maps).sigmoid()
        return StageOutput(maps * mask, mask)


class Gated(nn.Module):
    """A head as docs/heads.md describes it: a module behind each of its stages but the last, whose maps it reads."""

    def __init__(self, in_channels: int, num_classes: int, *, stages: list[str], places: Mapping[str, Shape]) -> None:
        super().__init__()
        last = list(places)[-1]
        earlier = [stage for stage in stages if stage != last]
        self.reads = (*earlier, last)
        self.gates = nn.ModuleList(self.gate(places[stage][0]) for stage in earlier)
        self.classifier = nn.Linear(sum(places[stage][0] for stage in self.reads), num_classes)

    gate: ClassVar[type[nn.Module]] = Gate

    @property
    def inside(self) -> dict[str, nn.Module]:
        return dict(zip(self.reads, self.gates, strict=False))

    def forward(self, maps: Mapping[str, torch.Tensor]) -> ModelOutput:
        pooled = torch.cat([maps[stage].mean(dim=(2, 3)) for stage in self.reads], dim=1)
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()))


@pytest.mark.parametrize("label", ["gated", "gated:stages=inside", "gated:stages=layer3", "gated:stages=layer3+layer4"])
def test_a_head_of_ones_own_works_inside_the_backbone_whatever_the_stages_are_called(
    label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_head("gated", Parameter("stages", "all"))(Gated)
    assert dict(check_head(parse_variant(label))) == dict.fromkeys(CHECKS)
    check_external_heads([parse_variant(label)])
    (tmp_path / "other.py").touch()
    arguments = [str(tmp_path / "other.py"), "--variants", label, "--out", str(tmp_path)]
    assert run_job(check_head_job.main, arguments) == 0
    assert capsys.readouterr().out.endswith("nothing stands in the way\n")
    assert list(tmp_path.glob("masks-gated*.png"))
    masks = build_model(label, backbone="resnet18", num_classes=5, image_size=64)(torch.rand(2, 3, 64, 64)).stage_masks
    assert masks is not None
    assert "layer3" in masks


def test_the_default_places_of_a_head_may_stand_in_any_order() -> None:
    register_head("gated", Parameter("stages", "layer4+layer3"))(Gated)
    labels = ["gated", "gated:stages=layer3+layer4", "gated:stages=layer4+layer3"]
    assert {parse_variant(label).label for label in labels} == {"gated"}


class GatesTheLast(Gated):
    @property
    def inside(self) -> dict[str, nn.Module]:
        return {self.reads[-1]: self.gates[0]}


class ReadsTheLastFirst(Gated):
    inside: ClassVar[dict[str, nn.Module]] = {}  # type: ignore[assignment,misc]

    def __init__(self, *arguments: Any, **parameters: Any) -> None:
        super().__init__(*arguments, **parameters)
        self.reads = self.reads[::-1]


class MapsOnly(Gated):
    gate = nn.Identity


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (GatesTheLast, "module inside the backbone at second, which is no place before the last"),
        (ReadsTheLastFirst, "reads second, first: name places, each once, the last one last"),
        (MapsOnly, "the module behind first returns Tensor, not a StageOutput"),
    ],
)
def test_a_head_that_mistakes_the_places_is_told_so(head: type, said: str) -> None:
    register_head("mistaken", Parameter("stages", "all"))(head)
    assert said in (dict(check_head(parse_variant("mistaken")))["shapes"] or "")


def test_a_head_that_fails_only_where_its_masks_are_drawn_is_one_more_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_head("small")(SmallMaps)
    (tmp_path / "other.py").touch()
    assert run_job(check_head_job.main, [str(tmp_path / "other.py"), "--variants", "small"]) == 2
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["ok"] * len(CHECKS) + ["fault", "to"]
    assert "fault    small                    training on a 12 × 12 map: IndexError: index 144 is out of" in said.out
    assert said.out.endswith("to be mended: small\n")
    assert not said.err


def test_the_job_says_which_check_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from catdog.models import register_head\nfrom torch import nn\n"
        "@register_head('wrong')\nclass Wrong(nn.Linear):\n"
        "    def __init__(self, in_channels, num_classes):\n        super().__init__(in_channels, num_classes)\n"
    )
    assert run_job(check_head_job.main, [str(file), "--out", str(file.parent)]) == 2
    said = capsys.readouterr().out
    assert "fault    wrong                    shapes: RuntimeError: mat1 and mat2" in said
    assert not list(file.parent.glob("*.png"))
    assert run_job(check_head_job.main, []) == 2
    file.write_text("import torch\n")
    assert run_job(check_head_job.main, [str(file)]) == 2
    assert "registers no head: put @register_head(NAME) above a class" in capsys.readouterr().err


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that an operation returns."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.most = max(self.most, value.numel())
        return result


@pytest.mark.parametrize(
    "label",
    [
        "multi-attention:num_masks=16", "multi-attention-free:num_masks=16", "multi-attention-fixed:num_masks=16",
        "query:num_queries=2,num_heads=8,head_features=4", "ep:num_queries=16",
    ],
)  # fmt: skip
def test_no_head_makes_the_product_of_its_masks_and_the_features(label: str) -> None:
    torch.manual_seed(0)
    head = build_head(parse_variant(label), 32, 5)
    features_BCHW = torch.randn(16, 32, 8, 8, requires_grad=True)
    with LargestTensor() as largest:
        output = head(features_BCHW)
        (output.logits_BK.sum() + output.aux_loss).backward()
    assert output.masks_BMHW.shape[1] == 16
    assert largest.most < features_BCHW.numel() * 16 / 2
