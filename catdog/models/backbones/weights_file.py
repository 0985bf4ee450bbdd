"""Files of weights, however they were saved: read as tensors and plain values, so nothing in them is executed.

Trainers wrap a state dict in a checkpoint: beside optimiser and epoch, under a name of their own, perhaps next to an
average over steps (EMA), which is preferred, as timm does.
"""

import argparse
import mmap
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from catdog.config.recipe import NAMED_WEIGHTS
from catdog.errors import UserError, first_line

StateDict = dict[str, torch.Tensor]

WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model",
    "net", "network", "module", "weights",
)  # fmt: skip
"""Names under which checkpoints keep the state dict; the first that holds one is taken."""
_REMEDY = "give a .safetensors file, or a state dict that torch.save has written"
_SAVE_TENSORS = "save model.state_dict() instead"
_UNPACK = "unpack it, and give the file of weights in it"
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer", "git lfs pull fetches the weights"),
    (b"<", "a web page", "download the file itself"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", _REMEDY),
)
"""How other files begin, what they are, and the remedy."""


def read_weights(path: Path) -> StateDict:
    """Read the state dict in a file of weights; raise `UserError` that says what any other file is."""
    if os.path.isdir(path):  # unlike Path.is_dir, accepts names that are too long
        raise UserError(f"--weights {path}: a folder: give the file of weights in it")
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if (other := _recognise(path, head)) is not None:
            raise _refusal(path, *other)
        content: Any = safetensors.torch.load_file(path) if _is_safetensors(head) else _unpickle(path)
    except FileNotFoundError:
        raise UserError(
            f"--weights {path}: no such file; choose {', '.join(NAMED_WEIGHTS)}, a file or an s3:// url"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        raise _refusal(path, *_explain(path, error)) from None
    weights = _find_state_dict(content)
    if weights is None:
        raise UserError(f"--weights {path}: holds no state dict (names and tensors); {_REMEDY}")
    return weights


def _refusal(path: Path, what: str, remedy: str) -> UserError:
    return UserError(f"--weights {path}: not a file of weights ({what}): {remedy}")


def _recognise(path: Path, head: bytes) -> tuple[str, str] | None:
    """Return what a file is that cannot hold weights, and the remedy; None for all others."""
    if not head:
        return "an empty file", "fetch it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, remedy in _IMPOSTORS:
        if text.startswith(beginning):
            return what, remedy
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "a TorchScript archive", _SAVE_TENSORS
        return None if any(name.endswith("data.pkl") for name in names) else ("a zip archive", _UNPACK)
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return f"text, which begins {head[:20].decode().strip()!r}", _REMEDY
    return None


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as safetensors do: the size of a JSON header, then the header."""
    return head[8:9] == b"{"


def _unpickle(path: Path) -> Any:
    # Training scripts keep their options, a Namespace, beside the weights; it is as harmless as a dict.
    with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _explain(path: Path, error: Exception) -> tuple[str, str]:
    """Return why a file could not be read, and the remedy."""
    refused = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
    if refused is None:
        unhelpful = str(error).startswith("Weights only load failed")  # and advises to load it unsafely
        return "damaged, or of another program" if unhelpful else first_line(error)[:120], _REMEDY
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickled:
        if pickled.find(b"torch.nn.modules.") >= 0:
            return f"a whole pickled model, {refused[1]}", _SAVE_TENSORS
    return f"refers to {refused[1]}, which may run code", _SAVE_TENSORS


def _find_state_dict(content: Any, most_levels: int = 4) -> StateDict | None:
    """Return the state dict in a checkpoint, without entries that are no tensors; None if there is none."""
    if not isinstance(content, dict) or not most_levels:  # a hostile one may contain itself
        return None
    for name in WRAPPERS:
        if (weights := _find_state_dict(content.get(name), most_levels - 1)) is not None:
            return weights
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors if tensors and all(isinstance(name, str) for name in tensors) else None
