"""Mutation testing: does a test fail when one expression of the code changes? Run by `make mutants`.

Draws mutants of the rooms that compute, made by mutmut's operators, and runs each against the tests of its own room,
without those that are slow or start Ray. At most one mutant per expression, chosen by hash like the sample: a change in
one file does not redraw the others' mutants. (mutmut itself draws no samples, runs all tests that reach the code, and
mutates neither constants nor decorated functions.)

Not mutated, because no result depends on it: annotations, aliases of types, decorators, docstrings, `assert`, `zip`'s
`strict`, and messages: what is raised, required, logged or reported, and strings with a space.

Each mutant is written into a copy of the working tree. Its tests run in a fork of this process, which has imported
torch and other libraries, the quick tests first. Outcomes are kept in .mutants.jsonl: the same command tries only what
is not known yet, and survivors again once the tests of their room have changed.
"""

import argparse
import collections
import contextlib
import difflib
import functools
import hashlib
import heapq
import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import pytest
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[1]
ROOMS = ("config", "data", "models", "training", "runs", "analysis")
OUTCOMES = ROOT / ".mutants.jsonl"
SEED = "0"
LIBRARIES = "torch torchvision timm safetensors.torch pandas scipy.stats boto3 statsmodels.api ray.tune"

_is_message = m.MatchIfTrue(lambda text: " " in text or text.startswith('"""'))
INERT = (
    m.Annotation() | m.Assign(value=m.Subscript()) | m.Decorator() | m.Import() | m.ImportFrom()
    | m.Assert() | m.Arg(keyword=m.Name("strict"))
    | m.Raise() | m.SimpleString(_is_message)
    | m.FormattedString([m.ZeroOrMore(), m.FormattedStringText(_is_message), m.ZeroOrMore()])
    | m.Call(func=m.Name("cast") | m.Name("report_progress"))
    | m.Call(func=m.Attribute(attr=m.Name("warning") | m.Name("getLogger")))
)  # fmt: skip
ONLY_ARGUMENTS = m.Call(func=m.Name("zip") | m.Name("require") | m.Name("len") | m.Name("isinstance"))
"""Calls that are not mutated themselves, because they would only fail; their arguments are."""

_fork = multiprocessing.get_context("fork")
_clock = itertools.count(1)


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    line: int
    module: cst.Module
    node: cst.CSTNode
    changed: cst.CSTNode
    draw: str

    @property
    def room(self) -> str:
        return self.path.split("/")[1]

    @functools.cached_property
    def source(self) -> str:
        return self.module.deep_replace(self.node, self.changed).code  # type: ignore[union-attr]

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(self.module.code.splitlines(), self.source.splitlines(), n=0)
        return "\n".join(f"    {line}" for line in itertools.islice(lines, 3, None))


class Finder(cst.CSTVisitor):
    """Finds the changes of a file: at most one per expression."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, path: str, module: cst.Module) -> None:
        super().__init__()
        self.path, self.module, self.line = path, module, 1
        self.mutants: list[Mutant] = []
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, INERT):
            return False
        where = self.get_metadata(PositionProvider, node, None)
        self.line = where.start.line if where is not None else self.line
        if not m.matches(node, ONLY_ARGUMENTS):
            operators = [operator for kind, operator in mutation_operators if isinstance(node, kind)]
            changes = [self._mutant(node, changed) for operator in operators for changed in operator(node)]
            self.mutants += sorted(changes, key=lambda mutant: mutant.draw)[:1]
        return True

    def _mutant(self, node: cst.CSTNode, changed: cst.CSTNode) -> Mutant:
        texts = self.module.code_for_node(node), self.module.code_for_node(changed)
        self.seen[texts] += 1
        draw = digest(SEED, self.path, *texts, str(self.seen[texts]))
        return Mutant(self.path, self.line, self.module, node, changed, draw)


def find_mutants() -> Iterator[Mutant]:
    for room in ROOMS:
        for path in sorted((ROOT / "catdog" / room).rglob("*.py")):
            wrapper = MetadataWrapper(cst.parse_module(path.read_text()))
            finder = Finder(str(path.relative_to(ROOT)), wrapper.module)
            wrapper.visit(finder)
            yield from finder.mutants


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class QuickFirst:
    """A plugin of pytest: tests that start Ray are left out; what took long without a mutation comes last."""

    def __init__(self, durations: Path) -> None:
        self.file = durations
        self.known: dict[str, float] = json.loads(durations.read_text()) if durations.exists() else {}
        self.seconds: collections.Counter[str] = collections.Counter()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        items[:] = [item for item in items if "local_ray" not in item.fixturenames]
        items.sort(key=lambda item: self.known.get(item.nodeid, 0) > 1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == 0 and not self.known:
            self.file.write_text(json.dumps(self.seconds))


def call_pytest(tree: Path, room: str) -> None:
    os.setsid()
    os.chdir(tree)
    log = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)  # for processes that tests start
    shutil.rmtree(".hypothesis", ignore_errors=True)  # examples that killed an earlier mutant
    options = ["-x", "-q", "-m", "not slow and not chaos", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # libraries with plugins are imported already
    sys.exit(pytest.main([f"tests/{room}", *options], plugins=[QuickFirst(tree.parent / f"{room}.json")]))


def run_tests(tree: Path, room: str, limit: float) -> str:
    """Run a room's tests in a copy of the project, for at most `limit` seconds; return their outcome."""
    process = _fork.Process(target=call_pytest, args=(tree, room))
    process.start()
    try:
        process.join(limit)
        return "timeout" if process.exitcode is None else "killed" if process.exitcode else "survived"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()


