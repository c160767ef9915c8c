"""A journal of measurements, so that an interrupted calibration can resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """A file of JSON lines ``[key, value]``, appended as soon as a value is known.

    A last line that was cut off when the process was killed is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._values: dict[str, Any] = {}
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    key, value = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                self._values[key] = value
                whole += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)
        self.recalled = len(self._values)
        self.added = 0

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, key: str, value: Any) -> None:
        """``value`` as JSON."""
        self._file.write(json.dumps([key, value]).encode() + b"\n")
        self._file.flush()
        self._values[key] = value
        self.added += 1

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of ``key``, computed on first use."""
        if key not in self._values:
            self.add(key, compute())
        return self._values[key]

    def close(self) -> None:
        self._file.close()
