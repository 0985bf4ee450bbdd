"""Files of heads outside the package: run here, and kept as text, so that workers run the same."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

from catdog.config.head_registry import EXTERNAL, HEAD_CLASSES, Variant
from catdog.config.source_code import code_digest, read_with_imports, syntax
from catdog.errors import UserError, first_line

MOST_BYTES = 1_000_000
"""Of one file's code and the local modules it imports."""


@dataclass(frozen=True)
class HeadFile:
    """A Python file and the modules beside it that it imports."""

    name: str
    sources: tuple[tuple[str, str], ...]
    """Path relative to the file's folder, and text; the file itself comes first."""

    def __post_init__(self) -> None:
        for inside, _ in self.sources:
            if os.path.isabs(inside) or os.path.normpath(inside) != inside or inside.startswith(".."):
                raise ValueError(f"{inside} is no path below the file's folder")

    @functools.cached_property
    def digest(self) -> str:
        """Return a hash of the code (16 hexadecimal digits), in which comments and docstrings do not count."""
        return code_digest(self.sources)

    def differs_in(self, other: "HeadFile") -> str | None:
        """Return a module that both files have beside them, with different code; None if there is none."""
        theirs = dict(other.sources[1:])
        both = [(inside, source, theirs[inside]) for inside, source in self.sources[1:] if inside in theirs]
        return next((inside for inside, one, two in both if syntax(one) != syntax(two)), None)


@dataclass(frozen=True)
class _Loaded:
    file: HeadFile
    heads: Mapping[str, Variant]
    classes: Mapping[str, type]
    modules: tuple[str, ...]


_loaded: dict[tuple[str, str], _Loaded] = {}
"""What each file registered, by path and digest: a file is run once."""


def read_head_files(paths: Sequence[str], known: Mapping[str, HeadFile] = MappingProxyType({})) -> dict[str, HeadFile]:
    """Return the files at these paths, each once; those that are `known` are not read again. Raises `UserError`."""
    paths = list({os.path.realpath(os.path.expanduser(path)): path for path in reversed(paths)}.values())[::-1]
    return {path: known[path] if path in known else read_head_file(path) for path in paths}


def load_head_files(files_or_paths: Mapping[str, HeadFile] | Sequence[str]) -> tuple[HeadFile, ...]:
    """Run files, by path, or those at some paths, so that this process knows their heads; returns them as they travel.

    The heads of files that were loaded earlier are forgotten, unless none are named now.

    Raises:
        UserError: a file is not there, fails, or names a head that there is already.
    """
    named = files_or_paths if isinstance(files_or_paths, Mapping) else read_head_files(files_or_paths)
    paths, files = tuple(named), tuple(named.values())
    _check_siblings(paths, files)
    for earlier in _loaded.values() if files else ():
        for name, head in earlier.heads.items():
            EXTERNAL.pop(name, None)
            HEAD_CLASSES.pop(head.head, None)
    for path, file in zip(paths, files, strict=True):
        known = _loaded.get((path, file.digest))
        if known is None:
            known = _loaded[path, file.digest] = _run(path, file)
        elif taken := known.heads.keys() & EXTERNAL.keys():
            raise UserError(f"--import {path}: head {min(taken)!r} is in another file too: rename one")
        EXTERNAL.update(known.heads)
        HEAD_CLASSES.update(known.classes)
    return files


def _check_siblings(paths: Sequence[str], files: Sequence[HeadFile]) -> None:
    """Raise `UserError` if two files import different modules of one name: Python keeps one of them."""
    for (one, file), (two, other) in itertools.combinations(zip(paths, files, strict=True), 2):
        if inside := file.differs_in(other):
            raise UserError(f"--import {two}: imports {inside}, and so does {one}, with other code: rename one")


def read_head_file(path: str) -> HeadFile:
    """Return a file and the local modules it imports, without running them; raises `UserError`."""
    full = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(full):
        found = "a folder" if os.path.isdir(full) else "no such file"
        raise UserError(f"--import {path}: {found}; give a Python file (of a submitted job: in its working directory)")
    folder, name = os.path.split(full)
    sources: dict[str, str] = {}
    try:
        for inside, source in read_with_imports(Path(folder), name, _is_not_ours):
            sources[inside] = source
            if sum(map(len, sources.values())) > MOST_BYTES:
                raise UserError(f"--import {path}: more than {MOST_BYTES // 1000} kB of code with what it imports")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"--import {path}: cannot be read as Python ({first_line(error)})") from None
    return HeadFile(name, tuple(sources.items()))


def _is_not_ours(inside: str) -> bool:
    return inside.split(os.sep)[0] not in ("catdog", "catdog.py")


def _run(path: str, file: HeadFile) -> _Loaded:
    """Run a file as a module of its own; its folder stays on the path of modules, as for a script."""
    full = os.path.abspath(os.path.expanduser(path))
    folder = os.path.dirname(full)
    _prepare_imports(folder, file)
    before, heads = set(sys.modules), set(EXTERNAL)
    name = f"catdog_import_{file.digest}"
    module = sys.modules[name] = ModuleType(name)  # pickle looks there
    module.__file__ = full
    try:
        exec(compile(file.sources[0][1], full, "exec"), module.__dict__)
    except UserError as error:
        raise UserError(f"--import {path}: {error}") from None
    except (Exception, SystemExit, GeneratorExit) as error:
        raise UserError(
            f"--import {path}: {type(error).__name__}: {first_line(error)}{_line_of(error, full)}"
        ) from error
    local = {os.path.join(folder, inside) for inside, _ in file.sources}
    mine = [one for one in set(sys.modules) - before if getattr(sys.modules[one], "__file__", None) in local]
    for key in EXTERNAL.keys() - heads:
        EXTERNAL[key] = dataclasses.replace(EXTERNAL[key], code=file.digest)
    added = {key: EXTERNAL[key] for key in EXTERNAL.keys() - heads}
    return _Loaded(file, added, {one.head: HEAD_CLASSES[one.head] for one in added.values()}, tuple(mine))


def _prepare_imports(folder: str, file: HeadFile) -> None:
    """Make sure that a file imports the modules beside it as they are now."""
    for loaded in _loaded.values():
        if loaded.file.differs_in(file):  # what imports that module has the earlier one, and is imported again, too
            for name in loaded.modules:
                sys.modules.pop(name, None)
    sys.path[:] = [folder, *(other for other in sys.path if other != folder)]
    for inside, _ in file.sources[1:]:  # Python takes bytecode for new if an edit keeps the size and the second
        with contextlib.suppress(OSError):
            os.remove(importlib.util.cache_from_source(os.path.join(folder, inside)))
    importlib.invalidate_caches()


def _line_of(error: BaseException, path: str) -> str:
    """Return where in a file an error arose, as `, line 3`."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
