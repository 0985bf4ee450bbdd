"""The plan of a run, manifest.json: its identity and every trial ever requested."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from catdog.config.head_registry import CONTROLS, VARIANTS, Variant
from catdog.config.recipe import LATER_SETTINGS, Recipe
from catdog.config.variants import VariantSpec, parse_variant, split_short_label
from catdog.errors import NotFoundError, UserError
from catdog.formatting import counted, shorten
from catdog.runs.code_record import CodeRecord
from catdog.runs.declaration import Declaration, by_rule
from catdog.runs.paths import RunPaths
from catdog.runs.tuning import Tuning
from catdog.storage import Store
from catdog.storage.serialization import from_fields, read_json, to_json

_CHANGED = {
    "fingerprint": "the images changed, or their labels, masks, split or packing: fingerprint",
    "weights_digest": "the weights changed: sha256",
}
"""What a difference of hashes means."""
MOST_SEEDS = 100_000
"""Of one variant."""
TrialId = tuple[str, int]
"""A trial: its variant's label and its seed."""

RESULT_FORMAT = 3
"""Incremented whenever the same recipe would give different results; part of a run's identity."""


def result_format(recipe: Recipe) -> int:
    """Return the result format of a recipe, which is higher where numbers have changed since.

    6: few training images out of a limited number, which were drawn before it was limited. 5: mixed images, whose seed
    dropout had on GPUs; and fine-tuning with fixed batch norms, where on CPUs the layers of the folded backbone drew
    from dropout's generator. 4: with `--compile`, numbers no longer depend on earlier trials.
    """
    if recipe.train_images_per_class and recipe.limit_images:
        return 6
    if recipe.mixup or recipe.cutmix or (recipe.keeps_batch_norm and not recipe.freeze and not recipe.compile):
        return 5
    return 4 if recipe.compile else RESULT_FORMAT


