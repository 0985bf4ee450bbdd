"""Is the code still the one that a run began with? If not, a probe tells whether it computes the same."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from catdog.config.extensions import uses_imports
from catdog.config.head_files import HeadFile
from catdog.config.head_registry import known_heads
from catdog.config.variants import VariantSpec
from catdog.errors import UserError
from catdog.runs.code_record import TOLERANCE, Code, CodeRecord
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.provenance import variant_code
from catdog.runs.status import RunStatus

Probe = tuple[float, ...] | str
"""The numbers of a variant's probe, or why it failed."""
Probes = Callable[[Sequence[VariantSpec]], Mapping[str, Probe]]
"""Runs the probes of variants, and returns them by label."""


def code_of(variants: Iterable[VariantSpec], identity: Identity, head_files: Sequence[HeadFile]) -> dict[str, Code]:
    """Return the code that trials of these variants would run now, by label; `head_files` are the imported files."""
    heads, digests = known_heads(), [file.digest for file in head_files]
    return {
        variant.label: variant_code(heads[variant.name], digests if uses_imports(identity.of(variant).recipe) else ())
        for variant in variants
    }


def changed_code(run_status: RunStatus, code: Mapping[str, Code]) -> dict[str, str]:
    """Return what is new in the code of variants that have trials with other code, by label."""
    began = {trial.planned.variant.label for trial in run_status.trials if trial.result is not None or trial.unfinished}
    records = run_status.manifest.code_records
    return {
        label: records[label].code.differences(one)
        for label, one in code.items()
        if label in began and label in records and not records[label].knows(one)
    }


def check_code(
    run_status: RunStatus, variants: Sequence[VariantSpec], code: Mapping[str, Code], run_probes: Probes
) -> Manifest:
    """Return the manifest with the code of these variants, whose trials are about to run.

    A variant without trials is probed for later, if its probe runs; one that has trials with other code, to compare.

    Raises:
        UserError: other code computes other numbers.
    """
    manifest = run_status.manifest
    records, changed = dict(manifest.code_records), changed_code(run_status, code)
    unknown = [one for one in variants if one.label not in records or not records[one.label].knows(code[one.label])]
    for label, probe in run_probes(unknown).items() if unknown else ():
        if label in changed:
            difference = math.inf if isinstance(probe, str) else records[label].difference(probe)
            if difference > TOLERANCE:
                found = f"fails ({probe})" if isinstance(probe, str) else f"differs by {difference:.2%}"
                raise UserError(
                    f"run {manifest.run!r} has trials of {label!r} with other code ({changed[label]}), and the new one "
                    f"computes other numbers: a short trial {found}, and {TOLERANCE:.2%} is allowed: restore the code, "
                    "or choose another --run"
                )
            records[label] = records[label].extended(code[label], difference)
        elif not isinstance(probe, str):
            records[label] = CodeRecord(code[label], probe)
    return dataclasses.replace(manifest, code_records=records)
