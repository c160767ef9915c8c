"""Configuration from the environment; anything doubtful stops the process, naming key and value."""

from __future__ import annotations

import os
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
        ("FOVEATE_ADAPTER_SLO", "50"),
        ("FOVEATE_ADAPTER_SLO_MS", "-1"),
        ("FOVEATE_ADAPTER_OBJECTIVE", "1.0"),
        ("FOVEATE_ADAPTER_PORT", "http"),
        ("FOVEATE_ADAPTER_METRICS_URL", "localhost:8002"),
        ("FOVEATE_ADAPTER_HOST", "0.0.0.0"),
        ("FOVEATE_ADAPTER_TOKEN", ""),
    ],
)
def test_what_cannot_be_used_is_named(monkeypatch, key, value):
    monkeypatch.setenv(key, value)
    with pytest.raises(SettingsError, match=f"{key}='{value}'"):
        Settings.from_environment()


def test_the_run_dir_has_no_default(monkeypatch):
    monkeypatch.delenv("FOVEATE_RUN_DIR")
    with pytest.raises(SettingsError, match="FOVEATE_ADAPTER_RUN_DIR is not set"):
        Settings.from_environment()


def test_a_token_opens_other_interfaces_and_stays_secret(monkeypatch):
    monkeypatch.setenv("FOVEATE_ADAPTER_HOST", "0.0.0.0")
    monkeypatch.setenv("FOVEATE_ADAPTER_TOKEN", "hunter2")
    assert "hunter2" not in repr(Settings.from_environment())
