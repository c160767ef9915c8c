"""What is shown of a URL that has a user in it: at /readyz, at /v1/models and in the log."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from foveate.errors import PolicyError
from foveate_adapter.address import shown
from foveate_adapter.errors import ScrapeError
from foveate_adapter.remote import RemoteWriter
from foveate_adapter.sources import PrometheusSource, TritonSource


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://ann:sesame@host:8002/metrics?a=@", "http://host:8002/metrics?a=@"),
        ("https://ann:s@same@host", "https://host"),
        ("http://host:8002/a@b", "http://host:8002/a@b"),
        ("local", "local"),
    ],
)
def test_a_url_is_shown_without_its_user(url, seen):
    assert shown(url) == seen


@pytest.fixture
def nowhere(free_port: Callable[[], int]) -> str:
    return f"http://ann:sesame@127.0.0.1:{free_port()}"


def test_sources_that_fail_do_not_tell_the_user(nowhere):
    for source in (
        TritonSource(f"{nowhere}/metrics", ["digits"]),
        PrometheusSource(nowhere, ["digits"], "", 1.0),
    ):
        with pytest.raises(ScrapeError, match=r"^http://127\.0\.0\.1:") as told:
            source.read()
        assert "sesame" not in str(told.value) + source.url


def test_publishing_that_fails_does_not_tell_the_user(nowhere, model, tmp_path):
    model.step(None, time.monotonic())
    writer = RemoteWriter(nowhere, "digits", b"secret" * 6, tmp_path / "table.json")

    def publish_for_15_s():
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            writer.publish(model.policy)
            time.sleep(0.01)

    try:
        with pytest.raises(PolicyError, match=r"^http://127\.0\.0\.1:") as told:
            publish_for_15_s()
        assert "sesame" not in str(told.value)
    finally:
        writer.close()
