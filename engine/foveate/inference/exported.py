"""Exported levels on disk: made once for each model, OpenVINO and CPU, in processes of their own.

An entry is a folder with ``VARIANT.xml`` and ``VARIANT.bin`` for every variant of a level, or with
``failed.txt``, and ``digests.json``, by which a damaged entry is known.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import openvino as ov

import foveate
import foveate_kernels
from foveate.images.folder import Progress
from foveate.inference.export import REFUSED, TRIED, export_level
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
        jobs: processes that export.
    """
    with _writable(cache) as place:
        entries = _Entries(folder, prepared, place, precision)
        missing = [level for level in range(len(prepared.levels)) if not entries.whole(level)]
        shares = [share for job in range(jobs) if (share := missing[job::jobs])]
        with ThreadPoolExecutor(max(1, len(shares))) as pool:
            for done, _ in enumerate(pool.map(entries.make, shares)):
                progress("export levels", done + 1, len(shares))
        return {
            (level, variant): entries.read(level, variant)
            for level, own in enumerate(prepared.levels)
            for variant in range(len(own.variants))
        }


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


class _Entries:
    """Of one model."""

    def __init__(self, folder: Path, prepared: PreparedLadder, cache: Path, precision: str) -> None:
        self._folder, self._prepared = folder, prepared
        self._cache, self._precision = cache, precision
        digest = lru_cache(lambda name: _sha((folder / name).read_bytes()))
        self._paths = []
        for index, level in enumerate(prepared.ladder.levels):
            files = [name for name in (level.weights, level.vocabulary, level.selector) if name]
            facts = (
                [*map(dict, level.reducers)],
                [*map(digest, files)],
                _code(),
                ov.__version__,
                processor(),
                precision,
            )
            self._paths.append(cache / f"level{index}-{_sha(repr(facts).encode())[:16]}")

    def whole(self, level: int) -> bool:
        """Whether there is an entry; removes a damaged one."""
        path = self._paths[level]
        try:
            if json.loads((path / "digests.json").read_text()) == _digests(path):
                os.utime(path)
                return True
        except (OSError, ValueError):
            pass
        if path.exists():
            _log.warning("%s: damaged; the level is exported anew", path)
            shutil.rmtree(path, ignore_errors=True)
        return False

    def make(self, levels: Sequence[int]) -> None:
        """Export in one process. What it leaves, since it fails, in one for each level."""
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=self._cache) as name:
                scratch = Path(name)
                left = self._export(scratch, levels)
                for level in levels:
                    if level not in left:
                        own = scratch / str(level)
                        (own / "digests.json").write_text(json.dumps(_digests(own)))
                        with suppress(OSError):  # another process was first
                            own.rename(self._paths[level])
        except OSError as error:
            _log.warning("%s; exported again at every start", error)
            return
        for level in left:
            self.make([level])

    def _export(self, scratch: Path, levels: Sequence[int]) -> Sequence[int]:
        """Levels left to export. Raises :class:`OSError` if they cannot be written."""
        command = [sys.executable, "-m", "foveate.inference.export"]
        command += [str(self._folder), str(scratch), self._precision, *map(str, levels)]
        done = subprocess.run(command, capture_output=True, text=True)
        left = [level for level in levels if not (scratch / str(level) / TRIED).exists()]
        if len(levels) > 1 or not left:
            return left
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if -done.returncode in _ITS_OWN:
            last = f"the compiler dies of {signal.Signals(-done.returncode).name}"
        elif done.returncode != REFUSED:
            raise OSError(f"{self._cache}: level {left[0]}: {last}")
        (scratch / str(left[0]) / _FAILED).write_text(last)
        return []

    def read(self, level: int, variant: int) -> ov.Model | str:
        path = self._paths[level]
        if (path / _FAILED).exists():
            return (path / _FAILED).read_text()
        if (path / f"{variant}.xml").exists():
            return ov.Core().read_model(path / f"{variant}.xml")
        return export_level(self._prepared.levels[level].variants[variant])


def _digests(entry: Path) -> dict[str, str]:
    """Of each file but the list of them."""
    files = sorted(path for path in entry.iterdir() if path.suffix != ".json")
    return {path.name: _sha(path.read_bytes()) for path in files}


@lru_cache
def _code() -> str:
    """Of everything that may describe a level."""
    folders = [*foveate.__path__, *foveate_kernels.__path__]
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    return _sha(b"".join(path.read_bytes() for path in files))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
