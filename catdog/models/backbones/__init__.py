"""Backbones: images (B, 3, S, S) → feature maps (B, C, H, W), without the classifier."""
