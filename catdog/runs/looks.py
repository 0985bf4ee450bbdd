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
OUTCOMES = {"better", "worse", "equivalent", "better, equivalent", "worse, equivalent", UNDECIDED, HOPELESS}


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
        if any(len(set(seeds)) < len(seeds) or len(seeds) > look.planned for seeds in look.seeds.values()):
            raise ValueError("its seeds are too many, or listed twice")
        if unknown := set(look.outcomes.values()) - OUTCOMES:
            raise ValueError(f"it found {shorten(repr(sorted(unknown)[0]))}")
        return look

    @property
    def undecided(self) -> list[str]:
        """Return the labels of the contrasts that are still undecided."""
        return [label for label, outcome in self.outcomes.items() if outcome == UNDECIDED]

    def problem(self, before: "Look | None", labels: Sequence[str]) -> str | None:
        """Return why a run of these variants cannot have taken this look after the one before, or None."""
        if not self.outcomes or not self.outcomes.keys() <= set(labels):
            return "it is about no variants, or some that the run does not have"
        if before is not None and (
            self.outcomes.keys() != set(before.undecided)
            or any(self.seeds[label][: len(before.seeds[label])] != before.seeds[label] for label in self.seeds)
        ):
            return "it does not follow from the look before"
        return None


@dataclass(frozen=True)
class NextLook:
    """The trials that must have ended before the next look."""

    labels: tuple[str, ...]
    """The reference, and the variants whose contrasts are undecided; none if all is decided."""
    seeds: tuple[int, ...]


def next_look(declared: Declaration, labels: Sequence[str], looks: Sequence[Look]) -> NextLook:
    """Return what the next look at a run of these variants needs, after those that were taken."""
    undecided = looks[-1].undecided if looks else [label for label in labels if label != declared.reference]
    taken = looks[-1].planned if looks else 0
    planned = next((look for look in declared.looks if look > taken), None)
    if planned is None or not undecided:
        return NextLook((), ())
    return NextLook((declared.reference, *undecided), declared.seeds[:planned])


def store_look(store: Store, run: str, look: Look) -> None:
    """Store what a look found."""
    store.put(RunPaths(run).look(look.planned), to_json(look))


def read_looks(store: Store, run: str, labels: Sequence[str]) -> list[Look]:
    """Return the looks at a run of these variants, in order.

    Raises:
        UserError: one is damaged, or does not follow from those before: none is taken again.
    """
    looks: list[Look] = []
    for key, data in sorted(read_many(store, store.list(RunPaths(run).looks))):
        try:
            look = Look.from_json(data)
            if key != RunPaths(run).look(look.planned):
                raise ValueError(f"it is that after {look.planned} seeds")
            if problem := look.problem(looks[-1] if looks else None, labels):
                raise ValueError(problem)
        except ValueError as error:
            raise UserError(f"{key} is damaged ({error}): restore it, or choose another --run") from None
        looks.append(look)
    return looks
