"""What a sweep will do: the run that its options describe, the manifest that they make or extend, the trials to run.

Needs no Ray, and torch only for stages.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catdog.config.head_registry import EXTERNAL, VARIANTS, known_heads
from catdog.config.recipe import NAMED_WEIGHTS, Precision, Recipe
from catdog.config.recipe_file import recipe_yaml
from catdog.config.sweep_options import SweepConfig, format_seeds
from catdog.data.datasets.registry import warn_of_enlarged_images
from catdog.data.prepare import DatasetInfo, check_split, second_tasks
from catdog.errors import UserError
from catdog.formatting import now
from catdog.runs.declaration import Declaration, by_rule
from catdog.runs.looks import Look, next_look, read_looks
from catdog.runs.manifest import (
    DataDescription,
    Identity,
    Manifest,
    PlannedTrial,
    read_manifest,
    result_format,
)
from catdog.runs.paths import TrialPaths
from catdog.runs.provenance import code_version, package_versions
from catdog.runs.status import RunStatus, read_run_status
from catdog.runs.tuning import Tuning, read_tuning
from catdog.runs.weights_digest import weights_digest
from catdog.storage import Store


@dataclass(frozen=True)
class Plan:
    """The requested trials, and those still pending."""

    run_status: RunStatus
    """Of the whole run, which has more trials than requested now if it was extended before."""
    requested: tuple[PlannedTrial, ...]
    """In running order: all variants of the first seed, then of the second, and so on."""
    pending: tuple[PlannedTrial, ...]
    train_images: int
    """Per epoch."""

    @property
    def images(self) -> int:
        """Return how many images the pending trials will train on."""
        return sum(self.recipe_of(trial).epochs for trial in self.pending) * self.train_images

    @property
    def damage(self) -> dict[TrialPaths, str]:
        """Return what is wrong with the results of pending trials that have one."""
        trials = self.run_status.trials
        return {one.where: one.damage for one in trials if one.damage is not None and one.planned in self.pending}

    def recipe_of(self, trial: PlannedTrial) -> Recipe:
        """Return a trial's recipe."""
        return self.run_status.manifest.identity.of(trial.variant).recipe


@dataclass(frozen=True)
class ResolvedRun:
    """A run's dataset and identity, once data and weights are found and the precision is settled."""

    dataset: DatasetInfo
    identity: Identity


def resolve_run(
    config: SweepConfig,
    store: Store,
    dataset_info: Callable[[], DatasetInfo],
    device_precision: Callable[[], Precision],
    check_weights: Callable[[str | None], None] = lambda digest: None,
) -> ResolvedRun:
    """Resolve the run that `config` describes: first its weights, then its data, then its precision.

    With precision `auto` an existing run keeps its own, and a new one gets that of `device_precision`. `check_weights`
    is called with the sha256 of a weights file (or None) before any time is spent on the data.
    """
    warn_of_enlarged_images(config)
    digest = weights_digest(config.recipe.weights)
    check_weights(digest)
    dataset = dataset_info()
    recipe = dataclasses.replace(config.recipe, dataset=dataset.name)
    if recipe.precision == "auto":
        existing = read_manifest(store, config.run_name)
        precision = existing.identity.recipe.precision if existing else device_precision()
        recipe = dataclasses.replace(recipe, precision=precision)
    if recipe.weights not in NAMED_WEIGHTS:
        recipe = dataclasses.replace(recipe, weights="file")
    groups = second_tasks(config, dataset)
    check_split(recipe, dataset.title or dataset.name, dataset.has_validation)
    form = result_format(recipe)
    identity = Identity(recipe, dataset.fingerprint, digest, config.threads, form, groups, config.workers)
    return ResolvedRun(dataset, identity)


