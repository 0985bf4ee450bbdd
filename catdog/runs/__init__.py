"""What a run leaves in its store: each key and each record, written and read in the same file."""
