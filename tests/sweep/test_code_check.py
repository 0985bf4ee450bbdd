"""Code is part of what a result is: other code continues a run only if a short trial gives the same numbers."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from catdog.config.head_files import load_head_files, read_head_file
from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec, parse_variant
from catdog.errors import UserError
from catdog.runs import provenance
from catdog.runs.code_record import TOLERANCE, Code, CodeRecord, Probe
from catdog.runs.manifest import Identity, Manifest, read_manifest
from catdog.runs.provenance import variant_code
from catdog.runs.status import mixed_versions, read_run_status
from catdog.storage import LocalStore
from catdog.sweep.code_check import check_code, code_of
from catdog.sweep.probe import run_probes
from catdog.trial.context import RunContext
from tests.helpers.made_runs import make_run
from tests.helpers.project import PACKAGE
from tests.helpers.sweeps import run_sweep

MakeContext = Callable[..., RunContext]


def copied_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of catdog/ whose code is then that of trials."""
    copy = folder / "catdog"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    monkeypatch.setattr(provenance, "_computing_code", provenance._computing_code.__wrapped__)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_code_is_what_a_variants_trials_run_without_comments_and_docstrings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, names = copied_package(tmp_path, monkeypatch), ("baseline", "attention")
    before = {name: variant_code(VARIANTS[name]) for name in names}
    assert before["baseline"].versions.keys() == {"torch", "torchvision", "timm", "numpy"}
    edit(package / "training" / "loop.py", '"""The training loop of all', '"""Another loop of all')
    (package / "report" / "build.py").write_text("print('another report')\n")
    assert {name: variant_code(VARIANTS[name]) for name in names} == before

    edit(package / "models" / "heads" / "pooled.py", "class PlainHead", "ONE = 1\n\n\nclass PlainHead")
    assert variant_code(VARIANTS["baseline"]) != before["baseline"]
    assert variant_code(VARIANTS["attention"]) == before["attention"], "its head is in another file"

    edit(package / "training" / "schedule.py", "0.3", "0.4")
    assert variant_code(VARIANTS["attention"]) != before["attention"]


def test_another_version_of_an_installed_head_is_other_code() -> None:
    mine = dataclasses.replace(VARIANTS["baseline"], head="external mine", code="package 1.0")
    assert variant_code(mine) != variant_code(dataclasses.replace(mine, code="package 1.1"))


def test_imported_files_count_where_they_may_have_registered_more_than_heads(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "mine.py").write_text("ONE = 1")
    file = read_head_file(str(tmp_path / "mine.py"))
    specs = [parse_variant("baseline", recipe)]
    for settings, counts in (({}, False), ({"optimizer": "mine"}, True), ({"backbone": "timm/resnet18"}, True)):
        identity = Identity(dataclasses.replace(recipe, **settings), "0" * 16, None, 1)  # type: ignore[arg-type]
        assert (code_of(specs, identity, [file]) != code_of(specs, identity, [])) == counts


def probed(context: RunContext, label: str) -> CodeRecord:
    """Return the record of a variant with the code as it is."""
    spec = parse_variant(label, context.identity.recipe)
    (numbers,) = run_probes(context, [spec]).values()
    assert isinstance(numbers, tuple)
    return CodeRecord(Code("as it is", {}), numbers)


def test_a_probe_gives_the_same_numbers_every_time_and_others_for_a_small_change(
    make_context: MakeContext, recipe: Recipe
) -> None:
    context = make_context(recipe)
    record = probed(context, "multi-attention")
    assert record.difference(probed(context, "multi-attention").probe) == 0
    for change in ("dropout=0.49", "label_smoothing=0.05", "flip=false", "optimizer=sgd", "second_task=species"):
        assert record.difference(probed(context, f"multi-attention:{change}").probe) > TOLERANCE, change


def test_a_probe_of_a_pretrained_backbone_needs_no_weights_and_trains_as_with_them(
    make_context: MakeContext, recipe: Recipe
) -> None:
    pretrained = dataclasses.replace(recipe, weights="imagenet", backbone="mobilenet_v3_small")
    record = probed(make_context(pretrained), "attention")
    thawed = probed(make_context(dataclasses.replace(pretrained, freeze_batch_norm=False)), "attention")
    assert record.difference(thawed.probe) > TOLERANCE


