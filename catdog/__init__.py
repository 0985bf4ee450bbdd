"""catdog: seeds × attention heads on Oxford-IIIT Pet, as one distributed batch job.

    config | storage → runs | data | models → training → trial → sweep        what writes a run
    config | storage → runs | data.trimaps  → analysis → report               what reads one

Each room imports only rooms to its left (tests/test_structure.py keeps it so), and errors, formatting and system. Those
that write runs and those that read them never import each other: the store is all they share.
"""

__version__ = "0.1.0"
