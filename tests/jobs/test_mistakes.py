"""Bad input of every kind: one line on stderr that names the problem and the remedy, exit code 2, and nothing written.

Odd but legal input is at the end: an unusual image and folders that must work.
"""

import json
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import torch
import torchvision
from PIL import Image

from catdog.cli import run_job
from catdog.data.pack import open_pack
from jobs import aggregate, doctor, prepare, status, study, sweep, tune
from tests.helpers.pets import make_pets
from tests.helpers.project import ROOT
from tests.helpers.s3_servers import PLANTED_SECRET

JOBS = {
    "sweep": sweep.main, "prepare": prepare.main, "aggregate": aggregate.main, "status": status.main,
    "doctor": doctor.main, "study": study.main, "tune": tune.main,
}  # fmt: skip
IMAGE = "images/dog_kind0_1.jpg"
PUBLISHED = ROOT / "results" / "published" / "demo" / "manifest.json"
NO_CREDENTIALS = {
    **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")),
    **dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), "/nowhere"),
}

Arrange = Callable[[Path], object]
Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Mistake:
    """A command line, with `{here}` for the test's folder and `{bucket}` for a bucket, and what the error must name."""

    command: str
    thing: str
    remedy: str
    arrange: Arrange = lambda here: None
    """Prepares the test's folder, which is also the command's working directory."""
    variables: dict[str, str | None] | None = None
    """Environment variables; None: not set."""
    read_only: bool = False
    """The bucket's policy forbids writing."""


def pets_with_image(change: Change) -> Arrange:
    """Return a function that makes a dataset with one image changed."""

    def arrange(here: Path) -> None:
        file = make_pets(here / "pets") / IMAGE
        file.write_bytes(change(file.read_bytes()))

    return arrange


def pets_without_annotations(here: Path) -> None:
    for file in (make_pets(here / "pets") / "annotations").iterdir():
        file.unlink()
    (here / "pets" / "annotations").rmdir()


def a_file_in_the_way(here: Path) -> None:
    (here / "file").write_text("in the way")


def manifest(content: bytes) -> Arrange:
    """Return a function that makes a store whose run `demo` has this manifest."""

    def arrange(here: Path) -> None:
        (here / "results" / "demo").mkdir(parents=True)
        (here / "results" / "demo" / "manifest.json").write_bytes(content)

    return arrange


def recipe(content: str) -> Arrange:
    """Return a function that makes a recipe file, my.yaml."""

    def arrange(here: Path) -> None:
        (here / "my.yaml").write_text(content)

    return arrange


def a_run_and_a_file(here: Path) -> None:
    manifest(PUBLISHED.read_bytes())(here)
    a_file_in_the_way(here)


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def weights_with_code(here: Path) -> None:
    (here / "w.pth").write_bytes(pickle.dumps({"conv1.weight": Payload(here / "the code ran")}))


def weights_of_another_backbone(here: Path) -> None:
    torch.save({"stem.weight": torch.zeros(2), "stem.bias": torch.zeros(2)}, here / "w.pth")


def weights_of_another_shape(here: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, here / "w.pth")


