"""Files that are complete or not there. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write ``path`` at once: readers meanwhile, or after a crash, find the old file or the new.

    ``with replacing(path) as scratch:`` write ``scratch``, a temporary file in the same folder.
    It takes the place of ``path`` in the end; after an exception it is removed instead.

    Raises :class:`OSError` if it cannot be written through to the disk.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode
        yield scratch
        scratch.chmod(mode)  # safetensors makes its files private, and Triton may be another user
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
