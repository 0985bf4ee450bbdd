"""The backbone's weights where they are a file or an s3:// url: a copy on this node, and their sha256."""

import os
from pathlib import Path

from catdog.config.recipe import NAMED_WEIGHTS
from catdog.errors import NotFoundError, StoreRefusedError, UserError
from catdog.storage import StoreLocation
from catdog.storage.node_cache import fetch, file_digest, matches_digest


def weights_digest(weights: str) -> str | None:
    """Return the sha256 of weights that are a file or an s3:// url, as it is now; None for named ones."""
    path = local_weights(weights)
    return None if isinstance(path, str) else file_digest(path)


def local_weights(weights: str, digest: str | None = None) -> str | Path:
    """Return the name of named weights, or the local file of others.

    An s3:// url is fetched unless this node has a copy whose sha256 is `digest`, which is also checked in the end.
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
        if not os.path.isfile(path):  # unlike Path.is_file, it takes names that are too long
            raise UserError(f"--weights {weights}: no such file; choose imagenet, lite0, none, a file or an s3:// url")
        if not os.access(path, os.R_OK):
            raise UserError(f"--weights {weights}: cannot be read: get the right to read it, or choose another file")
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
