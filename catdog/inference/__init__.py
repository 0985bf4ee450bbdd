"""Trained networks taken home: loaded from a store, asked about photos, exported. No Ray."""
