"""The console in headless Chromium: first paint, update rate, and memory over an hour under load.

    python -m foveate_benchmarks.serving.console [--minutes 60] [--repository model_repository]

First paint is the browser's own figure, for a browser that has never seen the page. An update is a
state drawn in every chart. Memory is the JavaScript heap after a collection, and the number of
nodes of the document, once a minute; the history is full after five minutes, so growth is the least
heap of the last quarter over that of the first quarter after six minutes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import tritonclient.grpc as triton
import typer
from playwright.sync_api import Browser, Page, sync_playwright
from tritonclient.utils import InferenceServerException

from foveate.images.cluttered_digits import test_set
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.requests import pixels
from foveate_loadtest.temporary_server import running

PAINTS = 9
RATE_S = 60
FULL_AFTER_MIN = 6
LOAD_PERIOD_S = 0.05
LIVE = "#connection[data-state=live]"
# Counts how often each canvas was cleared, which a chart does before it draws.
COUNT_DRAWINGS = """
window.drawings = new Map();
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...area) {
  window.drawings.set(this.canvas, (window.drawings.get(this.canvas) ?? 0) + 1);
  return clear.apply(this, area);
};
"""


@contextlib.contextmanager
def load(address: str) -> Iterator[None]:
    """One request after another, 20 a second at most."""
    tensors = [pixels(image) for image in test_set(16)[0]]
    ended = threading.Event()
    client = triton.InferenceServerClient(address)

    def run() -> None:
        for tensor in itertools.cycle(tensors):
            if ended.wait(LOAD_PERIOD_S):
                return
            with contextlib.suppress(InferenceServerException):  # under pressure some are refused
                client.infer("digits", [tensor])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        client.close()


def first_paint_ms(browser: Browser, url: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.locator(LIVE).wait_for()
    read = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    paint = float(page.evaluate(read))
    context.close()
    return paint


def updates_hz(page: Page, seconds: float) -> float:
    """Of the chart that was drawn least often."""
    page.evaluate("window.drawings.clear()")
    start = time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    drawn = page.evaluate("Math.min(...window.drawings.values())")
    return float(drawn) / (time.monotonic() - start)


def memory(page: Page, minutes: int) -> list[dict[str, float]]:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    session.send("Performance.enable")
    readings = []
    for minute in range(minutes + 1):
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        readings.append({"minute": minute, "heap_mb": heap / 2**20, "nodes": metrics["Nodes"]})
        print(json.dumps(readings[-1]), flush=True)
        if minute < minutes:
            page.wait_for_timeout(60_000)
    return readings


def growth(readings: list[dict[str, float]]) -> float | None:
    """None if it ran too short for the history to be full for a while."""
    heaps = [reading["heap_mb"] for reading in readings if reading["minute"] >= FULL_AFTER_MIN]
    if len(heaps) < 4:
        return None
    quarter = len(heaps) // 4
    return min(heaps[-quarter:]) / min(heaps[:quarter]) - 1


def main(
    minutes: Annotated[int, typer.Option(min=0)] = 60,
    repository: Path = Path("model_repository"),
) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("neither chromium nor google-chrome is installed")
    with running(repository) as server, sync_playwright() as playwright, load(server.grpc):
        assert server.adapter is not None
        browser = playwright.chromium.launch(executable_path=path)
        paints = [first_paint_ms(browser, server.adapter) for _ in range(PAINTS)]
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.add_init_script(COUNT_DRAWINGS)
        page.goto(server.adapter)
        page.locator(LIVE).wait_for()
        rate = updates_hz(page, RATE_S)
        readings = memory(page, minutes)
        version = browser.version
        browser.close()
    grown = growth(readings)
    result = {
        "chromium": version,
        "first_paint_ms": {"median": median(paints), "most": max(paints), "of": PAINTS},
        "updates_hz": rate,
        "minutes": minutes,
        "heap_growth": grown,
        "complaints": len(complaints),
    }
    checks = {
        "first paint within 1 s": max(paints) < 1000,
        "4 updates a second": rate >= 4,
        "nothing on the browser's console": not complaints,
    }
    if grown is not None:
        checks["heap grows by less than 2 %"] = grown < 0.02
    print(json.dumps(result))
    conclude("console", checks, **result, memory=readings)


if __name__ == "__main__":
    typer.run(main)
