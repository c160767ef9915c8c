"""The HTTP API over a model stepped by hand."""

from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import datetime
from functools import partial

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from foveate.control.heartbeat import HEARTBEAT, Heartbeats
from foveate_adapter import app
from foveate_adapter.app import create_app
from foveate_adapter.model import open_models
from foveate_adapter.observe import parse
from foveate_adapter.own_metrics import Metrics

MODEL = "/v1/models/digits"
LocalClient = partial(TestClient, base_url="http://127.0.0.1:8080")
DEFAULT = {"latency_ms": 200, "objective": 0.99, "min_quality": 0, "goal": "latency"}


@pytest.fixture
def client(settings, model):
    return LocalClient(create_app(settings, [model], Metrics([model])))


@pytest.fixture
def controlled(model, metrics_text):
    """Two scrapes a twentieth of a second apart."""
    now = time.monotonic()
    before = metrics_text(success=100, met=100)
    after = metrics_text(
        success=110, met=105, met_cheap=4, missed=1, pending=3, level=2, ages=(9, 9, 10)
    )
    model.step(parse(before, "digits", now - 0.05), now - 0.05)
    model.step(parse(after, "digits", now), now)
    return model


def test_alive_but_not_ready_until_a_policy_is_published(client, model, metrics_text):
    assert client.get("/healthz").text == "ok"
    assert client.get("/readyz").status_code == 503
    assert "no policy" in client.get("/readyz").text
    now = time.monotonic()
    model.step(parse(metrics_text(), "digits", now), now)
    assert client.get("/readyz").status_code == 200


def test_not_ready_when_blind(client, model):
    model.step(None, time.monotonic())
    assert client.get("/readyz").status_code == 503
    assert "no signal" in client.get("/readyz").text


def test_a_model_shows_what_is_known_of_it(client, controlled):
    shown = client.get(MODEL).json()
    assert client.get("/v1/models").json()[0]["name"] == shown["name"] == "digits"
    assert shown["slo"] == DEFAULT
    assert [level["name"] for level in shown["levels"]] == ["dense", "prune-50", "vwt-80", "vwt-85"]
    assert shown["levels"][1]["quality"] == 0.972
    assert shown["pin"] is shown["problem"] is None
    seen = shown["observation"]
    assert seen["queue_depth"] == 3
    assert seen["answers"] == {"0": 6, "2": 4}
    assert seen["attainment"] == pytest.approx(0.9)
    assert seen["age_p99_ms"] == pytest.approx(200)
    assert seen["age_p50_ms"] == pytest.approx(100 * 5 / 9)
    assert seen["quality"] == pytest.approx(0.6 * 0.9745 + 0.4 * 0.9645)
    assert seen["tokens_per_image"] == pytest.approx(0.6 * 145 + 0.4 * 85)
    assert seen["power_w"] is None
    assert shown["decision"]["reason"] == "slo-missed"
    assert shown["policy"]["sequence"] == 2


def test_an_unknown_model_is_404_naming_those_known(client):
    reply = client.get("/v1/models/cats")
    assert reply.status_code == 404
    assert reply.json()["detail"] == "model='cats': expected one of digits"


def test_the_slo_changes_key_by_key(client, model):
    assert client.put(f"{MODEL}/slo", json={"latency_ms": 150}).status_code == 200
    reply = client.put(f"{MODEL}/slo", json={"min_quality": 0.96, "objective": 0.999})
    assert reply.json()["slo"] == DEFAULT | {
        "latency_ms": 150,
        "objective": 0.999,
        "min_quality": 0.96,
    }
    model.step(None, 1.0)
    assert (model.policy.slo_ns, model.policy.cheapest) == (150_000_000, 2)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"latency_ms": 0}, "latency_ms"),
        ({"latency_ms": "150"}, "latency_ms"),
        ({"objective": 1}, "objective"),
        ({"min_quality": 1.5}, "min_quality"),
        ({"latency": 150}, "latency"),
        ({"goal": "speed"}, "'latency', 'energy' or 'quality'"),
    ],
)
def test_a_bad_slo_is_422_and_names_the_key(client, model, body, named):
    reply = client.put(f"{MODEL}/slo", json=body)
    assert reply.status_code == 422
    assert named in reply.text
    assert model.slo.latency_s == 0.2


