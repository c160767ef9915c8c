"""The beat when its source does not let go of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping

import pytest

from foveate_adapter.loop import run
from foveate_adapter.observe import Sample, parse
from foveate_adapter.own_metrics import Metrics

DEADLINE_S = 15


class Hanging:
    """Tells of a calm server, until it hangs as a name server may: no time-out ends it."""

    url = "http://triton.example/metrics"

    def __init__(self, text: str) -> None:
        self.free = threading.Event()
        self.free.set()
        self._text = text

    def read(self) -> Mapping[str, Sample]:
        at = time.monotonic()
        self.free.wait()
        return {"digits": parse(self._text, "digits", at)}


class Broken(Hanging):
    def read(self) -> Mapping[str, Sample]:
        raise RuntimeError("a mistake of ours")


async def eventually(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_source_that_hangs_leaves_lease_and_caution_to_the_watch(model, metrics_text, caplog):
    async def main() -> None:
        source = Hanging(metrics_text(pending=5))
        beat = asyncio.create_task(run([model], Metrics([model]), source, 20.0))
        await eventually(lambda: model.policy is not None and model.policy.queue_depth == 5)
        source.free.clear()
        await eventually(lambda: model.policy.queue_depth == -1)
        await eventually(lambda: model.decision.reason == "no-signal")
        assert model.policy.live(time.monotonic_ns())
        source.free.set()
        await eventually(lambda: model.policy.queue_depth == 5)
        beat.cancel()
        await asyncio.wait([beat])

    asyncio.run(main())
    assert [record.message for record in caplog.records] == [
        "http://triton.example/metrics: no answer in 0.5 s",
        "http://triton.example/metrics answers again",
    ]


def test_a_mistake_ends_the_process_rather_than_the_control(model):
    async def main() -> None:
        await run([model], Metrics([model]), Broken(""), 20.0)

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        asyncio.run(main())
