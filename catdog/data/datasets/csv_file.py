"""A list of images in a CSV file: columns image and label, and perhaps split and mask."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catdog.data.datasets.base import Source
from catdog.data.datasets.labelled_images import SPLIT_NAMES, LabelledImage, Packing, image_of_file, make_source
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
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True, strict=True)
            reader.fieldnames = found = [name.strip() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{option}: cannot be read as CSV in UTF-8 ({first_line(error)}): correct it") from None
    if len(set(found)) < len(found):
        raise UserError(f"{option}: two columns have one name ({shorten(', '.join(found))}): rename or remove one")
    columns = {role: names.get(role, role) for role in COLUMNS}
    for role in (role for role in COLUMNS if role in names or role in COLUMNS[:2]):
        if columns[role] not in found:
            raise UserError(
                f"{option}: has no column {columns[role]!r} (found: {shorten(', '.join(found))}): "
                f"add it, or name another: csv:{path},{role}=COLUMN"
            )
    if not rows:
        raise UserError(f"{option}: lists no images: give a row for each")
    images = [_image(path, number, row, columns, option) for number, row in enumerate(rows, start=1)]
    return make_source(images, option, path.stem, packing)


def check_csv(path: Path) -> None:
    """Raise `UserError` if there is no such file; does not read it."""
    if not os.path.isfile(path):
        found = "a folder, not a file (folder:DIR takes one)" if os.path.isdir(path) else "no such file"
        raise UserError(f"--dataset csv:{path}: {found}; give a CSV file with the columns image and label")


def _image(path: Path, number: int, row: Mapping[Any, Any], columns: Mapping[str, str], option: str) -> LabelledImage:
    where = f"{option}: image {number} of the list"
    if None in row:
        raise UserError(f"{where} has more fields than there are columns: quote what has commas in it")
    image, label, split, mask = (row.get(columns[role], "").strip() for role in COLUMNS)
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
