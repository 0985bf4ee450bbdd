"""catdog from Python, and the jobs on kept networks: a real sweep of the drawn pets, and a made run."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import catdog
from catdog.cli import output_console, run_job
from catdog.data.trimaps import read_trimaps
from catdog.errors import UserError
from catdog.storage import LocalStore
from catdog.sweep.notifications import telling_the_end
from catdog.sweep.run import run_sweep
from jobs import examples, export, film, predict
from tests.helpers.made_runs import make_run

TRIALS = {
    "limit_images": 24, "batch_size": 8, "image_size": 48, "epochs": 2, "seeds": 2, "keep_weights": "all",
    "variants": ["baseline", "four masks=multi-attention", "mine", "multi-task"], "precision": "float32",
}  # fmt: skip
MINE = """
from torch import nn
from catdog.models import ModelOutput, register_head

@register_head("mine")
class Mine(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features):
        pooled = features.mean(dim=(2, 3))
        return ModelOutput(self.linear(pooled), None, pooled.new_zeros(()))
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> catdog.Run:
    """A finished run that kept all networks."""
    store = tmp_path_factory.mktemp("store")
    (store / "mine.py").write_text(MINE)
    return catdog.run_sweep(catdog.sweep_config("demo", store=str(store), imports=[str(store / "mine.py")], **TRIALS))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a b.png")
    return str(tmp_path / "a b.png")


def test_a_run_is_tables_whose_numbers_are_those_of_its_files(swept: catdog.Run) -> None:
    folder = Path(swept.store.url) / "demo"
    pd.testing.assert_series_equal(
        swept.trials["test_accuracy"], pd.read_csv(folder / "report" / "trials.csv")["test_accuracy"], atol=1e-6
    )
    assert swept.table["variant"].tolist() == ["baseline", "four masks", "mine", "multi-task"]
    history = swept.history.query("variant == 'four masks' and seed == 1")
    stored = pd.read_csv(folder / "trials" / "multi-attention" / "seed-01" / "history.csv")
    assert history["val_accuracy"].tolist() == stored["val_accuracy"].tolist()
    predictions = swept.predictions
    right = predictions[predictions["split"] == "test"].assign(
        right=lambda one: one["label"].astype(str) == one["predicted"].astype(str)
    )
    accuracy = 100 * right.groupby(["variant", "seed"], observed=True)["right"].mean()
    for _, row in swept.trials.iterrows():
        assert accuracy[row["variant"], row["seed"]] == pytest.approx(row["test_accuracy"], abs=5)
    assert len(predictions) == 8 * (predictions["image"].nunique())


def test_masks_have_named_axes(swept: catdog.Run) -> None:
    masks = swept.masks("four masks", 1)
    assert dict(masks.sizes) == {"epoch": 2, "image": 4, "mask": 4, "row": 6, "column": 6}
    assert masks.sel(image=masks["image"][0]).isel(epoch=-1).dims == ("mask", "row", "column")
    with pytest.raises(UserError, match="baseline seed 0: it has no masks"):
        swept.masks("baseline", 0)


def test_a_run_is_loaded_without_its_sweep(swept: catdog.Run) -> None:
    again = catdog.load_run(swept.store.url, "demo")
    pd.testing.assert_frame_equal(again.trials, swept.trials)
    assert again.best("multi-attention").card.variant == "multi-attention"
    assert again.best("multi-attention:num_masks=4").card.variant == "multi-attention", "not only by its shortest label"
    for ask, problem in (
        (lambda: again.best("nonsense"), "--variant nonsense: the run demo has baseline, four masks, mine"),
        (
            lambda: again.best("baseline:evil=1"),
            "--variant baseline:evil=1: the run demo has baseline, four masks, mine",
        ),
        (lambda: again.best("se"), "--variant se: the run demo has baseline, four masks, mine"),
        (lambda: again.network("baseline", 7), "--seed 7: baseline has no such seed"),
        (lambda: catdog.load_run(swept.store.url, "other"), "there is no such run"),
        (lambda: catdog.sweep_config("demo", learning_rat=1), "no such setting; perhaps learning_rate"),
        (lambda: catdog.sweep_config("demo", epochs="many"), "epochs"),
    ):
        with pytest.raises(UserError, match=re.escape(problem)):
            ask()


