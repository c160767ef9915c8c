"""Is every model process of a server alive? Answered from the text of its ``/metrics``.

The server keeps a dead process's metrics and still reports its model as ready, so only a heartbeat
that moves proves life. Standard library only: both the supervisor and the adapter use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["HEARTBEAT", "Heartbeats", "Silence"]

HEARTBEAT = "foveate_heartbeat_timestamp_seconds"
SILENT_S = 2.0  # a live process has a heartbeat every 0.15 s

_LABEL = re.compile(r'(model|process)="([^"]*)"')


@dataclass(frozen=True)
class Silence:
    """A process whose heartbeat has stopped."""

    model: str
    process: str  # the server's name of the instance: digits_0_0
    seconds: float

    def __str__(self) -> str:
        return f"no heartbeat of {self.process} for {self.seconds:.1f} s"


class Heartbeats:
    """The heartbeats of one server's processes, and when each last changed.

    Only changes count, timed by the observer's clock, which may differ from the server's.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}  # value, since when

    def see(self, text: str, at: float) -> None:
        """Record the text of one scrape, made at ``at`` (seconds, monotonic).

        Forgets processes that are not in it: a restarted server starts without any.
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
    """Model and process, and the value. Skips all other lines quickly: this runs often."""
    for part in text.split(f"\n{HEARTBEAT}{{")[1:]:
        labels, _, value = part.partition("\n")[0].rpartition("} ")
        names = dict(_LABEL.findall(labels))
        yield (names.get("model", ""), names.get("process", "")), value
