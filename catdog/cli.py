"""Command lines from dataclasses, a job's console, and how a job exits: a mistake is one line and exit code 2."""

import atexit
import contextlib
import dataclasses
import enum
import functools
import gc
import io
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.text import Text

from catdog.config.head_files import load_head_files
from catdog.config.presets import PRESETS
from catdog.config.recipe import parse_number
from catdog.config.recipe_file import named_config
from catdog.config.sweep_options import IMPORT, SweepConfig, check_run_name, check_store
from catdog.errors import StoreError, UserError, first_line
from catdog.formatting import printable, shorten
from catdog.system.streams import encodable, open_output
from catdog.system.supervisor import Ending, raise_on_signals, supervise

ABOUT_SWEEP = "Run a sweep: seeds × model variants as parallel trials, then the comparison table."
T = TypeVar("T")
Sweep = TypeVar("Sweep", bound=SweepConfig)
MEMORY_REMEDY = "raise the limit (ulimit -v, or the batch system's)"
NO_MEMORY = ("can't start new thread", "Cannot allocate memory", "failed to map segment")
"""In errors of other classes than `MemoryError`: Python's, the C library's, the dynamic loader's."""
MOST_LETTERS = 2_000
"""Of an error, which may quote a stored file."""
RECOVERY_SECONDS = 2
"""How long an interrupted job's supervisor may take to release what the job held."""


class ExitCode(enum.IntEnum):
    """How a job ends."""

    COMPLETE = 0
    INCOMPLETE = 1
    """Some trials failed or are missing; the table is built and lists them."""
    MISTAKE = 2
    """In options, data or store: one line on stderr."""
    INTERRUPTED = 130
    """Nothing is lost."""

    @classmethod
    def of(cls, is_complete: bool) -> "ExitCode":
        """Return the code of a job that built its table."""
        return cls.COMPLETE if is_complete else cls.INCOMPLETE


@dataclass(frozen=True)
class RunOptions:
    """The options that identify an existing run."""

    run: str
    """Name of the run."""
    store: str = "results"
    """A folder, or s3://bucket/prefix."""

    def __post_init__(self) -> None:
        check_run_name(self.run)
        check_store(self.store)


@dataclass(frozen=True, kw_only=True)
class TrialOptions(RunOptions):
    """The options that identify a trial of a run."""

    variant: str
    """The variant, by its label or its short one."""
    seed: int | None = None
    """The seed (default: that of the variant's best run by validation accuracy)."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(TrialOptions):
    """The options that identify a trained network."""

    imports: Annotated[tuple[str, ...], IMPORT, tyro.conf.UseAppendAction] = ()
    """The file of a head of your own; may be given several times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        load_head_files(self.imports)


def take_preset(arguments: Sequence[str], program: str) -> tuple[SweepConfig, Sequence[str]]:
    """Return the preset or recipe file named first and the remaining arguments; a bare `--help` shows the demo's."""
    presets = f"{', '.join(PRESETS)}, or a recipe file (.yaml)"
    if not arguments:
        raise UserError(f"usage: {program} PRESET [options]; presets: {presets}; see {program} --help")
    if arguments[0] in ("-h", "--help"):
        return PRESETS["demo"], arguments
    if arguments[0].startswith("-"):
        raise UserError(f"the preset comes first: {program} PRESET [options]; presets: {presets}")
    return named_config(arguments[0]), arguments[1:]


def parse_sweep(arguments: Sequence[str], program: str) -> SweepConfig:
    """Parse a sweep's `PRESET [options]`; the values of the preset, or recipe file, are the defaults of the options."""
    return parse_with_preset(SweepConfig, arguments, ABOUT_SWEEP, program)


def parse_with_preset(
    kind: type[Sweep], arguments: Sequence[str], about: str, program: str, **defaults: object
) -> Sweep:
    """Parse `PRESET [options]` of a job whose options are a sweep's and its own; `defaults` replace the preset's."""
    config, rest = take_preset(arguments, program)
    description = f"{about}\n\nPresets: {', '.join(PRESETS)}. Below are the defaults of {config.preset}."
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(SweepConfig)} | defaults
    if "--import" in given_options(rest):  # tyro would append them to the default
        values["imports"] = ()
    return parse(kind, rest, description, f"{program} {config.preset}", default=kind(**values))


def parse(kind: type[T], arguments: Sequence[str], description: str, program: str, default: T | None = None) -> T:
    """Parse options into a dataclass; raises `UserError` with tyro's message on one line."""
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    for option, times in Counter(given_options(arguments)).items():
        if times > 1 and option not in ("--import", "--notify") and not asks_for_help:  # tyro would take the last
            raise UserError(f"{option}: given {times} times; keep one")
    messages = io.StringIO()
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.nullcontext() if asks_for_help else _wide_messages(), contextlib.redirect_stderr(messages):
            options: T = tyro.cli(
                kind, args=arguments, description=description, prog=program, registry=_NUMBERS, **defaults
            )
            return options
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise UserError(_one_line(messages.getvalue(), program))


