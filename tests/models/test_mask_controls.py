"""The controls of heads with masks, by `masks=`: what each changes, and that it changes nothing else."""

import pytest
import torch
import torch.nn.functional as F

from catdog.config.variants import parse_variant
from catdog.models import VARIANTS, build_head
from catdog.models.head_contract import CHECKS, check_head
from catdog.models.heads.masked import MaskedHead, swapped_masks
from catdog.models.petnet import count_parameters

HEADS = [name for name in VARIANTS if VARIANTS[name].head.startswith(("attention.", "attention_pooling."))]
"""Those that read one map, the backbone's last."""
CONTROLS = {
    name: [choice for choice in parameter.choices if (name, choice) != ("multi-attention-free", "untrained")]
    for name in HEADS
    for parameter in VARIANTS[name].parameters
    if parameter.name == "masks"
}
"""By head; multi-attention-free with untrained masks is called multi-attention-fixed."""
UNTRAINED = [name for name, choices in CONTROLS.items() if "untrained" in choices]
CHANNELS, CLASSES, BATCH = 12, 5, 6


def head_of(name: str, control: str) -> MaskedHead:
    torch.manual_seed(0)
    head = build_head(parse_variant(f"{name}:masks={control},dropout=0"), CHANNELS, CLASSES)
    assert isinstance(head, MaskedHead)
    return head


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(BATCH, CHANNELS, 4, 5, generator=torch.Generator().manual_seed(seed))


def train(head: MaskedHead, steps: int = 3) -> MaskedHead:
    optimizer = torch.optim.SGD([one for one in head.parameters() if one.requires_grad], lr=0.5)
    for step in range(steps):
        output = head.train()(features(step))
        optimizer.zero_grad()
        (F.cross_entropy(output.logits_BK, torch.arange(BATCH) % CLASSES) + output.aux_loss).backward()
        optimizer.step()
    return head.eval()


def test_every_head_with_masks_has_its_controls() -> None:
    assert set(HEADS) - CONTROLS.keys() == {"multi-attention-fixed"}, "that one is a control itself"
    assert set(CONTROLS) - set(UNTRAINED) == {"multi-attention-free"}, "untrained, it is multi-attention-fixed"


@pytest.mark.parametrize(("name", "control"), [(n, c) for n, choices in CONTROLS.items() for c in choices[1:]])
def test_a_control_keeps_the_contract_of_heads(name: str, control: str) -> None:
    assert dict(check_head(parse_variant(f"{name}:masks={control}"))) == dict.fromkeys(CHECKS)


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_masks_get_no_step_and_all_else_trains(name: str) -> None:
    before, after = head_of(name, "untrained"), train(head_of(name, "untrained"))
    of_masks = {id(parameter) for parameter in after.mask_parameters()}
    assert of_masks
    for (label, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other) == (id(other) in of_masks), label
    trained = train(head_of(name, "trained"))
    assert any(not torch.equal(*pair) for pair in zip(before.mask_parameters(), trained.mask_parameters(), strict=True))


@pytest.mark.parametrize("name", CONTROLS)
def test_flat_masks_are_the_masks_own_mean_in_a_head_of_equal_parameters(name: str) -> None:
    flat, own = head_of(name, "flat"), head_of(name, "trained")
    output, masks = flat(features()), own(features()).masks_BMHW
    assert masks is not None
    means = torch.tensor([[sum(map(sum, mask)) / 20 for mask in image] for image in masks.tolist()])
    expected = own.classify(features(), means[:, :, None, None].expand(masks.shape))
    torch.testing.assert_close(output.logits_BK, expected, atol=1e-5, rtol=1e-5)
    assert output.masks_BMHW is None
    assert output.aux_loss.item() == 0
    assert count_parameters(flat) == count_parameters(own)
    mirrored, turned = (flat(features().flip(sides)).logits_BK for sides in ((2,), (2, 3)))
    torch.testing.assert_close(mirrored, output.logits_BK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned, output.logits_BK, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONTROLS)
def test_swapped_masks_train_like_the_heads_own_to_the_last_bit(name: str) -> None:
    swapped, own = train(head_of(name, "swapped")), train(head_of(name, "trained"))
    assert all(torch.equal(*pair) for pair in zip(swapped.parameters(), own.parameters(), strict=True))
    assert torch.equal(swapped(features()).logits_BK, own(features()).logits_BK)


@pytest.mark.parametrize("name", CONTROLS)
def test_while_masks_are_swapped_each_image_is_classified_by_those_of_another(name: str) -> None:
    head, maps = train(head_of(name, "swapped")), features()
    own = head(maps)
    with swapped_masks(head) as swapped:
        output = head(maps)
    assert swapped
    assert torch.equal(output.masks_BMHW, own.masks_BMHW), "the masks of an image that are kept are its own"
    for row in range(BATCH):
        others = own.masks_BMHW[(row + BATCH // 2) % BATCH].unsqueeze(0)
        torch.testing.assert_close(output.logits_BK[row], head.classify(maps[row : row + 1], others)[0])
        assert not torch.allclose(output.logits_BK[row], own.logits_BK[row], atol=1e-6)
    assert torch.equal(head(maps).logits_BK, own.logits_BK), "only for so long"
    with swapped_masks(head_of(name, "trained")) as swapped:
        assert not swapped
