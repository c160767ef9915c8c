"""The limit of requests in flight: the law, and the windows it is fed with."""

from __future__ import annotations

import pytest

from foveate_loadtest.limiter import Config, Limiter, Observation, State, decide

CONFIG = Config()
START = State()


def settled(round_trip_s: float, in_flight: int, state: State = START, windows: int = 300) -> State:
    for _ in range(windows):
        state = decide(CONFIG, state, Observation(round_trip_s=round_trip_s, in_flight=in_flight))
    return state


def test_it_grows_while_round_trips_stay_as_they_are() -> None:
    assert settled(0.05, 1000).limit == CONFIG.max_limit


def test_it_does_not_grow_where_nobody_needs_it() -> None:
    assert settled(0.05, 5).limit == CONFIG.min_limit


def test_it_shrinks_when_round_trips_grow() -> None:
    calm = settled(0.05, 1000, windows=50)
    slow = settled(0.2, 1000, calm, windows=10)
    assert slow.limit < calm.limit / 2
    once = decide(CONFIG, calm, Observation(round_trip_s=10.0, in_flight=1000))
    shrunk = CONFIG.shrink * calm.limit + CONFIG.queue
    assert once.limit == pytest.approx(calm.limit + CONFIG.smoothing * (shrunk - calm.limit))


def test_the_long_run_is_forgotten_when_it_was_slow() -> None:
    slow = settled(1.0, 1000, windows=20)
    assert settled(0.05, 1000, slow, windows=100).long_s < 0.15


def test_windows_have_answers_and_take_time() -> None:
    limiter = Limiter()
    assert limiter.admits(19)
    assert not limiter.admits(20)
    for number in range(100):  # within a second nothing moves
        limiter.answered(number / 200, 0.05, 20)
    assert not limiter.admits(20)
    for number in range(10, 40):  # half of them end a window, and each window adds 0.8
        limiter.answered(number / 10, 0.05, 20)
    assert limiter.admits(20)
