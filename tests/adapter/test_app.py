"""The HTTP API over a model stepped by hand."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from foveate_adapter.app import create_app
from foveate_adapter.metrics import Metrics
from foveate_adapter.observe import parse

MODEL = "/v1/models/digits"


@pytest.fixture
def client(settings, model):
    return TestClient(create_app(settings, [model], Metrics([model])))


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
    assert shown["slo"] == {"latency_ms": 200, "objective": 0.99, "min_quality": 0}
    assert [level["name"] for level in shown["levels"]] == ["dense", "prune-50", "vwt-80", "vwt-85"]
    assert shown["levels"][1]["quality"] == 0.972
    assert shown["pin"] is shown["problem"] is None
    seen = shown["observation"]
    assert seen["queue_depth"] == 3
    assert seen["answers"] == {"0": 6, "2": 4}
    assert seen["attainment"] == pytest.approx(0.9)
    assert seen["age_p99_ms"] == pytest.approx(200)
    assert shown["decision"]["reason"] == "slo-missed"
    assert shown["policy"]["sequence"] == 2


def test_an_unknown_model_is_404_naming_those_known(client):
    reply = client.get("/v1/models/cats")
    assert reply.status_code == 404
    assert reply.json()["detail"] == "model='cats': known are digits"


def test_the_slo_changes_key_by_key(client, model):
    assert client.put(f"{MODEL}/slo", json={"latency_ms": 150}).status_code == 200
    reply = client.put(f"{MODEL}/slo", json={"min_quality": 0.96, "objective": 0.999})
    assert reply.json()["slo"] == {"latency_ms": 150, "objective": 0.999, "min_quality": 0.96}
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
        ({"min_quality": 0.99}, "level 0 of 'digits' has 0.9745"),
    ],
)
def test_a_bad_slo_is_422_and_names_the_key(client, model, body, named):
    reply = client.put(f"{MODEL}/slo", json=body)
    assert reply.status_code == 422
    assert named in reply.text
    assert model.slo.latency_s == 0.2


@pytest.mark.parametrize("level", ["prune-50", 1, "1"])
def test_pin_by_name_or_index_and_unpin(client, model, level):
    assert client.put(f"{MODEL}/pin", json={"level": level}).json()["pin"] == "prune-50"
    model.step(None, 1.0)
    assert (model.policy.dearest, model.policy.cheapest) == (1, 1)
    assert client.delete(f"{MODEL}/pin").json()["pin"] is None
    assert client.delete(f"{MODEL}/pin").status_code == 200


def test_pinning_an_unknown_level_is_422_naming_those_known(client):
    reply = client.put(f"{MODEL}/pin", json={"level": "dence"})
    assert reply.status_code == 422
    assert "dense, prune-50, vwt-80, vwt-85" in reply.json()["detail"]


def test_a_pin_under_the_quality_floor_is_a_conflict(client):
    client.put(f"{MODEL}/slo", json={"min_quality": 0.97})
    assert client.put(f"{MODEL}/pin", json={"level": "vwt-85"}).status_code == 409


def test_writes_need_the_token_when_there_is_one(settings, model):
    secured = settings.model_copy(update={"token": SecretStr("sesame")})
    client = TestClient(create_app(secured, [model], Metrics([model])))
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


def test_decisions_come_newest_first(client, controlled):
    reasons = [item["reason"] for item in client.get(f"{MODEL}/decisions").json()]
    assert reasons == ["slo-missed", "hold"]
    assert len(client.get(f"{MODEL}/decisions?limit=1").json()) == 1


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