@pytest.mark.slow
def test_the_next_launch_deletes_networks_that_passed_but_none_that_was_kept_for_good(
    swept: catdog.Run, tmp_path: Path
) -> None:
    shutil.copytree(swept.store.url, tmp_path / "store")
    trials = tmp_path / "store" / "demo" / "trials"
    for result in trials.glob("multi-attention/*/result.json"):  # as if the launch that ran them kept only the best
        content = json.loads(result.read_text())
        del content["files"]["model.safetensors"]
        result.write_text(json.dumps(content))
    settings = TRIALS | {"imports": [f"{swept.store.url}/mine.py"], "keep_weights": "auto"}
    config, console = catdog.sweep_config("demo", store=str(tmp_path / "store"), **settings), output_console()
    with telling_the_end(config, console) as notifier:
        run_sweep(config, ("python",), console, notifier)  # writes no report, which takes seconds
    kept = [path.parent.relative_to(trials).as_posix() for path in sorted(trials.glob("*/*/model.safetensors"))]
    best = f"multi-attention/seed-{swept.best_seed('four masks'):02d}"
    others = [f"{variant}/seed-{seed:02d}" for variant in ("baseline", "mine", "multi-task") for seed in range(2)]
    assert kept == sorted([*others, best])


def test_a_network_of_ones_own_head_needs_its_file(
    swept: catdog.Run, photo: str, tmp_path: Path, no_external_heads: None
) -> None:
    (tmp_path / "other.py").write_text("")
    with pytest.raises(UserError, match=r"give the file of heads with --import \(from Python: load_run"):
        catdog.load_run(swept.store.url, "demo", imports=[str(tmp_path / "other.py")]).best("mine")
    run = catdog.load_run(swept.store.url, "demo", imports=[f"{swept.store.url}/mine.py"])
    assert run.best("mine").predict(photo).mean_K.sum() == pytest.approx(1, abs=1e-5)


def test_a_made_run_has_the_contrasts_of_its_report(tmp_path: Path) -> None:
    made = {"epochs": 1, "classes": 3, "test_images": 60}
    make_run(LocalStore(tmp_path), ["baseline", "se"], range(8), effect={"se": 12.0}, **made)  # type: ignore[arg-type]
    run = catdog.load_run(str(tmp_path), "made")
    assert run.contrasts["variant"].tolist() == ["se"]
    assert run.contrasts["difference"][0] == pytest.approx(
        run.table.set_index("variant")["test_mean"].diff().iloc[-1], abs=1e-6
    )
    with pytest.raises(UserError, match="the network was not kept: run the sweep with --keep-weights"):
        run.best("se")


