"""The heads, one small module each.

`Head(in_channels, num_classes, **parameters)`, then `head(features_BCHW) → ModelOutput`.

A head with spatial masks calls the convolution that makes them `mask_conv`: its weight decay is a setting of its own.
"""
