"""The report in MLflow or W&B: its files, as artifacts of a run beside the trials'. Imports no Ray."""

import logging
from pathlib import Path, PurePosixPath

from catdog.config.sweep_options import Tracker
from catdog.errors import first_line
from catdog.formatting import ReportProgress, now, readable_time
from catdog.runs.paths import RunPaths
from catdog.storage import Store, read_many
from catdog.system.scratch import scratch_folder

logger = logging.getLogger(__name__)


def log_report(name: Tracker, store: Store, run: str, report_progress: ReportProgress) -> None:
    """Log the files of the run's report; a failure is one line."""
    if name == "none":
        return
    prefix, title = RunPaths(run).report(""), f"report, {readable_time(now())}"
    try:
        with scratch_folder("catdog-report-") as folder:
            for key, data in read_many(store, store.list(prefix)):
                path = folder / PurePosixPath(key).relative_to(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            (_to_mlflow if name == "mlflow" else _to_wandb)(run, title, folder)
    except Exception as error:
        report_progress(f"--tracker {name} did not take the report: {first_line(error)}")
        logger.warning("the report could not be logged", exc_info=error)


def _to_mlflow(run: str, title: str, folder: Path) -> None:
    import mlflow

    client, experiment = mlflow.MlflowClient(), mlflow.set_experiment(run)
    run_id = client.create_run(experiment.experiment_id, run_name=title).info.run_id
    client.log_artifacts(run_id, str(folder))
    client.set_terminated(run_id)


def _to_wandb(run: str, title: str, folder: Path) -> None:
    import wandb

    settings = wandb.Settings(x_disable_meta=True, console="off")  # else it uploads the command line, tokens included
    with wandb.init(project=run, name=title, job_type="report", settings=settings) as logged:
        artifact = wandb.Artifact("report", type="report")
        artifact.add_dir(str(folder))
        logged.log_artifact(artifact)
