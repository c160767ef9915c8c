"""What is known of the arrivals, and the room they leave."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foveate_adapter.traffic import Traffic, room_s
from foveate_loadtest.arrivals import gamma

SERVICE_S = 0.0025  # 400 requests per second


def watch(times: np.ndarray, seconds: float) -> Traffic:
    """Arrivals as twenty scrapes a second count them."""
    counts, _ = np.histogram(times, np.arange(0, seconds + 1e-9, 0.05))
    traffic = Traffic()
    for count in counts:
        traffic = traffic.seen(float(count), 0.05)
    return traffic


@pytest.mark.parametrize("cv2", [1.0, 4.0, 8.0])
def test_dispersion_of_renewals_is_the_square_of_their_variation(cv2):
    found = [watch(gamma(280, 60, cv2, seed), 60) for seed in range(8)]
    assert np.mean([traffic.dispersion for traffic in found]) == pytest.approx(cv2, rel=0.2)
    assert np.mean([traffic.load for traffic in found]) == pytest.approx(280, rel=0.05)


def test_a_trend_is_no_burst():
    traffic = Traffic()
    for step in range(400):
        traffic = traffic.seen(step / 20, 0.05)
    assert traffic.dispersion < 1


def test_a_burst_is_assumed_until_shown_otherwise():
    assert Traffic().seen(10, 0.2).seen(10, 0.2).dispersion > 3


def test_the_room_is_what_misses_no_more_than_it_may():
    traffic = Traffic(load=280, dispersion=8.0)
    theta = 2 * (1 - 280 * SERVICE_S) / (8.0 * SERVICE_S)
    room = room_s(traffic, SERVICE_S, 0.2, 0.01)
    assert math.exp(-theta * (0.2 - room)) == pytest.approx(0.01)


def test_load_and_bursts_leave_less_room():
    def room(load: float, dispersion: float) -> float:
        return room_s(Traffic(load=load, dispersion=dispersion), SERVICE_S, 0.2, 0.001)

    assert room(40, 1) > room(280, 1) > room(340, 1) > room(360, 1) > room(398, 1) == 0
    assert room(280, 1) > room(280, 4) > room(280, 8) == 0
    assert room(400, 1) == 0


def test_windows_of_unequal_length_show_no_burst():
    """A minute without news, then scrapes again: Poisson all the while."""
    rng = np.random.default_rng(0)
    traffic = watch(gamma(280, 30, 1.0, 0), 30)
    for _ in range(20):
        traffic = traffic.seen(float(rng.poisson(2800)), 10.0)
        traffic = traffic.seen(float(rng.poisson(56)), 0.2)
    assert traffic.dispersion < 2
