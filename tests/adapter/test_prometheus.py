"""A real Prometheus server that scrapes the real tritonserver, as the source of an adapter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.http

from foveate.control.policy import PolicyReader, policy_path
from foveate.images import cluttered_digits as images
from foveate_adapter.errors import ScrapeError
from foveate_adapter.observe import Sample, observe, parse
from foveate_adapter.sources import PrometheusSource

SCRAPE_S = 0.5
DEADLINE_S = 30
PIXELS, _ = images.test_set(1)


@dataclass
class Prometheus:
    process: subprocess.Popen[bytes]
    url: str
    instance: str  # label of the one target that is a Triton server


@pytest.fixture(scope="module")
def prometheus(
    server: Any, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Scrapes the server twice over, as the targets of two jobs."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder, address = tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{free_port()}"
    jobs = "".join(
        f"  - {{job_name: {job}, static_configs: [{{targets: ['{server.metrics}']}}]}}\n"
        for job in ("triton", "copy")
    )
    config = folder / "prometheus.yml"
    config.write_text(f"global: {{scrape_interval: 500ms}}\nscrape_configs:\n{jobs}")
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *options, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    eventually(lambda: _ready(f"http://{address}/-/ready"))
    yield Prometheus(process, f"http://{address}", server.metrics)
    process.kill()
    process.wait()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found
    return found


def news(source: PrometheusSource) -> Sample:
    """The next sample of ``digits``."""
    return eventually(lambda: source.read().get("digits"))


def classify(server: Any, times: int) -> None:
    with tritonclient.http.InferenceServerClient(server.http) as triton:
        pixels = tritonclient.http.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
        pixels.set_data_from_numpy(PIXELS)
        for _ in range(times):
            triton.infer("digits", [pixels])


def test_it_tells_what_a_direct_scrape_tells(server, prometheus, client):
    source = PrometheusSource(prometheus.url, ["digits"], 'job="triton"', SCRAPE_S)
    before = news(source)
    classify(server, 20)

    def told(sample: Sample) -> object:
        """All but what counts by itself."""
        counters = {k: n for k, n in sample.counters.items() if "heartbeats" not in k[0]}
        return counters, sample.gauges

    def direct() -> object:
        text = client.get(f"http://{server.metrics}/metrics").text
        return told(parse(text, "digits", time.monotonic()))

    def same() -> Sample | None:
        """A sample of a moment in which nothing happened, after all was published."""
        earlier, sample, later = direct(), news(source), direct()
        quiet = earlier == told(sample) == later
        return sample if quiet and sum(observe(before, sample).answers.values()) >= 20 else None

    after = eventually(same)
    assert 0 <= time.monotonic() - after.at < DEADLINE_S
    seen = observe(before, after)
    assert seen.interval_s == pytest.approx(
        SCRAPE_S * round(seen.interval_s / SCRAPE_S), abs=SCRAPE_S / 10
    ), "by the times of the scrapes, not of the queries"
    assert seen.served >= 20
    assert seen.queue_depth == 0


def test_a_scrape_is_told_once(prometheus, client):
    source = PrometheusSource(prometheus.url, ["digits"], 'job="triton"', SCRAPE_S)
    first, second = news(source), news(source)
    assert second.at > first.at


def test_a_selector_that_fits_several_servers_is_refused_naming_them(prometheus, client):
    source = PrometheusSource(prometheus.url, ["digits"], "", SCRAPE_S)
    news(PrometheusSource(prometheus.url, ["digits"], 'job="copy"', SCRAPE_S))
    news(PrometheusSource(prometheus.url, ["digits"], 'job="triton"', SCRAPE_S))
    with pytest.raises(ScrapeError, match=r'matches 2 servers: job="copy",.*; job="triton",'):
        source.read()


def test_a_selector_that_is_none_is_told_as_prometheus_tells_it(prometheus, client):
    source = PrometheusSource(prometheus.url, ["digits"], "job=triton", SCRAPE_S)
    news(PrometheusSource(prometheus.url, ["digits"], 'job="copy"', SCRAPE_S))
    with pytest.raises(ScrapeError, match=r"400 .*parse error"):
        source.read()


def test_an_adapter_controls_by_it(server, prometheus, free_port, tmp_path):
    """Another adapter than the server's, with a policy word of its own."""
    run_dir, port = tmp_path / "run", free_port()
    run_dir.mkdir()
    shutil.copy(server.run_dir / "digits.latency.json", run_dir)
    settings = {
        "PORT": str(port),
        "SOURCE": "prometheus",
        "PROMETHEUS_URL": prometheus.url,
        "PROMETHEUS_SELECTOR": f'job="triton",instance="{prometheus.instance}"',
        "PROMETHEUS_SCRAPE_S": str(SCRAPE_S),
        "REPOSITORY": str(server.repository),
        "RUN_DIR": str(run_dir),
    }
    ours = {key: value for key, value in os.environ.items() if not key.startswith("FOVEATE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "foveate_adapter"],
        env=ours | {f"FOVEATE_ADAPTER_{key}": value for key, value in settings.items()},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _ready(f"{url}/readyz"))
        eventually(lambda: _view(url)["observation"]["load_per_s"] is not None)
        classify(server, 20)
        seen = eventually(lambda: _answered(_view(url)["observation"]))
        assert seen["load_per_s"] > 0
        assert seen["attainment"] == 1
        reader = PolicyReader(policy_path(Path(run_dir), "digits"))
        assert reader.read().live(time.monotonic_ns()), "the lease outlives the pause"

        prometheus.process.kill()
        eventually(lambda: not _ready(f"{url}/readyz"))
        eventually(lambda: _view(url)["decision"]["reason"] == "no-signal")
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def _view(url: str) -> Any:
    return httpx.get(f"{url}/v1/models/digits").json()


def _answered(observation: Any) -> Any:
    return observation if sum(observation["answers"].values()) >= 20 else None
