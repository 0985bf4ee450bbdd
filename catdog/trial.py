"""One trial, (variant, seed), from start to result: plain Python that a debugger, a test and Ray call in the same way.

Contact sheets and checkpoints go to the store on a thread of their own while training goes on; `result.json` is
written last, so its presence means that the trial is over. A trial that finds its own checkpoint goes on from it; one
that finds its result returns it.
"""

import functools
import io
import logging
import platform
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import safetensors.torch
import torch

from catdog import artifacts, paths
from catdog.allocator import keep_freed_memory
from catdog.artifacts import ProbeHistory
from catdog.context import RunContext
from catdog.data.batches import Batches, PartName
from catdog.errors import DivergedError, NotFoundError
from catdog.inputs import TrialInputs, new_model, shared_inputs
from catdog.models.network import PetNet, count_parameters
from catdog.records import EpochRecord, TrialResult
from catdog.results import read_result
from catdog.seeding import trial_seeds
from catdog.snapshots import Probes, contact_sheet
from catdog.storage import BackgroundUploads, Store, sha256
from catdog.training import Evaluation, TrainState, autocast_for, denormals_flushed, evaluate, fit, new_state
from catdog.variants import VariantSpec

logger = logging.getLogger(__name__)


def run_trial(
    context: RunContext,
    variant: VariantSpec,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    before_end: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Run one trial to its end and return its result, which is then in the store as well.

    `before_end` may raise where the trial's last files, or its result, are not to be written any more.

    Raises:
        UserError: data or weights are not as they should be.
        StoreError: the store stayed away for longer than uploads wait.
    """
    store = context.location.open()
    where = context.trial_paths(variant, seed)
    config_hash = context.identity.trial_hash(variant, seed)
    finished = read_result(store, where, config_hash)
    if finished is not None:
        return finished
    with denormals_flushed():
        return _Trial(context, variant, seed, store, where, config_hash).run(on_epoch, before_end)


def prepare_process(threads: int, gpus: float, deterministic: bool) -> torch.device:
    """Set what a trial expects of its process, whatever ran in it before; returns the device.

    `gpus` is the part of a GPU that the process may use: it runs out of memory alone, not with those it shares with.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    # A pass over every new tensor, to make mistakes visible.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not (gpus and torch.cuda.is_available()):
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(gpus)
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


class _Trial:
    """The state of one running trial."""

    def __init__(
        self,
        context: RunContext,
        variant: VariantSpec,
        seed: int,
        store: Store,
        where: paths.TrialPaths,
        config_hash: str,
    ) -> None:
        started = time.perf_counter()
        self.context, self.variant, self.seed = context, variant, seed
        self.store, self.where, self.config_hash = store, where, config_hash
        self.recipe = context.identity.recipe
        self.device = prepare_process(context.identity.threads, context.gpus_per_trial, self.recipe.deterministic)
        self.autocast = autocast_for(self.recipe.precision, self.device)
        self.inputs: TrialInputs = shared_inputs(context, self.device)
        self.probes: Probes = self.inputs.probes
        self.derive_seed = trial_seeds(seed, self.recipe.vary)
        model = new_model(self.inputs, context, variant, self.derive_seed)
        model = model.to(memory_format=torch.channels_last).to(self.device)
        self.batches: Batches = self.inputs.batches_for(model.head)
        self.state: TrainState = new_state(model, self.recipe, self.batches.steps_per_epoch)
        self.probe_history = ProbeHistory()
        self._resume()
        self.setup_seconds = time.perf_counter() - started

    def run(self, on_epoch: Callable[[EpochRecord], None], before_end: Callable[[], None]) -> TrialResult:
        diverged: int | None = None
        with BackgroundUploads(self.store) as uploads:
            try:
                self._train(uploads, on_epoch)
            except DivergedError as error:
                diverged = error.epoch
            finishing = time.perf_counter()
            before_end()
            uploads.put(self.where.history, functools.partial(artifacts.history_csv, list(self.state.history)))
            if self.probe_history.masks_PMHW:
                uploads.put(self.where.masks, functools.partial(artifacts.masks_npz, self.probes, self.probe_history))
            if diverged is None:
                outcome = self._score(uploads)
            else:
                outcome = {
                    "status": "diverged",
                    "val_accuracy": None,
                    "test_accuracy": None,
                    "best_epoch": diverged,
                }
            uploads.flush()
        before_end()
        result = self._result(outcome, uploads, time.perf_counter() - finishing)
        self.store.put(self.where.result, result.to_json())
        self.store.delete(self.where.checkpoint)
        self.store.delete(self.where.failure)
        return result

    def _train(self, uploads: BackgroundUploads, on_epoch: Callable[[EpochRecord], None]) -> None:
        saved_at = time.monotonic()
        for record in fit(self.state, self.batches, self.recipe, self.derive_seed, self.device):
            self._snapshot(record, uploads)
            due = time.monotonic() - saved_at >= self.context.checkpoint_seconds
            if due and self.state.next_epoch < self.recipe.epochs:
                uploads.put(self.where.checkpoint, self._checkpoint())
                saved_at = time.monotonic()
            on_epoch(record)

    @torch.inference_mode()
    def _snapshot(self, record: EpochRecord, uploads: BackgroundUploads) -> None:
        """Keep the probe images' masks of this epoch, and queue its contact sheet."""
        self.state.model.eval()
        with self.autocast:
            output = self.state.model(self.batches.some("validation", self.inputs.probe_positions))
        if output.masks_BMHW is None:
            return
        masks, predicted = output.masks_BMHW.half().cpu(), output.logits_BK.argmax(dim=1).cpu()
        self.probe_history.masks_PMHW.append(masks)
        self.probe_history.predicted_P.append(predicted)
        title = (
            f"{self.variant.label} · seed {self.seed} · epoch {record.epoch} · validation {record.val_accuracy:.1f} %"
        )
        # Drawn and encoded on the thread that uploads it.
        draw = functools.partial(contact_sheet, self.probes, masks.numpy(), predicted.numpy(), title)
        uploads.put(self.where.snapshot(record.epoch), draw)

    def _score(self, uploads: BackgroundUploads) -> dict[str, Any]:
        """Score test, only here, with the chosen epoch's weights; queue what is kept."""
        best, model, validation = self.state.best, self.state.model, self.state.best_validation
        assert validation is not None, "a trial without epochs"
        model.load_state_dict(self.state.best_weights)
        test = evaluate(self.state.network, self.batches, "test", self.autocast)
        parts: dict[PartName, Evaluation] = {"validation": validation, "test": test}
        pack, split = self.inputs.pack, self.inputs.split
        uploads.put(self.where.predictions, functools.partial(artifacts.predictions_npz, pack, split, parts))
        if validation.masks_NMHW is not None:
            uploads.put(self.where.attention, functools.partial(artifacts.attention_npz, pack, split, parts))
        if self.context.keep_weights != "none":
            backbone = self.inputs.backbone if self.recipe.freeze else model.backbone
            assert backbone is not None
            network = PetNet(backbone, model.head).state_dict()
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.items()}
            uploads.put(self.where.weights, functools.partial(safetensors.torch.save, weights))
        return {
            "status": "complete",
            "val_accuracy": validation.accuracy,
            "test_accuracy": test.accuracy,
            "best_epoch": best.epoch,
            "val_class_accuracy": validation.class_accuracy,
            "test_class_accuracy": test.class_accuracy,
            "val_loss": validation.loss,
        }

    def _result(self, outcome: dict[str, Any], uploads: BackgroundUploads, finish_seconds: float) -> TrialResult:
        history, batches = self.state.history, self.batches
        train_seconds = sum(record.train_seconds for record in history)
        evaluate_seconds = sum(record.evaluate_seconds for record in history)
        backbone = self.inputs.backbone if self.recipe.freeze else self.state.model.backbone
        head_parameters = count_parameters(self.state.model.head)
        return TrialResult(
            **outcome,
            variant=self.variant.label,
            seed=self.seed,
            epochs=len(history),
            seconds=train_seconds + evaluate_seconds + finish_seconds,
            config_hash=self.config_hash,
            parameters=head_parameters + (count_parameters(backbone) if backbone is not None else 0),
            head_parameters=head_parameters,
            feature_channels=self.inputs.feature_shape[0],
            feature_height=self.inputs.feature_shape[1],
            feature_width=self.inputs.feature_shape[2],
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            precision=self.recipe.precision,
            threads=self.context.identity.threads,
            images_trained=len(history) * batches.steps_per_epoch * batches.batch_size,
            setup_seconds=self.setup_seconds,
            train_seconds=train_seconds,
            evaluate_seconds=evaluate_seconds,
            finish_seconds=finish_seconds,
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            worker_host=platform.node(),
            files=self._digests(uploads),
        )

    def _digests(self, uploads: BackgroundUploads) -> dict[str, str]:
        """Return the sha256 of the trial's files, those of earlier attempts included."""
        snapshots = self.store.list(f"{self.where.folder}/snapshots/")
        digests = {key: sha256(self.store.get(key)) for key in snapshots if key not in uploads.digests}
        digests |= uploads.digests
        passing = (self.where.checkpoint, self.where.weights)
        return {
            key.removeprefix(f"{self.where.folder}/"): digest
            for key, digest in sorted(digests.items())
            if key not in passing
        }

    def _checkpoint(self) -> bytes:
        buffer = io.BytesIO()
        content = {
            "config_hash": self.config_hash,
            "state": self.state.state_dict(),
            "probe_masks": self.probe_history.masks_PMHW,
            "probe_predicted": self.probe_history.predicted_P,
        }
        torch.save(content, buffer)
        return buffer.getvalue()

    def _resume(self) -> None:
        """Go on from the trial's checkpoint, if there is a whole one of the same config."""
        try:
            data = self.store.get(self.where.checkpoint)
        except NotFoundError:
            return
        try:
            _check_archive(data)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            config_hash = content["config_hash"]
        except Exception as error:  # a damaged file makes the unpickler raise anything
            logger.warning("%s is damaged (%r): starting again", self.where.checkpoint, error)
            return
        if config_hash != self.config_hash:
            return
        self.state.load_state_dict(content["state"])
        self.probe_history = ProbeHistory(content["probe_masks"], content["probe_predicted"])


def _check_archive(data: bytes) -> None:
    """Raise unless the checksums in a file of `torch.save` (a zip archive) are right; `torch.load` ignores them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
