"""The training loop on the drawn pets: bit-identical whether interrupted or not, and blind to the test split."""

import contextlib
import copy
import dataclasses
import io
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from catdog.config.extensions import register_loss, register_optimizer
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.data.batches import CLASS, Batches, ImageBatches
from catdog.data.pack import Pack
from catdog.errors import DivergedError
from catdog.models import VARIANTS, ModelOutput
from catdog.models.heads.masked import Masked
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import Identity
from catdog.runs.places import by_place
from catdog.storage import StoreLocation
from catdog.training.evaluation import evaluate
from catdog.training.loop import TrainState, fit, new_state, stop_counting_batches
from catdog.training.mixing import Mixing
from catdog.training.precision import autocast_for, flush_denormals
from catdog.training.schedule import cosine, one_cycle
from catdog.training.seeding import trial_seeds
from catdog.trial.context import RunContext
from catdog.trial.inputs import TrialInputs, load_inputs, new_model
from tests.helpers.pets import copy_packed

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Setup:
    """The drawn pets, opened once for this file."""

    context: RunContext
    inputs: TrialInputs

    @property
    def recipe(self) -> Recipe:
        return self.context.identity.recipe

    def start(self, label: str, recipe: Recipe, seed: int = 0) -> TrainState:
        model = new_model(self.inputs, self.context, parse_variant(label, recipe), trial_seeds(seed))
        return new_state(model, recipe, self.inputs.batches.steps_per_epoch)

    def batches_of(self, pack: Pack) -> ImageBatches:
        """The batches of another pack that is split in the same way."""
        batches = self.inputs.batches
        assert isinstance(batches, ImageBatches)
        return ImageBatches(
            pack,
            self.inputs.split,
            image_size=batches.image_size,
            batch_size=batches.batch_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            crop_scale=batches.crop_scale,
            flip=batches.flip,
            device=CPU,
        )

    def train(
        self,
        state: TrainState,
        recipe: Recipe,
        seed: int = 0,
        epochs: int | None = None,
        batches: Batches | None = None,
    ) -> list[EpochRecord]:
        """Train for some epochs, or to the end."""
        records = fit(state, batches or self.inputs.batches, recipe, trial_seeds(seed, recipe.vary), CPU)
        return [record for record in itertools.islice(records, epochs) if record is not None]

    def train_steps(self, state: TrainState, recipe: Recipe, steps: int) -> None:
        """Train for so many steps."""
        left = iter([False] * (steps - 1) + [True])
        records = fit(state, self.inputs.batches, recipe, trial_seeds(0, recipe.vary), CPU, lambda: next(left))
        for record in records:
            if record is None:
                break


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, packed: Path, drawn_fingerprint: str, recipe: Recipe) -> Setup:
    folder = copy_packed(packed, tmp_path_factory.mktemp("store"))
    context = RunContext("test", StoreLocation.of(str(folder)), Identity(recipe, drawn_fingerprint, None, 1), "none")
    return Setup(context, load_inputs(context, CPU))


def timeless(history: list[EpochRecord]) -> list[EpochRecord]:
    return [dataclasses.replace(record, train_seconds=0.0, evaluate_seconds=0.0, finished_at="") for record in history]


def saved(state: TrainState) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    return io.BytesIO(file.getvalue())


