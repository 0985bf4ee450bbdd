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
DIGEST = VENV / "environment-digest"
"""Written last: what is in the folder is whole."""
FAULTS = (Boto3Error, BotoCoreError, ClientError, OSError, subprocess.CalledProcessError)


def digest() -> str:
    """Return what identifies the environment."""
    inputs = [HERE / "pyproject.toml", HERE / "requirements.lock", Path(__file__)]
    content = b"\0".join([*(path.read_bytes() for path in inputs), platform.python_version().encode()])
    return f"{platform.machine()}-{hashlib.sha256(content).hexdigest()[:24]}"


def unpack(bucket: str, key: str) -> None:
    """Fill the folder from the archive while it arrives; raises one of `FAULTS`."""
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    command = ["tar", "--extract", "--zstd", "--directory", str(VENV)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
        boto3.client("s3").download_fileobj(bucket, key, tar.stdin)
    if tar.returncode != 0:
        raise subprocess.CalledProcessError(tar.returncode, command)


def install() -> None:
    """Fill the folder from the package index."""
    uv = os.environ.get("UV", "uv")  # `uv run` sets it
    python = Path(sys.base_prefix) / "bin" / f"python{platform.python_version().rpartition('.')[0]}"
    subprocess.run([uv, "venv", "--clear", "--python", python, VENV], check=True)
    subprocess.run([uv, "pip", "install", "--python", VENV / "bin" / "python", *PACKAGES], check=True)


def upload(bucket: str, key: str) -> None:
    """Store the folder as an archive, unless that is there; raises one of `FAULTS`."""
    client = boto3.client("s3")
    try:
        client.head_object(Bucket=bucket, Key=key)
        return
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
    # Workers would compile what they import. Some packages have files that are no Python, hence no check.
    subprocess.run([VENV / "bin" / "python", "-m", "compileall", "-qq", "-j", "0", VENV / "lib"], check=False)
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        archive = Path(folder) / "environment.tar.zst"
        pack = ["tar", "--create", "--use-compress-program", "zstd -3 -T0", "--exclude", f"./{DIGEST.name}"]
        subprocess.run([*pack, "--file", archive, "--directory", VENV, "."], check=True)
        client.upload_file(str(archive), bucket, key)
    print(f"packed for the workers: s3://{bucket}/{key}")


def main() -> None:
    """Do what the command line says. Without a bucket that answers, a node still gets its environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--upload", action="store_true")
    options = parser.parse_args()
    bucket, _, prefix = options.store.removeprefix("s3://").strip("/").partition("/")
    name = digest()
    key = f"{prefix}/environments/{name}.tar.zst".lstrip("/")
    try:
        if options.upload:
            upload(bucket, key)
            return
        if DIGEST.exists() and DIGEST.read_text() == name:
            return
        unpack(bucket, key)
        print(f"unpacked s3://{bucket}/{key}")
    except FAULTS as error:
        print(f"s3://{bucket}/{key}: {error}: nodes install from the package index", file=sys.stderr)
        if options.upload:
            return
        install()
    DIGEST.write_text(name)


if __name__ == "__main__":
    main()
