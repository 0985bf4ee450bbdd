"""Simulated runs: the files that a sweep leaves in a store, without training.

Each test image has its own difficulty and each seed its own luck, so that pairs of trials correlate. A variant's
effect, in points, raises the probability of a correct prediction. The same arguments give the same bytes.
"""

import dataclasses
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats

from catdog.analysis.predictions import Predictions
from catdog.config.recipe import Recipe
from catdog.data.datasets.base import trimaps_key
from catdog.data.trimaps import Trimaps
from catdog.runs.artifacts import SplitLogits, predictions_npz, read_attention_npz
from catdog.runs.cost import Launch
from catdog.runs.history import EpochRecord, MaskHealth, history_csv
from catdog.runs.manifest import Identity, Manifest, PlannedTrial
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.places import HEAD, at_place, by_place
from catdog.runs.results import Failure, TrialResult
from catdog.runs.status import RunStatus, open_run
from catdog.storage import MemoryStore, Store, sha256
from catdog.storage.serialization import npz_bytes, to_json

Array = npt.NDArray[np.float64]
Cells = Collection[tuple[str, int]]

BREEDS = """
    Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer
    British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees
    havanese japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian pomeranian pug
    Ragdoll Russian_Blue saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier
    wheaten_terrier yorkshire_terrier
""".split()
TEST_ACCURACY = 90.0
"""The accuracy of a variant without an effect."""
ALIKE = 0.8
"""Correlation of two trials' luck with the same image."""
SEED_LUCK = 0.4
"""Standard deviation of the seeds' luck, in points; each trial adds half as much."""
HEAD_PARAMETERS = {"baseline": 47_397, "attention": 48_678, "se": 252_200}


