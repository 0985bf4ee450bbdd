"""Image data: two datasets (Oxford-IIIT Pet, drawn pets), the pack, and the batches made from it."""