def test_photos_are_predicted_by_one_network_or_by_all(
    swept: catdog.Run, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--store", swept.store.url, "--run", "demo", "--variant", "four masks", "--out", str(tmp_path / "out")]
    assert run_job(predict.main, [*common, photo]) == 0
    assert "multi-attention: 1 network, of seed" in capsys.readouterr().out
    assert run_job(predict.main, [photo, *common, "--all-seeds", "--top", "3"]) == 0
    assert " of 2 networks find the first one likeliest" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (table["rank"].tolist(), table["networks"].tolist()) == ([1, 2, 3], [2, 2, 2])
    assert (table["lowest"] <= table["probability"]).all()
    with Image.open(tmp_path / "out" / "1-a_b.jpg") as sheet:
        assert sheet.width > 60


def test_a_photo_whose_name_is_no_utf_8_is_predicted(swept: catdog.Run, photo: str, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(photo).replace(b"a b", b"photo\xe9"))
    os.rename(photo, odd)
    where = ["--store", swept.store.url, "--run", "demo", "--variant", "mine", "--out", str(tmp_path / "out")]
    assert run_job(predict.main, [odd, *where]) == 0
    (name,) = pd.read_csv(tmp_path / "out" / "predictions.csv")["photo"].unique()
    assert name.endswith(r"photo\udce9.png")


def test_the_answer_of_a_second_task_is_told_with_the_classes(
    swept: catdog.Run, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--variant", "multi-task", "--out", str(tmp_path)]
    assert run_job(predict.main, [photo, *where, "--top", "2"]) == 0
    second = swept.best("multi-task").predict(photo).second
    assert second is not None
    name, share = second.likeliest
    assert second.probabilities_NG.sum() == pytest.approx(1, abs=1e-5)
    told = capsys.readouterr().out
    assert f"\n  species: {name}, {100 * share:.1f} %\n  {tmp_path}/1-a_b.jpg\n" in told
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["second_task"].tolist() == ["species"] * 2
    assert table["second_class"].tolist() == [name] * 2
    assert table["second_probability"].tolist() == pytest.approx([100 * share] * 2, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no photos: name at least one image file"),
        (["a.jpg", "--top", "0"], "--top 0: must be at least 1"),
        (["a.jpg", "--seed", "0", "--all-seeds"], "--seed: is one network; leave out --all-seeds"),
        (["nothing.jpg"], "nothing.jpg: cannot be read as an image"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], problem: str, swept: catdog.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--variant", "baseline", "--out", str(tmp_path)]
    assert run_job(predict.main, [*arguments, *where]) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")


def test_photos_that_cannot_be_read_do_not_stop_the_others(
    swept: catdog.Run, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--variant", "baseline", "--out", str(tmp_path)]
    assert run_job(predict.main, ["nothing.jpg", photo, str(tmp_path), *where]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: nothing.jpg: cannot be read as an image")
    assert said.endswith("; 1 more could not be read either\n")
    assert pd.read_csv(tmp_path / "predictions.csv")["photo"].unique().tolist() == [photo]


def test_masks_forming_are_a_film(swept: catdog.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--out", str(tmp_path / "masks.webp"), "--variant"]
    assert run_job(film.main, [*where, "four masks", "--seed", "1"]) == 0
    with Image.open(tmp_path / "masks.webp") as shown:
        assert (shown.format, shown.n_frames, shown.info["loop"]) == ("WEBP", 2, 0)  # type: ignore[attr-defined]
    assert run_job(film.main, [*where, "baseline"]) == 2
    assert "it has no masks" in capsys.readouterr().err


def test_good_typical_and_failed_images_are_shown_with_the_maps_of_all_variants(
    swept: catdog.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--out", str(tmp_path / "examples.png")]
    assert run_job(examples.main, [*where, "--images", "1"]) == 0
    said = capsys.readouterr().out
    assert "3 of " in said
    assert "ranked over 4 variants; predictions by baseline" in said, "of one without masks, Grad-CAM"
    with Image.open(tmp_path / "examples.png") as shown:
        assert (shown.format, shown.height > 3 * 128, shown.width > 3 * 128) == ("PNG", True, True)
    assert run_job(examples.main, [*where, "--variants", "se"]) == 2
    assert "--variant se: the run demo has" in capsys.readouterr().err


def test_images_are_ranked_by_the_share_of_the_maps_on_the_animal_and_not_by_its_size(swept: catdog.Run) -> None:
    trimaps = read_trimaps(swept.store, swept.manifest.identity.fingerprint)
    assert trimaps is not None
    names, animals = trimaps.names[:3], trimaps.animals_TSS[trimaps.rows(trimaps.names[:3])].astype(np.float64)
    animals /= animals.sum(axis=(1, 2), keepdims=True)
    on_animal_T = np.array([0.5, 0.9, 0.1])[:, None, None]
    maps = on_animal_T * animals + (1 - on_animal_T) / animals[0].size
    assert examples.Looks(names, {"one": maps}).ranked(swept).tolist() == [2, 0, 1]


def test_neighbours_in_the_ranking_are_shown_the_best_first() -> None:
    assert examples.around_percentiles(np.arange(101), 2).tolist() == [95, 94, 50, 49, 5, 4]
    assert examples.around_percentiles(np.arange(2), 3).tolist() == [1, 0, 1, 0, 1, 0]


def test_a_network_is_exported_and_checked(
    swept: catdog.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", swept.store.url, "--run", "demo", "--variant", "four masks", "--out", str(tmp_path)]
    assert run_job(export.main, where) == 0
    assert "predicts what its trial did for 100.0 % of 24 test images" in capsys.readouterr().out
    assert (tmp_path / "model.pt2").stat().st_size > 100_000
