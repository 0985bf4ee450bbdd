"""catdog: seeds × attention heads on Oxford-IIIT Pet, as one distributed batch job.

    config | storage → runs | data | models → training → trial → sweep        what writes a run
    config | storage → runs | data.trimaps  → analysis → report               what reads one

Each room imports only rooms to its left (tests/test_structure.py keeps it so), and errors and formatting; system, this
process and machine, is below them all. Rooms that write runs and rooms that read them never import each other: they
share the store and what lies in it.
"""

__version__ = "0.1.0"
