"""What every head must do: `jobs/check_head.py` checks a user's heads by it, the tests those of the package.

Shapes: B batch, C channels of an H × W map, M masks, K classes.
"""

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe, is_task_name
from catdog.config.variants import VariantSpec
from catdog.errors import UserError, first_line
from catdog.models.backbones.build import backbone_places
from catdog.models.petnet import ModelOutput, PetNet, SecondTask, SideTask, build_head, check_frozen
from catdog.models.stages import GROUPS, Staged, choose_places

CHANNELS, CLASSES = 64, 5
"""As many channels as heads with groups of channels, or several heads of attention, can divide."""
MAPS = {
    "a square map": (4, 5, 5),
    "a batch of one": (1, 5, 5),
    "a map of one position": (3, 1, 1),
    "a wide map": (2, 4, 7),
}
"""(B, H, W) of the features that a head must take."""
_SEED = 0


class BrokenHeadError(Exception):
    """A head does not do what training relies on."""


def check_external_heads(specs: Sequence[VariantSpec]) -> None:
    """Raise `UserError` for a head from outside the package that cannot be trained: it fails, or has wrong shapes."""
    for spec in specs:
        if spec.name not in VARIANTS:
            for name, check in (("its shapes", check_shapes), ("its gradients", check_gradients)):
                if (fault := _fault(check, spec)) is not None:
                    raise UserError(f"variant {spec.label!r}: {name}: {fault}; see jobs/check_head.py")


def check_stages(specs: Sequence[VariantSpec], recipe: Recipe, earlier: Sequence[VariantSpec] = ()) -> None:
    """Raise `UserError` for a variant whose `stages` its backbone does not have, or that changes a frozen backbone.

    Also for stages that two variants name in two ways, one of which may be an `earlier` one of the run, and for a
    second task of the name of a head's own.
    """
    models = [(_model_at_places(spec, recipe), spec) for spec in earlier if "stages" in spec.arguments]
    for spec in specs:
        if "stages" in spec.arguments:
            own = recipe.changed(**spec.settings)
            places = backbone_places(own.backbone, own.image_size)
            task = None if own.second_task is None else SecondTask(own.second_task, 2)
            head = build_head(spec, list(places.values())[-1][0], CLASSES, places, task)
            if own.freeze:
                check_frozen(spec, head)
            model = _model_at_places(spec, recipe)
            if twin := next((other for known, other in models if known == model), None):
                chosen = choose_places(str(spec.arguments["stages"]), places)
                raise UserError(
                    f"variant {spec.label!r} is the same model as {twin.label!r}, at {' and '.join(chosen)}: "
                    "use that name"
                )
            models.append((model, spec))


def _model_at_places(spec: VariantSpec, recipe: Recipe) -> tuple[object, ...]:
    """Return a variant's `model`, its stages named one by one as its backbone has them."""
    own = recipe.changed(**spec.settings)
    chosen = choose_places(str(spec.arguments["stages"]), backbone_places(own.backbone, own.image_size))
    return dataclasses.replace(spec, arguments={**spec.arguments, "stages": "+".join(chosen)}).model


def anywhere(spec: VariantSpec) -> VariantSpec:
    """Return the variant for a backbone with other names of stages: as many places as it names, or all of them."""
    stages = str(spec.arguments.get("stages", "all"))
    if stages in GROUPS:
        return spec
    return dataclasses.replace(spec, arguments={**spec.arguments, "stages": "all" if "+" in stages else "before-last"})


def check_head(spec: VariantSpec) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each check, and what is wrong, or None; where shapes are wrong, no other check follows."""
    for name, check in CHECKS.items():
        fault = _fault(check, spec)
        yield name, fault
        if fault is not None and check is check_shapes:
            return


def _fault(check: Callable[[VariantSpec], None], spec: VariantSpec) -> str | None:
    try:
        check(spec)
    except BrokenHeadError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def check_shapes(spec: VariantSpec) -> None:
    """Check the outputs' shapes on all `MAPS`, in evaluation and, but for a batch of one, in training."""
    head = _head(spec)
    for name, (batch, height, width) in MAPS.items():
        for training in (True, False) if batch > 1 else (False,):
            output = head.train(training)(_features(batch, height, width))
            _require(isinstance(output, ModelOutput), f"it returns {type(output).__name__}, not a ModelOutput")
            shape = tuple(output.logits_BK.shape)
            _require(shape == (batch, CLASSES), f"{name}: logits {shape}, not {(batch, CLASSES)}")
            _require(output.aux_loss.shape == (), f"{name}: aux_loss {tuple(output.aux_loss.shape)}, not a scalar")
            for masks in _all_masks(output):
                shape = tuple(masks.shape)
                _require(
                    len(shape) == 4 and (shape[0], *shape[2:]) == (batch, height, width),
                    f"{name}: masks {shape}, not ({batch}, masks, {height}, {width})",
                )
            _check_side_tasks(getattr(head, "side_tasks", {}), output, name)


def _check_side_tasks(tasks: Mapping[str, SideTask], output: ModelOutput, name: str) -> None:
    logits, shape = output.side_logits or {}, tuple(output.logits_BK.shape)
    _require(logits.keys() == tasks.keys(), f"{name}: side_logits of {list(logits)}, but side_tasks {list(tasks)}")
    for task, one in tasks.items():
        _require(is_task_name(task) and one.target == "class", f"side task {task!r}: another name, and target class")
        _require(
            tuple(logits[task].shape) == shape, f"{name}: logits of {task} {tuple(logits[task].shape)}, not {shape}"
        )


