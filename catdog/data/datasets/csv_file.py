"""A list of images in a CSV file: columns image and label, perhaps split and mask; further ones may be second tasks."""

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from catdog.data.datasets.base import Source
from catdog.data.datasets.labelled_images import (
    SPLIT_NAMES,
    LabelledImage,
    Packing,
    image_of_file,
    make_source,
    warn_once,
)
from catdog.errors import UserError, first_line
from catdog.formatting import shorten

COLUMNS = ("image", "label", "split", "mask")
"""The first two are required."""


def parse_argument(text: str) -> tuple[Path, dict[str, str]]:
    """Return the file and the columns' names of `FILE,image=COLUMN,...`; raises `UserError`."""
    names: dict[str, str] = {}
    while True:
        rest, comma, last = text.rpartition(",")
        role, equals, column = last.partition("=")
        if not (comma and equals and role in COLUMNS):
            break
        if role in names or not column:
            raise UserError(f"--dataset csv:{shorten(text)}: {role}= is given twice or empty; name one column")
        names[role], text = column, rest
    return Path(os.path.expanduser(text)), names


def open_csv(argument: str, packing: Packing) -> Source:
    """Return the dataset that a CSV file lists; paths in it are absolute, or relative to the file.

    Raises:
        UserError: the file, a column or an image is not there, or a row is incomplete.
    """
    path, names = parse_argument(argument)
    option = f"--dataset csv:{path}"
    check_csv(path)
    all_rows = _read_rows(path, option)
    if len(all_rows) < 2:
        raise UserError(f"{option}: lists no images: give a row for each, below the columns' names")
    (_, header), *rows = all_rows
    found = [name.strip() for name in header]
    if len(set(found)) < len(found):
        raise UserError(f"{option}: two columns have one name ({shorten(', '.join(found))}): rename or remove one")
    _check_columns(path, names, found, option)
    columns = {role: names.get(role, role) for role in COLUMNS}
    images: dict[str, tuple[int, LabelledImage]] = {}
    for line, fields in rows:
        where = f"{option}: line {line}"
        if len(fields) > len(found):
            raise UserError(f"{where} has more fields than there are columns: quote what has commas in it")
        row = dict.fromkeys(found, "") | dict(zip(found, map(str.strip, fields), strict=False))
        further = {name: value for name, value in row.items() if name not in columns.values()}
        image = dataclasses.replace(_image(path, row, columns, where), groups=further)
        if image.name in images:
            raise UserError(f"{where}: {shorten(image.name)} is listed in line {images[image.name][0]} too: keep one")
        images[image.name] = line, image
    return make_source([image for _, image in images.values()], option, path.stem, packing)


def check_csv(path: Path) -> None:
    """Raise `UserError` if there is no such file; does not read it."""
    if not os.path.isfile(path):
        found = "a folder, not a file (folder:DIR takes one)" if os.path.isdir(path) else "no such file"
        raise UserError(f"--dataset csv:{path}: {found}; give a CSV file with the columns image and label")


def _read_rows(path: Path, option: str) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the number of the line that it begins in."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option}: cannot be read ({error.strerror}): check its permissions") from None
    rows, line, text = [], 1, ""
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        for fields in reader:
            if any(map(str.strip, fields)):
                rows.append((line, fields))
            line = reader.line_num + 1
    except (ValueError, csv.Error) as error:
        remedy = _other_separator(text) or "correct it"
        if isinstance(error, UnicodeDecodeError):
            line, remedy = error.object.count(b"\n", 0, error.start) + 1, "save it as UTF-8"
        raise UserError(
            f"{option}: line {line}: cannot be read as CSV in UTF-8 ({first_line(error)}): {remedy}"
        ) from None
    return rows


def _other_separator(text: str) -> str | None:
    """Return what to do about a header that has semicolons or tabs where commas belong, else None."""
    header = text.partition("\n")[0]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if header.count(separator) > header.count(","):
            return f"its columns are separated by {name}: save it with commas"
    return None


def _check_columns(path: Path, names: Mapping[str, str], found: Sequence[str], option: str) -> None:
    """Raise `UserError` if a column is missing; warn of an optional one that is there under nearly the same name."""
    missing = {role: name for role in COLUMNS if (name := names.get(role, role)) not in found}
    alike = {_plain(name): name for name in found}
    near = {role: alike[_plain(name)] for role, name in missing.items() if _plain(name) in alike}
    required = [role for role in missing if role in names or role in COLUMNS[:2]]
    roles = {**names, **dict.fromkeys(required, "COLUMN"), **near}
    use = ",".join([f"csv:{path}", *(f"{role}={name}" for role, name in roles.items())])
    for role, name in missing.items():
        if role in required:
            remedy = ("perhaps " if role in near else "add it, or name another: ") + use
            remedy = _other_separator(",".join(found)) or remedy
            raise UserError(f"{option}: has no column {name!r} (found: {shorten(', '.join(found))}): {remedy}")
        if role in near:
            warn_once(f"{option}: column {near[role]!r} is not read, since it is not called {name!r}: perhaps {use}")


def _plain(name: str) -> str:
    """Return a column's name without case and spaces."""
    return "".join(name.split()).casefold()


def _image(path: Path, row: Mapping[str, str], columns: Mapping[str, str], where: str) -> LabelledImage:
    image, label, split, mask = (row.get(columns[role], "") for role in COLUMNS)
    if not image or not label:
        raise UserError(f"{where} has no {'label' if image else 'path'}: complete the row or remove it")
    if split and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: the split {shorten(split)!r} is none of train, val and test: correct it")
    files = [os.path.join(path.parent, os.path.expanduser(name)) if name else None for name in (image, mask)]
    for file in filter(None, files):
        if not os.path.isfile(file):
            raise UserError(f"{where}: {shorten(file, 200)}: no such file: correct or remove the row")
    assert files[0] is not None
    return image_of_file(files[0], image, label, SPLIT_NAMES.get(split.lower()) if split else None, files[1])