def make_plan(config: SweepConfig, store: Store, run: ResolvedRun, command: tuple[str, ...]) -> Plan:
    """Return the plan; raises `UserError` if the run exists with another identity, or other names of its models."""
    description = DataDescription(run.dataset.title or run.dataset.name, run.dataset.class_noun, run.dataset.test_share)
    existing = read_manifest(store, config.run_name)
    looks = read_looks(store, config.run_name, () if existing is None else existing.variants)
    tuning = _tuning(existing, config, store)
    manifest = extend_manifest(existing, config, run.identity, command, description, looks)
    manifest = dataclasses.replace(manifest, tuning=tuning)
    _check_names(manifest, () if existing is None else existing.variants)
    if tuning is not None:
        tuning.check_seeds(seed for seeds in manifest.seeds.values() for seed in seeds)
    run_status = read_run_status(store, manifest)
    over = {trial.planned for trial in run_status.trials if trial.status in ("complete", "diverged")}
    specs, seeds = config.variant_specs, config.seed_list
    if config.until_decided:
        needed = next_look(manifest.declaration, manifest.variants, looks)
        specs, seeds = tuple(spec for spec in specs if spec.label in needed.labels), needed.seeds
        before = set(seeds[: looks[-1].planned] if looks else ())  # a look has done without their failed trials
        failed = {one.planned for one in run_status.trials if one.status == "failed"}
        over |= {trial for trial in failed if trial.seed in before}
    requested = tuple(PlannedTrial(spec, seed) for seed in seeds for spec in specs)
    pending = tuple(trial for trial in requested if trial not in over)
    return Plan(run_status, requested, pending, count_train_images(run.identity.recipe, run.dataset))


def extend_manifest(
    existing: Manifest | None,
    config: SweepConfig,
    identity: Identity,
    command: tuple[str, ...],
    data: DataDescription | None = None,
    looks: Sequence[Look] = (),
) -> Manifest:
    """Return the manifest of a new run, or the existing one extended by what `config` requests.

    With `--until-decided`, that is what the next look needs, after `looks`.

    Raises:
        UserError: the run exists with a different identity; the message lists the differences. Or it was looked at, and
            what it is to decide changed.
    """
    specs = config.variant_specs
    if existing is None:
        existing = Manifest(
            run=config.run_name,
            preset=config.preset,
            identity=identity,
            variants=(),
            seeds={},
            created_at=now(),
            commands=(),
            versions=package_versions(),
            code=code_version(),
            data=data,
        )
    elif differences := existing.identity.differences(identity):
        raise UserError(
            f"run {config.run_name!r} exists with another recipe ({'; '.join(differences)}): "
            "choose another --run, or restore what differs"
        )
    groups = {**existing.identity.groups, **identity.groups}
    existing = dataclasses.replace(existing, identity=dataclasses.replace(existing.identity, groups=groups))
    heads = {one.name: known_heads()[one.name] for one in specs if one.name not in VARIANTS}
    for name, head in heads.items():
        known = existing.heads.get(name, head)
        if dataclasses.replace(known, code=head.code) != head:  # other code is for its probe to judge
            raise UserError(
                f"run {config.run_name!r} has a head {name!r} with other parameters than now: choose another --run, or "
                "restore the head"
            )
    labels, seeds = tuple(spec.label for spec in specs), () if config.until_decided else config.seed_list
    extended = existing.extended(labels, seeds, command)
    extended = dataclasses.replace(
        extended, heads={**existing.heads, **heads}, imports=_imported_files(existing, config)
    )
    extended = extended.renamed({spec.label: spec.short_label for spec in specs if spec.short_label})
    extended = dataclasses.replace(extended, declared=_declared(existing, extended, config))
    if looks and (
        extended.declared != existing.declared or (config.until_decided and set(labels) != set(existing.variants))
    ):
        raise UserError(
            f"run {config.run_name!r} was looked at, and what it is to decide stays: give its own --variants, --seeds, "
            "--looks, --reference, --primary and --smallest-effect, or choose another --run"
        )
    if config.until_decided:
        needed = next_look(extended.declaration, extended.variants, looks)
        extended = extended.extended(needed.labels, needed.seeds, command)
    return extended


def _declared(existing: Manifest, extended: Manifest, config: SweepConfig) -> tuple[Declaration, ...]:
    """Return the run's declarations, with a new one if `config` asks for another, or none was made before."""
    last = existing.declaration if existing.variants else by_rule(extended.variants)
    reference = last.reference if config.reference is None else _own_label(extended, "--reference", config.reference)
    primary = last.primary if config.primary is None else _own_label(extended, "--primary", config.primary)
    if primary == reference and config.primary is None:
        primary = None  # what was primary is the reference now
    effect = last.smallest_effect if config.smallest_effect is None else config.smallest_effect
    looks, seeds = (config.look_list, config.seed_list) if config.until_decided else (last.looks, last.seeds)
    new = dataclasses.replace(
        by_rule(extended.variants, reference, primary), smallest_effect=effect, looks=looks, seeds=seeds
    )
    if new.primary == new.reference:
        raise UserError(f"--primary {config.primary}: is the reference: choose another variant, or a --reference")
    if existing.declared and new == dataclasses.replace(existing.declared[-1], declared_at=None):
        return existing.declared
    time = now() if existing.variants else existing.created_at
    return (*existing.declared, dataclasses.replace(new, declared_at=time))