def check_masks(spec: VariantSpec) -> None:
    """Check that masks are finite and not negative, also for large features, and for negative ones as of token models.

    They are drawn on a scale from 0 and measured as shares of their mass, which negative values would make nonsense.
    """
    head = _head(spec).eval()
    for scale in (0.0, 1.0, 100.0, -1.0):
        for masks in _all_masks(head(scale * _features(4, 5, 5))):
            which = f"masks of features scaled by {scale:g} are"
            _require(bool(masks.isfinite().all()), f"{which} not finite")
            _require(
                bool((masks >= 0).all()),
                f"{which} negative; they are drawn and measured as shares: use a sigmoid, ReLU or softmax",
            )


def _all_masks(output: ModelOutput) -> list[torch.Tensor]:
    own = [] if output.masks_BMHW is None else [output.masks_BMHW]
    return [*own, *(output.stage_masks or {}).values()]


def check_gradients(spec: VariantSpec) -> None:
    """Check that the loss is finite and reaches every parameter that is to be trained."""
    head = _head(spec).train()
    _loss(head, 8).backward()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            _require(parameter.grad is not None, f"no gradient reaches {name}: use it, or set requires_grad = False")
            _require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")  # type: ignore[union-attr]


def check_seed(spec: VariantSpec) -> None:
    """Check that weights and outputs follow from torch's seed alone."""
    first, second = _head(spec), _head(spec)
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        _require(torch.equal(one, other), f"{name} differs between two heads of one seed")
    _require_equal(_trained(first, 2), _trained(second, 2), "two trainings of one seed")


def check_resume(spec: VariantSpec) -> None:
    """Check that training resumes from a state dict, to the last bit."""
    whole = _trained(_head(spec), 4)
    state = io.BytesIO()
    torch.save(_trained(_head(spec), 2).state_dict(), state)
    resumed = _head(spec, seed=1)
    resumed.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
    _require_equal(whole, _trained(resumed, 2, begin=2), "a resumed training and one that was not interrupted")


def check_bfloat16(spec: VariantSpec) -> None:
    """Check that the head trains under autocast to bfloat16."""
    head = _head(spec).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(head, 4)
    loss.backward()
    _require(bool(loss.isfinite()), "the loss is not finite")


def check_copies(spec: VariantSpec) -> None:
    """Check that a copy, and a head that was saved whole, do what the head does."""
    head = _head(spec).eval()
    whole = io.BytesIO()
    torch.save(head, whole)
    loaded: nn.Module = torch.load(io.BytesIO(whole.getvalue()), weights_only=False)
    _require_equal(head, copy.deepcopy(head), "the head and its deep copy")
    _require_equal(head, loaded, "the head and its pickled copy")


CHECKS: dict[str, Callable[[VariantSpec], None]] = {
    "shapes": check_shapes,
    "finite masks, none negative": check_masks,
    "gradients": check_gradients,
    "same seed, same bits": check_seed,
    "resumed, same bits": check_resume,
    "bfloat16": check_bfloat16,
    "copies": check_copies,
}


class _TwoStages(Staged):
    """A backbone for heads with modules between stages: it passes the features through two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stage_channels = {"first": None, "second": None}
        self.first = nn.Conv2d(CHANNELS, 8, kernel_size=3, padding=1)
        self.second = nn.Conv2d(8, CHANNELS, kernel_size=1)

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return maps like the given ones."""
        maps_BCHW: torch.Tensor = self.second(self.first(features_BCHW))
        return maps_BCHW


def _head(spec: VariantSpec, seed: int = _SEED) -> nn.Module:
    """Return the head; one with stages, behind a small backbone."""
    torch.manual_seed(seed)
    if "stages" not in spec.arguments:
        return build_head(spec, CHANNELS, CLASSES)
    places = {"first": (8, 5, 5), "second": (CHANNELS, 5, 5)}
    return PetNet(_TwoStages(), build_head(anywhere(spec), CHANNELS, CLASSES, places))


def _features(batch: int, height: int, width: int, seed: int = _SEED) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, CHANNELS, height, width), generator=generator)


def _loss(head: nn.Module, batch: int, seed: int = _SEED) -> torch.Tensor:
    output: ModelOutput = head(_features(batch, 5, 5, seed))
    logits = (output.logits_BK, *(output.side_logits or {}).values())
    return sum((F.cross_entropy(one.float(), torch.arange(batch) % CLASSES) for one in logits), output.aux_loss)


def _trained(head: nn.Module, steps: int, begin: int = 0) -> nn.Module:
    head.train()
    optimizer = torch.optim.SGD([one for one in head.parameters() if one.requires_grad], lr=0.1)
    for step in range(begin, begin + steps):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        _loss(head, 8, step).backward()
        optimizer.step()
    return head


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise BrokenHeadError(fault)


def _require_equal(one: nn.Module, other: nn.Module, what: str) -> None:
    outputs = [head.eval()(_features(4, 5, 5)) for head in (one, other)]
    _require(torch.equal(outputs[0].logits_BK, outputs[1].logits_BK), f"{what} give different logits")
