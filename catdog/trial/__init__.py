"""One trial, (variant, seed), from start to result, resumable. Independent of Ray."""
