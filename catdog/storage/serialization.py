"""Dataclasses as JSON, arrays as .npz.

Input may be truncated by a crash or edited by hand, so every field is checked against its type.
"""

import dataclasses
import functools
import io
import json
import lzma
import math
import sys
import threading
import types
import typing
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from catdog.errors import UserError, first_line
from catdog.formatting import shorten


def to_json(content: Any) -> bytes:
    """Return a dataclass or dictionary as indented JSON; non-finite numbers become null.

    What UTF-8 cannot hold (a path that is not text) becomes JSON's `\\udc..`, which reads back as it was.
    """
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        content = dataclasses.asdict(content)
    return (json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def npz_bytes(**arrays: Any) -> bytes:
    """Return arrays as .npz; equal arrays give equal bytes, and loading needs no pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def small_npz_bytes(**arrays: Any) -> bytes:
    """Return arrays as a smaller .npz that takes longer to write: LZMA halves what deflate leaves of lists of names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


MOST_LETTERS, MOST_NAME_LETTERS = 100_000, 4096
"""Of a text in JSON, and of a name in an .npz, which may be a path: pages and messages quote them."""
MOST_UNPACKED = 1 << 30
"""Size limit of the arrays in an .npz together, in bytes; a small archive can unpack to any size."""


def read_npz(data: bytes, layouts: Mapping[str, str]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz that `layouts` names, checked against their layouts.

    A layout is numpy's kinds or characters of dtypes, and the axes: `{"names": "U P", "masks": "e EPMHW"}`. A letter
    stands for one length throughout, a digit for itself. Only the first axis may be empty.

    Raises:
        ValueError: the file is damaged or too large, or an array is missing or does not have its layout.
    """
    with _open_npz(data) as archive:
        arrays = {name: _read_array(archive, f"{name}.npy") for name in layouts}
    lengths: dict[str, int] = {}
    for name, layout in layouts.items():
        kinds, axes = layout.split()
        array = arrays[name]
        if array.dtype.kind not in kinds and array.dtype.char not in kinds:
            raise ValueError(f"{name} has dtype {array.dtype}")
        if array.dtype.kind == "U" and array.dtype.itemsize > 4 * MOST_NAME_LETTERS:
            raise ValueError(f"{name} has a name of more than {MOST_NAME_LETTERS:,} letters")
        fits = len(axes) == array.ndim and all(
            size == (int(axis) if axis.isdigit() else lengths.setdefault(axis, size))
            for axis, size in zip(axes, array.shape, strict=True)
        )
        if not fits or 0 in array.shape[1:]:
            raise ValueError(f"{name} has shape {array.shape}, which does not fit the other arrays")
    return arrays


def npz_names(data: bytes) -> list[str]:
    """Return the names of the arrays in an .npz, in order; raises `ValueError` if it is none."""
    with _open_npz(data) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


@contextmanager
def _open_npz(data: bytes) -> Iterator[zipfile.ZipFile]:
    """Open an .npz; anything wrong with it or its members becomes `ValueError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MOST_UNPACKED:
                raise ValueError(f"it unpacks to {size:,} bytes; the limit is {MOST_UNPACKED:,}")
            yield archive
    except _ZIP_ERRORS as error:
        raise ValueError(first_line(error)) from None


_ZIP_ERRORS = (
    EOFError, KeyError, NotImplementedError, OSError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


_one_parser = threading.Lock()
"""numpy reads an array's header by `ast.literal_eval`, which fails now and then in several threads at once ("AST
constructor recursion depth mismatch", https://github.com/python/cpython/issues/106905)."""


def _read_array(archive: zipfile.ZipFile, member: str) -> npt.NDArray[Any]:
    """Read one array, no more bytes of it than the archive announces; objects are never unpickled."""
    data = archive.read(member)
    try:
        fixed = 10 if data[6:7] == b"\1" else 12  # the format's version
        start = fixed + int.from_bytes(data[8:fixed], "little")
        shape, is_fortran, dtype = _read_header(data[:start])
        array = np.frombuffer(data, dtype, count=math.prod(shape), offset=start).copy()
        return array.reshape(shape, order="F" if is_fortran else "C")
    except (MemoryError, OverflowError, TypeError, ValueError):
        raise ValueError(f"{member} is no array of numbers or text") from None


@functools.lru_cache(maxsize=256)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and dtype; raises `ValueError`. Cached: the arrays of all trials share a few."""
    file = io.BytesIO(header)
    with _one_parser:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("objects, or a length below zero")
    return shape, is_fortran, dtype


T = TypeVar("T")

_NAMES: dict[Any, str] = {str: "text", bool: "true or false", int: "an integer", float: "a number", type(None): "null"}


def read_json(data: bytes) -> Any:
    """Return `data` parsed as JSON; raises `ValueError` if it is not JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_fields(kind: type[T], content: Any) -> T:
    """Return the dataclass whose fields are `content`, parsed JSON; raises `ValueError` naming the bad field.

    Lists become tuples. Numbers stay as they are, even an integer where a float is expected, since config hashes depend
    on their digits.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{shorten(repr(content))} is no {kind.__name__}")
    hints = typing.get_type_hints(kind)
    if unknown := content.keys() - hints.keys():
        raise ValueError(f"a {kind.__name__} has no {shorten(', '.join(sorted(unknown)))}")
    required = {field.name for field in dataclasses.fields(kind) if _is_required(field)}  # type: ignore[arg-type]
    if missing := required - content.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    try:
        return kind(**{name: _convert(value, hints[name], name) for name, value in content.items()})
    except UserError as error:  # the dataclass itself rejects a value
        raise ValueError(str(error)) from None


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_fields(typing.cast(type, hint), value)
    if origin in (typing.Union, types.UnionType):
        return _convert_to_one(value, arguments, name)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {
            _convert(key, str, name): _convert(item, arguments[1], f"{name}[{shorten(repr(key))}]")
            for key, item in value.items()
        }
    if isinstance(value, str) and len(value) > MOST_LETTERS:
        raise ValueError(f"{shorten(name)} has {len(value):,} letters; the limit is {MOST_LETTERS:,}")
    if not _fits(value, hint):
        raise ValueError(f"{name} is {shorten(repr(value))}, not {_described(hint)}")
    return value


def _convert_to_one(value: Any, hints: tuple[Any, ...], name: str) -> Any:
    for hint in hints:
        try:
            return _convert(value, hint, name)
        except ValueError:
            continue
    raise ValueError(f"{name} is {shorten(repr(value))}, not {' or '.join(map(_described, hints))}")


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # neither NaN nor infinite
    if hint is int and type(value) is int:
        return abs(value) < 2**63  # as tables hold it
    return type(value) is hint  # True is not an integer here


def _described(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    return _NAMES.get(hint) or {tuple: "a list", Mapping: "an object"}.get(typing.get_origin(hint), str(hint))
