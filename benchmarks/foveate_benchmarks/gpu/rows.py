"""The results of a part of ``foveate_benchmarks.gpu``: a JSON file, whole after every row."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from foveate.atomic_file import replacing

__all__ = ["CONTEXT_LOST", "OutOfTime", "Rows", "source_digest", "table", "tried"]

CONTEXT_LOST = 75  # what a worker exits with when its GPU context is gone: start another
ROOT = Path(__file__).parents[3]
T = TypeVar("T")


class OutOfTime(Exception):
    """No row may be started any more."""


class Rows:
    """Rows by key. A file of another state of the code, GPU or version is set aside on opening."""

    def __init__(self, path: Path, hardware: dict[str, Any], until: float) -> None:
        self._path, self._until = path, until
        identity = {"source": source_digest(), **hardware["identity"]}
        self.data: dict[str, Any] = {"identity": identity, "rows": {}, "running": None, "bars": {}}
        if path.exists():
            before = json.loads(path.read_text())
            if before["identity"] == identity:
                self.data = before
            else:
                path.rename(path.with_stem(f"{path.stem}-{_digest(before['identity'])}"))
        self.data["hardware"] = hardware
        self._save()

    def __contains__(self, key: str) -> bool:
        return key in self.data["rows"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        row: dict[str, Any] = self.data["rows"].get(key, {})
        return row

    @property
    def hardware(self) -> dict[str, Any]:
        hardware: dict[str, Any] = self.data["hardware"]
        return hardware

    @property
    def bars(self) -> dict[str, bool]:
        bars: dict[str, bool] = self.data["bars"]
        return bars

    @bars.setter
    def bars(self, bars: dict[str, bool]) -> None:
        self.data["bars"] = bars

    def items(self, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows without an error whose key begins with ``prefix``."""
        for key, row in self.data["rows"].items():
            if key.startswith(prefix) and "error" not in row:
                yield key, row

    def put(self, key: str, row: dict[str, Any]) -> None:
        self.data["rows"][key] = row
        self._save()

    def run(self, key: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a row that is not there yet."""
        if key not in self:
            row = self.attempt(key, measure)
            if row is not None:
                self.put(key, row)

    def attempt(self, key: str, step: Callable[[], T]) -> T | None:
        """Do a step of the row ``key``; if it fails, that is the row, and the answer is None."""
        if time.monotonic() > self._until:
            raise OutOfTime
        self.data["running"] = key
        self._save()
        try:
            result = step()
            _synchronize()
            return result
        except Exception as error:
            self.data["running"] = None
            self.put(key, _described(error))
            _leave_if_context_is_lost()
            return None
        finally:
            self.data["running"] = None

    def close(self) -> list[str]:
        """Write all; what failed, in words."""
        self._save()
        return [f"{key}: {text}" for key, row in self.data["rows"].items() for text in _errors(row)]

    @staticmethod
    def blame(path: Path, reason: str) -> bool:
        """The row that was running when its worker ended failed for ``reason``. Was there one?"""
        data: Any = json.loads(path.read_text()) if path.exists() else {"running": None}
        key, data["running"] = data["running"], None
        if key is None:
            return False
        data["rows"][key] = {"error": reason}
        _write(path, data)
        return True

    def _save(self) -> None:
        _write(self._path, self.data)


def tried(step: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """One contender of a row: what it gives, or its error, which costs the others nothing."""
    try:
        return step()
    except Exception as error:
        found = _described(error)
        _synchronize()  # fails, and with it the row, if the GPU context is lost
        return found


def source_digest() -> str:
    """Fingerprint of the code that a result depends on, also where there is no git."""
    files = [*(ROOT / "kernels").rglob("*.py"), *(ROOT / "engine" / "foveate").rglob("*.py")]
    benchmarks = ROOT / "benchmarks" / "foveate_benchmarks"
    files += [*(benchmarks / "gpu").glob("*.py"), *(benchmarks / "kernels").glob("*.py")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _digest(identity: Mapping[str, Any]) -> str:
    """Tells files apart that were set aside."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def table(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as it is; a log has no edge."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(*head, title=title)
    for line in lines:
        grid.add_row(*line)
    Console(width=180).print(grid)


def _errors(row: Any) -> Iterator[str]:
    """Texts of the errors anywhere in a row."""
    if isinstance(row, dict):
        if "error" in row:
            yield str(row["error"]).splitlines()[0]
        for value in row.values():
            yield from _errors(value)


def _described(error: Exception) -> dict[str, Any]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"
    if len(text) > 2500:  # a log says at its end what happened
        text = f"{text[:500]} … {text[-2000:]}"
    return {"error": text, "at": f"{Path(last.filename).name}:{last.lineno}"}


def _synchronize() -> None:
    """Wait for the GPU, so that an error is of the row that made it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _leave_if_context_is_lost() -> None:
    try:
        _synchronize()
    except RuntimeError:
        os._exit(CONTEXT_LOST)  # every call would fail from now on, those at exit too


def _write(path: Path, data: dict[str, Any]) -> None:
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(_plain(data), indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Numbers a reader can take in; JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