class CountedStore(MemoryStore):
    """Remembers which keys were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@dataclass(frozen=True)
class MadeImages:
    """The images of one split: their breeds and difficulties. N images."""

    names_N: npt.NDArray[np.str_]
    labels_N: npt.NDArray[np.int16]
    difficulty_N: Array


def make_run(
    store: Store,
    labels: Sequence[str],
    seeds: Sequence[int],
    *,
    epochs: int = 6,
    test_images: int = 370,
    effect: Mapping[str, float] | None = None,
    rng_seed: int = 0,
    classes: int | Sequence[str] = 37,
    run: str = "made",
    recipe: Recipe | None = None,
    map_side: int = 7,
    stages: Mapping[str, int] | None = None,
    image_side: int = 64,
    probes: int = 4,
    failed: Cells = (),
    diverged: Cells = (),
    missing: Cells = (),
    error_message: str = "shapes do not match",
    hourly_price: float | None = 1.0,
    smallest_effect: float | None = None,
    looks: Sequence[int] = (),
    most_seeds: int = 0,
) -> RunStatus:
    """Write a run of these variants × seeds and return its status as it is read; `effect` maps labels to points.

    Variants with masks have some at `stages`, too: sides of their maps by name.
    """
    names = [*BREEDS, *(f"breed_{i}" for i in range(37, 999))][:classes] if isinstance(classes, int) else list(classes)
    recipe = recipe or Recipe(backbone="timm/tf_efficientnet_lite0", weights="lite0", freeze=True, precision="float32")
    recipe = dataclasses.replace(recipe, epochs=epochs, probe_images=probes)
    manifest = Manifest(
        run=run,
        preset="pets-frozen",
        identity=Identity(recipe, "0123456789abcdef", None, 1),
        variants=tuple(labels),
        seeds={label: tuple(seeds) for label in labels},
        created_at="2026-01-01T20:00:00.000+00:00",
        commands=(("python", "jobs/sweep.py", "pets-frozen"),),
        versions={"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"},
        code="0123456789abcdef0123456789abcdef01234567",
    )
    if smallest_effect is not None:
        declared = dataclasses.replace(
            manifest.declaration, smallest_effect=smallest_effect, looks=tuple(looks), seeds=tuple(range(most_seeds))
        )
        manifest = dataclasses.replace(
            manifest, declared=(dataclasses.replace(declared, declared_at=manifest.created_at),)
        )
    store.put(RunPaths(run).manifest, manifest.to_json())
    maker = _Maker(store, manifest, names, test_images, effect or {}, rng_seed, by_place(map_side, stages), image_side)
    for trial in manifest.planned():
        cell = (trial.variant.label, trial.seed)
        if cell in failed:
            maker.fail(trial, error_message)
        elif cell in diverged:
            maker.diverge(trial)
        elif cell not in missing:
            maker.complete(trial)
    hours = {label: len(seeds) * 61 / 3600 for label in labels}
    launch = Launch(
        "first", manifest.created_at, "CPU", hourly_price, 3600.0, 1.25 * sum(hours.values()), hours, closed=False
    )
    store.put(RunPaths(run).launch("first"), to_json(launch))
    return open_run(store, run)


def favoured_on_images(
    labels: Sequence[str], seeds: int, gains: Mapping[str, tuple[int, int]], images: int = 200
) -> Predictions:
    """Return predictions by which a variant is right on so many images more, and less, than the first, with every seed.

    The first of `labels` is right on every other image.
    """
    labels_N = np.zeros(images, np.int16)
    wrong_N = (np.arange(images) % 2).astype(np.int16)
    predicted_SN = {label: np.tile(wrong_N, (seeds, 1)) for label in labels}
    for label, (more, less) in gains.items():
        predicted_SN[label][:, 1 : 2 * more : 2] = 0
        predicted_SN[label][:, 0 : 2 * less : 2] = 1
    of_seeds = dict.fromkeys(labels, tuple(range(seeds)))
    return Predictions(("right", "wrong"), np.arange(images).astype(str), labels_N, of_seeds, predicted_SN, {})


class _Maker:
    """Writes trials; anything they share is drawn once."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        classes: list[str],
        test_images: int,
        effect: Mapping[str, float],
        rng_seed: int,
        sides: Mapping[str, int],
        image_side: int,
    ) -> None:
        self.store, self.manifest, self.classes, self.effect, self.rng_seed = store, manifest, classes, effect, rng_seed
        self.sides = sides
        rng = np.random.default_rng(rng_seed)
        self.parts = {
            "validation": _images("validation", max(len(classes), test_images // 5), len(classes), rng),
            "test": _images("test", test_images, len(classes), rng),
        }
        probes = manifest.identity.recipe.probe_images
        self.probe_labels_P = np.arange(probes) % len(classes)
        self.animals_P2 = rng.uniform(0.3, 0.7, (probes, 2))
        self.probe_images_PSSC = _drawn(self.animals_P2, image_side, rng)

    def complete(self, trial: PlannedTrial) -> None:
        rng = self._rng(trial)
        files, correct = {"predictions.npz": b""}, {}
        outputs = {}
        for part, images in self.parts.items():
            predicted_N = self._predict(trial, part, images, rng)
            correct[part] = predicted_N == images.labels_N
            logits_NK = _logits(predicted_N, len(self.classes), rng)
            outputs[part] = SplitLogits(images.names_N, images.labels_N, logits_NK)
        files["predictions.npz"] = predictions_npz(self.classes, outputs)
        val = 100 * float(correct["validation"].mean())
        best = int(rng.integers(max(0, self.epochs - 3), self.epochs))
        masks = {place: self._masks(trial, rng, side) for place, side in self.sides.items()} \
            if "attention" in trial.variant.head else {}  # fmt: skip
        files["history.csv"] = self._history(val, best, masks, rng)
        if masks:
            files |= self._mask_files(masks, rng)
        self._put(trial, files)
        result = dataclasses.replace(
            self._result(trial, files),
            val_accuracy=val,
            test_accuracy=100 * float(correct["test"].mean()),
            best_epoch=best,
            val_class_accuracy=_class_accuracy(correct["validation"], self.parts["validation"]),
            test_class_accuracy=_class_accuracy(correct["test"], self.parts["test"]),
        )
        self.store.put(self._where(trial).result, result.to_json())

    def diverge(self, trial: PlannedTrial) -> None:
        """Diverge in the first epoch: the history is only a header, and there are no masks."""
        files = {"history.csv": self._history(0.0, 0, {}, self._rng(trial), epochs=0)}
        self._put(trial, files)
        result = dataclasses.replace(self._result(trial, files), status="diverged", best_epoch=0, epochs=0, seconds=1.0)
        self.store.put(self._where(trial).result, result.to_json())

    def fail(self, trial: PlannedTrial, message: str) -> None:
        failure = Failure(
            trial.variant.label, trial.seed, self._hash(trial), "RuntimeError", message, "Traceback ...", 1, "first",
            "node-1:/tmp/ray/log", "2026-01-01T21:00:00.000+00:00",
        )  # fmt: skip
        self.store.put(self._where(trial).failure, to_json(failure))

    @property
    def epochs(self) -> int:
        return self.manifest.identity.recipe.epochs

    def _where(self, trial: PlannedTrial) -> TrialPaths:
        return RunPaths(self.manifest.run).trial(trial.variant.folder, trial.seed)

    def _hash(self, trial: PlannedTrial) -> str:
        return self.manifest.identity.trial_hash(trial.variant, trial.seed)

    def _rng(self, trial: PlannedTrial) -> np.random.Generator:
        return np.random.default_rng([self.rng_seed, trial.seed, *trial.variant.label.encode()])

    def _put(self, trial: PlannedTrial, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.store.put(f"{self._where(trial).folder}/{name}", data)

    def _result(self, trial: PlannedTrial, files: Mapping[str, bytes]) -> TrialResult:
        seconds = 55 + 10 * _share(trial.variant.label, trial.seed)
        head_parameters = HEAD_PARAMETERS.get(trial.variant.name, 1_325_349)
        return TrialResult(
            trial.variant.label, trial.seed, "complete", None, None, None, self.epochs, seconds, self._hash(trial),
            val_loss=0.4, parameters=head_parameters + 3_400_000, head_parameters=head_parameters,
            feature_channels=1280, feature_height=self.sides[HEAD], feature_width=self.sides[HEAD], device="cpu",
            precision="float32", threads=1, images_trained=2944 * self.epochs, setup_seconds=0.5,
            train_seconds=seconds - 5, evaluate_seconds=4.0, finish_seconds=1.0,
            finished_at=f"2026-01-01T22:{trial.seed % 60:02d}:00.000+00:00", worker_host="node-1",
            files={name: sha256(data) for name, data in sorted(files.items())},
        )  # fmt: skip

    def _predict(
        self, trial: PlannedTrial, part: str, images: MadeImages, rng: np.random.Generator
    ) -> npt.NDArray[np.int16]:
        """Draw which predictions are right, with the variant's probability; wrong ones mostly name a similar breed."""
        shared = np.random.default_rng([self.rng_seed, trial.seed, len(part)]).normal(0, SEED_LUCK)
        points = TEST_ACCURACY + self.effect.get(trial.variant.label, 0.0) + shared + rng.normal(0, SEED_LUCK / 2)
        count, classes = len(images.labels_N), len(self.classes)
        luck_N = np.sqrt(ALIKE) * images.difficulty_N + np.sqrt(1 - ALIKE) * rng.standard_normal(count)
        right_N = luck_N < stats.norm.ppf(np.clip(points / 100, 0.001, 0.999))
        like_N = np.where(images.labels_N ^ 1 < classes, images.labels_N ^ 1, 0)
        other_N = (images.labels_N + rng.integers(1, classes, count)) % classes
        wrong_N = np.where(rng.random(count) < 0.7, like_N, other_N)
        return np.where(right_N, images.labels_N, wrong_N).astype(np.int16)

    def _masks(self, trial: PlannedTrial, rng: np.random.Generator, side: int) -> npt.NDArray[np.float16]:
        """Return masks (E, P, M, H, W) that settle on the animal over the epochs."""
        count = int(trial.variant.arguments.get("num_masks", 1))
        where_M2 = rng.uniform(-0.2, 0.2, (count, 2)) * (count > 1)
        centres_PM2 = self.animals_P2[:, None] + where_M2
        grid_H = (np.arange(side) + 0.5) / side
        square_PMHW = (
            (grid_H[:, None] - centres_PM2[..., 0, None, None]) ** 2
            + (grid_H[None, :] - centres_PM2[..., 1, None, None]) ** 2
        )  # fmt: skip
        blob_PMHW = np.exp(-square_PMHW / (0.08 if count == 1 else 0.03))
        formed_E = np.linspace(0.1, 1, self.epochs).reshape(-1, 1, 1, 1, 1)
        logits = 6 * formed_E * (blob_PMHW - 0.4) + rng.normal(0, 0.2, (self.epochs, *blob_PMHW.shape))
        return (1 / (1 + np.exp(-logits))).astype(np.float16)

    def _history(
        self,
        val: float,
        best: int,
        masks: Mapping[str, npt.NDArray[np.float16]],
        rng: np.random.Generator,
        epochs: int | None = None,
    ) -> bytes:
        rows = []
        for epoch in range(self.epochs if epochs is None else epochs):
            behind = 0.0 if epoch == best else 40 * np.exp(-0.9 * epoch) + rng.uniform(0.05, 0.8)
            health = {place: _health(one[epoch].astype(float)) for place, one in masks.items()}
            loss = 0.4 + 2.5 * np.exp(-0.5 * epoch) + rng.normal(0, 0.03)
            rows.append(
                EpochRecord(
                    epoch, float(loss), val - behind, float(loss) + 0.1, val - behind, 0.001, 2.5, 0.5,
                    f"2026-01-01T21:{epoch % 60:02d}:00.000+00:00", health,
                )
            )  # fmt: skip
        return history_csv(rows)

    def _mask_files(self, places: Mapping[str, npt.NDArray[np.float16]], rng: np.random.Generator) -> dict[str, bytes]:
        masks = places[HEAD]
        share_E = np.linspace(0.3, 0.95, len(masks))[:, None]
        right_EP = rng.random(masks.shape[:2]) < share_E
        predicted_EP = np.where(right_EP, self.probe_labels_P, (self.probe_labels_P + 1) % len(self.classes))
        files = {
            "masks.npz": npz_bytes(
                images=self.probe_images_PSSC,
                names=np.array([f"probe_{i}" for i in range(len(self.probe_labels_P))]),
                labels=self.probe_labels_P,
                breeds=np.array(self.classes),
                **{at_place("masks", place): one for place, one in places.items()},
                predicted=predicted_EP,
            )
        }
        attention: dict[str, Any] = {}
        for part, images in self.parts.items():
            picked_T = rng.integers(masks.shape[1], size=min(20, len(images.names_N)))
            attention[f"{part}_images"] = images.names_N[: len(picked_T)]
            attention |= {at_place(f"{part}_masks", place): one[-1][picked_T] for place, one in places.items()}
        files["attention.npz"] = npz_bytes(**attention)
        for epoch in range(len(masks)):
            files[f"snapshots/epoch-{epoch:03d}.png"] = _dot(epoch)
        return files


def _images(part: str, count: int, classes: int, rng: np.random.Generator) -> MadeImages:
    labels_N = (np.arange(count) % classes).astype(np.int16)
    return MadeImages(np.array([f"{part}_{i}" for i in range(count)]), labels_N, rng.standard_normal(count))


def _drawn(animals_P2: Array, side: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a bright disc on a dull background for each animal (P, S, S, 3)."""
    grid_S = (np.arange(side) + 0.5) / side
    images = []
    for y, x in animals_P2:
        inside_SS = np.hypot(grid_S[:, None] - y, grid_S[None, :] - x) < 0.22
        ground, fur = rng.integers(60, 120, 3), rng.integers(150, 250, 3)
        images.append(np.where(inside_SS[..., None], fur, ground) + rng.integers(-8, 9, (side, side, 3)))
    return np.array(images).clip(0, 255).astype(np.uint8)


def _logits(predicted_N: npt.NDArray[np.int16], classes: int, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    logits_NK = rng.standard_normal((len(predicted_N), classes), dtype=np.float32)
    logits_NK[np.arange(len(predicted_N)), predicted_N] = logits_NK.max(axis=1) + 3
    return logits_NK.astype(np.float16)


def _class_accuracy(correct_N: npt.NDArray[np.bool_], images: MadeImages) -> float:
    return float(100 * np.mean([correct_N[images.labels_N == breed].mean() for breed in np.unique(images.labels_N)]))


def _health(masks_PMHW: Array) -> MaskHealth:
    """Approximate `catdog.training.mask_metrics`."""
    flat_PMA = masks_PMHW.reshape(*masks_PMHW.shape[:2], -1)
    share_PMA = flat_PMA / flat_PMA.sum(axis=2, keepdims=True).clip(1e-12)
    unit_PMA = flat_PMA / np.linalg.norm(flat_PMA, axis=2, keepdims=True).clip(1e-12)
    cosines_PMM = unit_PMA @ unit_PMA.transpose(0, 2, 1)
    count, area = flat_PMA.shape[1:]
    off_diagonal = cosines_PMM.sum(axis=(1, 2)).mean() - count
    corners = share_PMA.reshape(masks_PMHW.shape)[..., [0, 0, -1, -1], [0, -1, 0, -1]].sum(axis=2).mean()
    return MaskHealth(
        mask_mean=float(flat_PMA.mean()),
        mask_entropy=float(-(share_PMA * np.log(share_PMA.clip(1e-12))).sum(axis=2).mean() / np.log(area)),
        mask_overlap=float(off_diagonal / max(1, count * (count - 1))),
        mask_corner_mass=float(corners * area / 4),
        mask_dead=0.0,
    )


def _dot(epoch: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * epoch % 256, 90, 120)).save(buffer, format="PNG")
    return buffer.getvalue()


def _share(*parts: object) -> float:
    """Return a number in [0, 1) determined by the parts."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 16**8


def put_small_trial(store: Store, where: TrialPaths, result: TrialResult) -> None:
    """Write a finished trial with the fewest files: a flat history, and the accuracies on 100 images."""
    record = EpochRecord(0, 0.5, 50.0, 0.5, 50.0, 0.001, 1.0, 1.0, "2026-01-01T00:00:00.000+00:00")
    history = [dataclasses.replace(record, epoch=epoch) for epoch in range(result.epochs)]
    if result.val_accuracy is not None and result.best_epoch is not None:
        history[result.best_epoch] = dataclasses.replace(history[result.best_epoch], val_accuracy=result.val_accuracy)
    side_scores = {name: value for name, value in result.side_accuracies.items() if name.startswith("val_")}
    history = [dataclasses.replace(record, side_scores=side_scores) for record in history]
    files = {"history.csv": history_csv(history)}
    if result.val_accuracy is not None and result.test_accuracy is not None:
        images, labels = np.array([f"image_{i}" for i in range(100)]), np.zeros(100, np.int16)
        outputs = {}
        for split, accuracy in (("validation", result.val_accuracy), ("test", result.test_accuracy)):
            is_wrong = np.arange(100) >= round(accuracy)
            outputs[split] = SplitLogits(images, labels, np.stack([~is_wrong, is_wrong], axis=1).astype(np.float16))
        files["predictions.npz"] = predictions_npz(["one", "two"], outputs)
    for name, data in files.items():
        store.put(f"{where.folder}/{name}", data)
    digests = {name: sha256(data) for name, data in files.items()}
    store.put(where.result, dataclasses.replace(result, files=digests).to_json())


def put_trimaps(store: Store, run_status: RunStatus, outline: npt.NDArray[np.bool_]) -> None:
    """Store trimaps, all with the same outline, for every image in the run's attention.npz files."""
    key = next(key for key in store.list(f"{run_status.manifest.run}/trials/") if key.endswith("attention.npz"))
    splits = read_attention_npz(store.get(key))
    names = [name for attention in splits.values() for name in attention.images]
    trimaps = Trimaps(names, np.arange(len(names)) % 3, ["a", "b", "c"], np.stack([outline] * len(names)))
    store.put(trimaps_key(run_status.manifest.identity.fingerprint), trimaps.to_npz())


def add_files(store: Store, where: TrialPaths, files: Mapping[str, bytes]) -> None:
    """Add files to a finished trial, by name."""
    result = TrialResult.from_json(store.get(where.result))
    for name, data in files.items():
        store.put(f"{where.folder}/{name}", data)
    digests = {**result.files, **{name: sha256(data) for name, data in files.items()}}
    store.put(where.result, dataclasses.replace(result, files=digests).to_json())
