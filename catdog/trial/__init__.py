"""One trial, (variant, seed), from start to result, resumable. Knows no Ray."""
