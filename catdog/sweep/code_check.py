"""Is the code still the one that a run began with? If not, a probe tells whether it computes the same."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from catdog.config.extensions import uses_imports
from catdog.config.head_files import HeadFile
from catdog.config.head_registry import known_heads
from catdog.config.variants import VariantSpec
from catdog.errors import UserError
from catdog.runs.code_record import TOLERANCE, Code, CodeRecord, Probe
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.provenance import variant_code
from catdog.runs.status import RunStatus

Probes = Callable[[Sequence[VariantSpec]], Mapping[str, Probe]]
"""Runs the probes of variants, and returns them by label."""


def code_of(variants: Iterable[VariantSpec], identity: Identity, head_files: Sequence[HeadFile]) -> dict[str, Code]:
    """Return the code that trials of these variants would run now, by label; `head_files` are the imported files."""
    heads, digests = known_heads(), [file.digest for file in head_files]
    return {
        variant.label: variant_code(heads[variant.name], digests if uses_imports(identity.of(variant).recipe) else ())
        for variant in variants
    }


def concerned(run_status: RunStatus, pending: Iterable[VariantSpec]) -> tuple[VariantSpec, ...]:
    """Return the variants that must have been made with one code: those about to run, and those with trials.

    Variants whose heads are not known here, and not about to run, are left out: their code cannot be compared.
    """
    heads = known_heads()
    begun = [
        trial.planned.variant
        for trial in run_status.trials
        if (trial.result is not None or trial.unfinished) and trial.planned.variant.name in heads
    ]
    return tuple(dict.fromkeys([*pending, *begun]))


def changed_code(run_status: RunStatus, code: Mapping[str, Code]) -> dict[str, str]:
    """Return what is new in the code of variants that have trials with other code, by label."""
    begun = {one.label for one in concerned(run_status, ())}
    records = run_status.manifest.code_records
    return {
        label: records[label].code.differences(one)
        for label, one in code.items()
        if label in begun and label in records and not records[label].knows(one)
    }


def check_code(
    run_status: RunStatus,
    pending: Sequence[VariantSpec],
    head_files: Sequence[HeadFile],
    run_probes: Probes,
) -> Manifest:
    """Return the manifest with the code of variants whose trials are about to run.

    A variant without trials is probed for later, if its probe runs. One that has trials with other code is probed to
    compare; of those that are not about to run, and whose code has changed alike, only the first.

    Raises:
        UserError: other code computes other numbers.
    """
    manifest, variants = run_status.manifest, concerned(run_status, pending)
    code = code_of(variants, manifest.identity, head_files)
    records, changed = dict(manifest.code_records), changed_code(run_status, code)
    alike = {changed[one.label] for one in pending if one.label in changed}
    wanted = [one for one in pending if one.label not in records or not records[one.label].knows(code[one.label])]
    for one in variants[len(pending) :]:
        if one.label in changed and changed[one.label] not in alike:
            alike.add(changed[one.label])
            wanted.append(one)
    for label, probe in run_probes(wanted).items() if wanted else ():
        if label in changed:
            difference = math.inf if isinstance(probe, str) else records[label].difference(probe)
            if difference > TOLERANCE:
                size = f"by {difference:.2%}" if math.isfinite(difference) else "in what it measures"
                found = f"fails ({probe})" if isinstance(probe, str) else f"differs {size}"
                raise UserError(
                    f"run {manifest.run!r} has trials of {label!r} with other code ({changed[label]}), and the new one "
                    f"computes other numbers: a short trial {found}, and {TOLERANCE:.2%} is allowed: restore the code, "
                    "or choose another --run"
                )
            records[label] = records[label].extended(code[label], difference)
        elif not isinstance(probe, str):
            records[label] = CodeRecord(code[label], probe)
    return dataclasses.replace(manifest, code_records=records)
