"""catdog: seeds × attention heads on Oxford-IIIT Pet, as one distributed batch job.

    config | storage → runs | data | models → training → trial → sweep        what writes a run
    config | storage → runs | data.trimaps  → analysis → report               what reads one
    config | storage → runs | data | models → training → trial → inference    what uses its networks

Each room imports only rooms to its left (tests/test_structure.py keeps it so), and errors and formatting; system, this
process and machine, is below them all. Rooms that write runs and rooms that read them never import each other: they
share the store and what lies in it.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catdog.api import Run, load_run, run_sweep, sweep_config

__all__ = ["Run", "__version__", "load_run", "run_sweep", "sweep_config"]


def __getattr__(name: str) -> object:
    """Return what catdog offers to Python; imported when it is asked for, since jobs do without pandas at first."""
    if name not in __all__:
        raise AttributeError(f"module 'catdog' has no attribute {name!r}")
    import catdog.api

    return getattr(catdog.api, name)