def test_a_probe_does_not_depend_on_what_results_depend_on_besides_the_code(
    make_context: MakeContext, recipe: Recipe
) -> None:
    record = probed(make_context(recipe), "attention")
    other = dataclasses.replace(
        recipe, epochs=7, batch_size=3, limit_images=5, split_seed=3, compile=True, precision="bfloat16"
    )
    assert record.difference(probed(make_context(other), "attention").probe) == 0
    frozen = probed(make_context(dataclasses.replace(recipe, freeze=True)), "attention")
    assert record.difference(frozen.probe) > TOLERANCE


def test_a_probe_that_fails_says_why(make_context: MakeContext, recipe: Recipe) -> None:
    context = make_context(dataclasses.replace(recipe, backbone="timm/nothing"))
    (found,) = run_probes(context, [parse_variant("baseline")]).values()
    assert isinstance(found, str)
    assert "timm has no such model" in found


def run_of_two(tmp_path: Path) -> tuple[LocalStore, Manifest]:
    """Return a store and the manifest of a run with trials of baseline and attention, probed with earlier code."""
    store = LocalStore(tmp_path)
    manifest = make_run(store, ["baseline", "attention"], [0, 1], test_images=37).manifest
    earlier = {label: CodeRecord(Code("0" * 16, {"torch": "1.0"}), (1.0, 2.0, -4.0)) for label in manifest.variants}
    return store, dataclasses.replace(manifest, code_records=earlier)


def checked(store: LocalStore, manifest: Manifest, found: Probe, *labels: str) -> Manifest:
    """Return the manifest after a check of these variants, whose probes now give `found`."""

    def probes(variants: Sequence[VariantSpec]) -> dict[str, Probe]:
        return dict.fromkeys([variant.label for variant in variants], found)

    return check_code(read_run_status(store, manifest), [manifest.spec(label) for label in labels], (), probes)


def test_other_code_that_computes_the_same_continues_the_run_and_is_shown(tmp_path: Path) -> None:
    store, manifest = run_of_two(tmp_path)
    after = checked(store, manifest, (1.0, 2.0, -4.0005), "attention")
    (change,) = after.code_records["attention"].changes
    assert change.difference == pytest.approx(0.0005 / 4)
    assert change.code == code_of([manifest.spec("attention")], manifest.identity, ())["attention"]
    assert len(after.code_records["baseline"].changes) == 1, "its trials must have been made with the same code"
    assert Manifest.from_json(after.to_json()) == after
    line = next(one for one in mixed_versions(read_run_status(store, after)) if "attention" in one)
    assert line.startswith("trials of attention ran with other code (code 000000 → ")
    assert f"torch 1.0 → {change.code.versions['torch']}" in line
    assert line.endswith("a short trial gave the same numbers, but for 0.012 % (0.05 % is allowed)")
    exact = dataclasses.replace(after.code_records["attention"], changes=(dataclasses.replace(change, difference=0.0),))
    both = dataclasses.replace(after, code_records=dict.fromkeys(after.variants, exact))
    (line,) = mixed_versions(read_run_status(store, both))
    assert line.startswith(f"trials of {', '.join(after.variants)} ran with other code (")
    assert line.endswith("a short trial gave the same numbers")

    def no_probes(variants: Sequence[VariantSpec]) -> dict[str, Probe]:
        raise AssertionError("this code is known")

    alone = dataclasses.replace(after, code_records={"attention": after.code_records["attention"]})
    assert check_code(read_run_status(store, alone), [manifest.spec("attention")], (), no_probes) == alone


@pytest.mark.parametrize(
    "found",
    [(1.0, 2.0, -4.01), (1.01, 2.0, -4.0), (1.0, 2.0, math.nan), (1.0, 2.0), (), "RuntimeError: shapes"],
)
def test_other_code_that_computes_other_numbers_is_refused(tmp_path: Path, found: Probe) -> None:
    store, manifest = run_of_two(tmp_path)
    with pytest.raises(UserError, match=r"trials of 'attention' with other code \(code 000000 → .*torch 1.0 → "):
        checked(store, manifest, found, "attention")


