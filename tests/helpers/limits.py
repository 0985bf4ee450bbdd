"""Resource limits of this process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_more_open_files() -> Iterator[None]:
    """Let this process open no file, as one that has too many open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make this process's writes fail beyond a file size of `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
