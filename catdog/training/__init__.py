"""The training loop of all variants. Independent of the store, of files and of Ray."""