def assert_equal_weights(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different


MIDDLE_OF_EPOCH_1 = 4
END_OF_EPOCH_1 = 6


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, MIDDLE_OF_EPOCH_1) for name in VARIANTS), ("multi-attention", END_OF_EPOCH_1)]
)
def test_interrupted_training_gives_the_same_bits(name: str, steps: int, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, epochs=4)
    assert setup.inputs.batches.steps_per_epoch == 3
    whole = setup.start(name, recipe)
    setup.train(whole, recipe)

    first = setup.start(name, recipe)
    setup.train_steps(first, recipe, steps)
    file = saved(first)
    torch.rand(7)  # a new process would have another random state
    second = setup.start(name, recipe, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert (second.next_epoch, len(second.partial)) == (1, 1)
    records = setup.train(second, recipe)

    assert [record.epoch for record in records] == [1, 2, 3]
    assert_equal_weights(second.model.state_dict(), whole.model.state_dict())
    assert_equal_weights(second.best_weights, whole.best_weights)
    assert timeless(second.history) == timeless(whole.history)
    assert second.best.epoch == whole.best.epoch


def one_hot(targets: torch.Tensor) -> torch.Tensor:
    return targets if targets.ndim == 2 else torch.nn.functional.one_hot(targets, 12)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "schedule": "cosine"},
        {"precision": "bfloat16", "label_smoothing": 0.1},
        {"mixup": 0.4, "cutmix": 1.0, "gradient_clip": 0.5},
        {"ema": 0.9},
        {"optimizer": "nadam", "loss": "squares", "mixup": 0.4},
    ],
)
@pytest.mark.usefixtures("no_external_heads")
def test_other_optimisers_and_precisions_resume_too(changes: dict[str, object], setup: Setup) -> None:
    register_optimizer("nadam")(lambda groups: torch.optim.NAdam(groups, betas=(0.8, 0.9)))
    register_loss("squares")(
        lambda logits_BK, targets: (logits_BK.softmax(1) - one_hot(targets)).square().sum(1).mean()
    )
    recipe = dataclasses.replace(setup.recipe, **changes)  # type: ignore[arg-type]
    whole, second = setup.start("multi-attention", recipe), setup.start("multi-attention", recipe, seed=99)
    setup.train(whole, recipe)
    first = setup.start("multi-attention", recipe)
    setup.train_steps(first, recipe, MIDDLE_OF_EPOCH_1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert (second.next_epoch, len(second.partial)) == (1, 1)
    setup.train(second, recipe)
    assert_equal_weights(second.model.state_dict(), whole.model.state_dict())
    assert_equal_weights(second.best_weights, whole.best_weights)
    assert timeless(second.history) == timeless(whole.history)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_resumes_in_the_middle_of_an_epoch(setup: Setup) -> None:
    device, recipe = torch.device("cuda"), dataclasses.replace(setup.recipe, epochs=2)
    context, seeds = dataclasses.replace(setup.context, gpus_per_trial=1.0), trial_seeds(0)
    inputs, spec = load_inputs(context, device), parse_variant("multi-attention")

    def start() -> TrainState:
        return new_state(new_model(inputs, context, spec, seeds).to(device), recipe, 3)

    first, second, left = start(), start(), itertools.count(1)
    records = fit(first, inputs.batches, recipe, seeds, device, lambda: next(left) == MIDDLE_OF_EPOCH_1)
    assert next(record is None for record in records if record is None)
    second.load_state_dict(torch.load(saved(first), map_location="cpu", weights_only=True))
    list(fit(second, inputs.batches, recipe, seeds, device))
    list(records)
    assert second.best.train_loss == pytest.approx(first.best.train_loss, rel=1e-3)


def test_clipped_gradients_have_the_norm_that_the_recipe_allows(setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, gradient_clip=1e-3, epochs=1)
    state = setup.start("multi-attention", recipe)
    setup.train(state, recipe)
    norms = [parameter.grad.norm() for parameter in state.model.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_average_of_the_weights_is_validated_and_kept(setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, ema=0.9, epochs=1)
    state = setup.start("baseline", recipe)
    by_hand = [parameter.detach().clone() for parameter in state.model.parameters()]
    updates = 0

    def follow(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal updates
        for mine, theirs in zip(by_hand, state.model.parameters(), strict=True):
            mine.copy_(theirs.detach() if updates == 0 else 0.9 * mine + 0.1 * theirs.detach())
        updates += 1

    state.optimizer.register_step_post_hook(follow)
    (record,) = setup.train(state, recipe)
    assert updates == setup.inputs.batches.steps_per_epoch
    for (name, mine), theirs in zip(state.evaluated.named_parameters(), by_hand, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name
        assert torch.equal(state.best_weights[name], mine)
    found = evaluate(state.evaluated, setup.inputs.batches, "validation", autocast_for("float32", CPU))
    assert record.val_loss == found.loss
    assert not torch.equal(next(state.model.parameters()), next(state.evaluated.parameters()))


def test_mixed_batches_keep_their_labels_in_shares() -> None:
    images, labels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 4, 4), torch.arange(8) % 3
    recipe = dataclasses.replace(PRESETS["demo"].recipe, mixup=0.5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    mix = Mixing(recipe, 3, seed=7)
    mixed, shares = mix(images, labels)
    again = mix(images, labels)[0]
    assert torch.equal(torch.get_rng_state(), before), "dropout draws what it would without mixing"
    assert torch.allclose(shares.sum(dim=1), torch.ones(8))
    share = (mixed[1, 0, 0, 0] - 0).item()
    assert torch.allclose(mixed[1:, 0, 0, 0], torch.arange(7) + share)
    assert torch.allclose(shares, share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(labels.roll(1), 3))
    assert not torch.equal(again, mixed)
    other = Mixing(recipe, 3, seed=7)
    assert torch.equal(other(images, labels)[0], mixed)
    assert torch.equal(other(images, labels)[0], again)
    pasted, shares = Mixing(dataclasses.replace(recipe, mixup=0.0, cutmix=1.0), 3, seed=7)(images, labels)
    kept = (pasted == images).float().mean(dim=(1, 2, 3))
    assert torch.allclose(
        shares, kept[:, None] * F.one_hot(labels, 3) + (1 - kept[:, None]) * F.one_hot(labels.roll(1), 3)
    )
    plain = Mixing(dataclasses.replace(recipe, mixup=0.0), 3, seed=7)(images, labels)
    assert plain[0] is images
    assert plain[1] is labels


def test_mixing_leaves_the_generators_of_gpus_to_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Mixing(dataclasses.replace(PRESETS["demo"].recipe, mixup=0.5), 3, seed=7)
    assert not seeded
    torch.manual_seed(0)
    assert seeded, "as torch does"


def test_the_same_seed_gives_the_same_numbers_and_another_seed_gives_others(setup: Setup) -> None:
    states = []
    for seed in (0, 0, 1):
        state = setup.start("multi-attention", setup.recipe, seed)
        setup.train(state, setup.recipe, seed)
        states.append(state)
    assert_equal_weights(states[0].model.state_dict(), states[1].model.state_dict())
    assert timeless(states[0].history) == timeless(states[1].history)
    assert timeless(states[0].history) != timeless(states[2].history)


@pytest.mark.parametrize("purpose", ["order", "augment", "dropout"])
def test_each_source_of_randomness_alone_changes_the_result(purpose: str, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, epochs=1, vary=purpose)  # type: ignore[arg-type]
    histories = []
    for seed in (0, 1):
        state = setup.start("baseline", recipe)
        histories.append(timeless(setup.train(state, recipe, seed)))
    assert histories[0] != histories[1]


def standstill(recipe: Recipe) -> Recipe:
    """The recipe with steps too small to change the network."""
    return dataclasses.replace(recipe, learning_rate=1e-12, backbone_learning_rate=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_training_minimises_the_cross_entropy_against_smoothed_labels(smoothing: float, setup: Setup) -> None:
    """With a classifier that ignores its input, and images of one breed, the loss follows from the bias alone."""
    recipe = dataclasses.replace(standstill(setup.recipe), epochs=1, label_smoothing=smoothing)
    pack = setup.inputs.pack
    state = setup.start("baseline", recipe)
    bias = [k / 2 for k in range(len(pack.classes))]
    with torch.no_grad():
        state.model.head.classifier.weight.zero_()  # type: ignore[union-attr,operator]
        state.model.head.classifier.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr,operator]
    one_breed = dataclasses.replace(pack, labels_N=torch.full_like(pack.labels_N, 2))
    (record,) = setup.train(state, recipe, batches=setup.batches_of(one_breed))
    expected = (1 - smoothing) * bias[2] + smoothing * sum(bias) / len(bias)
    assert record.train_loss == pytest.approx(math.log(sum(math.exp(value) for value in bias)) - expected, rel=1e-4)


@pytest.mark.parametrize("renewed", ["order", "augment", "dropout", None])
def test_each_source_of_randomness_has_a_new_seed_in_every_epoch(renewed: str | None, setup: Setup) -> None:
    """Of a network that stands still, epochs differ only by what is drawn anew."""
    recipe = standstill(setup.recipe)
    state = setup.start("baseline", recipe)
    seeds = lambda purpose, epoch: epoch if purpose == renewed else 0  # noqa: E731
    first, second = fit(state, setup.inputs.batches, recipe, seeds, CPU)
    assert (abs(first.train_loss - second.train_loss) < 1e-6) == (renewed is None)


def as_pretrained(recipe: Recipe) -> Recipe:
    """The recipe of a pretrained backbone; the loop does not load the weights."""
    return dataclasses.replace(recipe, backbone="resnet18", weights="file.pth", freeze_batch_norm=True)


@pytest.mark.parametrize("case", ["pretrained and frozen", "pretrained", "random"])
def test_only_frozen_batch_norms_of_a_pretrained_backbone_keep_their_statistics(case: str, setup: Setup) -> None:
    recipe = dataclasses.replace(as_pretrained(setup.recipe), epochs=1)
    if case == "pretrained":
        recipe = dataclasses.replace(recipe, freeze_batch_norm=False)
    elif case == "random":
        recipe = dataclasses.replace(recipe, weights="none")
    state = setup.start("baseline", recipe)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    setup.train(state, recipe)
    after = state.model.state_dict()
    for name in before:
        kept = "running_" in name and case == "pretrained and frozen"
        assert torch.equal(before[name], after[name]) == (kept or "num_batches" in name), name


def test_only_norms_without_momentum_which_need_it_count_their_batches() -> None:
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None))
    plain = copy.deepcopy(norms)
    stop_counting_batches(norms)
    again = copy.deepcopy(norms)
    for image in torch.rand(2, 8, 3, 4, 4):
        assert torch.equal(again(image), plain(image))
    assert [again.state_dict()[f"{i}.num_batches_tracked"].item() for i in (0, 1)] == [0, 2]
    again.load_state_dict(plain.state_dict())
    assert_equal_weights(again.state_dict(), plain.state_dict())


@pytest.mark.parametrize("name", ["multi-attention", "multi-attention-fixed"])
def test_fixed_masks_are_never_trained(name: str, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, weight_decay=0.5, mask_weight_decay=0.5)
    state = setup.start(name, recipe)
    before = state.model.head.mask_conv.weight.detach().clone()  # type: ignore[union-attr,operator]
    setup.train(state, recipe)
    assert torch.equal(before, state.model.head.mask_conv.weight) == (name == "multi-attention-fixed")  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_trained_weight_has_its_own_rate_and_decay(name: str, setup: Setup) -> None:
    recipe = dataclasses.replace(
        setup.recipe,
        learning_rate=1e-3,
        backbone_learning_rate=1e-4,
        weight_decay=0.25,
        mask_weight_decay=0.125,
    )
    state = setup.start(name, recipe)
    masked = [module for module in state.model.modules() if isinstance(module, Masked)]
    of_masks = {id(parameter) for module in masked for parameter in module.mask_parameters()}
    settings = {
        id(parameter): (group["initial_lr"], group["weight_decay"])
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(settings) == sum(len(group["params"]) for group in state.optimizer.param_groups)
    for parameter_name, parameter in state.model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in settings
        elif parameter_name.startswith("backbone."):
            assert settings[id(parameter)] == (1e-4, 0.25)
        elif id(parameter) in of_masks:
            assert settings[id(parameter)] == (1e-3, 0.125)
        else:
            assert settings[id(parameter)] == (1e-3, 0.25)


def test_the_best_epoch_is_the_earliest_of_tied_epochs(setup: Setup) -> None:
    state = setup.start("baseline", setup.recipe)
    blank = EpochRecord(0, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 0.0, "")
    accuracies = [50.0, 60.0, 60.0, 55.0, 60.0]
    state.history = [dataclasses.replace(blank, epoch=i, val_accuracy=a) for i, a in enumerate(accuracies)]
    assert state.best.epoch == 1


def test_a_network_that_learns_nothing_keeps_the_weights_of_its_first_epoch(setup: Setup) -> None:
    recipe = dataclasses.replace(as_pretrained(setup.recipe), epochs=3, learning_rate=1e-9, backbone_learning_rate=1e-9)
    state = setup.start("baseline", recipe)
    (first,) = setup.train(state, recipe, epochs=1)
    weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    setup.train(state, recipe)
    assert {record.val_accuracy for record in state.history} == {first.val_accuracy}
    assert state.best.epoch == 0
    assert_equal_weights(state.best_weights, weights)


def test_the_best_weights_are_those_of_the_chosen_epoch(setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, epochs=5)
    state = setup.start("attention", recipe)
    snapshots = [
        {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        for _ in fit(state, setup.inputs.batches, recipe, trial_seeds(0), CPU)
    ]
    assert_equal_weights(state.best_weights, snapshots[state.best.epoch])
    state.model.load_state_dict(state.best_weights)
    scored = evaluate(state.model, setup.inputs.batches, "validation", autocast_for("float32", CPU))
    assert scored.accuracy == state.best.val_accuracy == max(record.val_accuracy for record in state.history)
    assert scored.loss == state.best.val_loss


class MeanColour(torch.nn.Module):
    """Its logits are the means of an image's channels, from which the image can be told."""

    def forward(self, images_BCHW: torch.Tensor) -> ModelOutput:
        means_BC = images_BCHW.mean(dim=(2, 3))
        return ModelOutput(means_BC, means_BC[:, :1, None, None].abs(), means_BC.new_zeros(()))


@pytest.mark.parametrize("sizes", [[24], [6, 6, 6, 6], [5, 5, 5, 5, 4]])
def test_mixed_batches_have_all_classes_and_their_outputs_keep_the_fixed_order(
    sizes: list[int], setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.training.evaluation.EVALUATION_BATCH", sizes[0])
    model, batches = MeanColour(), setup.inputs.batches
    found = [evaluate(model, batches, "test", autocast_for("float32", CPU), mixed) for mixed in (False, True)]
    assert torch.equal(found[0].logits_NK, found[1].logits_NK)
    assert torch.equal(found[0].labels_N, found[1].labels_N)
    assert torch.equal(found[0].masks_NMHW, found[1].masks_NMHW)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits_BK.half().float()))
    evaluate(model, batches, "test", autocast_for("float32", CPU), mixed=True)
    assert [len(logits) for logits in seen] == sizes
    for logits in seen:
        labels = torch.tensor(
            [found[0].labels_N[(found[0].logits_NK == one).all(dim=1).nonzero()[0, 0]] for one in logits]
        )
        assert (labels != labels.roll(len(labels) // 2)).all(), "half a batch away is another class"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_and_names_the_epoch(value: float, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, epochs=3)
    state = setup.start("multi-attention", recipe)
    setup.train(state, recipe, epochs=1)
    with torch.no_grad():
        state.model.head.classifier.weight.fill_(value)  # type: ignore[union-attr,operator]
    with pytest.raises(DivergedError) as error:
        setup.train(state, recipe)
    assert error.value.epoch == 1
    assert [record.epoch for record in state.history] == [0]


def test_test_images_and_labels_do_not_change_the_history_or_the_choice_of_epoch(setup: Setup) -> None:
    pack, split, batches = setup.inputs.pack, setup.inputs.split, setup.inputs.batches
    images, labels = pack.images_NSSC.clone(), pack.labels_N.clone()
    images[torch.from_numpy(split.test)] = 0
    labels[torch.from_numpy(split.test)] = (labels[torch.from_numpy(split.test)] + 1) % len(pack.classes)
    others = setup.batches_of(dataclasses.replace(pack, images_NSSC=images, labels_N=labels))
    assert not torch.equal(others.targets("test")[CLASS], batches.targets("test")[CLASS])
    states = []
    for these in (batches, others):
        state = setup.start("attention", setup.recipe)
        setup.train(state, setup.recipe, batches=these)
        states.append(state)
    assert timeless(states[0].history) == timeless(states[1].history)
    assert states[0].best.epoch == states[1].best.epoch
    assert_equal_weights(states[0].best_weights, states[1].best_weights)


def test_one_cycle_rises_over_the_first_third_and_falls_to_almost_zero() -> None:
    steps = [one_cycle(i / 100) for i in range(101)]
    assert (steps[0], steps[30], steps[100]) == pytest.approx((1 / 25, 1.0, 1e-5))
    assert steps[:31] == sorted(steps[:31])
    assert steps[30:] == sorted(steps[30:], reverse=True)


def test_cosine_falls_from_the_peak_to_zero() -> None:
    steps = [cosine(i / 100) for i in range(101)]
    assert (steps[0], steps[50], steps[100]) == pytest.approx((1.0, 0.5, 0.0))
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("schedule", "end"), [("one-cycle", 1e-5), ("cosine", 0.0)])
def test_the_rate_reaches_its_final_value_at_the_last_step(schedule: str, end: float, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, schedule=schedule)  # type: ignore[arg-type]
    state = setup.start("baseline", recipe)
    records = setup.train(state, recipe)
    assert records[-1].learning_rate == pytest.approx(end * recipe.learning_rate)
    assert records[0].learning_rate > records[-1].learning_rate


@pytest.mark.parametrize("name", VARIANTS)
def test_mask_health_is_recorded_for_heads_with_masks(name: str, setup: Setup) -> None:
    recipe = dataclasses.replace(setup.recipe, epochs=1)
    state = setup.start(name, recipe)
    (record,) = setup.train(state, recipe)
    output = state.model.eval()(next(iter(setup.inputs.batches.split("validation")))[0])
    assert list(record.mask_health) == list(by_place(output.masks_BMHW, output.stage_masks))
    for health in record.mask_health.values():
        assert 0 <= health.mask_entropy <= 1.0001
        assert (health.mask_overlap > 0) == (name.startswith("multi") or name in ("query", "ep"))
    assert EpochRecord.from_row(record.row()) == record
    assert min(record.train_seconds, record.evaluate_seconds) > 0


def test_denormals_are_flushed_to_zero_only_within_a_trial() -> None:
    denormal = torch.tensor(1e-40)
    with contextlib.suppress(KeyError), flush_denormals():
        assert (denormal * 1).item() == 0
        raise KeyError
    assert (denormal * 1).item() > 0
