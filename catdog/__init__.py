"""catdog: seeds × attention heads on Oxford-IIIT Pet, as one distributed batch job.

    variants → config → data → models → training → snapshots → storage → provision → trial → sweep → aggregation →
    report

Each module imports only modules that stand before it in this line (tests/test_structure.py keeps it so).
"""

__version__ = "0.1.0"
