"""The heads, one small module each.

`Head(in_channels, num_classes, **parameters)`, then `head(features_BCHW) → ModelOutput`.

A head with spatial masks calls the convolution that makes them `mask_conv`: its weight decay is a setting of its own.
A head that begins with global average pooling, and sees the features in no other way, says `pools_first = True`:
behind a frozen backbone it is given maps of one position, pooled once for all trials.
"""
