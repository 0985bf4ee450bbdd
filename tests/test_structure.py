"""The house rules: data flows one way, heavy libraries stay in their place, options are answered before torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "catdog"
FLOW = """
    errors background cores allocator provenance seeding variants fields config paths records
    data.source data.split data.drawn data.oxford data.pack data.batches data.features
    models.output models.losses models.heads models.weights models.backbones models.network
    models.cpu_layers models.folding models
    training precision snapshots artifacts storage results claim context provision inputs trial canary
    statistics ledger predictions contrasts attention attention_table studies spending plan
    aggregation progress terminal options sweep report
""".split()
"""Every module may import only those that stand before it."""

ONLY_IN = {"ray": {"sweep"}, "boto3": {"storage"}, "botocore": {"storage"}, "matplotlib": {"report"}}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def stage(module: str) -> str:
    """The entry of FLOW that a module belongs to: a package of one stage is one entry."""
    return next(
        (package for package in ("models.heads", "storage", "sweep", "report") if module.startswith(package)), module
    )


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_stands_before_it(module: str) -> None:
    if module == "data":
        return
    assert stage(module) in FLOW, f"{module} has no place in the flow: add it to FLOW where it belongs"
    position = FLOW.index(stage(module))
    known = set(modules())
    for name in imports_of(modules()[module]):
        target = name.removeprefix("catdog.")
        if name.startswith("catdog.") and target in known and target not in ("data", "models"):
            assert FLOW.index(stage(target)) < position or stage(target) == stage(module), f"{module} imports {target}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_heavy_libraries_stay_in_their_module(module: str) -> None:
    libraries = {name.split(".")[0] for name in imports_of(modules()[module])}
    for library, allowed in ONLY_IN.items():
        assert library not in libraries or stage(module) in allowed, f"{module} imports {library}"


@pytest.mark.parametrize(
    ("job", "arguments", "absent"),
    [
        ("sweep", ["demo", "--variants", "nonsense"], {"torch", "ray", "pandas", "boto3"}),
        ("sweep", ["demo", "--dry-run"], {"torch", "ray"}),
        ("status", ["--run", "nothing-there"], {"torch", "ray"}),
        ("aggregate", ["--run", "nothing-there"], {"torch", "ray"}),
    ],
)
def test_a_job_answers_without_loading_what_it_does_not_need(
    job: str, arguments: list[str], absent: set[str], tmp_path: Path
) -> None:
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['{job}.py', *{arguments!r}, '--store', {str(tmp_path)!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(PACKAGE.parent / 'jobs' / f'{job}.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(sorted({absent!r} & set(sys.modules)))\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
