"""Modules that attend inside the backbone, behind its stages: map (B, C, H, W) → `StageOutput`."""
