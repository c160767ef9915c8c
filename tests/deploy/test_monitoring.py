"""A real Prometheus with our rules, on a real server and adapter under load."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
import yaml
from tritonclient.utils import InferenceServerException

DEADLINE_S = 60
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
HURRY = 60  # how much faster the scaled-down rules are
NAMES = re.compile(r"(?:foveate_|model:|model_level:)[\w:]+|up\{[^}]*\}")


def hurried(text: str) -> str:
    """Rules whose windows and delays are ``HURRY`` times shorter, under names of their own."""

    def shorter(match: re.Match[str]) -> str:
        return f"{match[1]}{max(1, int(match[2]) * SECONDS[match[3]] // HURRY)}s"

    text = re.sub(r"(\[|for: )(\d+)([smhd])", shorter, text)
    text = re.sub(r"\bmodel(_level)?:", r"hurried\1:", text)
    return text.replace("alert: Foveate", "alert: Hurried").replace("name: ", "name: hurried-")


@pytest.fixture(scope="module")
def load(server: Any) -> Iterator[None]:
    """Pixels, one after another; being refused is part of it."""
    ending = threading.Event()

    def send() -> None:
        pixels = tritonclient.http.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
        pixels.set_data_from_numpy(np.zeros((1, 96, 96, 3), np.uint8))
        with tritonclient.http.InferenceServerClient(server.http) as client:
            while not ending.is_set():
                with contextlib.suppress(InferenceServerException):
                    client.infer("digits", [pixels])
                time.sleep(0.01)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    ending.set()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(
    server: Any,
    load: None,
    root: Path,
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """The API of a Prometheus that evaluates our rules twice: as they are, and hurried."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    folder, address = tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{free_port()}"
    rules = [root / "deploy/prometheus/rules.yaml", root / "deploy/prometheus/alerts.yaml"]
    for path in rules:
        (folder / path.name).write_text(hurried(path.read_text()))
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [*map(str, rules), str(folder / "*.yaml")],
        "scrape_configs": [
            {"job_name": "foveate-triton", "static_configs": [{"targets": [server.metrics]}]},
            {"job_name": "foveate-adapter", "static_configs": [{"targets": [server.adapter]}]},
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'db'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *options, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    with httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False) as api:
        yield api
    process.kill()
    process.wait()


def values(api: httpx.Client, expression: str) -> list[float]:
    """Finite values of an expression now; none while Prometheus starts."""
    with contextlib.suppress(httpx.TransportError):
        answer = api.get("/query", params={"query": expression})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return []
        reply = answer.json()
        assert reply["status"] == "success", (expression, reply)
        found = [float(series["value"][1]) for series in reply["data"]["result"]]
        return [value for value in found if math.isfinite(value)]
    return []


def expressions(root: Path) -> Iterator[str]:
    """All that must have values on a server without a GPU while all is well."""
    for name in ("rules", "alerts"):
        text = (root / f"deploy/prometheus/{name}.yaml").read_text()
        for group in yaml.safe_load(text)["groups"]:
            for rule in group["rules"]:
                # An alert's expression is empty while all is well: look at what it is made of.
                yield from [rule["expr"]] if "record" in rule else NAMES.findall(rule["expr"])
    for path in (root / "deploy/grafana/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                if not target["expr"].startswith("nv_gpu_"):
                    yield (
                        target["expr"]
                        .replace("$namespace", ".*")
                        .replace("$model", "digits")
                        .replace("$__rate_interval", "1m")
                    )


def firing(api: httpx.Client) -> set[str]:
    alerts = api.get("/alerts").json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def test_every_expression_of_rules_and_dashboards_has_values(
    prometheus: httpx.Client, root: Path
) -> None:
    empty = set(expressions(root))
    assert len(empty) > 60
    deadline = time.monotonic() + DEADLINE_S
    while empty and time.monotonic() < deadline:
        empty = {expression for expression in empty if not values(prometheus, expression)}
        time.sleep(0.2)
    assert not empty, sorted(empty)


def test_a_burn_rate_alert_fires_when_the_slo_is_missed_and_not_before(
    server: Any, prometheus: httpx.Client
) -> None:
    miss = "hurried:foveate_miss:ratio_rate1h"
    deadline = time.monotonic() + DEADLINE_S
    while not values(prometheus, miss) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert values(prometheus, miss) == [pytest.approx(0, abs=0.05)]
    assert not firing(prometheus)
    slo = f"http://{server.adapter}/v1/models/digits/slo"
    before = httpx.get(f"http://{server.adapter}/v1/models/digits").json()["slo"]
    httpx.put(slo, json={"latency_ms": 0.5}).raise_for_status()  # nothing is that quick
    try:
        while "HurriedErrorBudgetBurnFast" not in firing(prometheus):
            assert time.monotonic() < deadline, values(prometheus, miss)
            time.sleep(0.2)
    finally:
        httpx.put(slo, json=before).raise_for_status()
