"""The doctor: one line per check, a remedy for each fault, and how --dry-run uses its measurements."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from catdog.cli import output_console, run_job
from catdog.config.presets import PRESETS
from catdog.runs.canary import Canary, CanaryStep
from catdog.runs.manifest import Identity
from catdog.storage import StoreLocation
from catdog.sweep.doctor import _check_data
from catdog.trial.device import SIMULATED_GPUS
from jobs import doctor, sweep
from tests.helpers.project import ROOT
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


@pytest.mark.usefixtures("local_ray")
def test_images_that_are_not_there_are_one_fault_and_the_cluster_is_checked_all_the_same(
    tmp_path: Path, store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", f"folder:{tmp_path / 'nowhere'}"]
    assert run_job(doctor.main, ["demo", "--store", str(store_folder), *options]) == 2
    said = capsys.readouterr()
    assert said.err == ""
    assert "FAULT    data " in said.out
    assert "same packages, store writable" in said.out
    assert said.out.endswith("the sweep would fail: 1 check failed\n")


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"resample_split": True}, "--resample-split: photos came with its validation images, which stay"),
        ({"second_task": "sex"}, "--second-task sex: no group column of photos: "),
    ],
)
def test_a_recipe_that_does_not_fit_the_images_is_a_fault_of_the_data(
    settings: dict[str, object], finding: str, tmp_path: Path
) -> None:
    for split, kind in itertools.product(("train", "val", "test"), ("cats", "dogs")):
        image = tmp_path / "photos" / split / kind / "1.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(split), len(kind), ord(kind[0]))).save(image)
    recipe = dataclasses.replace(PRESETS["demo"].recipe, dataset=f"folder:{tmp_path}/photos", **settings)  # type: ignore[arg-type]
    check, _ = _check_data(
        dataclasses.replace(PRESETS["demo"], recipe=recipe), StoreLocation.of(str(tmp_path / "store"))
    )
    assert (check.name, check.status) == ("data", "fault")
    assert check.finding.startswith(finding)


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
        (None, 4.0, "ok", "16 fit on a GPU and its 24 cores → --gpus-per-trial 0.0625"),
        (None, 0.2, "ok", "24 fit on a GPU and its 24 cores → --gpus-per-trial 0.0416"),
        (0.25, 4.0, "ok", "16 fit"),
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
    (check,) = check_packing(config, canary, 24)
    assert check.status == status
    assert words in check.line


def test_findings_as_json_stay_json_on_any_console(capsys: pytest.CaptureFixture[str]) -> None:
    from catdog.sweep.doctor_nodes import Check

    check = Check("store", "fault", "\x1b[31m\x7f\x9b\u202e\udce9 ± [/b] :smile:\n", "remedy")
    output_console().print(check.as_json(), soft_wrap=True)
    line = capsys.readouterr().out
    assert line.isascii()
    assert json.loads(line) == dataclasses.asdict(check)


SCRIPT = """
import dataclasses, sys
import catdog.sweep, ray
from catdog.config.presets import PRESETS
from catdog.storage import StoreLocation
from catdog.sweep.cluster import Cluster
from catdog.sweep.doctor_nodes import check_nodes
from catdog.storage import StoreLocation
from catdog.sweep.doctor import _check_data
from catdog.trial.device import working_gpu
ray.init("local", num_cpus=1, num_gpus=2, include_dashboard=False, object_store_memory=128 << 20)
location = StoreLocation.of(sys.argv[1])
with Cluster(PRESETS["demo"], location, print) as cluster:
    cluster.start()
    for check in check_nodes(location, cluster, 0, 60, print):
        print(check.line)
    def count_tries():
        return working_gpu.cache_info().misses
    print("GPUs that the next process has used:", ray.get(ray.remote(num_gpus=1)(count_tries).remote()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulated", "words"),
    [
        ({}, r"FAULT +node .*: its GPU: torch cannot use it: .*(NVIDIA|CUDA).* → repair it, or leave the node out"),
        ({SIMULATED_GPUS: "none"}, r"ok +node .*: same packages, store writable, no GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_a_gpu_that_torch_cannot_use_is_a_fault_and_the_process_that_tried_it_serves_no_trial(
    simulated: dict[str, str], words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | simulated)
    assert re.search(words, output.stdout), output.stdout
    assert "GPUs that the next process has used: 0" in output.stdout
