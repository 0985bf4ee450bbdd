"""The doctor: one line per check, a remedy for each fault, and how --dry-run uses its measurements."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from catdog.cli import output_console, run_job
from catdog.config.presets import PRESETS
from catdog.runs.cost import Canary, CanaryStep
from catdog.runs.manifest import Identity
from jobs import doctor, sweep
from tests.helpers.sweeps import SMALL, small


@pytest.mark.usefixtures("local_ray")
def test_when_all_checks_pass_the_plan_uses_the_measured_speed(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "--store", str(store_folder), *small("--epochs", "50"), "--variants", "baseline", "se"]
    assert run_job(doctor.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for words in (
        "packages           python 3",
        "working_dir",
        f"store              {store_folder} can be written from here",
        "weights            none fit tiny",
        "data               drawn ",
        "cluster            ",
        "token              RAY_AUTH_MODE is token",
        "same packages, store writable, no GPU",
        "canary baseline    ",
        "canary se          ",
    ):
        assert any(line.startswith("ok") and words in line for line in lines), (words, lines)
    assert lines[-1] == "nothing stands in the way"
    assert [path.name for path in (store_folder / "demo").iterdir()] == ["canary.json"]

    assert run_job(sweep.main, [*arguments, "--dry-run", "--hourly-price", "1"]) == 0
    assert "from the doctor's short trials on CPU" in capsys.readouterr().out


@pytest.mark.usefixtures("local_ray")
def test_each_variant_that_fails_is_a_separate_fault(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impossible = "multi-attention:num_masks=1024,hidden_features=65536"
    arguments = ["demo", "--store", str(store_folder), *SMALL, "--variants", impossible, "baseline", "--json"]
    assert run_job(doctor.main, arguments) == 2
    checks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_name = {check["name"]: check for check in checks}
    assert by_name[f"canary {impossible}"]["status"] == "fault"
    assert by_name[f"canary {impossible}"]["finding"].startswith("RuntimeError: ")
    assert by_name["canary baseline"]["status"] == "ok"


def test_checks_that_need_no_cluster_run_before_one_is_started(
    tmp_path: Path, store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run_job(doctor.main, ["demo", "--store", str(tmp_path / "file")]) == 2
    output = capsys.readouterr().out
    assert "FAULT    store " in output
    assert "starting a local Ray" not in output
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    options = ["--backbone", "resnet18", "--weights", str(tmp_path / "other.pth")]
    assert run_job(doctor.main, ["demo", "--store", str(store_folder), *options]) == 2
    assert "other.pth: do not fit the backbone" in capsys.readouterr().out


def test_the_abilities_of_an_s3_store_are_reported(s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--store", f"{s3_bucket}/team", "--weights", "nowhere.pth", "--backbone", "resnet18"]
    assert run_job(doctor.main, arguments) == 2
    assert "conditional writes: yes, checksums of requests: yes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "gigabytes", "status", "words"),
    [
        (None, 4.0, "ok", "17 fit on a GPU → --gpus-per-trial 0.0588"),
        (0.25, 4.0, "ok", "17 fit"),
        (0.05, 4.0, "fault", "a trial needs 6% of 80 GB"),
    ],
)
def test_the_share_of_a_gpu_follows_from_its_memory(
    asked: float | None, gigabytes: float, status: str, words: str
) -> None:
    from catdog.sweep.doctor_nodes import check_packing

    identity = Identity(PRESETS["paper"].recipe, "0" * 16, None, 1)
    step = CanaryStep("baseline", None, 7000.0, 20000.0, int(gigabytes * 1e9))
    canary = Canary(identity, "H100", 80_000_000_000, (step,))
    config = dataclasses.replace(PRESETS["paper"], gpus_per_trial=asked)
    (check,) = check_packing(config, canary)
    assert check.status == status
    assert words in check.line


def test_findings_as_json_stay_json_on_any_console(capsys: pytest.CaptureFixture[str]) -> None:
    from catdog.sweep.doctor_nodes import Check

    check = Check("store", "fault", "\x1b[31m\x7f\x9b\u202e\udce9 ± [/b] :smile:\n", "remedy")
    output_console().print(check.as_json(), soft_wrap=True)
    line = capsys.readouterr().out
    assert line.isascii()
    assert json.loads(line) == dataclasses.asdict(check)
