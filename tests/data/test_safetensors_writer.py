"""Files written in rows are the files that safetensors itself writes, and are whole or not there at all."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from catdog.data.safetensors_writer import new_safetensors

TENSORS = {
    "wide": np.arange(60, dtype=np.float32).reshape(5, 3, 4),
    "half": np.arange(10, dtype=np.float16).reshape(5, 2),
    "none": np.empty((0, 7), dtype=np.float16),
}


def test_rows_in_any_order_make_the_very_bytes_of_safetensors(tmp_path: Path) -> None:
    with new_safetensors(tmp_path / "rows", {name: (one.dtype, one.shape) for name, one in TENSORS.items()}) as write:
        write("half", 3, TENSORS["half"][3:])
        write("wide", 4, TENSORS["wide"][4])  # one row without the row axis
        write("half", 0, TENSORS["half"][:3])
        write("wide", 0, TENSORS["wide"][:4])
    safetensors.numpy.save_file(TENSORS, tmp_path / "whole")
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "whole").read_bytes()


def test_metadata_and_alignment_are_as_asked(tmp_path: Path) -> None:
    layout = {name: (one.dtype, one.shape) for name, one in TENSORS.items()}
    with new_safetensors(tmp_path / "rows", layout, {"who": "möwe"}, alignment=512) as write:
        for name, tensor in TENSORS.items():
            write(name, 0, tensor)
    assert (tmp_path / "rows").read_bytes().index(TENSORS["wide"].tobytes()) % 512 == 0
    with safetensors.safe_open(tmp_path / "rows", framework="np") as file:
        assert file.metadata() == {"who": "möwe"}
        assert all(np.array_equal(file.get_tensor(name), tensor) for name, tensor in TENSORS.items())


def test_a_file_that_could_not_be_filled_is_removed(tmp_path: Path) -> None:
    def fill() -> None:
        with new_safetensors(tmp_path / "rows", {"half": (np.float16, (5, 2))}):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill()
    assert not list(tmp_path.iterdir())
