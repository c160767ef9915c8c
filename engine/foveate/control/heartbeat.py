"""Does every model process on a server still live? Told from the text of its ``/metrics``.

The server keeps the numbers of a dead process, and calls its model ready, so only a heartbeat that
moves is a sign of life. Standard library only: the supervisor and the adapter both look.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["HEARTBEAT", "Heartbeats", "Silence"]

HEARTBEAT = "foveate_heartbeat_timestamp_seconds"
SILENT_S = 2.0  # a process that lives has a heartbeat every 0.15 s

_LABEL = re.compile(r'(model|process)="([^"]*)"')


@dataclass(frozen=True)
class Silence:
    """A process without a sign of life."""

    model: str
    process: str  # the server's name of the instance: digits_0_0
    seconds: float

    def __str__(self) -> str:
        return f"no heartbeat of {self.process} for {self.seconds:.1f} s"


class Heartbeats:
    """The heartbeats of one server's processes, and since when each has not moved.

    Only changes count, by the clock of the observer: the clock of the server may be another one.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}  # value, since when

    def see(self, text: str, at: float) -> None:
        """Take in the text of one scrape, made at ``at`` (seconds, monotonic).

        Processes it does not name are forgotten: a restarted server starts without any.
        """
        seen = {}
        for key, value in _series(text):
            last = self._seen.get(key)
            seen[key] = last if last is not None and last[0] == value else (value, at)
        self._seen = seen

    def silent(self, at: float) -> list[Silence]:
        """Processes whose heartbeat has not moved for two seconds at ``at``."""
        return [
            Silence(model, process, at - since)
            for (model, process), (_, since) in self._seen.items()
            if at - since >= SILENT_S
        ]


def _series(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Model and process, and the value; most lines are never looked at: this is done often."""
    for part in text.split(f"\n{HEARTBEAT}{{")[1:]:
        labels, _, value = part.partition("\n")[0].rpartition("} ")
        names = dict(_LABEL.findall(labels))
        yield (names.get("model", ""), names.get("process", "")), value
