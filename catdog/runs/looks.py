"""The looks of a sweep that stops when its questions are answered: which trials the next one needs, what each found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog.errors import UserError
from catdog.formatting import shorten
from catdog.runs.declaration import Declaration
from catdog.runs.paths import RunPaths
from catdog.storage import Store, read_many
from catdog.storage.serialization import from_fields, read_json, to_json

UNDECIDED, HOPELESS = "undecided", "hopeless"
OUTCOMES = {"better", "worse", "equivalent", UNDECIDED, HOPELESS}
"""Better or worse and equivalent can both hold, joined by a comma."""


@dataclass(frozen=True)
class Look:
    """What was found once the first planned seeds had ended. It is never taken back."""

    planned: int
    """How many seeds were to end before it."""
    seeds: Mapping[str, tuple[int, ...]]
    """By label of a contrast's variant: the seeds of its pairs, those of earlier looks first."""
    outcomes: Mapping[str, str]
    """By label, of the contrasts that were undecided before: `Contrast.outcome`, or `hopeless`."""
    taken_at: str

    @classmethod
    def from_json(cls, data: bytes) -> "Look":
        """Read a look; raises `ValueError` if it is damaged."""
        look = from_fields(cls, read_json(data))
        if look.planned < 1 or look.seeds.keys() != look.outcomes.keys():
            raise ValueError("its seeds and outcomes do not fit together")
        if unknown := {word for one in look.outcomes.values() for word in one.split(", ")} - OUTCOMES:
            raise ValueError(f"it found {shorten(repr(sorted(unknown)[0]))}")
        return look


@dataclass(frozen=True)
class NextLook:
    """The trials that must have ended before the next look."""

    labels: tuple[str, ...]
    """The reference, and the variants whose contrasts are undecided; none if all is decided."""
    seeds: tuple[int, ...]


def next_look(declared: Declaration, labels: Sequence[str], looks: Sequence[Look]) -> NextLook:
    """Return what the next look at a run of these variants needs, after those that were taken."""
    undecided: Sequence[str] = [label for label in labels if label != declared.reference]
    if looks:
        undecided = [label for label, outcome in looks[-1].outcomes.items() if outcome == UNDECIDED]
    taken = looks[-1].planned if looks else 0
    planned = next((look for look in declared.looks if look > taken), None)
    if planned is None or not undecided:
        return NextLook((), ())
    return NextLook((declared.reference, *undecided), declared.seeds[:planned])


def store_look(store: Store, run: str, look: Look) -> None:
    """Store what a look found."""
    store.put(RunPaths(run).look(look.planned), to_json(look))


def read_looks(store: Store, run: str) -> list[Look]:
    """Return the looks that were taken, in order; raises `UserError` if one is damaged: it is not taken again."""
    looks = []
    for key, data in read_many(store, store.list(RunPaths(run).looks)):
        try:
            looks.append(Look.from_json(data))
        except ValueError as error:
            raise UserError(f"{key} is damaged ({error}): restore it, or choose another --run") from None
    return sorted(looks, key=lambda look: look.planned)