def given_options(arguments: Sequence[str]) -> list[str]:
    """Return the options that a command line names, each as often as it does: `--no-flip` is `--flip`, `_` is `-`."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    return [re.sub("^--no-", "--", name) for name in names]


def recorded_command(job: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a job's command as it is kept: without `--notify` and its values, which may hold tokens."""
    kept, is_secret = ["python", f"jobs/{job}.py"], False
    for argument in arguments:
        if argument.startswith("--"):
            is_secret = given_options([argument]) == ["--notify"]
        if not is_secret:
            kept.append(argument)
    return tuple(kept)


_NUMBERS = tyro.constructors.ConstructorRegistry()


@_NUMBERS.primitive_rule
def _parse_numbers_alike(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[float] | None:
    """Read integers and numbers as everywhere else, not by tyro's own rule."""
    kind: type[int] | type[float] = info.type
    if kind not in (int, float):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: parse_number(kind, words[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [str(value)],
    )


def run_job(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str] | None = None,
    recover: Callable[[Sequence[str], bool], None] = lambda arguments, interrupted: None,
) -> int:
    """Run a job's main function and return its exit code; mistakes and store errors become one line on stderr.

    Without `arguments` this process is the job: it runs in a child process, under supervision. `recover` is called with
    the command line, and whether the job was interrupted, if the child ended without having its say.
    """
    if arguments is not None:
        return _exit_code(lambda: main(arguments))

    def job() -> int:
        signalled = raise_on_signals()
        try:
            _check_working_folder()
            return main(sys.argv[1:])
        except SystemExit:  # --help
            return ExitCode.COMPLETE
        except Exception as error:
            if signalled.is_set():
                raise KeyboardInterrupt from error
            if isinstance(error, MemoryError) or any(sign in str(error) for sign in NO_MEMORY):
                raise UserError(f"out of memory ({first_line(error)}): {MEMORY_REMEDY}") from error
            raise

    open_output()
    # Garbage collection costs a quarter of torch's import time, and a second at exit.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    ending = supervise(lambda: _exit_code(job))
    if ending.code is not None:
        return ending.code
    return _exit_code(lambda: _last_word(ending, functools.partial(recover, sys.argv[1:])))


def _exit_code(job: Callable[[], int]) -> int:
    try:
        return job()
    except (UserError, StoreError) as error:
        _print_error(error)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:
        print(
            "interrupted: nothing that was finished is lost; the same command resumes from here",
            file=sys.stderr,
        )
        return ExitCode.INTERRUPTED


def _print_error(error: Exception) -> None:
    print(f"error: {printable(shorten(' '.join(str(error).split()), MOST_LETTERS))}", file=sys.stderr)


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder has been deleted: change to another one") from None


def _last_word(ending: Ending, recover: Callable[[bool], None]) -> int:
    """Say how a job ended that could not say it itself; returns its exit code."""
    if ending.interrupted:
        thread = threading.Thread(target=recover, args=(True,), daemon=True)
        thread.start()
        thread.join(RECOVERY_SECONDS)  # the store may be unavailable
        raise KeyboardInterrupt
    raise_on_signals()
    try:
        recover(False)
    except (UserError, StoreError) as error:
        _print_error(error)
    finally:
        print(
            f"error: the job was lost ({ending.how}): its Ray was ended, or memory ran out; nothing that was finished "
            f"is lost: run the same command again; for memory, {MEMORY_REMEDY}",
            file=sys.stderr,
        )
    return ExitCode.INCOMPLETE


class _JobConsole(Console):
    """A console on which paths and stored text appear as they are: no markup, no emoji, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text to print, also that of a table's cell."""
        return super().render_str(encodable(printable(text), self.encoding), **options)


def output_console() -> Console:
    """Return the console for a job's output: as wide as the terminal, or 140 columns in a file."""
    return _JobConsole(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False, highlight=False)


@contextlib.contextmanager
def _wide_messages() -> Iterator[None]:
    """Keep tyro from wrapping its messages; its help is for people, and fits the terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "400"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


_PLAIN_WORDS = (
    (r"Missing value for argument '(.+?)'.*", r"\1: its value is missing"),
    (r"no type matching \{None\}\|INT could be instantiated from \[(.+?)\]\..*", r"\1 is neither None nor an integer"),
    (r"no type matching \{None\}\|FLOAT could be instantiated from \[(.+?)\]\..*", r"\1 is neither None nor a number"),
)
"""tyro's messages about unreadable values, and plain words for them."""


def _one_line(box: str, program: str) -> str:
    """Extract the message from tyro's box: its first paragraph, and the options it suggests."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    paragraphs: list[list[str]] = [[]]
    for line in text.strip().splitlines()[1:]:  # the first line is a title
        content = line.strip("│| ")
        if re.fullmatch(r"[─╰╯-]+", content):
            paragraphs.append([])
        elif content:
            paragraphs[-1].append(content)
    first, *others = [paragraph for paragraph in paragraphs if paragraph] or [["the options cannot be read"]]
    message = " ".join(first).removeprefix("Error parsing ")
    near = [line.split()[0].rstrip(",") for paragraph in others for line in paragraph if line.startswith("--")]
    if message.startswith("Unrecognized options") and near:
        message += f" (perhaps {' or '.join(near[:3])})"
    for pattern, replacement in _PLAIN_WORDS:
        message = re.sub(pattern, replacement, message)
    return f"{message.removesuffix('.')}; see {program} --help"