@pytest.mark.parametrize(
    ("body", "location", "message"),
    [
        ('{"latency_ms": 0}', ["body", "latency_ms"], "greater than 0"),
        ('{"latency_ms": 4e6}', ["body", "latency_ms"], "less than or equal to 3600000"),
        ('{"objective": 1}', ["body", "objective"], "less than 1"),
        ('{"latency_ms": NaN}', ["body", "latency_ms"], "finite number"),
        ('{"latency_ms": 1e999}', ["body", "latency_ms"], "finite number"),
        ('{"latency_ms": ', ["body", 15], "JSON decode error"),
    ],
)
def test_what_does_not_fit_is_told_with_field_and_range(client, body, location, message):
    reply = client.put(f"{MODEL}/slo", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    (problem,) = reply.json()["detail"]
    assert problem["loc"] == location
    assert message in problem["msg"]


def test_a_quality_no_level_has_is_a_conflict(client, model):
    reply = client.put(f"{MODEL}/slo", json={"min_quality": 0.99})
    assert reply.status_code == 409
    assert reply.json()["detail"] == "min_quality=0.99: level 0 of 'digits' has 0.9745"
    assert model.slo.min_quality == 0


def test_the_goal_is_part_of_the_slo(client):
    assert client.put(f"{MODEL}/slo", json={"goal": "energy"}).json()["slo"]["goal"] == "energy"
    assert client.get("/v1/slos").json() == {"digits": DEFAULT | {"goal": "energy"}}


def test_an_slo_that_cannot_be_stored_is_507_and_not_in_force(settings, table, tmp_path):
    table.save(settings.run_dir / "digits.latency.json")
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    (model,) = open_models(settings.model_copy(update={"state_dir": taken}), epoch=1)
    client = LocalClient(create_app(settings, [model], Metrics([model])))
    reply = client.put(f"{MODEL}/slo", json={"latency_ms": 99})
    assert reply.status_code == 507
    assert str(taken / "digits" / "slo.json") in reply.json()["detail"]
    assert client.get(MODEL).json()["slo"] == DEFAULT


@pytest.mark.parametrize("level", ["prune-50", 1, "1"])
def test_pin_by_name_or_index_and_unpin(client, model, level):
    pinned = client.put(f"{MODEL}/pin", json={"level": level}).json()["pin"]
    assert pinned == {"level": "prune-50", "expires_s": None}
    model.step(None, 1.0)
    assert (model.policy.dearest, model.policy.cheapest) == (1, 1)
    assert client.delete(f"{MODEL}/pin").json()["pin"] is None
    assert client.delete(f"{MODEL}/pin").status_code == 200


def test_a_pin_shows_how_long_it_lasts(client, model):
    pinned = client.put(f"{MODEL}/pin", json={"level": 2, "expires_s": 300}).json()["pin"]
    assert pinned["level"] == "vwt-80"
    assert 0 < pinned["expires_s"] <= 300
    assert 0 < client.get(MODEL).json()["pin"]["expires_s"] <= pinned["expires_s"]
    model.step(None, time.monotonic() + 301)
    assert client.get(MODEL).json()["pin"] is None


@pytest.mark.parametrize("expires_s", [0, -1, 1e9, "300"])
def test_a_pin_that_cannot_last_that_long_is_422(client, expires_s):
    reply = client.put(f"{MODEL}/pin", json={"level": 2, "expires_s": expires_s})
    assert reply.status_code == 422
    assert "expires_s" in reply.text


def test_pinning_an_unknown_level_is_404_naming_those_known(client):
    reply = client.put(f"{MODEL}/pin", json={"level": "dence"})
    assert reply.status_code == 404
    assert "dense, prune-50, vwt-80, vwt-85" in reply.json()["detail"]


def test_a_pin_under_the_quality_floor_is_a_conflict(client):
    client.put(f"{MODEL}/slo", json={"min_quality": 0.97})
    assert client.put(f"{MODEL}/pin", json={"level": "vwt-85"}).status_code == 409


def test_writes_need_the_token_when_there_is_one(settings, model):
    secured = settings.model_copy(update={"token": SecretStr("sesame")})
    client = LocalClient(create_app(secured, [model], Metrics([model])))
    for headers in ({}, {"Authorization": "Bearer öpen"}, {"Authorization": "Basic sesame"}):
        encoded = {key: value.encode() for key, value in headers.items()}
        for reply in (
            client.put(f"{MODEL}/slo", json={"latency_ms": 1}, headers=encoded),
            client.put(f"{MODEL}/pin", json={"level": 0}, headers=encoded),
            client.delete(f"{MODEL}/pin", headers=encoded),
        ):
            assert reply.status_code == 401
    assert (model.slo.latency_s, model.pin) == (0.2, None)
    allowed = {"Authorization": "Bearer sesame"}
    assert client.delete(f"{MODEL}/pin", headers=allowed).status_code == 200
    assert client.get(MODEL).status_code == 200, "reading is free"
    assert client.get("/metrics", headers={"Host": "foveate:8080"}).status_code == 200


def test_no_page_with_scripts_from_elsewhere_is_served(client):
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
    assert client.get("/openapi.json").is_success


def test_event_streams_are_counted(client, monkeypatch):
    monkeypatch.setattr(app, "MAX_STREAMS", 0)
    reply = client.get("/v1/events")
    assert (reply.status_code, reply.json()["detail"]) == (503, "0 event streams are already open")


def test_an_event_stream_that_ends_makes_room(settings, model, monkeypatch):
    monkeypatch.setattr(app, "MAX_STREAMS", 1)
    client = LocalClient(
        create_app(settings, [model], Metrics([model]), leaving=iter([False, True] * 3).__next__)
    )
    assert [client.get("/v1/events").status_code for _ in range(3)] == [200, 200, 200]


def test_a_stream_tells_every_decision_once(model, metrics_text, monkeypatch):
    """Also those made of news from before the stream last looked."""
    monkeypatch.setattr(app, "EVENT_PERIOD_S", 0)

    def step(text, at):
        model.step(text and parse(text, "digits", at), at)

    async def follow():
        told, start = [], time.monotonic()
        step(metrics_text(), start - 1)
        known = len(model.changes)
        news = [None, metrics_text(), None, metrics_text()]
        leaving = iter([False] * (len(news) + 2) + [True])
        async for event in app._events({"digits": model}, lambda: next(leaving)):
            if event.startswith("event: decision"):
                told.append(json.loads(event.partition("data: ")[2])["time"])
            elif news:
                step(news.pop(0), start - len(news) * 1e-3)
        return told, [item.time.isoformat() for item in model.changes][known:]

    told, made = asyncio.run(follow())
    assert [datetime.fromisoformat(text) for text in told] == [
        datetime.fromisoformat(text) for text in made
    ]
    assert len(made) > 1


def test_without_a_token_only_loopback_names_are_served(client, model):
    """A page of another site whose name was made to point at this machine says its own name."""
    for host in ("rebound.example", "rebound.example:8080", "10.0.0.7"):
        reply = client.put(f"{MODEL}/slo", json={"latency_ms": 1}, headers={"Host": host})
        assert reply.status_code == 403, host
        for path in ("/metrics", "/readyz", "/v1/models", f"{MODEL}/decisions", "/v1/events"):
            assert client.get(path, headers={"Host": host}).status_code == 403, (host, path)
    assert model.slo.latency_s == 0.2
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert client.delete(f"{MODEL}/pin", headers={"Host": host}).status_code == 200, host


def test_a_large_body_is_refused_before_it_is_held(client, model):
    large = iter([b'{"latency_ms": ', b" " * 2**16, b"1}"])
    for content in (b" " * 2**17, large):
        reply = client.put(
            f"{MODEL}/slo", content=content, headers={"Content-Type": "application/json"}
        )
        assert reply.status_code == 413
    assert model.slo.latency_s == 0.2


def test_a_silent_process_of_the_server_is_a_reason_not_to_be_ready(settings, model):
    """Also one without a ladder, which nobody controls."""
    model.step(None, time.monotonic())
    model.seen_at = math.inf
    text = f'# TYPE\n{HEARTBEAT}{{model="digits_decode",process="digits_decode_0_0"}} 1.5\n'

    def reply(last_moved_at):
        heartbeats = Heartbeats()
        heartbeats.see(text, last_moved_at)
        return LocalClient(create_app(settings, [model], Metrics([model]), heartbeats)).get(
            "/readyz"
        )

    assert reply(math.inf).is_success
    silent = reply(time.monotonic() - 2.5)
    assert silent.status_code == 503
    assert "no heartbeat of digits_decode_0_0 for " in silent.text


def test_the_document_asks_for_a_token_only_where_there_is_one(client):
    assert "security" not in client.get("/openapi.json").text


def test_a_wrong_method_is_told_the_right_ones(client):
    reply = client.post(f"{MODEL}/pin")
    assert (reply.status_code, reply.headers["Allow"]) == (405, "DELETE, PUT")


def test_decisions_come_newest_first(client, controlled):
    reasons = [item["reason"] for item in client.get(f"{MODEL}/decisions").json()]
    assert reasons == ["slo-missed", "hold"]
    assert len(client.get(f"{MODEL}/decisions?limit=1").json()) == 1


def test_decisions_since_the_last_one_seen(client, controlled):
    newest, oldest = client.get(f"{MODEL}/decisions").json()

    def since(item):
        return client.get(f"{MODEL}/decisions", params={"since": item["time"]}).json()

    assert since(oldest) == [newest]
    assert since(newest) == []
    reply = client.get(f"{MODEL}/decisions?since=yesterday")
    assert (reply.status_code, reply.json()["detail"][0]["loc"]) == (422, ["query", "since"])


def test_a_read_only_adapter_says_so_and_takes_no_wishes(client, settings, model):
    model.step(None, time.monotonic())
    (second,) = open_models(settings, epoch=8)
    second.step(None, time.monotonic())
    reader = LocalClient(create_app(settings, [second], Metrics([second])))
    shown = reader.get(MODEL).json()
    assert shown["read_only"] is True
    assert "epoch 7" in shown["problem"]
    assert shown["policy"] == client.get(MODEL).json()["policy"]
    for reply in (
        reader.put(f"{MODEL}/slo", json={"latency_ms": 99}),
        reader.put(f"{MODEL}/pin", json={"level": 0}),
        reader.delete(f"{MODEL}/pin"),
    ):
        assert reply.status_code == 409
        assert "epoch 7" in reply.json()["detail"]
    assert 'foveate_adapter_read_only{model="digits"} 1.0' in reader.get("/metrics").text
    assert 'foveate_adapter_read_only{model="digits"} 0.0' in client.get("/metrics").text
    assert client.put(f"{MODEL}/slo", json={"latency_ms": 99}).status_code == 200


def test_metrics_are_readable_by_prometheus(client, controlled):
    families = text_string_to_metric_families(client.get("/metrics").text)
    values = {
        (series.name, series.labels.get("reason")): series.value
        for family in families
        for series in family.samples
    }
    assert values["foveate_adapter_slo_seconds", None] == 0.2
    assert values["foveate_adapter_margin_ratio", None] == 0.25
    assert values["foveate_adapter_attainment_ratio", None] == pytest.approx(0.9)
    assert values["foveate_adapter_degraded_ratio", None] == pytest.approx(0.4)
    assert values["foveate_adapter_cheapest_level", None] == 3
    assert values["foveate_adapter_decisions_total", "slo-missed"] == 1
    assert values["foveate_adapter_objective_ratio", None] == 0.99
    assert values["foveate_adapter_in_control", None] == 1
    assert values["foveate_adapter_slo_info", None] == 1
    assert values["foveate_build_info", None] == 1


def test_demand_is_load_in_shares_of_what_level_0_carries(client, controlled):
    samples = {
        series.name: series.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for series in family.samples
    }
    # 8 images in 48.2 ms, and no gap between two batches.
    carried = 8 / 0.0482
    demand = samples["foveate_adapter_load_per_second"] / carried
    assert samples["foveate_adapter_demand_ratio"] == pytest.approx(demand)
    assert demand > 1


def test_who_asks_for_openmetrics_gets_it(client, controlled):
    reply = client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics(reply.text)}
    assert families["foveate_build"].type == "info"
    assert families["foveate_adapter_decisions"].type == "counter"
    qualities = families["foveate_adapter_level_quality_ratio"].samples
    assert [series.value for series in qualities] == list(controlled.ladder.qualities)
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")
