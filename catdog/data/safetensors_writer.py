"""Safetensors files larger than memory: laid out first, then filled in rows, in any order and from any thread."""

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}
ALIGNMENT = 8
"""What `safetensors` itself aligns the first tensor to, in bytes."""

Layout = Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]
"""By name: a tensor's dtype and shape."""


class WriteRows(Protocol):
    """Writes consecutive rows of a tensor, or its first row alone without the row axis."""

    def __call__(self, name: str, first_row: int, rows: npt.NDArray[Any]) -> None:
        """Write `rows` to where row `first_row` of the tensor `name` begins."""


@contextlib.contextmanager
def new_safetensors(
    path: Path, tensors: Layout, metadata: Mapping[str, str] | None = None, alignment: int = ALIGNMENT
) -> Iterator[WriteRows]:
    """Open a new safetensors file and yield the function that fills it; the file is removed if the block raises.

    Tensors keep the given order, and the first begins at a multiple of `alignment`. Every row must be written.

    Raises:
        OSError: the disk is full.
    """
    head, offsets = _lay_out(tensors, metadata, alignment)
    row_bytes = {name: np.dtype(dtype).itemsize * math.prod(shape[1:]) for name, (dtype, shape) in tensors.items()}
    with open(path, "wb", buffering=0) as file:

        def write(content: memoryview, offset: int) -> None:
            while content:
                written = os.pwrite(file.fileno(), content, offset)
                content, offset = content[written:], offset + written

        def write_rows(name: str, first_row: int, rows: npt.NDArray[Any]) -> None:
            write(rows.reshape(-1).view(np.uint8).data, offsets[name] + first_row * row_bytes[name])

        try:
            write(memoryview(head), 0)
            yield write_rows
        except BaseException:
            path.unlink()
            raise


def _lay_out(tensors: Layout, metadata: Mapping[str, str] | None, alignment: int) -> tuple[bytes, dict[str, int]]:
    """Return the header of a safetensors file and the file offset of each tensor."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _DTYPES[np.dtype(dtype).name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    head = struct.pack("<Q", len(text)) + text
    return head, {name: len(head) + header[name]["data_offsets"][0] for name in tensors}
