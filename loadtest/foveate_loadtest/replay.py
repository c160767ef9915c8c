"""The open loop itself: send at the intended times, whatever happened to earlier requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import gevent
from gevent.event import Event

from foveate_loadtest.limiter import Limiter
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.senders import Reply, Sender

__all__ = ["Replay"]

_REFUSED = Reply(Outcome.REJECTED, message="over the client's limit of requests in flight")
_LEAD = 0.2  # seconds from the construction of a replay to the origin of its schedule


class Replay:
    """One pass through a schedule; ``rows`` fill while it runs."""

    def __init__(
        self,
        rows: Rows,
        images: Sequence[int],
        sender: Sender,
        on_end: Callable[[int], None],
        limiter: Limiter | None = None,
    ) -> None:
        """``images`` are the payloads to send, by row; ``on_end`` gets each row as it ends.

        What a ``limiter`` does not admit is not sent, and counts as rejected.
        """
        self.rows = rows
        self._images = images
        self._sender = sender
        self._on_end = on_end
        self._limiter = limiter
        self._in_flight = 0
        self._waiting = len(images)
        self._all_ended = Event()
        self._origin = time.perf_counter() + _LEAD

    def now(self) -> float:
        """Seconds since the origin of the schedule."""
        return time.perf_counter() - self._origin

    def run(self, drain: float) -> None:
        """Send everything, then wait for the last answer, at most ``drain`` seconds."""
        intended = self.rows.intended.tolist()
        for row, image in enumerate(self._images):
            # Even when late: replies and HTTP sends need their turn.
            gevent.sleep(max(0.0, intended[row] - self.now()))
            if self._limiter is None or self._limiter.admits(self._in_flight):
                self._in_flight += 1
                self._sender.send(image, partial(self._sent, row), partial(self._answered, row))
            else:
                self._sent(row)
                self._ended(row, _REFUSED)
        if self._images:
            self._all_ended.wait(drain)

    def _sent(self, row: int) -> None:
        self.rows.sent[row] = self.now()

    def _answered(self, row: int, reply: Reply) -> None:
        now = self.now()
        if self._limiter is not None and reply.outcome is Outcome.OK:
            self._limiter.answered(now, now - float(self.rows.sent[row]), self._in_flight)
        self._in_flight -= 1
        self._ended(row, reply)

    def _ended(self, row: int, reply: Reply) -> None:
        rows = self.rows
        rows.done[row] = self.now()
        rows.outcome[row] = reply.outcome
        rows.level[row] = reply.level
        rows.answer[row] = reply.answer
        if reply.outcome is not Outcome.OK:
            rows.messages.setdefault(reply.outcome.name.lower(), reply.message)
        self._on_end(row)
        self._waiting -= 1
        if not self._waiting:
            self._all_ended.set()
