"""Backbones: images (B, 3, S, S) → feature maps (B, C, H, W), the classifier taken off."""
