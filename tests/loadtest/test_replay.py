"""When a replay stops, with senders that need no network."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import numpy as np
import pytest

from foveate_loadtest.replay import Replay
from foveate_loadtest.rows import DEAD, INTERRUPTED, Outcome, Rows
from foveate_loadtest.senders import Reply


class Frozen:
    """Every request runs into the client's own timeout."""

    def send(
        self, image: int, on_sent: Callable[[], None], on_reply: Callable[[Reply], None]
    ) -> None:
        on_sent()
        gevent.spawn_later(0.2, on_reply, Reply(Outcome.TIMEOUT))

    def alive(self) -> bool:
        return False

    def close(self) -> None: ...


def _replay(times: np.ndarray) -> Replay:
    rows = Rows.blank(times, np.zeros(len(times), np.int16))
    ended: list[int] = []
    return Replay(rows, [0] * len(times), Frozen(), ended.append, time.perf_counter())


@pytest.mark.parametrize("gap", [0.1, 1.0])  # with and without requests in flight all the time
def test_the_clients_own_timeouts_are_no_sign_of_life(gap: float) -> None:
    replay = _replay(np.arange(0.0, 20.0, gap))
    replay.run(drain=1.0)
    assert "the server is dead" in replay.rows.messages[DEAD]
    assert np.isnan(replay.rows.sent[-1])


def test_a_stop_does_not_wait_for_the_next_request() -> None:
    replay = _replay(np.array([0.0, 60.0]))
    gevent.spawn_later(0.5, replay.stop, INTERRUPTED, "interrupted")
    replay.run(drain=1.0)
    assert replay.now() < 30
    assert np.isnan(replay.rows.sent[-1])
