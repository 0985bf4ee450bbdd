"""Make ~/venv on a node of cluster.yaml: from the archive in the bucket, or from the package index if there is none.

    node_environment.py s3://BUCKET/PREFIX             on every node
    node_environment.py s3://BUCKET/PREFIX --upload    then on the head: pack its environment for the workers

The archive's name is a digest of what makes the environment: the files of requirements, this script, the version of
Python and the architecture. So a changed one never meets an old archive, and a second run has nothing to do. Nodes
have no packages yet, so this needs boto3 only (cluster.yaml starts it by `uv run --with boto3`).
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

HERE = Path(__file__).parent
# The project's dependencies, without the project itself: it arrives with each job. Add what else the nodes need.
PACKAGES = ("-r", str(HERE / "pyproject.toml"), "--extra", "lite0", "-c", str(HERE / "requirements.lock"))
VENV = Path.home() / "venv"
KEY = VENV / "environment-key"
"""Holds the archive's key. Written last: what is in the folder is whole."""
FAULTS = (Boto3Error, BotoCoreError, ClientError, OSError, subprocess.CalledProcessError)


def digest() -> str:
    """Return what identifies the environment."""
    inputs = [HERE / "pyproject.toml", HERE / "requirements.lock", Path(__file__)]
    content = b"\0".join([*(path.read_bytes() for path in inputs), platform.python_version().encode()])
    return f"{platform.machine()}-{hashlib.sha256(content).hexdigest()[:24]}"


def unpack(bucket: str, key: str) -> bool:
    """Fill the folder from the archive while it arrives; returns whether it is whole."""
    command = ["tar", "--extract", "--zstd", "--directory", str(VENV)]
    try:
        archive = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            shutil.copyfileobj(archive, tar.stdin, 1 << 20)  # as fast as a disk takes what is in it
        return tar.returncode == 0
    except FAULTS as error:
        print(f"s3://{bucket}/{key}: {error}", file=sys.stderr)
        return False


def install() -> None:
    """Fill the folder from the package index."""
    uv = os.environ.get("UV", "uv")  # `uv run` sets it
    python = Path(sys.base_prefix) / "bin" / f"python{platform.python_version().rpartition('.')[0]}"
    subprocess.run([uv, "venv", "--clear", "--python", python, VENV], check=True)
    subprocess.run([uv, "pip", "install", "--python", VENV / "bin" / "python", *PACKAGES], check=True)


def set_up(bucket: str, key: str) -> None:
    """Make the environment, unless it is there."""
    if KEY.exists() and KEY.read_text() == key:
        return
    KEY.unlink(missing_ok=True)  # a half-removed environment must not pass for a whole one of an earlier lock
    if unpack(bucket, key):
        print(f"s3://{bucket}/{key}: unpacked")
    else:
        print(f"s3://{bucket}/{key}: no whole archive there: installing from the package index")
        install()
    KEY.write_text(key)


def upload(bucket: str, key: str) -> None:
    """Store the environment as an archive, unless there is one. Without it, nodes start all the same."""
    client = boto3.client("s3")
    pack = ["tar", "--create", "--use-compress-program", "zstd -3 -T0", "--exclude", f"./{KEY.name}"]
    try:
        if client.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"]:
            return
        # Workers would compile what they import. Some packages have files that are no Python, hence no check.
        subprocess.run([VENV / "bin" / "python", "-m", "compileall", "-qq", "-j", "0", VENV / "lib"], check=False)
        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            archive = Path(folder) / "environment.tar.zst"
            subprocess.run([*pack, "--file", archive, "--directory", VENV, "."], check=True)
            client.upload_file(str(archive), bucket, key)
        print(f"s3://{bucket}/{key}: packed for the workers")
    except FAULTS as error:
        print(f"s3://{bucket}/{key}: {error}: workers will install from the package index", file=sys.stderr)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--upload", action="store_true")
    options = parser.parse_args()
    bucket, _, prefix = options.store.removeprefix("s3://").strip("/").partition("/")
    do = upload if options.upload else set_up
    do(bucket, f"{prefix}/environments/{digest()}.tar.zst".lstrip("/"))


if __name__ == "__main__":
    main()
