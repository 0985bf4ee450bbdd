"""The end of a trial: scores the test split once, with the chosen epoch's weights, and makes its files and result."""

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch

from catdog.data.batches import EvaluationSplit
from catdog.errors import UserError
from catdog.formatting import now
from catdog.models.heads.masked import swapped_masks
from catdog.models.petnet import count_parameters
from catdog.runs.artifacts import ProbeMasks, SplitLogits, TrimapMasks, attention_npz, predictions_npz
from catdog.runs.history import history_csv
from catdog.runs.results import Status, TrialResult
from catdog.storage import BackgroundUploads, sha256
from catdog.storage.serialization import MOST_UNPACKED
from catdog.system.process import cpu_model
from catdog.training.evaluation import Evaluation, evaluate
from catdog.training.precision import autocast_for
from catdog.trial.deletion import trial_deletion
from catdog.trial.grad_cam import queue_grad_cam
from catdog.trial.kept_network import queue_network
from catdog.trial.setup import Trial


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; accuracies in percent, None if it diverged."""

    status: Status
    best_epoch: int
    """The chosen epoch; of a diverged trial, the epoch in which it diverged."""
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    val_class_accuracy: float | None = None
    test_class_accuracy: float | None = None
    val_loss: float | None = None
    side_accuracies: Mapping[str, float] = field(default_factory=dict)


def queue_epochs(trial: Trial, uploads: BackgroundUploads) -> None:
    """Queue the files that span all epochs: the history, and the masks of the probe images."""
    uploads.put(trial.where.history, functools.partial(history_csv, list(trial.state.history)))
    if trial.probe_history.masks:
        uploads.put(trial.where.masks, functools.partial(_masks_npz, trial))


def evaluate_test(trial: Trial) -> Evaluation:
    """Load the chosen epoch's weights, and return the model's outputs on the test split, with the other workers' help.

    Where the variant is a head with swapped masks, its masks are swapped here, over batches that mix all classes.
    """
    state, model = trial.state, trial.state.model
    model.load_state_dict(state.best_weights)
    autocast = autocast_for(trial.recipe.precision, trial.device)
    with swapped_masks(model) as swapped:
        return evaluate(state.network, trial.batches, "test", autocast, swapped, model.side_tasks, state.workers)


def score(trial: Trial, uploads: BackgroundUploads) -> Outcome:
    """Score the test split, only here, with the chosen epoch's weights; queue predictions, attention and weights."""
    best, model, validation = trial.state.best, trial.state.model, trial.state.best_validation
    assert validation is not None, "a trial without epochs"
    test = evaluate_test(trial)
    evaluations: dict[EvaluationSplit, Evaluation] = {"validation": validation, "test": test}
    uploads.put(trial.where.predictions, functools.partial(_predictions_npz, trial, evaluations))
    if validation.masks:
        uploads.put(trial.where.attention, functools.partial(_attention_npz, trial, evaluations))
    if validation.masks_NMHW is None:
        queue_grad_cam(trial, uploads)
    elif (deletion := trial_deletion(trial)) is not None:
        uploads.put(trial.where.deletion, deletion)
    queue_network(trial, uploads)
    return Outcome(
        status="complete",
        best_epoch=best.epoch,
        val_accuracy=validation.accuracy,
        test_accuracy=test.accuracy,
        val_class_accuracy=validation.class_accuracy,
        test_class_accuracy=test.class_accuracy,
        val_loss=validation.loss,
        side_accuracies={
            f"{split}_{name}_accuracy": one.side_scores[f"{name}_accuracy"]
            for name in model.side_tasks
            for split, one in (("val", validation), ("test", test))
        },
    )


