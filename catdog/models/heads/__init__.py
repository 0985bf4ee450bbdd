"""The heads, one small module each.

`Head(in_channels, num_classes, **parameters)`, then `head(features_BCHW) → ModelOutput`.

A head with spatial masks is a `masked.MaskedHead`, which brings its controls; the layers that make the masks have a
weight decay of their own. (A head from outside may also just name its mask convolution `mask_conv`.) A head that uses
the features only through global average pooling sets `pools_first = True`: behind a frozen backbone it gets maps of one
position, pooled once for all trials.
"""
