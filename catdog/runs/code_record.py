"""Which code a variant's trials ran, as the manifest keeps it, and whether other code computes the same numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog.formatting import now

Probe = tuple[float, ...] | str
"""The numbers of a variant's probe, or why it failed."""
TOLERANCE = 5e-4
"""How far each number of two probes may differ to count as the same, as a share of itself. Kernels for AVX2 instead of
AVX-512 move those of the presets by up to 1.5e-4, a dropout of 0.49 instead of 0.5 by 30e-4 and more."""
SMALL = 0.1
"""Numbers below it are compared as if they were as large: rounding does not shrink with them."""


@dataclass(frozen=True)
class Code:
    """What trials of a variant ran."""

    digest: str
    """Of the syntax of the package's code and of the head's."""
    versions: Mapping[str, str]
    """Of the packages that compute."""

    def differences(self, other: "Code") -> str:
        """Return what differs, as `code a1b2c3 → d4e5f6, torch 2.13.0 → 2.14.1`."""
        changed = [("code", self.digest[:6], other.digest[:6])] if self.digest != other.digest else []
        for name in dict.fromkeys((*self.versions, *other.versions)):
            pair = self.versions.get(name, "none"), other.versions.get(name, "none")
            changed += [(name, *pair)] if pair[0] != pair[1] else []
        return ", ".join(f"{name} {mine} → {theirs}" for name, mine, theirs in changed)


@dataclass(frozen=True)
class CodeChange:
    """Other code that later trials of a variant ran, once its probe gave the same."""

    code: Code
    difference: float
    """The largest between two probes' numbers, as a share of the earlier one's."""
    at: str


@dataclass(frozen=True)
class CodeRecord:
    """The code that a variant's first trials ran, and the numbers of its probe: a short trial on images of noise."""

    code: Code
    probe: tuple[float, ...]
    changes: tuple[CodeChange, ...] = ()

    def knows(self, code: Code) -> bool:
        """Return whether trials of the run have been made with this code already."""
        return code in (self.code, *(change.code for change in self.changes))

    def difference(self, probe: Sequence[float]) -> float:
        """Return how far a probe's numbers are from the recorded ones at most, each as a share of its own."""
        if len(probe) != len(self.probe) or not all(map(math.isfinite, probe)):
            return math.inf
        pairs = zip(self.probe, probe, strict=True)
        return max((abs(one - other) / max(abs(one), SMALL) for one, other in pairs), default=0.0)

    def extended(self, code: Code, difference: float) -> "CodeRecord":
        """Return the record with later code that gave the same."""
        return dataclasses.replace(self, changes=(*self.changes, CodeChange(code, difference, now())))
