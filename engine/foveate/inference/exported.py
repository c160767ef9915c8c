"""Exported levels on disk: made once for each model, OpenVINO and CPU, in processes of their own.

An entry is a folder with ``VARIANT.xml`` and ``VARIANT.bin`` for every variant of a level, or with
``failed.txt``, and ``digests.json``, by which a damaged entry is known.
"""

from __future__ import annotations

import atexit
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
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path

import openvino as ov

import foveate
import foveate_kernels
from foveate.images.folder import Progress
from foveate.inference.export import REFUSED, TRIED, UNWRITTEN
from foveate.inference.latency import processor
from foveate.inference.prepared import PreparedLadder

__all__ = ["exported_levels"]

_UNUSED_S = 30 * 24 * 3600  # an entry nobody has asked for in this time is removed
_SCRATCH_S = 3600  # and what a process left that was stopped
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
    _tidy(cache)
    entries = _Entries(folder, prepared, cache, precision)
    missing = [level for level in range(len(prepared.levels)) if not entries.whole(level)]
    shares = [share for job in range(jobs) if (share := missing[job::jobs])]
    with _place_for(cache) if missing else nullcontext(cache) as place:
        with ThreadPoolExecutor(max(1, len(shares))) as pool:
            exported = pool.map(lambda share: entries.make(share, place), shares)
            for done, _ in enumerate(exported):
                progress("export levels, processes done", done + 1, len(shares))
        return {
            (level, variant): entries.read(level, variant)
            for level, own in enumerate(prepared.levels)
            for variant in range(len(own.variants))
        }


def _tidy(cache: Path) -> None:
    """Remove what nobody uses any more. Others may do the same, or may not let us."""
    with suppress(OSError):
        for entry in cache.iterdir():
            unused = _UNUSED_S if not entry.name.startswith(".") else _SCRATCH_S
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > unused:
                    shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _place_for(cache: Path) -> Iterator[Path]:
    """``cache``, or a temporary folder where that cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        _log.warning("%s: %s; levels are exported anew at the next start", cache, error.strerror)
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield cache


class _Entries:
    """Of one model."""

    def __init__(self, folder: Path, prepared: PreparedLadder, cache: Path, precision: str) -> None:
        self._folder, self._prepared, self._precision = folder, prepared, precision
        self._lost: dict[int, str] = {}  # levels that could not be exported this time, and why
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
        if not path.exists():
            return False
        try:
            sound = bool(json.loads((path / "digests.json").read_text()) == _digests(path))
        except (OSError, ValueError):
            sound = False
        if not sound:
            _log.warning("%s: damaged; the level is exported anew", path)
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # it may be another user's, or read-only
            os.utime(path)
        return sound

    def make(self, levels: Sequence[int], place: Path) -> None:
        """Export in one process. What it leaves, since it fails, in one for each level; if that
        fails for want of room, once more in a temporary folder."""
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=place) as name:
                left = self._export(Path(name), levels, place)
                for level in levels:
                    if level not in left and level not in self._lost:
                        self._keep(level, Path(name) / str(level), place)
        except OSError as error:  # no room for a folder, or no process
            self._lost |= dict.fromkeys(levels, str(error))
            return
        for level in left:
            self.make([level], place)

    def _export(self, scratch: Path, levels: Sequence[int], place: Path) -> Sequence[int]:
        """Levels to try again, each by itself."""
        command = [sys.executable, "-m", "foveate.inference.export"]
        command += [str(self._folder), str(scratch), self._precision, *map(str, levels)]
        done = subprocess.run(command, capture_output=True, text=True)
        left = [level for level in levels if not (scratch / str(level) / TRIED).exists()]
        if len(levels) > 1 or not left:
            return left
        (level,) = left
        own = scratch / str(level)
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if done.returncode < 0:
            last = f"the compiler dies of {signal.Signals(-done.returncode).name}"
        if -done.returncode in _ITS_OWN or done.returncode == REFUSED:
            with suppress(OSError):  # without room, it is found again at the next start
                shutil.rmtree(own, ignore_errors=True)
                own.mkdir()
                (own / _FAILED).write_text(last)
                return []
        elif done.returncode == UNWRITTEN and self._paths[level].parent == place:
            _log.warning("%s: level %d %s; exported anew at the next start", place, level, last)
            elsewhere = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
            self.make([level], Path(elsewhere))
            return []
        self._lost[level] = last
        return []

    def _keep(self, level: int, own: Path, place: Path) -> None:
        """Put an entry where :meth:`read` finds it."""
        if not (own / TRIED).exists() and not (own / _FAILED).exists():  # it is elsewhere
            return
        try:
            (own / "digests.json").write_text(json.dumps(_digests(own)))
            path = place / self._paths[level].name
            own.rename(path)
            self._paths[level] = path
        except OSError as error:
            if not self._paths[level].exists():  # another process may have been first
                self._lost[level] = f"{place}: {error.strerror}"

    def read(self, level: int, variant: int) -> ov.Model | str:
        path = self._paths[level]
        if level in self._lost:
            return self._lost[level]
        if (path / _FAILED).exists():
            return (path / _FAILED).read_text()
        return ov.Core().read_model(path / f"{variant}.xml")


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
