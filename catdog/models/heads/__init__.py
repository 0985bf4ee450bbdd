"""The heads, one small module each.

`Head(in_channels, num_classes, **parameters)`, then `head(features_BCHW) → ModelOutput`.

A head with spatial masks names the convolution that makes them `mask_conv`, which has its own weight decay. A head that
uses the features only through global average pooling sets `pools_first = True`: behind a frozen backbone it gets maps
of one position, pooled once for all trials.
"""
