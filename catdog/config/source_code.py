"""Python source: a digest in which only what runs counts, and a file with the modules that it imports."""

import ast
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


@functools.lru_cache(maxsize=1000)
def syntax(source: str) -> str:
    """Return the syntax tree of a module as text: without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def code_digest(sources: Iterable[tuple[str, str]]) -> str:
    """Return a hash of files' names and syntax (16 hexadecimal digits)."""
    trees = sorted((name, syntax(source)) for name, source in sources)
    return hashlib.sha256(repr(trees).encode(errors="backslashreplace")).hexdigest()[:16]


def read_with_imports(
    folder: Path, name: str, is_wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, str]]:
    """Yield a file of a folder and the modules of that folder that it imports, and so on: relative path and text.

    Raises:
        OSError, SyntaxError, ValueError: a file cannot be read as Python.
    """
    waiting, seen = [name], set()
    while waiting:
        inside = waiting.pop()
        if inside not in seen:
            seen.add(inside)
            try:
                source = Path(folder, inside).read_text(encoding="utf-8-sig")
                imported = _imported(source, inside)
            except ValueError as error:  # no UTF-8, or null bytes
                raise ValueError(f"{inside}: {error}") from None
            waiting += (path for path in imported if os.path.isfile(os.path.join(folder, path)) and is_wanted(path))
            yield inside, source


@functools.lru_cache(maxsize=1000)
def _imported(source: str, inside: str) -> tuple[str, ...]:
    """Return the files, relative to a folder, that its module `inside` imports if they are there."""
    found = []
    for node in ast.walk(ast.parse(source, inside)):
        names: list[str] = []
        base = ""
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = os.path.join(os.path.dirname(inside), *[".."] * (node.level - 1))
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
        for parts in (name.split(".") for name in names if name):
            for length in range(1, len(parts) + 1):
                stem = os.path.normpath(os.path.join(base, *parts[:length]))
                if not stem.startswith(".."):
                    found += [f"{stem}.py", os.path.join(stem, "__init__.py")]
    return tuple(dict.fromkeys(found))