def build_result(trial: Trial, outcome: Outcome, uploads: BackgroundUploads, finish_seconds: float) -> TrialResult:
    """Return the content of result.json; all other files must be stored already."""
    history, batches, inputs = trial.state.history, trial.batches, trial.inputs
    train_seconds = sum(record.train_seconds for record in history)
    evaluate_seconds = sum(record.evaluate_seconds for record in history)
    backbone = inputs.backbone if trial.recipe.freeze else trial.state.model.backbone
    head_parameters = count_parameters(trial.state.model.head)
    return TrialResult(
        **vars(outcome),
        variant=trial.variant.label,
        seed=trial.seed,
        epochs=len(history),
        seconds=train_seconds + evaluate_seconds + finish_seconds,
        config_hash=trial.config_hash,
        parameters=head_parameters + (count_parameters(backbone) if backbone is not None else 0),
        head_parameters=head_parameters,
        feature_channels=inputs.feature_shape[0],
        feature_height=inputs.feature_shape[1],
        feature_width=inputs.feature_shape[2],
        device=torch.cuda.get_device_name(trial.device) if trial.device.type == "cuda" else "cpu",
        precision=trial.recipe.precision,
        threads=trial.context.identity.threads,
        images_trained=len(history) * batches.steps_per_epoch * batches.batch_size,
        setup_seconds=trial.setup_seconds,
        train_seconds=train_seconds,
        evaluate_seconds=evaluate_seconds,
        finish_seconds=finish_seconds,
        finished_at=now(),
        worker_host=platform.node(),
        cpu_host=cpu_model(),
        weights_package=inputs.weights.package,
        weights_sha256=inputs.weights.sha256,
        files=_digests(trial, uploads),
    )


def _digests(trial: Trial, uploads: BackgroundUploads) -> dict[str, str]:
    """Return the sha256 of the trial's files, including those of earlier attempts."""
    where = trial.where
    snapshots = trial.store.list(f"{where.folder}/snapshots/")
    digests = {key: sha256(trial.store.get(key)) for key in snapshots if key not in uploads.digests}
    digests |= uploads.digests
    passing = (where.checkpoint, *([] if trial.context.keep_weights == "all" else [where.weights]))
    return {
        key.removeprefix(f"{where.folder}/"): digest for key, digest in sorted(digests.items()) if key not in passing
    }


def _masks_npz(trial: Trial) -> bytes:
    probes, history = trial.probes, trial.probe_history
    return ProbeMasks(
        images_PSSC=probes.images_PSSC,
        names=probes.names,
        labels_P=probes.labels_P,
        classes=probes.classes,
        masks={place: torch.stack([one[place] for one in history.masks]).numpy() for place in history.masks[0]},
        predicted_EP=torch.stack(history.predicted_P).numpy(),
    ).to_npz()


def _predictions_npz(trial: Trial, evaluations: dict[EvaluationSplit, Evaluation]) -> bytes:
    pack, split = trial.inputs.pack, trial.inputs.split
    return predictions_npz(
        pack.classes,
        {
            name: SplitLogits(
                images_N=np.array([pack.names[i] for i in split.indices(name)]),
                labels_N=evaluation.labels_N.numpy().astype(np.int16),
                logits_NK=evaluation.logits_NK.half().numpy(),
            )
            for name, evaluation in evaluations.items()
        },
    )


def check_size_of_masks(trial: Trial, masks_PMHW: Mapping[str, torch.Tensor]) -> None:
    """Raise `UserError` if files of such masks, by place, would be too large to be read again."""
    assert trial.state.best_validation is not None
    measured = sum(len(trial.inputs.measured_positions(split)) for split in get_args(EvaluationSplit))
    of_probes = trial.recipe.epochs * sum(2 * one.numel() for one in masks_PMHW.values())
    sizes = {
        trial.where.attention: measured * sum(2 * one[0].numel() for one in trial.state.best_validation.masks.values()),
        trial.where.masks: of_probes + trial.probes.images_PSSC.nbytes,
    }
    for key, size in sizes.items():
        if size > MOST_UNPACKED:
            raise UserError(
                f"{key}: would unpack to {size:,} bytes, and {MOST_UNPACKED:,} can be read: give fewer masks, or "
                "smaller --image-size, --pack-size or --probe-images"
            )


def _attention_npz(trial: Trial, evaluations: dict[EvaluationSplit, Evaluation]) -> bytes:
    """Return the masks on the images whose trimaps are measured."""
    pack = trial.inputs.pack
    splits: dict[str, TrimapMasks] = {}
    for name, evaluation in evaluations.items():
        indices, rows = trial.inputs.split.indices(name), trial.inputs.measured_positions(name)
        splits[name] = TrimapMasks(
            images=[pack.names[i] for i in indices[rows]],
            masks={place: masks[torch.from_numpy(rows)].half().numpy() for place, masks in evaluation.masks.items()},
        )
    return attention_npz(splits)
