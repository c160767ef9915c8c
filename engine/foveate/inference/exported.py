"""Exported levels on disk: made once for each model, OpenVINO and CPU, in processes of their own.

An entry is a folder with ``VARIANT.xml`` and ``VARIANT.bin`` for every variant of a level, or with
``failed.txt``, and ``digests.json``, by which a damaged entry is known and made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import openvino as ov

import foveate
import foveate_kernels
from foveate.images.folder import Progress
from foveate.inference.export import REFUSED, export_level
from foveate.inference.latency import processor
from foveate.inference.prepared import PreparedLadder

__all__ = ["exported_levels"]

_UNUSED_S = 30 * 24 * 3600  # an entry nobody has asked for in this time is removed
_FAILED = "failed.txt"
# What a compiler dies of by its own fault. Whatever else ends it says nothing about the level.
_ITS_OWN = (signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGBUS)

_log = logging.getLogger(__name__)


def exported_levels(
    folder: Path,
    prepared: PreparedLadder,
    cache: Path,
    precision: str,
    jobs: int,
    progress: Progress = lambda *_: None,
) -> dict[tuple[int, int], ov.Model | str]:
    """Every level and variant of a model's version ``folder``, or why it cannot be compiled.

    Args:
        cache: folder of entries. If it cannot be written, levels are exported all the same, and
            again at the next start.
        precision: ``fp32`` or ``bf16``, in which exported levels are tried.
        jobs: levels exported at the same time.
    """
    models: dict[tuple[int, int], ov.Model | str] = {}
    count = len(prepared.levels)
    with _writable(cache) as place, ThreadPoolExecutor(jobs) as pool:
        entries = pool.map(
            lambda level: _entry(folder, prepared, place, precision, level), range(count)
        )
        for level, entry in enumerate(entries):
            progress("export levels", level + 1, count)
            for variant, own in enumerate(prepared.levels[level].variants):
                if entry is None:
                    models[level, variant] = export_level(own)
                elif (failed := entry / _FAILED).exists():
                    models[level, variant] = failed.read_text()
                else:
                    models[level, variant] = ov.Core().read_model(entry / f"{variant}.xml")
    return models


@contextmanager
def _writable(cache: Path) -> Iterator[Path]:
    """``cache``, or a temporary folder in its place."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        _log.warning("%s: %s; levels are exported again at every start", cache, error.strerror)
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    for entry in cache.iterdir():
        if time.time() - entry.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
    yield cache


def _entry(
    folder: Path, prepared: PreparedLadder, cache: Path, precision: str, level: int
) -> Path | None:
    """The entry of a level, made if need be; None if that is not possible."""
    entry = cache / f"level{level}-{_key(folder, prepared, precision, level)}"
    if entry.exists() and not _whole(entry):
        _log.warning("%s: damaged, exported again", entry)
        shutil.rmtree(entry, ignore_errors=True)
    try:
        if not entry.exists():
            scratch = Path(tempfile.mkdtemp(prefix=".", dir=cache))
            try:
                _fill(scratch, folder, level, precision)
                scratch.rename(entry)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        os.utime(entry)
    except OSError as error:
        if not entry.exists():  # another process may have been first
            _log.warning("%s: %s; the level is exported again at every start", entry, error)
            return None
    return entry


def _fill(entry: Path, folder: Path, level: int, precision: str) -> None:
    """Raises :class:`OSError` if it cannot be written, or the process cannot be run."""
    module = [sys.executable, "-m", "foveate.inference.export"]
    done = subprocess.run(
        [*module, str(folder), str(level), str(entry), precision], capture_output=True, text=True
    )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == REFUSED:
        (entry / _FAILED).write_text(last)
    elif -done.returncode in _ITS_OWN:
        (entry / _FAILED).write_text(
            f"its compiler dies of {signal.Signals(-done.returncode).name}"
        )
    elif done.returncode:
        raise OSError(f"{' '.join(module)} ended with {done.returncode}: {last}")
    (entry / "digests.json").write_text(json.dumps(_digests(entry)))


def _whole(entry: Path) -> bool:
    try:
        expected = json.loads((entry / "digests.json").read_text())
        return bool(expected) and expected == _digests(entry)
    except (OSError, ValueError):
        return False


def _digests(entry: Path) -> dict[str, str]:
    """Of each file but the list of them."""
    files = sorted(path for path in entry.iterdir() if path.suffix != ".json")
    return {path.name: _sha(path.read_bytes()) for path in files}


def _key(folder: Path, prepared: PreparedLadder, precision: str, level: int) -> str:
    """Of all that an export depends on: the level, its tensors, our code, OpenVINO, the CPU."""
    own = prepared.ladder.levels[level]
    names = [name for name in (own.weights, own.vocabulary, own.selector) if name is not None]
    facts = (
        [*map(dict, own.reducers)],
        [_sha((folder / name).read_bytes()) for name in names],
        _code(),
        ov.__version__,
        processor(),
        precision,
    )
    return _sha(repr(facts).encode())[:16]


@lru_cache
def _code() -> str:
    """Of everything that may describe a level."""
    folders = [*foveate.__path__, *foveate_kernels.__path__]
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    return _sha(b"".join(path.read_bytes() for path in files))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
