"""README and docs match the code: commands parse, names exist, links resolve."""

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from catdog.cli import run_job
from catdog.config.head_registry import VARIANTS, Variant
from catdog.config.presets import PRESETS
from catdog.config.recipe_file import named_config
from catdog.config.variants import parse_variant
from catdog.formatting import format_points, format_range
from jobs import check_head, sweep
from tests.helpers.project import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ["README.md", "docs/findings.md", "docs/experiments.md", "docs/ja/findings.md"]


def test_every_variant_and_preset_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in (*VARIANTS, *PRESETS):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_the_page_of_heads_has_a_row_for_every_variant_with_its_parameters_and_defaults(variant: Variant) -> None:
    (row,) = re.findall(rf"^\| `{variant.name}` \|.*", (ROOT / "docs" / "heads.md").read_text(), flags=re.MULTILINE)
    given = dict(re.findall(r"`(\w+)(?:=([\w.-]+))?`", row.rpartition(" | ")[2]))
    assert list(given) == [parameter.name for parameter in variant.parameters]
    for parameter in variant.parameters:
        default = parameter.default
        assert given[parameter.name] in ("", default if isinstance(default, str) else f"{default:g}")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_every_variant_says_in_a_few_words_what_it_computes(variant: Variant) -> None:
    assert 10 <= len(variant.about) <= 65


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


JAPANESE = {
    "～": " to ",
    "（": " (",
    "）": ") ",
    "優る": "better",
    "劣る": "worse",
    "同等": "equivalent",
    "判定保留": "undecided",
}


def in_english(page: Path) -> str:
    """Return a page whose tables are in English."""
    text = page.read_text()
    for japanese, english in JAPANESE.items():
        text = text.replace(japanese, english)
    return text


def figures_of(report: Path) -> dict[str, set[str]]:
    """Return all that a published run's tables say of each variant, as pages write it."""
    table, contrasts, masks = (pd.read_csv(report / f"{name}.csv") for name in ("table", "contrasts", "attention"))
    found = {
        row.variant: {f"{row.val_mean:.2f} ± {row.val_std:.2f}", f"{row.test_mean:.2f} ± {row.test_std:.2f}"}
        for row in table.itertuples()
    }
    for row in contrasts.itertuples():
        found[row.variant].add(format_points(row.difference))
    for row in contrasts.dropna(subset=["difference_low"]).itertuples():
        difference, interval = format_points(row.difference), format_range(row.difference_low, row.difference_high)
        found[row.variant] |= {interval, f"{difference} ({interval}) {row.outcome}"}
    for row in masks[masks["part"] == "test"].itertuples():
        found[row.variant.removesuffix(" (Grad-CAM)")].add(format_points(row.energy_lift_uniform, 1))
    return found


@pytest.mark.parametrize("name", RESULTS)
def test_tables_of_results_are_those_of_published_runs(name: str) -> None:
    published = [figures_of(path.parent) for path in (ROOT / "results" / "published").glob("*/report/contrasts.csv")]
    text = in_english(ROOT / name)
    rows = re.findall(r"^\| `([\w .-]+)` \|(.*(?:±|\d \().*)\|$", text, flags=re.MULTILINE)
    assert len(rows) >= 3
    for variant, cells in rows:
        figures = {" ".join(cell.split()) for cell in cells.split(" | ") if re.search(r"\d", cell)}
        assert figures <= set().union(*(run.get(variant, set()) for run in published)), (variant, cells)


def test_the_contrasts_that_were_not_declared_are_those_of_published_trials(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "docs" / "post_hoc.py"))["main"]()
    contrasts = capsys.readouterr().out
    assert f"|---|---:|---:|---:|\n{contrasts}\n" in (ROOT / "docs" / "experiments.md").read_text()
    for name in ("docs/findings.md", "docs/ja/findings.md"):
        rows = re.findall(r"^\| \d+ × \d+ \| (.*) \|$", in_english(ROOT / name), flags=re.MULTILINE)
        assert len(rows) == 2
        assert all(f"| {' '.join(cell.split())} |" in contrasts for row in rows for cell in row.split(" | "))


def example_head(folder: Path) -> str:
    """Write the README's file of heads into a folder; return its path."""
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (folder / "heads.py").write_text(code)
    return str(folder / "heads.py")


def test_the_head_in_the_readme_passes_all_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_job(check_head.main, [example_head(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("\nok ") + said.startswith("ok ") == 7
    assert (tmp_path / "masks-spatial.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example_head(tmp_path)
    monkeypatch.chdir(tmp_path)
    for job, rest in re.findall(r"python jobs/(\w+)\.py([^\n`#]*)", page.read_text().replace("\\\n", " ")):
        assert (ROOT / "jobs" / f"{job}.py").is_file(), job
        words = rest.replace("...", "x").split()
        if job == "sweep" and words and words[0] in PRESETS:
            sweep.parse_options(words)


def test_the_recipe_file_in_the_readme_is_read(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert example is not None
    (tmp_path / "smoother.yaml").write_text(example[1])
    config, base = named_config(str(tmp_path / "smoother.yaml")), PRESETS["pets-frozen"]
    assert config.run_name == "smoother"
    assert (config.recipe.label_smoothing, config.recipe.learning_rate) == (0.2, 1e-3)
    assert config.recipe.weight_decay == base.recipe.weight_decay
    assert [spec.title for spec in config.variant_specs] == ["baseline", "4 masks", "8 masks", "long"]


def test_the_variant_label_in_the_readme_is_canonical() -> None:
    label = re.search(r"multi-attention:[\w=,.]+", (ROOT / "README.md").read_text())
    assert label is not None
    assert parse_variant(label[0]).label == label[0]


def test_the_makefile_has_the_targets_that_the_docs_name() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^make ([\w-]+)", page.read_text(), flags=re.MULTILINE)) <= targets, page
