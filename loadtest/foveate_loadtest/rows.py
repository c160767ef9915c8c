"""What happened to each request: one row each, kept as columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.atomic_file import replacing
from foveate_loadtest.percentiles import Percentiles

__all__ = ["DEAD", "INTERRUPTED", "Outcome", "Rows"]

DEAD, INTERRUPTED = "dead", "interrupted"  # messages of a run that stopped early


class Outcome(IntEnum):
    """How a request ended. Only ``OK`` can be within an SLO."""

    UNANSWERED = 0  # still in flight when the run ended
    OK = 1
    REJECTED = 2  # HTTP 503 or UNAVAILABLE
    TIMEOUT = 3  # the client gave up
    INVALID = 4  # the server blames the request
    FAILED = 5
    LOST = 6  # no server, or the connection closed before the answer


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of equal length, in order of intended time. Times are seconds from the start."""

    intended: NDArray[np.float64]
    sent: NDArray[np.float64]  # handed to the transport; NaN if never
    done: NDArray[np.float64]  # NaN while unanswered
    outcome: NDArray[np.int8]
    level: NDArray[np.int16]  # -1 unknown
    answer: NDArray[np.int16]  # class of highest score, -1 none
    label: NDArray[np.int16]
    worker: NDArray[np.int16]  # who sent it
    messages: dict[str, str]  # first message of each kind of failure, and why the run stopped early

    @staticmethod
    def blank(intended: NDArray[np.float64], label: NDArray[np.int16], worker: int = 0) -> Rows:
        """Rows of requests not sent yet, to be filled in place."""
        n = len(intended)
        return Rows(
            intended=intended,
            sent=np.full(n, np.nan),
            done=np.full(n, np.nan),
            outcome=np.full(n, Outcome.UNANSWERED, np.int8),
            level=np.full(n, -1, np.int16),
            answer=np.full(n, -1, np.int16),
            label=label,
            worker=np.full(n, worker, np.int16),
            messages={},
        )

    def played(self) -> Rows:
        """Those that were sent, or refused: all, unless the run stopped early."""
        kept = ~np.isnan(self.sent)
        columns = {
            f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name != "messages"
        }
        return Rows(**columns, messages=self.messages)

    @property
    def latency(self) -> NDArray[np.float64]:
        """Seconds from the *intended* send to the answer: a late send counts against the server."""
        return self.done - self.intended

    @property
    def lag(self) -> NDArray[np.float64]:
        """Seconds the client itself was late."""
        return self.sent - self.intended

    def send_lag(self) -> Percentiles | None:
        """Send lag of the worker with the largest p99: the others must not hide a late worker.

        None if nothing was sent.
        """
        sent = ~np.isnan(self.lag)
        workers = np.unique(self.worker[sent])
        lags = (Percentiles.of(self.lag[sent & (self.worker == worker)]) for worker in workers)
        return max(filter(None, lags), key=lambda lag: lag.p99, default=None)

    def save(self, path: Path) -> None:
        """Write ``.csv`` or ``.parquet`` (without messages) or, for any other suffix, ``.npz``."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "messages"}
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(
                    zip(*(column.tolist() for column in columns.values()), strict=True)
                )
        elif path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table(columns), path)
        else:
            with replacing(path) as scratch:  # a waiting reader finds a complete file
                scratch.write_bytes(self.pack())

    @staticmethod
    def load(path: Path) -> Rows:
        """Read what :meth:`save` wrote as ``.npz``."""
        return Rows.unpack(path.read_bytes())

    def pack(self) -> bytes:
        """The bytes of an ``.npz`` file."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "messages"}
        file = io.BytesIO()
        np.savez_compressed(file, messages=json.dumps(self.messages), **columns)
        return file.getvalue()

    @staticmethod
    def unpack(data: bytes) -> Rows:
        """Read what :meth:`pack` wrote."""
        with np.load(io.BytesIO(data)) as found:
            columns = {name: found[name] for name in found.files if name != "messages"}
            return Rows(**columns, messages=json.loads(str(found["messages"])))

    @staticmethod
    def merged(parts: Sequence[Rows]) -> Rows:
        """The rows of all workers; of messages of one kind, the first."""
        order = np.argsort(np.concatenate([part.intended for part in parts]), kind="stable")
        columns = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])[order]
            for f in fields(Rows)
            if f.name != "messages"
        }
        messages = {key: why for part in reversed(parts) for key, why in part.messages.items()}
        return Rows(**columns, messages=messages)
