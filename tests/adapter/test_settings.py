"""Configuration from the environment; anything doubtful stops the process, naming key and value."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from foveate_adapter.errors import SettingsError
from foveate_adapter.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for key in [key for key in os.environ if key.startswith("FOVEATE_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("FOVEATE_RUN_DIR", "/run/foveate")


def test_defaults():
    settings = Settings.from_environment()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.metrics_url == "http://127.0.0.1:8002/metrics"
    assert settings.run_dir == Path("/run/foveate")
    assert settings.models == ()


def test_every_setting_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    documented = re.findall(r"^\| `FOVEATE_ADAPTER_([A-Z_]+)` \|", text, re.M)
    assert documented == [field.upper() for field in Settings.model_fields]


def test_values_come_from_prefixed_variables(monkeypatch):
    monkeypatch.setenv("FOVEATE_ADAPTER_MODELS", "digits, faces")
    monkeypatch.setenv("FOVEATE_ADAPTER_SLO_MS", "50")
    monkeypatch.setenv("FOVEATE_ADAPTER_RUN_DIR", "/elsewhere")
    settings = Settings.from_environment()
    assert settings.models == ("digits", "faces")
    assert settings.slo_ms == 50
    assert settings.run_dir == Path("/elsewhere")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("FOVEATE_ADAPTER_SLO_MS", "-1"),
        ("FOVEATE_ADAPTER_OBJECTIVE", "1.0"),
        ("FOVEATE_ADAPTER_PORT", "http"),
        ("FOVEATE_ADAPTER_METRICS_URL", "localhost:8002"),
        ("FOVEATE_ADAPTER_HOST", "0.0.0.0"),
        ("FOVEATE_ADAPTER_TOKEN", ""),
        ("FOVEATE_ADAPTER_SOURCE", "prometheus"),
        ("FOVEATE_ADAPTER_SOURCE", "graphite"),
        ("FOVEATE_ADAPTER_PROMETHEUS_URL", "localhost:9090"),
        ("FOVEATE_ADAPTER_SLO_URL", "slos.json"),
        ("FOVEATE_ADAPTER_PUBLISH", "elsewhere"),
        ("FOVEATE_ADAPTER_PUBLISH", "http://elsewhere:8000"),
        ("FOVEATE_ADAPTER_SLO_GIVEN_AT", "now"),
    ],
)
def test_what_cannot_be_used_is_named(monkeypatch, key, value):
    monkeypatch.setenv(key, value)
    with pytest.raises(SettingsError, match=f"{key}='{value}'"):
        Settings.from_environment()


def test_an_unknown_key_is_named_without_its_value(monkeypatch):
    monkeypatch.setenv("FOVEATE_ADAPTER_BEARER_TOKEN", "sesame")
    with pytest.raises(SettingsError, match=r"^FOVEATE_ADAPTER_BEARER_TOKEN: unknown") as told:
        Settings.from_environment()
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize("url", ["ftp://ann:sesame@host/x", "ann:sesame@host", "http:ann:sesame@x"])
def test_a_url_is_named_without_its_user(monkeypatch, url):
    monkeypatch.setenv("FOVEATE_ADAPTER_METRICS_URL", url)
    with pytest.raises(SettingsError, match="FOVEATE_ADAPTER_METRICS_URL='") as told:
        Settings.from_environment()
    assert "sesame" not in str(told.value)


def test_the_run_dir_has_no_default(monkeypatch):
    monkeypatch.delenv("FOVEATE_RUN_DIR")
    with pytest.raises(SettingsError, match="FOVEATE_ADAPTER_RUN_DIR is not set"):
        Settings.from_environment()


def test_a_prometheus_server_is_asked_less_often_and_may_be_silent_longer(monkeypatch):
    direct = Settings.from_environment()
    assert (direct.beat_hz, direct.blind_after_s) == (20, 2)
    monkeypatch.setenv("FOVEATE_ADAPTER_SOURCE", "prometheus")
    monkeypatch.setenv("FOVEATE_ADAPTER_PROMETHEUS_URL", "http://prometheus:9090")
    monkeypatch.setenv("FOVEATE_ADAPTER_PROMETHEUS_SCRAPE_S", "5")
    settings = Settings.from_environment()
    assert (settings.beat_hz, settings.blind_after_s) == (1, 15)
    assert settings.model_copy(update={"scrape_hz": 2.0}).beat_hz == 2
    assert settings.model_copy(update={"lease_ms": 500}).beat_hz == 4, "a lease lasts two beats"


def test_a_token_opens_other_interfaces_and_stays_secret(monkeypatch):
    monkeypatch.setenv("FOVEATE_ADAPTER_HOST", "0.0.0.0")
    monkeypatch.setenv("FOVEATE_ADAPTER_TOKEN", "hunter2")
    assert "hunter2" not in repr(Settings.from_environment())
