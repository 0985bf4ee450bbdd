"""Packing the real images, against bare decoding of the same files on as many cores."""

import statistics
import tempfile
import time
from pathlib import Path

import simplejpeg
import torch
from measuring import Figure, ratios, real_images

from catdog.data.datasets.oxford_pets import dataset_folder, open_oxford
from catdog.data.pack import write_pack
from catdog.system.process import map_on_cores, usable_cores

REPEATS = 9


def measure() -> list[Figure]:
    """Time decoding and packing in turn."""
    root = real_images("packing")
    torch.set_num_threads(1)
    source = open_oxford(root)
    paths = [dataset_folder(root) / "images" / f"{name}.jpg" for name in source.names]
    packing, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            bare.append(_decode(paths))
            started = time.perf_counter()
            write_pack(open_oxford(root), Path(folder) / "pack.safetensors")
            packing.append(time.perf_counter() - started)
            (Path(folder) / "pack.safetensors").unlink()
    rates = [len(paths) / statistics.median(seconds) for seconds in (packing, bare)]
    cores = usable_cores()
    detail = f"{rates[0]:.0f} files/s with lists, fingerprint, trimaps and writing, {rates[1]:.0f} bare, {cores} cores"
    return [Figure(f"packing {len(paths):,} JPEGs ÷ libjpeg-turbo", ratios(bare, packing), "", 0.6, True, detail)]


def _decode(paths: list[Path]) -> float:
    """Read and decode all files with libjpeg-turbo, one thread per core; returns the seconds."""

    def decode(path: str) -> None:
        with open(path, "rb") as file:
            simplejpeg.decode_jpeg(file.read(), "RGB")

    names = [str(path) for path in paths]
    started = time.perf_counter()
    map_on_cores(decode, names)
    return time.perf_counter() - started
