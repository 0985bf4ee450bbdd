"""Where uv is: beside this Python, as the extra `dev` installs it, or on PATH."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def uv_program() -> str:
    """Return uv's path; skips the test if there is none."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("uv is not installed: pip install uv")
    return program
