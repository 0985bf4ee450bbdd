"""Finds a dataset's files as people's folders hold them, and says what a folder holds instead."""

import os
import unicodedata
from pathlib import Path

NOTHING = "nothing"


def same_name(name: str) -> str:
    """Return a name in the form (NFC) in which names are compared: macOS may decompose letters with accents."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none that people see: `.DS_Store`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def files_by_name(folder: Path, *suffixes: str) -> dict[str, str]:
    """Return the paths of the files that end in one of `suffixes`, in any case, by `same_name` of the rest.

    Of several files for one name, the one spelled like the first suffix is returned.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return {}
    paths = {}
    for name in sorted(names, key=lambda name: (name.endswith(suffixes[0]), name)):  # the last one stays
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            paths[same_name(stem)] = os.path.join(folder, name)  # `Path` would be slow for thousands
    return paths


def describe_folder(folder: Path) -> str:
    """Return what a folder holds: `2 folders such as 'images' and 1 file such as 'README'`, hidden files left out."""
    kinds: dict[str, list[str]] = {"folder": [], "file": []}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    kinds["folder" if entry.is_dir() else "file"].append(entry.name)
    except OSError:
        return NOTHING
    found = [
        f"{len(names):,} {kind}{'s' * (len(names) > 1)} such as {min(names)[:60]!r}"
        for kind, names in kinds.items()
        if names
    ]
    return " and ".join(found) or NOTHING