def try_mutant(scratch: Path, path: str, original: str, source: str, limit: float) -> tuple[str, float]:
    """Return the outcome of a room's tests with the file at `path` replaced by `source`, and the seconds they took."""
    started = time.monotonic()
    tree = copy_tree(scratch / "unchanged", scratch / str(os.getpid()))
    write(tree / path, source)
    try:
        return run_tests(tree, path.split("/")[1], limit), time.monotonic() - started
    finally:
        write(tree / path, original)


def write(path: Path, source: str) -> None:
    """Write a file with a time of its own, so that Python does not mistake another version's compiled code for it."""
    path.write_text(source)
    os.utime(path, (next(_clock),) * 2)


@functools.cache
def copy_tree(tree: Path, copy: Path) -> Path:
    return Path(shutil.copytree(tree, copy))


def copy_project(tree: Path) -> Path:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    return tree


def baseline(tree: Path, room: str) -> float:
    """Run a room's tests without a mutation; return how many seconds each mutant gets."""
    started = time.monotonic()
    if run_tests(tree, room, limit=7200) != "survived":
        sys.exit(f"tests/{room} fails without a mutation:\n{(tree / 'pytest.log').read_text()[-3000:]}")
    return 60 + 4 * (time.monotonic() - started)


def try_all(mutants: list[Mutant], processes: int) -> Iterator[tuple[Mutant, str, float]]:
    """Yield (mutant, outcome, seconds) as they become known."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, as in conftest.py
    for library in LIBRARIES.split():
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ProcessPoolExecutor(processes, _fork) as pool:
        scratch = Path(folder)
        unchanged = copy_project(scratch / "unchanged")
        limits = {room: baseline(unchanged, room) for room in sorted({mutant.room for mutant in mutants})}
        tries = {
            pool.submit(try_mutant, scratch, one.path, one.module.code, one.source, limits[one.room]): one
            for one in mutants
        }
        try:
            for done in as_completed(tries):
                yield tries[done], *done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tests_digest(room: str) -> str:
    files = [
        ROOT / "tests/conftest.py",
        *(ROOT / "tests/helpers").rglob("*.py"),
        *(ROOT / "tests" / room).rglob("*.py"),
    ]
    return digest(*(path.read_text() for path in sorted(files)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing on a sample; see the top of this file.")
    parser.add_argument("--count", type=int, default=400, help="mutants in the sample")
    parser.add_argument("--processes", type=int, default=2, help="mutants tried at once")
    arguments = parser.parse_args()
    sample = heapq.nsmallest(arguments.count, find_mutants(), key=lambda mutant: mutant.draw)
    tests = {room: tests_digest(room) for room in ROOMS}
    lines = OUTCOMES.read_text().splitlines() if OUTCOMES.exists() else []
    known: dict[str, str] = dict(map(json.loads, lines))

    def keys(mutant: Mutant) -> tuple[str, str]:
        """The mutant alone, where it was killed; the mutant with these tests, where it was not."""
        alone = digest(mutant.path, mutant.source)
        return alone, digest(alone, tests[mutant.room])

    unknown = [mutant for mutant in sample if not known.keys() & set(keys(mutant))]
    for number, (mutant, outcome, seconds) in enumerate(try_all(unknown, arguments.processes), 1):
        key = keys(mutant)[outcome == "survived"]
        known[key] = outcome
        with OUTCOMES.open("a") as file:
            file.write(json.dumps([key, outcome]) + "\n")
        diff = f"\n{mutant.diff}" if outcome == "survived" else ""
        print(f"{number}/{len(unknown)} {outcome} in {seconds:.0f} s: {mutant.path}:{mutant.line}{diff}", flush=True)
    report({mutant.draw: (mutant, next(known[key] for key in keys(mutant) if key in known)) for mutant in sample})


def report(outcomes: dict[str, tuple[Mutant, str]]) -> None:
    print(f"{'room':10} {'mutants':>8} {'killed':>8} {'timeout':>8} {'survived':>8}")
    for room in (*ROOMS, "all"):
        count = collections.Counter(outcome for mutant, outcome in outcomes.values() if room in (mutant.room, "all"))
        numbers = (count.total(), count["killed"], count["timeout"], count["survived"])
        print(f"{room:10}", *(f"{number:8}" for number in numbers), f"  {count['survived'] / max(1, numbers[0]):.1%}")
    for mutant, outcome in sorted(outcomes.values(), key=lambda pair: (pair[0].path, pair[0].line)):
        if outcome == "survived":
            print(f"{mutant.path}:{mutant.line}\n{mutant.diff}")


if __name__ == "__main__":
    main()