def test_a_new_variant_is_refused_if_other_code_computes_other_numbers_of_those_with_trials(tmp_path: Path) -> None:
    store, manifest = run_of_two(tmp_path)
    asked = list[str]()

    def probes(variants: Sequence[VariantSpec]) -> dict[str, Probe]:
        asked.extend(variant.label for variant in variants)
        return {variant.label: (1.0, 2.0, -4.01) for variant in variants}

    planned = manifest.extended(("se",), (0,), ("again",))
    with pytest.raises(UserError, match="has trials of 'baseline' with other code"):
        check_code(read_run_status(store, planned), [planned.spec("se")], (), probes)
    assert asked == ["se", "baseline", "attention"], "their code has not changed alike: their heads are in other files"
    asked.clear()
    with pytest.raises(UserError, match="has trials of 'attention' with other code"):
        check_code(read_run_status(store, planned), [planned.spec("attention")], (), probes)


def test_a_probe_whose_numbers_are_not_finite_says_so(make_context: MakeContext, recipe: Recipe) -> None:
    context = make_context(dataclasses.replace(recipe, optimizer="sgd", schedule="cosine", learning_rate=99.0))
    (found,) = run_probes(context, [parse_variant("baseline:weight_decay=9.9", context.identity.recipe)]).values()
    assert isinstance(found, str)
    assert "not finite" in found


def test_a_variant_without_trials_and_a_run_of_an_earlier_version_are_probed_for_later(tmp_path: Path) -> None:
    store, manifest = run_of_two(tmp_path)
    planned = manifest.extended(("se",), (0,), ("again",))
    records = {"se": CodeRecord(Code("1" * 16, {}), (9.0,))}
    after = checked(store, dataclasses.replace(planned, code_records=records), (5.0,), "se")
    assert (after.code_records["se"].probe, after.code_records["se"].changes) == ((5.0,), ())
    assert checked(store, dataclasses.replace(planned, code_records={}), "RuntimeError", "se").code_records == {}
    earlier = dataclasses.replace(manifest, code_records={})
    assert checked(store, earlier, (5.0,), "baseline").code_records["baseline"].probe == (5.0,)


HEAD = """
import torch
from catdog.models import ModelOutput, register_head
@register_head("mine")
class Mine(torch.nn.Module):
    "A head."
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.classifier = torch.nn.Linear(in_channels, num_classes)
    def forward(self, features):
        pooled = features.mean(dim=(2, 3))
        return ModelOutput(self.classifier(pooled), None, pooled.new_zeros(()))
"""


@pytest.mark.usefixtures("local_ray", "no_external_heads")
def test_a_head_edited_between_two_launches_continues_only_if_it_computes_the_same(
    store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heads.py"

    def launch(source: str, seeds: str, *more: str) -> int:
        path.write_text(source)
        return run_sweep(store_folder, "--import", str(path), "--variants", "mine", "--seeds", seeds, *more)

    assert launch(HEAD, "1") == 0
    (digest,) = load_head_files([str(path)])
    record = read_manifest(LocalStore(store_folder), "demo")
    assert record is not None
    assert len(record.code_records["mine"].probe) == 15
    assert launch(HEAD.replace("A head.", "My head."), "2") == 0
    assert "other code" not in capsys.readouterr().out
    tidied = HEAD.replace("features.mean(dim=(2, 3))", "features.flatten(2).mean(dim=2)")
    assert launch(tidied, "3", "--dry-run") == 0
    assert "a short trial will tell whether it computes the same" in " ".join(capsys.readouterr().out.split())
    assert launch(tidied, "3") == 0
    assert "trials of mine ran with other code" in " ".join(capsys.readouterr().out.split())
    changed = HEAD.replace("features.mean(dim=(2, 3))", "features.amax(dim=(2, 3))")
    assert launch(changed, "4") == 2
    error = capsys.readouterr().err
    assert "has trials of 'mine' with other code (code " in error
    assert error.count("\n") == 1
    assert launch(changed, "3") == 0, "nothing is left to run"
    assert digest.digest in {one.parent.name for one in (store_folder / "demo" / "imports").rglob("heads.py")}