def _own_label(manifest: Manifest, option: str, given: str) -> str:
    try:
        label = manifest.spec(given).label
    except UserError:  # nor of any other run
        label = given
    if label not in manifest.variants:
        raise UserError(
            f"{option} {given}: is no variant of run {manifest.run!r}: choose from {', '.join(manifest.variants)}"
        )
    return label


def _imported_files(existing: Manifest, config: SweepConfig) -> dict[str, str]:
    """Return where the run's files of heads are, by digest; an earlier one only if no file given now has its heads."""
    given = {file.digest: path for path, file in config.imported.items()}
    replaced = {head.code for name, head in existing.heads.items() if given and name in EXTERNAL}
    return {digest: path for digest, path in existing.imports.items() if digest not in replaced} | given


def _check_names(manifest: Manifest, known: Sequence[str]) -> None:
    """Raise `UserError` for a new variant that is the same model as one of these known ones under another name."""
    specs = {label: manifest.spec(label) for label in manifest.variants}
    earlier = [specs.pop(label) for label in known]
    for spec in specs.values():
        if twin := next((one for one in earlier if one.model == spec.model), None):
            raise UserError(f"variant {spec.label!r} is the same model as {twin.label!r} of this run: use that name")
    if earlier and any("stages" in spec.arguments for spec in specs.values()):
        from catdog.models.head_contract import check_stages

        check_stages(tuple(specs.values()), manifest.identity.recipe, earlier)


def _tuning(existing: Manifest | None, config: SweepConfig, store: Store) -> Tuning | None:
    """Return the tuning that the variants come from, if any; raises `UserError` if it is not there, or another."""
    known = None if existing is None else existing.tuning
    if config.tuning is None:
        return known
    tuning = read_tuning(store, config.tuning)
    if tuning is None:
        raise UserError(
            f"--tuning {config.tuning}: {store.url} has no such tuning: copy its {config.tuning}/tuning.json there, "
            "run tune.py, or give --tuning None"
        )
    if known not in (None, tuning):
        raise UserError(f"run {config.run_name!r} has variants of another tuning: choose another --run")
    return tuning


def whole_run_yaml(config: SweepConfig, manifest: Manifest) -> str:
    """Return the recipe file that makes a run again, also elsewhere: all variants and seeds, the settled precision.

    It declares what the run has declared, and names its tuning, whichever launch did. Where some variants have more
    seeds than others, it gives all of them all seeds, or those planned if the run may stop early. Where the images lie
    on this machine is left out: their fingerprint tells them apart.
    """
    declared = manifest.declaration
    specs = [manifest.spec(label) for label in manifest.variants]
    return recipe_yaml(
        config,
        run=manifest.run,
        variants=tuple(f"{spec.short_label}={spec.label}" if spec.short_label else spec.label for spec in specs),
        grid=(),
        tuning=None if manifest.tuning is None else manifest.tuning.run,
        imports=tuple(dict.fromkeys(manifest.imports.values())),
        seeds=format_seeds(
            declared.seeds if declared.looks else {seed for seeds in manifest.seeds.values() for seed in seeds}
        ),
        reference=declared.reference,
        primary=declared.primary,
        smallest_effect=declared.smallest_effect,
        until_decided=bool(declared.looks),
        looks=",".join(map(str, declared.looks)) or None,
        data_root=None,
        precision=manifest.identity.recipe.precision,
    )


def count_train_images(recipe: Recipe, dataset: DatasetInfo) -> int:
    """Return how many images an epoch trains on."""
    few = recipe.train_images_per_class
    each = few * dataset.classes if few and dataset.classes else dataset.train_images
    return min(dataset.train_images, recipe.limit_images or dataset.train_images, each)
