"""Check a file of heads before a night is spent on it, and draw its masks.

python jobs/check_head.py FILE.py [--variants NAME:parameter=value ...] [--out DIR]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catdog.cli import ExitCode, output_console, parse, run_job
from catdog.config.head_files import load_head_files
from catdog.config.head_registry import EXTERNAL
from catdog.config.variants import parse_variants
from catdog.errors import UserError, first_line


@dataclass(frozen=True)
class Options:
    """What to check."""

    variants: tuple[str, ...] = ()
    """The variants to check (default: all heads of the file, as they are)."""
    out: str = "."
    """The folder for the drawings: masks-VARIANT.png."""


def main(arguments: Sequence[str]) -> int:
    """Print one line per check; returns the exit code."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise UserError("usage: check_head.py FILE.py [options]; see check_head.py --help")
    is_help = arguments[0] in ("-h", "--help")
    path, rest = ("FILE.py", arguments) if is_help else (arguments[0], arguments[1:])
    options = parse(Options, rest, "Check a file of heads, and draw its masks.", f"check_head.py {path}")
    load_head_files([path])
    if not EXTERNAL:
        raise UserError(f"{path}: registers no head: put @register_head(NAME) above a class")
    specs = parse_variants(options.variants or tuple(EXTERNAL))
    from catdog.models.head_contract import check_head
    from catdog.trial.head_preview import preview_masks

    console, broken = output_console(), []
    for spec in specs:
        found, picture = dict(check_head(spec)), None
        if not any(found.values()):
            try:
                picture = preview_masks(spec)
            except Exception as error:
                found["training on a 12 × 12 map"] = f"{type(error).__name__}: {first_line(error)}"
        for name, fault in found.items():
            console.print(
                f"{'ok' if fault is None else 'fault':8} {spec.label:24} {name}{f': {fault}' if fault else ''}",
                soft_wrap=True,
            )
        if any(found.values()):
            broken.append(spec.label)
        elif picture is not None:
            file = Path(options.out) / f"masks-{spec.folder}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture)
            console.print(f"its masks after a few steps: {file}", soft_wrap=True)
    console.print(f"to be mended: {', '.join(broken)}" if broken else "nothing stands in the way")
    return ExitCode.MISTAKE if broken else ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
