"""deploy/slurm.sbatch: its options, and, where SLURM is installed, the job itself on two nodes."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.project import ROOT
from tests.helpers.slurm import Slurm, slurm_is_here
from tests.helpers.sweeps import small

SBATCH = ROOT / "deploy" / "slurm.sbatch"
TEXT = SBATCH.read_text()
OPTIONS = dict(re.findall(r"^#SBATCH --([a-z-]+)=?([^\s#]*)", TEXT, re.MULTILINE))


def test_bash_reads_the_batch_script() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)


def test_the_batch_script_is_warned_two_minutes_before_the_end_and_may_be_started_again() -> None:
    assert OPTIONS["signal"] == "B:TERM@120"
    assert OPTIONS["requeue"] == ""
    assert OPTIONS["open-mode"] == "append"
    assert OPTIONS["exclusive"] == ""
    assert OPTIONS["mem"] == "0"
    assert TEXT.rindex("#SBATCH") < TEXT.index("\n. .venv")  # SLURM reads no option after the first command


def test_what_a_site_must_choose_is_marked() -> None:
    marked = [line for line in TEXT.splitlines() if "# CHANGE" in line]
    for choice in ("--nodes", "--gpus-per-node", "--time", ". .venv", "hostname -I"):
        assert any(choice in line for line in marked), choice


def test_a_node_that_does_not_know_its_address_is_told_so(tmp_path: Path) -> None:
    for path, text in ((".venv/bin/activate", ""), ("bin/hostname", "#!/bin/sh\n[ $# = 1 ] || echo node1\n")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    done = subprocess.run(
        ["bash", str(SBATCH)],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: hostname -I names no address of node1: write it here\n"


def adapted(store: Path, *arguments: str) -> str:
    """The batch script with its marked lines changed: for two nodes without GPUs, and a small sweep."""
    sweep = ["python", str(ROOT / "jobs" / "sweep.py"), "demo", "--store", str(store), *arguments]
    text = re.sub(r"^#SBATCH --gpus-per-node.*\n", "", TEXT, flags=re.MULTILINE)
    environment = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}"
    text = re.sub(r"^\. \.venv/bin/activate.*", environment, text, flags=re.MULTILINE)
    return re.sub(r"exec python jobs/sweep.py .*", f"exec {' '.join(sweep)}", text)


@pytest.mark.slow
@pytest.mark.skipif(not slurm_is_here(), reason="needs SLURM (slurm-wlm, munge), root and cgroups v1")
def test_a_job_that_is_told_to_end_stores_what_it_has_and_the_same_script_completes_the_table(
    store_folder: Path, tmp_path: Path
) -> None:
    arguments = small("--seeds", "2", "--variants", "baseline", "attention", "--epochs", "60", "--cpus-per-trial", "1")
    submit = tmp_path / "submit"
    submit.mkdir()
    (submit / "slurm.sbatch").write_text(adapted(store_folder, *arguments, "--checkpoint-seconds", "1"))
    trials = store_folder / "demo" / "trials"
    with tempfile.TemporaryDirectory(prefix="slurm-") as state, Slurm(Path(state)) as slurm:  # short: sockets are in it

        def begin() -> tuple[str, Path]:
            job = slurm.run("sbatch", "--parsable", "slurm.sbatch", cwd=submit)
            return job, submit / f"slurm-{job}.log"

        job, log = begin()
        slurm.wait_for(lambda: any(trials.glob("*/*/snapshots/*")) or not slurm.run("squeue", "-h"))
        token = submit / f".slurm-{job}" / "token"
        assert token.stat().st_mode & 0o777 == 0o600, log.read_text()
        slurm.run("scancel", "--batch", "--signal=TERM", job)
        assert slurm.end_of(job) == "FAILED 130:0", log.read_text()
        assert "interrupted: nothing that was finished is lost" in log.read_text()
        assert list(trials.glob("*/*/checkpoint.pt"))
        assert not token.parent.exists()
        assert not (store_folder / "demo" / "claim.json").exists()

        job, log = begin()
        assert slurm.end_of(job) == "COMPLETED 0:0", log.read_text()
    assert "checking that 2 nodes share" in log.read_text()
    assert len(list(trials.glob("*/*/result.json"))) == 4
    assert not list(trials.glob("*/*/checkpoint.pt"))
    assert (store_folder / "demo" / "report" / "report.html").exists()
    hosts = {path.name.rpartition("-")[2] for path in submit.glob("slurm-*-ray-*.log")}
    assert hosts == {"node1.log", "node2.log"}
