"""The images: two sources (Oxford-IIIT Pet, drawn pets), one pack, and the batches that are made of it."""
