"""The training loop that all variants share. Knows no store, no files and no Ray."""
