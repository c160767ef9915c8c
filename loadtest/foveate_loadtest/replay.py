"""The open loop: send at the intended times, whatever happened to earlier requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import gevent
from gevent.event import Event

from foveate_loadtest.limiter import Limiter
from foveate_loadtest.rows import DEAD, Outcome, Rows
from foveate_loadtest.senders import Reply, Sender

__all__ = ["Replay"]

_REFUSED = Reply(Outcome.REJECTED, message="over the client's limit of requests in flight")
_UNHEARD = (Outcome.LOST, Outcome.TIMEOUT)  # outcomes without an answer from the server
_SILENT_S = 2.5  # after this much silence, check whether the server is alive
_CHECK_EVERY_S = 0.5
_STOP_S = 2.0  # to wait for requests in flight when a run is stopped


class Replay:
    """One pass through a schedule; ``rows`` fill while it runs."""

    def __init__(
        self,
        rows: Rows,
        images: Sequence[int],
        sender: Sender,
        on_end: Callable[[int], None],
        origin: float,
        limiter: Limiter | None = None,
    ) -> None:
        """``images`` are the payloads to send, by row; ``on_end`` gets each row as it ends.

        The schedule begins at ``origin``, a ``time.perf_counter()`` value. Requests that a
        ``limiter`` does not admit are not sent, and count as rejected.
        """
        self.rows = rows
        self._images = images
        self._sender = sender
        self._on_end = on_end
        self._limiter = limiter
        self._in_flight = 0
        self._waiting = len(images)
        self._all_ended = Event()
        self._stopped = Event()
        self._heard = 0.0  # when a server last said anything
        self._origin = origin

    def now(self) -> float:
        """Seconds since the origin of the schedule."""
        return time.perf_counter() - self._origin

    def stop(self, key: str, why: str) -> None:
        """Send nothing more; record ``why`` in the messages, under ``key``."""
        if not self._stopped.is_set():
            self.rows.messages[key] = f"{why}, {self.now():.1f} s after the start"
            self._stopped.set()

    def run(self, drain: float) -> None:
        """Send everything, then wait for the last answer, at most ``drain`` seconds.

        Ends early when stopped, or when the server is dead.
        """
        watch = gevent.spawn(self._watch)
        try:
            self._send_all()
            if self._images:
                gevent.wait([self._all_ended, self._stopped], timeout=drain, count=1)
            if self._stopped.is_set():
                self._all_ended.wait(_STOP_S)
        finally:
            watch.kill()

    def _send_all(self) -> None:
        intended = self.rows.intended.tolist()
        for row, payload in enumerate(self._images):
            early = intended[row] - self.now()
            if early > 0:
                self._stopped.wait(early)
            else:
                gevent.sleep(0)  # replies and HTTP sends need their turn
            if self._stopped.is_set():
                return
            if self._limiter is None or self._limiter.admits(self._in_flight):
                self._in_flight += 1
                self._sender.send(payload, partial(self._sent, row), partial(self._answered, row))
            else:
                self._sent(row)
                self._ended(row, _REFUSED)

    def _watch(self) -> None:
        """Stop when the server is silent and does not answer its liveness check either."""
        while True:
            gevent.sleep(_CHECK_EVERY_S)
            unheard = any(kind.name.lower() in self.rows.messages for kind in _UNHEARD)
            if not self._in_flight and not unheard:
                self._heard = self.now()  # there was nothing to answer
            silent = self.now() - self._heard
            if silent > _SILENT_S and not self._sender.alive():
                self.stop(DEAD, f"the server is dead: nothing came back for {silent:.1f} s")
                return

    def _sent(self, row: int) -> None:
        self.rows.sent[row] = self.now()

    def _answered(self, row: int, reply: Reply) -> None:
        now = self.now()
        if reply.outcome not in _UNHEARD:
            self._heard = now
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