def truncated_weights(here: Path) -> None:
    weights_of_another_shape(here)
    content = (here / "w.pth").read_bytes()
    (here / "w.pth").write_bytes(content[: len(content) // 2])


OPTIONS = {
    "no preset": Mistake("sweep", "sweep.py PRESET", "presets: demo, pets-frozen, pets-cpu, paper"),
    "unknown preset": Mistake("sweep dmeo", "'dmeo'", "choose from demo, pets-frozen, pets-cpu, paper"),
    "preset of 300 characters": Mistake(f"sweep {'x' * 300}", "xxx…'", "choose from demo, pets-frozen, pets-cpu"),
    "option before the preset": Mistake("sweep --seeds 3 demo", "preset comes first", "sweep.py PRESET [options]"),
    "unknown option": Mistake("sweep demo --colour red", "--colour", "see sweep.py demo --help"),
    "misspelt option": Mistake("sweep demo --epoch 3", "--epoch", "perhaps --epochs"),
    "option of another job": Mistake("prepare demo --epochs 3", "--epochs", "see prepare.py demo --help"),
    "given twice": Mistake("status --run A --store x --run=B", "--run: given 2 times", "keep one"),
    "digits of another script": Mistake("sweep demo --epochs １２", "--epochs: '１２'", "is not an integer"),
    "variants of a study": Mistake(
        "study lambda demo --variants se --dry-run", "one multi-attention, and --variants has 0", "name it there"
    ),
    "grid of a study": Mistake("study lambda demo --grid epochs=1,2", "--grid: the study lambda", "leave the option"),
    "split of a study": Mistake(
        "study scatter demo --resample-split", "--resample-split: the study", "leave the option"
    ),
    "two variations": Mistake(
        "sweep demo --resample-split --vary order", "--resample-split", "leave one of the two out"
    ),
    "dry run of the doctor": Mistake("doctor demo --dry-run", "--dry-run: the checks start", "leave it out"),
    "variation of a study": Mistake("study scatter demo --vary=init", "--vary: the study scatter", "leave the option"),
    "looks of a study, also planned": Mistake(
        "study lambda demo --dry-run --until-decided --smallest-effect 1",
        "--until-decided: only sweep.py",
        "leave it out",
    ),
    "looks of a tuning": Mistake(
        "tune demo --budget 2 --ranges learning_rate=1e-3..1e-2 --until-decided --smallest-effect 1",
        "--until-decided: only sweep.py",
        "leave it out",
    ),
    "unknown study": Mistake("study weather demo", "study.py STUDY PRESET", "studies: lambda, scatter"),
    "unknown dataset": Mistake("sweep demo --dataset cats", "--dataset cats", "choose from drawn"),
    "word too many": Mistake("sweep demo --epochs 3 4", "options: 4", "see sweep.py demo --help"),
    "missing value": Mistake("sweep demo --epochs", "--epochs", "its value is missing"),
    "missing option": Mistake("aggregate", "--run", "Name of the run"),
    "not an integer": Mistake("sweep demo --epochs many", "--epochs: 'many'", "is not an integer"),
    "part of an epoch": Mistake("sweep demo --epochs 1.5", "--epochs: '1.5'", "is not an integer"),
    "nan epochs": Mistake("sweep demo --epochs nan", "--epochs: 'nan'", "is not an integer"),
    "not a number": Mistake("sweep demo --learning-rate fast", "--learning-rate: 'fast'", "is not a number"),
    "neither None nor a number": Mistake("sweep demo --hourly-price x", "--hourly-price: 'x'", "None nor a number"),
    "nan where a number is expected": Mistake("sweep demo --learning-rate nan", "rate nan", "above 0 and below 100"),
    "infinity where a number is expected": Mistake("sweep demo --weight-decay inf", "decay inf", "below 10"),
    "infinite price": Mistake("sweep demo --hourly-price inf", "--hourly-price inf", "a number above 0"),
    "zero epochs": Mistake("sweep demo --epochs 0", "--epochs 0", "from 1 to 100000"),
    "negative batch": Mistake("sweep demo --batch-size -1", "--batch-size -1", "from 1 to 65536"),
    "epochs for a lifetime": Mistake("sweep demo --epochs 1000000000", "--epochs 1000000000", "from 1 to 100000"),
    "an integer of 5000 digits": Mistake(f"sweep demo --epochs {'9' * 5000}", "--epochs:", "is not an integer"),
    "images larger than the memory": Mistake("sweep demo --image-size 99999", "--image-size 99999", "16 to 2048"),
    "learning rate too large": Mistake("sweep demo --learning-rate 1e3", "--learning-rate 1000", "below 100"),
    "all is label smoothing": Mistake("sweep demo --label-smoothing 1", "--label-smoothing 1", "[0, 1)"),
    "crops of nothing": Mistake("sweep demo --crop-scale 0", "--crop-scale 0", "(0, 1]"),
    "no divergence": Mistake("sweep demo --lambda-divergence 0", "--lambda-divergence 0", "multi-attention-free"),
    "choice that is none": Mistake("sweep demo --vary weather", "'weather' for argument '--vary'", "'init'"),
    "unknown tracker": Mistake("sweep demo --tracker paper", "'paper' for argument '--tracker'", "'mlflow'"),
    "nobody to notify": Mistake("sweep demo --notify --seeds 3", "--notify", "its value is missing"),
    "empty target of messages": Mistake("sweep demo --notify ''", "--notify: empty", "leave the option out"),
    "limit without a price": Mistake("sweep demo --max-cost 5", "--max-cost 5", "needs --hourly-price"),
    "negative seconds": Mistake("sweep demo --checkpoint-seconds -1", "--checkpoint-seconds -1", "from 0"),
    "wait for no node": Mistake("doctor demo --cluster c.yaml --wait-seconds 9", "--wait-seconds", "leave it out"),
    "wait for nan seconds": Mistake("doctor demo --wait-seconds nan", "--wait-seconds nan", "from 0"),
    "folder for drawn pets": Mistake("sweep demo --data-root /tmp", "--data-root /tmp", "leave the option out"),
    "empty store": Mistake("sweep demo --store ''", "--store: empty", "give a folder or s3://bucket/prefix"),
    "empty store of a run": Mistake("status --run demo --store ''", "--store: empty", "give a folder"),
    "empty data folder option": Mistake("sweep pets-cpu --data-root ''", "--data-root: empty", "leave the option out"),
    "empty report folder option": Mistake("aggregate --run demo --out ''", "--out: empty", "leave the option out"),
}
SEEDS = {
    "backwards": Mistake("sweep demo --seeds 5-2", "--seeds 5-2", "a range (0-9)"),
}
VARIANTS = {
    "unknown": Mistake("sweep demo --variants atention", "'atention'", "choose from baseline, attention"),
    "none": Mistake("sweep demo --variants", "no variants", "name at least one of baseline"),
    "unicode": Mistake("sweep demo --variants bäseline", "'bäseline'", "choose from baseline"),
    "backbone of a variant": Mistake(
        "sweep demo --variants baseline:backbone=resnet", "resnet", "others are timm/NAME"
    ),
    "output of a tuning": Mistake("tune demo --output 'a b.yaml'", "--output a b", "letters, digits"),
    "other file as output": Mistake(
        "tune demo --output mine.yaml",
        "--output mine.yaml",
        "move it",
        lambda here: (here / "mine.yaml").write_text("epochs: 3"),
    ),
    "seeds of the comparison": Mistake("tune demo --seeds 1-1", "--seeds 1-1", "give others, such as 1000-1002"),
    "range": Mistake("tune demo --ranges learning_rate=0..1", "--ranges", "must be above 0"),
    "budget": Mistake("tune demo --budget 0", "--budget 0", "from 1 to 1000"),
    "no such tuning": Mistake(
        "sweep demo --tuning gone --dry-run",
        "--tuning gone",
        "copy its gone/tuning.json there, run tune.py, or give --tuning None",
    ),
}
RUNS = {
    "above the store": Mistake("sweep demo --run ..", "--run ..", "use 1 to 100 letters"),
    "status above the store": Mistake("status --run ..", "--run ..", "use 1 to 100 letters"),
}
DATA = {
    "no such folder": Mistake("sweep pets-cpu --data-root /nowhere", "/nowhere", "give the folder that holds images/"),
    "name too long": Mistake(f"prepare pets-cpu --data-root {'x' * 300}", "--data-root xxx", "give the folder"),
    "no such user": Mistake("prepare pets-cpu --data-root ~nobody-here", "~nobody-here", "give the folder"),
    "empty folder": Mistake("prepare pets-cpu --data-root {here}", "--data-root {here}", "that holds images/"),
    "file instead of a folder": Mistake(
        "prepare pets-cpu --data-root file", "--data-root file", "give the folder", a_file_in_the_way
    ),
    "half extracted": Mistake(
        "sweep pets-cpu --data-root pets", "no annotations/", "give the folder", pets_without_annotations
    ),
    "text named .jpg": Mistake(
        "prepare pets-cpu --data-root pets",
        IMAGE,
        "replace it or leave it out",
        pets_with_image(lambda whole: b"<html>404</html>"),
    ),
    "truncated JPEG": Mistake(
        "sweep pets-cpu --data-root pets",
        IMAGE,
        "replace it or leave it out",
        pets_with_image(lambda whole: whole[: len(whole) // 2]),
    ),
    "no place for a download": Mistake(
        "prepare pets-cpu",
        "/proc/cache: cannot be written",
        "set CATDOG_CACHE",
        variables={"CATDOG_CACHE": "/proc/cache"},
    ),
    "a name too long for a download": Mistake(
        "prepare pets-cpu", "name too long", "set CATDOG_CACHE", variables={"CATDOG_CACHE": f"/tmp/{'x' * 300}"}
    ),
}
RESNET = "sweep demo --backbone resnet18 --weights"
WEIGHTS = {
    "missing file": Mistake(f"{RESNET} /no/file.pth", "/no/file.pth", "choose imagenet, lite0, lite1"),
    "misspelt name": Mistake(f"{RESNET} imagnet", "imagnet", "choose imagenet, lite0, lite1"),
    "name too long": Mistake(f"{RESNET} {'x' * 300}", "--weights xxx", "choose imagenet, lite0, lite1"),
    "no such user": Mistake(f"{RESNET} ~nobody-here/w.pth", "~nobody-here", "choose imagenet, lite0, lite1"),
    "folder": Mistake(f"{RESNET} {{here}}", "--weights {here}", "a folder: give the file of weights in it"),
    "s3 without a key": Mistake(f"{RESNET} s3://bucket", "s3://bucket", "give s3://bucket/path/file"),
    "not on s3": Mistake(f"{RESNET} {{bucket}}/w.pth", "{bucket}/w.pth: no such object", "check the url"),
    "in no bucket": Mistake(
        f"{RESNET} {{bucket}}-2/w.pth", "--weights {bucket}-2: there is no bucket", "create it, or check the endpoint"
    ),
    "of tiny": Mistake("sweep demo --weights imagenet", "tiny", "add --weights none"),
    "of another backbone by name": Mistake(
        f"{RESNET} lite0", "belong to timm/tf_efficientnet_lite0", "not to resnet18"
    ),
    "wrong keys": Mistake(f"{RESNET} w.pth", "missing (bn1.bias", "give weights of", weights_of_another_backbone),
    "wrong shapes": Mistake(f"{RESNET} w.pth", "conv1.weight (64, 1", "give weights of", weights_of_another_shape),
    "code": Mistake(f"{RESNET} w.pth", "w.pth: not a file of weights", "give a .safetensors file", weights_with_code),
    "truncated": Mistake(f"{RESNET} w.pth", "w.pth: not a file of", "give a .safetensors file", truncated_weights),
}
BACKBONES = {
    "empty": Mistake("sweep demo --backbone ''", "--backbone: empty", "give a torchvision model, timm/NAME or tiny"),
    "unknown": Mistake("sweep demo --backbone resnet35", "--backbone resnet35", "near it: resnet50, resnet34"),
    "unlike any": Mistake("sweep demo --backbone ###", "--backbone ###", "others are timm/NAME and tiny"),
    "unknown to timm": Mistake("sweep demo --backbone timm/resnt34", "timm/resnt34", "near it: timm/resnet34"),
    "unknown weights of timm": Mistake("sweep demo --backbone timm/resnet18.mine", "resnet18.mine", "choose another"),
    "without a feature map": Mistake("sweep demo --backbone vit_b_16", "vit_b_16: has no feature map", "try timm/NAME"),
    "unknown, on a dry run": Mistake("sweep demo --backbone resnet35 --dry-run", "resnet35", "near it: resnet50"),
    "images too small": Mistake("sweep demo --backbone alexnet --image-size 16", "--image-size 16", "most take 224"),
}
STORES = {
    "no such user": Mistake("sweep demo --store ~nobody-here/x", "--store ~nobody-here/x", "give a folder"),
    "file in the way": Mistake(
        "sweep demo --store file", "{here}/file: cannot be written", "choose another folder", a_file_in_the_way
    ),
    "file above it": Mistake(
        "prepare demo --store file/store", "{here}/file/store: cannot", "choose another folder", a_file_in_the_way
    ),
    "folder that cannot be made": Mistake("sweep demo --store /proc/store", "--store /proc/store", "choose a folder"),
    "folder without the right": Mistake("prepare demo --store /sys/store", "--store /sys/store", "another folder"),
    "report where a file is": Mistake(
        "status --run demo --store file", "{here}/file", "check --run and --store", a_file_in_the_way
    ),
    "file in the way of a dry run": Mistake(
        "sweep demo --store file --dry-run", "--store {here}/file: cannot be written", "another", a_file_in_the_way
    ),
    "file in the way of a report": Mistake(
        "aggregate --run demo --out file", "--out {here}/file: cannot be written", "another folder", a_run_and_a_file
    ),
    "another scheme for a report": Mistake(
        "aggregate --run demo --out ftp://x/y", "--out ftp://x/y", "give a folder or s3://bucket", a_run_and_a_file
    ),
    "report among the trials": Mistake(
        "aggregate --run demo --out results/demo/trials",
        "lies among the run's files",
        "another folder",
        a_run_and_a_file,
    ),
    "no bucket for a report": Mistake(
        "aggregate --run demo --out {bucket}-2/x", "--out {bucket}-2/x", "create it, or check", a_run_and_a_file
    ),
    "no such bucket": Mistake(
        "sweep demo --store {bucket}-of-nobody/x", "no bucket '{bucket_name}-of-nobody'", "create it, or check"
    ),
    "no right to write": Mistake(
        "sweep demo --store {bucket}/x", "{bucket}/x: access denied", "check credentials and the", read_only=True
    ),
    "no credentials": Mistake(
        "prepare demo --store {bucket}/x", "{bucket}/x: boto3 finds", "set AWS_ACCESS_KEY_ID", variables=NO_CREDENTIALS
    ),
    "profile of nobody": Mistake(
        "sweep demo --store {bucket}/x", "(nobody)", "or AWS_PROFILE", variables={"AWS_PROFILE": "nobody"}
    ),
    "half a pair of credentials": Mistake(
        "sweep demo --store {bucket}/x",
        "missing: aws_secret_access_key",
        "correct the credentials file",
        lambda here: (here / "credentials").write_text("[default]\naws_access_key_id = key\n"),
        variables=NO_CREDENTIALS | {"AWS_SHARED_CREDENTIALS_FILE": "credentials"},
    ),
    "credentials that are none": Mistake(
        "prepare demo --store {bucket}/x",
        "config file: credentials",
        "correct boto3's configuration",
        lambda here: (here / "credentials").write_text("[defau"),
        variables=NO_CREDENTIALS | {"AWS_SHARED_CREDENTIALS_FILE": "credentials"},
    ),
}
RESOURCES = {
    "cores nobody has": Mistake(
        "sweep demo --cpus-per-trial 200", "--cpus-per-trial 200", "the largest node here has 2"
    ),
    "cores nobody has, on a dry run": Mistake(
        "sweep demo --cpus-per-trial 256 --dry-run", "--cpus-per-trial 256", "the largest node here has"
    ),
    "workers without cores, on a dry run": Mistake(
        "sweep demo --workers-per-trial 64 --dry-run",
        "--workers-per-trial 64",
        "room for fewer workers",
    ),
    "cores of no machine": Mistake("sweep demo --cpus-per-trial 1000", "--cpus-per-trial 1000", "from 1 to 256"),
    "no cores": Mistake("sweep demo --cpus-per-trial 0", "--cpus-per-trial 0", "from 1 to 256"),
    "part of no GPU": Mistake("sweep demo --gpus-per-trial 0.5", "--gpus-per-trial 0.5", "use --gpus-per-trial 0"),
    "one and a half GPUs": Mistake("sweep demo --gpus-per-trial 1.5", "--gpus-per-trial 1.5", "from 0 to 1"),
}
DAMAGED = ("demo/manifest.json cannot be used", "or choose another --run")
MANIFESTS = {
    "no such run": Mistake("aggregate --run nothing", "--run nothing: there is no such run", "check --run and --store"),
    "no such run on s3": Mistake("status --run no --store {bucket}", "there is no such run in {bucket}", "check --run"),
    "truncated": Mistake("aggregate --run demo", *DAMAGED, manifest(PUBLISHED.read_bytes()[:1000])),
    "empty": Mistake("status --run demo", *DAMAGED, manifest(b"")),
    "list, for a sweep": Mistake("sweep demo --dry-run", *DAMAGED, manifest(b"[1, 2]")),
}
FILES = {
    "none": Mistake("sweep my.yaml", "my.yaml: there is no such file", "it must lie in the working directory"),
    "unknown variant": Mistake(
        "study scatter my.yaml", "my.yaml: unknown variant 'bog'", "choose from baseline", recipe("variants: [bog]")
    ),
    "option after it": Mistake("sweep my.yaml --epoch 3", "--epoch", "see sweep.py my.yaml", recipe("epochs: 3")),
    "short labels alike": Mistake(
        "sweep demo --variants a=se a=attention", "'a=attention'", "its short label is taken; choose another"
    ),
    "short label that is a variant": Mistake(
        "sweep demo --variants se=attention", "short label 'se' of variant 'attention'", "choose another"
    ),
}
GROUPS = {
    "option": OPTIONS, "seeds": SEEDS, "variants": VARIANTS, "run": RUNS, "data": DATA, "weights": WEIGHTS,
    "backbone": BACKBONES, "store": STORES, "resources": RESOURCES, "manifest": MANIFESTS,
    "recipe file": FILES,
}  # fmt: skip
MISTAKES = {f"{group}: {name}": mistake for group, cases in GROUPS.items() for name, mistake in cases.items()}
AS_PROCESSES = [
    "option: no preset",
    "option: misspelt option",
    "option: not an integer",
    "seeds: backwards",
    "variants: unicode",
    "run: above the store",
    "data: half extracted",
    "weights: code",  # found while Ray starts
    "store: folder that cannot be made",
    "store: no right to write",
    "store: no credentials",
]


class Place:
    """The folder of a test, and its bucket where the command names one."""

    def __init__(self, mistake: Mistake, here: Path, bucket: str | None) -> None:
        self._names = {"here": str(here), "bucket": bucket or "", "bucket_name": (bucket or "").removeprefix("s3://")}
        self._here = here
        self.arguments = [self.fill(word) for word in shlex.split(mistake.command)]
        if bucket is not None:
            self._s3 = boto3.client("s3", aws_access_key_id="testing", aws_secret_access_key=PLANTED_SECRET)
        if mistake.read_only:
            self._deny_writing()
        mistake.arrange(here)

    def fill(self, text: str) -> str:
        return text.format(**self._names) if "{" in text else text

    def files(self) -> dict[str, bytes]:
        """Return all files of the folder and all objects of the bucket."""
        found = {str(path): path.read_bytes() for path in self._here.rglob("*") if path.is_file()}
        if bucket := self._names["bucket_name"]:
            found |= {item["Key"]: b"" for item in self._s3.list_objects_v2(Bucket=bucket).get("Contents", [])}
        return found

    def _deny_writing(self) -> None:
        bucket = self._names["bucket_name"]
        whole = f"arn:aws:s3:::{bucket}/*"
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": whole}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self._s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


MakePlace = Callable[[str], Place]


@pytest.fixture
def make_place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePlace:
    """A function that makes the place in which a mistake's command is run."""

    def make(case: str) -> Place:
        mistake = MISTAKES[case]
        bucket = request.getfixturevalue("s3_bucket") if "{bucket}" in mistake.command else None
        here = tmp_path / "here"
        here.mkdir()
        place = Place(mistake, here, bucket)
        monkeypatch.chdir(here)
        changes = {"CATDOG_CACHE": str(tmp_path / "cache"), "CATDOG_DATA_ROOT": None, "RAY_ADDRESS": None}
        for name, value in (changes | (mistake.variables or {})).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        return place

    return make


def check_what_was_said(mistake: Mistake, place: Place, code: int, output: str, errors: str) -> None:
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    assert errors.endswith("\n")
    assert place.fill(mistake.thing) in errors
    assert mistake.remedy in errors
    assert "Traceback" not in output + errors


@pytest.mark.usefixtures("local_ray")  # shared by the mistakes that only a worker finds
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gives_one_line_with_the_problem_and_the_remedy_and_writes_nothing(
    case: str, make_place: MakePlace, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_place(case)
    before = place.files()
    job, *arguments = place.arguments
    code = run_job(JOBS[job], arguments)
    check_what_was_said(MISTAKES[case], place, code, *capsys.readouterr())
    assert place.files() == before


@pytest.mark.parametrize("case", AS_PROCESSES)
def test_a_mistake_ends_a_process_the_same_way(case: str, make_place: MakePlace) -> None:
    place = make_place(case)
    before = place.files()
    job, *arguments = place.arguments
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    check_what_was_said(MISTAKES[case], place, process.returncode, process.stdout, process.stderr)
    assert process.stdout in ("", "starting a local Ray\n")
    assert place.files() == before


def test_the_pickle_with_code_really_runs_code(tmp_path: Path) -> None:
    weights_with_code(tmp_path)
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert (tmp_path / "the code ran").exists(), "the file that the mistake's test does not find"


@pytest.mark.parametrize("path", ["annotations/trainval.txt", IMAGE])
def test_an_unreadable_file_is_named(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root may read everything, so a kernel file that fails on reading stands in for a forbidden one."""
    file = make_pets(tmp_path / "pets") / path
    file.unlink()
    file.symlink_to("/proc/self/mem")
    arguments = ["pets-cpu", "--data-root", str(tmp_path / "pets"), "--store", str(tmp_path / "store")]
    assert run_job(prepare.main, arguments) == 2
    assert f"{file}: cannot be read (Input/output error): check its permissions" in capsys.readouterr().err


def prepare_pack(pets: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> torch.Tensor:
    """Pack a dataset through the command, which must report no error; returns the packed `IMAGE`."""
    assert run_job(prepare.main, ["pets-cpu", "--data-root", str(pets), "--store", str(store)]) == 0
    assert capsys.readouterr().err == ""
    pack = open_pack(next(store.glob("datasets/*/pack.safetensors")))
    return pack.images_NSSC[pack.names.index(Path(IMAGE).stem)]


def test_an_image_of_one_pixel_is_packed_as_a_single_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = make_pets(tmp_path / "pets")
    Image.new("RGB", (1, 1), (10, 120, 230)).save(pets / IMAGE, format="PNG")
    packed = prepare_pack(pets, tmp_path / "store", capsys)
    assert (packed == torch.tensor([10, 120, 230], dtype=torch.uint8)).all()


def test_data_folder_and_store_may_have_spaces_and_unicode_in_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pets, store = make_pets(tmp_path / "meine Bilder" / "Kätzchen 猫 [1]"), tmp_path / "der Speicher ☂"
    assert prepare_pack(pets, store, capsys).shape == (256, 256, 3)
    assert run_job(sweep.main, ["pets-cpu", "--data-root", str(pets), "--store", str(store), "--dry-run"]) == 0
    assert "pets-cpu in " in capsys.readouterr().out
