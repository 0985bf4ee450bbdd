"""What the results of a run say: tables, statistics, where masks look. Imports no torch."""
