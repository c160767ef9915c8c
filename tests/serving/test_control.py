"""The loop closed on the real server: load moves the level, the adapter moves the aim."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import tritonclient.grpc

from foveate.control.policy import PolicyReader, policy_path
from foveate.images import cluttered_digits as images
from foveate.levels.ladder import Ladder

PIXELS, _ = images.test_set(16)


@pytest.fixture
def ladder(guarded: Any) -> Ladder:
    return Ladder.load(guarded.repository / "digits" / "1" / "ladder.json")


@pytest.fixture
def api(guarded: Any) -> Iterator[httpx.Client]:
    token = {"Authorization": "Bearer sesame"}
    with httpx.Client(base_url=f"http://{guarded.adapter}/v1/models", headers=token) as client:
        yield client
        client.delete("/digits/pin")
        client.put("/digits/slo", json={"latency_ms": 200, "objective": 0.99, "min_quality": 0})


def saturate(
    address: str,
    requests: int,
    at: dict[int, Callable[[], object]] | None = None,
    **wishes: float,
) -> list[int]:
    """Levels of the answers to ``requests`` requests, 48 in flight; any error fails the test.

    ``at`` calls something just before the request of that number.
    """
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    levels = []

    def collect() -> None:
        result, error = done.get(timeout=60)
        assert error is None, error
        levels.append(int(result.as_numpy("LEVEL")[0, 0]))

    with tritonclient.grpc.InferenceServerClient(address) as client:
        for number in range(requests):
            if at and number in at:
                at[number]()
            if number >= 48:
                collect()
            tensor = tritonclient.grpc.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
            tensor.set_data_from_numpy(PIXELS[number % 16][None])
            client.async_infer(
                "digits",
                [tensor],
                callback=lambda result, error: done.put((result, error)),
                parameters=wishes or None,
            )
        for _ in range(min(48, requests)):
            collect()
    return levels


def in_effect(api: httpx.Client) -> tuple[int, int]:
    """The range of levels in the policy word."""
    policy = api.get("/digits").json()["policy"]
    return policy["dearest"], policy["cheapest"]


def eventually(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.ConnectError):  # an adapter that is being restarted
            if condition():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_load_brings_cheaper_levels_and_calm_the_dense_model(guarded: Any) -> None:
    levels = saturate(guarded.grpc, 600)
    assert max(levels[100:]) > 0
    eventually(lambda: saturate(guarded.grpc, 1) == [0], "level 0 after the load")


def test_a_pin_holds_every_answer_at_its_level(
    guarded: Any, api: httpx.Client, ladder: Ladder
) -> None:
    for index, level in enumerate(ladder.levels):
        assert api.put("/digits/pin", json={"level": level.name}).status_code == 200
        eventually(lambda index=index: in_effect(api) == (index, index), "pinned")
        assert set(saturate(guarded.grpc, 60)) == {index}
    assert api.delete("/digits/pin").status_code == 200
    eventually(lambda: saturate(guarded.grpc, 1) == [0], "unpinned")


def test_a_quality_wish_is_never_served_below(
    guarded: Any, api: httpx.Client, ladder: Ladder
) -> None:
    cheapest = len(ladder.levels) - 1
    assert api.put("/digits/pin", json={"level": cheapest}).status_code == 200
    eventually(lambda: in_effect(api) == (cheapest, cheapest), "pinned")
    for index in range(len(ladder.levels)):
        wish = ladder.quality(index)
        time.sleep(0.5)  # credit for a dear wish
        assert saturate(guarded.grpc, 1, quality=wish) == [ladder.cheapest_at_least(wish)]


def test_no_answer_is_below_the_quality_floor(
    guarded: Any, api: httpx.Client, ladder: Ladder
) -> None:
    floor = ladder.quality(1)
    answer = api.put("/digits/slo", json={"latency_ms": 5, "objective": 0.99, "min_quality": floor})
    assert answer.status_code == 200
    word = PolicyReader(policy_path(guarded.run_dir, "digits"))

    def published() -> bool:
        policy = word.read()
        return policy is not None and (policy.slo_ns, policy.quality_floor_level) == (5_000_000, 1)

    eventually(published, "the new SLO is in effect")
    # 5 ms cannot be held, so the governor goes as low as it may: to the floor.
    levels = Counter(saturate(guarded.grpc, 400))
    assert min(ladder.quality(level) for level in levels) >= floor
    assert 1 in levels


def test_killing_the_adapter_under_load_costs_no_request(guarded: Any, ladder: Ladder) -> None:
    (adapter,) = guarded.children("foveate_adapter")
    levels = saturate(guarded.grpc, 900, {300: lambda: os.kill(adapter, signal.SIGKILL)})
    assert len(levels) == 900
    eventually(
        lambda: [pid for pid in guarded.children("foveate_adapter") if pid != adapter] != [],
        "a new adapter",
    )


def test_what_the_adapter_reports_is_what_was_served(guarded: Any, api: httpx.Client) -> None:
    eventually(lambda: httpx.get(f"http://{guarded.adapter}/readyz").is_success, "ready")
    text = httpx.get(f"http://{guarded.metrics}/metrics").text

    def answers() -> float:
        text = httpx.get(f"http://{guarded.metrics}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("foveate_answers_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    time.sleep(0.5)  # one publication
    before = answers()
    saturate(guarded.grpc, 200)
    # An idle server is probed now and then, hence at least.
    eventually(lambda: answers() >= before + 200, "all answers are counted")
    assert "foveate_batch_seconds_total" in text
    view = api.get("/digits").json()
    assert view["slo"]["latency_ms"] == 200
    assert view["levels"][0]["name"] == "dense"
