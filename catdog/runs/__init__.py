"""What a run leaves in its store: its keys, and its records, each written and read in the same file."""
