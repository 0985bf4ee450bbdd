"""The backbone's weights where they are a file or an s3:// url: their sha256, and a copy on this node."""

import os
from pathlib import Path

from catdog.config.recipe import NAMED_WEIGHTS
from catdog.errors import NotFoundError, StoreRefusedError, UserError
from catdog.storage import StoreLocation
from catdog.storage.node_cache import fetch, file_digest, matches_digest


def weights_digest(weights: str) -> str | None:
    """Return the current sha256 of weights from a file or an s3:// URL; None for named ones."""
    path = local_weights(weights)
    return None if isinstance(path, str) else file_digest(path)


def local_weights(weights: str, digest: str | None = None) -> str | Path:
    """Return the name of named weights, or a local file with the others.

    An s3:// URL is fetched unless this node has a copy whose sha256 is `digest`. Raises `UserError` if there is no such
    file, or if its sha256 is not `digest`.
    """
    path = _weights_file(weights, digest)
    if isinstance(path, Path) and digest is not None and not matches_digest(path, digest):
        raise UserError(
            f"--weights {weights}: not the file that this run began with: restore it, or choose another --run"
        )
    return path


def _weights_file(weights: str, digest: str | None) -> str | Path:
    if weights in NAMED_WEIGHTS:
        return weights
    if not weights.startswith("s3://"):
        path = Path(os.path.abspath(os.path.expanduser(weights)))
        if os.path.isdir(path):
            raise UserError(f"--weights {weights}: a folder: give the file of weights in it")
        if not os.path.isfile(path):  # unlike Path.is_file, accepts names that are too long
            choices = ", ".join(NAMED_WEIGHTS)
            raise UserError(f"--weights {weights}: no such file; choose {choices}, a file or an s3:// url")
        if not os.access(path, os.R_OK):
            raise UserError(f"--weights {weights}: cannot be read: check its permissions, or choose another file")
        return path
    folder, _, name = weights.rpartition("/")
    if not name or folder in ("s3:", "s3:/"):
        raise UserError(f"--weights {weights}: give s3://bucket/path/file")
    try:
        return fetch(StoreLocation.of(folder).open(), name, digest)
    except NotFoundError:
        raise UserError(f"--weights {weights}: no such object: check the url") from None
    except StoreRefusedError as error:
        raise UserError(str(error).replace("--store", "--weights", 1)) from None
