"""The jobs as a user starts them; bad input is covered by test_mistakes.py."""

from pathlib import Path

import pytest

from catdog.cli import run_job
from catdog.storage import StoreLocation
from jobs import aggregate, compare, prepare, status, study, sweep
from tests.helpers.pets import make_pets
from tests.helpers.project import ROOT

JOBS = {
    "sweep": sweep.main, "status": status.main, "aggregate": aggregate.main, "compare": compare.main,
    "prepare": prepare.main,
}  # fmt: skip


def test_a_missing_bucket_is_named(s3_environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for job in ("sweep", "prepare"):
        assert run_job(JOBS[job], ["demo", "--store", "s3://no-such-bucket/runs"]) == 2
        assert "there is no bucket 'no-such-bucket'" in capsys.readouterr().err
    for job in ("status", "aggregate"):
        assert run_job(JOBS[job], ["--store", "s3://no-such-bucket/runs", "--run", "demo"]) == 2
        assert "there is no bucket 'no-such-bucket'" in capsys.readouterr().err


def test_status_prints_a_link_to_the_report_alone(capsys: pytest.CaptureFixture[str]) -> None:
    published = ROOT / "results" / "published"
    assert run_job(status.main, ["--store", str(published), "--run", "demo", "--link"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{(published / 'demo/report/report.html').as_uri()}\n"
    assert shown.err == "good on this machine; it shows the report as it is when it is opened\n"


def test_a_link_to_no_report_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(status.main, ["--store", str(tmp_path), "--run", "demo", "--link"]) == 2
    assert "has no demo/report/report.html: a sweep writes it" in capsys.readouterr().err
    assert run_job(status.main, ["--store", str(tmp_path), "--run", "demo", "--link", "--watch"]) == 2
    assert "leave out --watch" in capsys.readouterr().err


def test_watching_a_finished_run_prints_its_status_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--store", str(ROOT / "results" / "published"), "--run", "demo"]
    assert run_job(status.main, run) == 0
    status_alone = capsys.readouterr().out
    assert run_job(status.main, [*run, "--watch"]) == 0
    assert capsys.readouterr().out == status_alone


def test_a_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    arguments = ["demo", "--store", str(store), "--seeds", "5", "--variants", "baseline", "se", "--dry-run"]
    assert run_job(sweep.main, arguments) == 0
    output = capsys.readouterr().out
    assert "10 trials × 12 epochs × 960 images" in output
    assert "estimated time" in output
    assert not store.exists()


def test_prepare_stores_the_pack_where_a_sweep_without_data_finds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CATDOG_DATA_ROOT", raising=False)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    pets, store = make_pets(tmp_path / "pets"), str(tmp_path / "store")
    assert run_job(prepare.main, ["pets-cpu", "--data-root", str(pets), "--store", store]) == 0
    fingerprint = capsys.readouterr().out.split("oxford-iiit-pet ")[1].split(":")[0]
    assert run_job(sweep.main, ["pets-cpu", "--store", store, "--dry-run"]) == 0
    assert fingerprint in capsys.readouterr().out


@pytest.mark.parametrize("job", JOBS)
def test_help_names_every_option_with_its_default(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_job(JOBS[job], ["--help"])
    output = capsys.readouterr().out
    assert "--store STR" in output
    assert "(default: results)" in output


def test_help_of_the_studies_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        assert run_job(study.main, [option]) == 0
        assert "study.py lambda PRESET" in capsys.readouterr().out


def test_a_report_goes_where_out_says(
    tmp_path: Path, s3_bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder whose name looks like markup, in the home folder, and on S3."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = ["--store", str(ROOT / "results" / "published"), "--run", "demo"]
    for out in ("~/m[b]", "x[/b]:smile:", f"{s3_bucket}/team"):
        assert run_job(aggregate.main, [*run, "--out", out]) == 0
        place = out.removeprefix("~/")
        assert f"report  {place}/report.html" in capsys.readouterr().out
        assert StoreLocation.of(out).open().get("report.html")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[:2] in ("m[", "x[")) == ["m[b]", "x["]