@dataclass(frozen=True)
class Identity:
    """What identifies a run: results of equal identities may share a table."""

    recipe: Recipe
    fingerprint: str
    """Of the dataset's content."""
    weights_digest: str | None
    """sha256 of the weights if they are a file or an s3:// URL."""
    threads: int
    """Of each worker."""
    result_format: int = RESULT_FORMAT
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By group column that any variant's second task learns: the digest of its content."""
    workers: int = 1
    """How many processes train a trial together (see `catdog.training.data_parallel`)."""

    def __post_init__(self) -> None:
        if self.recipe.precision == "auto":
            raise ValueError("the precision of a run is resolved once, before its identity is made")

    def of(self, variant: VariantSpec) -> "Identity":
        """Return what identifies the trials of a variant, with its own settings in the recipe."""
        if not variant.settings:
            return self
        recipe = self.recipe.changed(**variant.settings)
        return dataclasses.replace(
            self,
            recipe=recipe,
            weights_digest=None if "weights" in variant.settings else self.weights_digest,
            result_format=result_format(recipe) if "compile" in variant.settings else self.result_format,
        )

    def trial_hash(self, variant: VariantSpec, seed: int) -> str:
        """Return the config hash of one trial (16 hexadecimal digits)."""
        content = dataclasses.asdict(self.of(variant)) | {
            "variant": [variant.name, dict(variant.arguments)],
            "seed": seed,
        }
        groups, task = content.pop("groups"), content["recipe"]["second_task"]
        if task is not None:
            content["second_task_digest"] = groups.get(task)
        if self.workers == 1:
            del content["workers"]
        for name in LATER_SETTINGS:
            if content["recipe"][name] == Recipe.__dataclass_fields__[name].default:
                del content["recipe"][name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Identity") -> list[str]:
        """Return one line `name: mine → theirs` for each setting that differs, and what it means if that is a hash."""
        mine, theirs = ({**i, **i["recipe"]} for i in map(dataclasses.asdict, (self, other)))
        return [
            f"{_CHANGED.get(name, f'{name}:')} {mine[name]} → {theirs[name]}"
            for name in mine
            if name not in ("recipe", "groups") and mine[name] != theirs[name]
        ] + [
            f"the labels of {column} changed: {self.groups[column]} → {digest}"
            for column, digest in other.groups.items()
            if self.groups.get(column, digest) != digest
        ]


@dataclass(frozen=True)
class PlannedTrial:
    """One cell of the grid of variants and seeds."""

    variant: VariantSpec
    seed: int

    @property
    def name(self) -> str:
        """Return the trial's name for messages."""
        return f"{self.variant.title} seed {self.seed}"


@dataclass(frozen=True)
class DataDescription:
    """What a report says of a run's images."""

    title: str
    class_noun: str
    """What one class is called: `class`, or `breed`."""
    test_share: float | None
    """The share of the images drawn as Test; None if the dataset has a Test split of its own."""

    @property
    def note(self) -> str | None:
        """Return a sentence on a Test split that was drawn; None if the dataset came with one."""
        if self.test_share is None:
            return None
        share = f"{100 * self.test_share:.0f} % of each class"
        return f"The images came without a Test split: {share} were drawn for it, once."


@dataclass(frozen=True)
class Manifest:
    """The plan of a run: its identity and every trial ever requested."""

    run: str
    preset: str
    identity: Identity
    variants: tuple[str, ...]
    """Labels, in planned order."""
    seeds: Mapping[str, tuple[int, ...]]
    """The seeds of each variant."""
    created_at: str
    commands: tuple[tuple[str, ...], ...]
    """The commands that planned the run, in order."""
    versions: Mapping[str, str]
    code: str | None
    """The commit of the code, or the hash of its folder (`provenance.code_version`)."""
    data: DataDescription | None = None
    """None in runs of the first version, which were all of breeds."""
    heads: Mapping[str, Variant] = field(default_factory=dict)
    """The heads that are not of the package, so that labels are read without their code."""
    short_labels: Mapping[str, str] = field(default_factory=dict)
    """By label: what tables call a variant."""
    code_records: Mapping[str, CodeRecord] = field(default_factory=dict)
    """By label: the code that a variant's trials ran."""
    tuning: Tuning | None = None
    """How the variants' settings were found, if by a search."""
    imports: Mapping[str, str] = field(default_factory=dict)
    """By digest: where the files of heads were that any launch imported, as last given."""
    declared: tuple[Declaration, ...] = ()
    """What the run is to decide, as first declared, and each change; empty in runs of earlier versions."""

    @property
    def declaration(self) -> Declaration:
        """Return what the run is to decide, as last declared."""
        return self.declared[-1] if self.declared else by_rule([self.spec(name).label for name in self.variants])

    @property
    def declared_lines(self) -> list[str]:
        """Return when what was declared, a sentence each."""
        if not self.declared:
            return [f"Nothing was declared; the variants' names make it {self.declaration.words}."]
        first, *changes = self.declared
        when = "before the first trial" if first.declared_at == self.created_at else first.when
        return [
            f"Declared {when}: {first.words}.",
            *(f"Changed {change.when}, while results may have been known: {change.words}." for change in changes),
        ]

    @property
    def data_title(self) -> str:
        """Return what a report calls the data."""
        return self.identity.recipe.dataset if self.data is None else self.data.title

    @property
    def setting(self) -> str:
        """Return what a report says of the recipe, in a line."""
        recipe = self.identity.recipe
        weights = "from scratch" if recipe.weights == "none" else recipe.weights
        weights = "pretrained" if weights in recipe.backbone else weights
        frozen = ", frozen" if recipe.freeze else ""
        specs = map(self.spec, self.variants)
        have_own = any(f"{name}=" in spec.label for spec in specs for name in spec.settings)
        own = "; variants whose labels name settings have these instead" if have_own else ""
        network = f"{recipe.backbone} ({weights}{frozen})"
        few, limit = recipe.train_images_per_class, recipe.limit_images
        parts = [
            self.data_title,
            *([f"{counted(few, 'training image')} of each {self.class_noun}"] if few else []),
            *([f"at most {counted(limit, 'image')} of each split"] if limit else []),
            network,
            f"{recipe.image_size} px",
            counted(recipe.epochs, "epoch"),
            *(["each seed with a split of its own"] if recipe.resamples_split else []),
        ]
        return f"{', '.join(parts)}{own}"

    @property
    def class_noun(self) -> str:
        """Return what a class is called."""
        return "breed" if self.data is None else self.data.class_noun

    @property
    def subject(self) -> str:
        """Return what the images' masks outline."""
        return "animal" if self.class_noun == "breed" else "object"

    def about(self, label: str) -> str:
        """Return what a variant's head computes, or which control it is, in a few words; empty if that is not known."""
        spec = self.spec(label)
        about = CONTROLS.get(spec.arguments.get("masks", ""), (VARIANTS | dict(self.heads))[spec.name].about)
        return about.replace("`", "")  # which docstrings have

    def planned(self) -> list[PlannedTrial]:
        """Return all trials, by variant as planned, then by seed."""
        specs = {label: self.spec(label) for label in self.variants}
        return [PlannedTrial(specs[label], seed) for label in self.variants for seed in self.seeds[label]]

    def spec(self, label: str) -> VariantSpec:
        """Return the variant of a label, or of a short one, resolved with the recipe's defaults."""
        if label not in self._specs:
            self._specs[label] = self._parse(label)
        return self._specs[label]

    @functools.cached_property
    def _specs(self) -> dict[str, VariantSpec]:
        return {}

    def _parse(self, label: str) -> VariantSpec:
        label = next((own for own, short in self.short_labels.items() if short == label), label)
        spec = parse_variant(label, self.identity.recipe, VARIANTS | dict(self.heads))
        return dataclasses.replace(spec, short_label=self.short_labels.get(label))

    def extended(self, variants: tuple[str, ...], seeds: tuple[int, ...], command: tuple[str, ...]) -> "Manifest":
        """Return the manifest extended by these variants × seeds, requested by `command`."""
        labels = (*self.variants, *(label for label in variants if label not in self.variants))
        union = {
            label: set(self.seeds.get(label, ())) | (set(seeds) if label in variants else set()) for label in labels
        }
        return dataclasses.replace(
            self,
            variants=labels,
            seeds={label: tuple(sorted(union[label])) for label in labels},
            commands=self.commands if command in self.commands else (*self.commands, command),
        )

    def renamed(self, short_labels: Mapping[str, str]) -> "Manifest":
        """Return the manifest with these short labels, too; raises `UserError` if one would name two variants."""
        labels = {**self.short_labels, **short_labels}
        titles = {label: labels.get(label, label) for label in self.variants}
        for label, short in labels.items():
            if twin := next((own for own, other in titles.items() if other == short and own != label), None):
                raise UserError(f"--variants: {short!r} would name {twin!r} and {label!r}; choose another short label")
        return dataclasses.replace(self, short_labels=labels)

    def to_json(self) -> bytes:
        """Return manifest.json."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read manifest.json; raises `ValueError` if it is damaged or plans what this version does not know."""
        manifest = from_fields(cls, read_json(data))
        labels = list(manifest.variants)
        if not labels or len(set(labels)) < len(labels) or set(labels) != manifest.seeds.keys():
            raise ValueError(f"variants and seeds do not fit together ({shorten(', '.join(labels)) or 'no variants'})")
        for label, seeds in manifest.seeds.items():
            if not 1 <= len(seeds) == len(set(seeds)) <= MOST_SEEDS or not 0 <= min(seeds) <= max(seeds) < 10**9:
                raise ValueError(f"the seeds of {label} are none, too many, listed twice or beyond 0 to 999999999")
        try:
            if unlike := [label for label in labels if manifest.spec(label).label != label]:
                raise ValueError(f"{shorten(unlike[0])!r} is not how a variant is written")
            if strange := manifest.short_labels.keys() - set(labels):
                raise ValueError(f"short labels name {shorten(', '.join(strange))}, which it does not plan")
            if problem := next(filter(None, (one.problem(labels) for one in manifest.declared)), None):
                raise ValueError(problem)
            for label, short in manifest.renamed({}).short_labels.items():
                if split_short_label(f"{short}={label}") != (short, label):
                    raise ValueError(f"{shorten(short)!r} is not a short label")
        except UserError as error:  # an unknown variant, or a short label that cannot be one
            raise ValueError(str(error)) from None
        return manifest


def read_manifest(store: Store, run: str) -> Manifest | None:
    """Return the run's manifest, or None if there is no such run; raises `UserError` if it cannot be used."""
    key = RunPaths(run).manifest
    try:
        manifest = Manifest.from_json(store.get(key))
        if manifest.run != run:
            raise ValueError(f"it is about the run {shorten(manifest.run)!r}")
    except NotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{key} cannot be used ({error}): restore it, use the version of catdog that wrote it, or choose another "
            "--run"
        ) from None
    return manifest
