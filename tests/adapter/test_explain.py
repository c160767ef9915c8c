"""Fates of patches, and the API without a Triton server behind it."""

from __future__ import annotations

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from foveate_adapter.app import create_app
from foveate_adapter.explain import MAX_BYTES, fates
from foveate_adapter.own_metrics import Metrics

URL = "/v1/models/digits/explain"
PNG = {"Content-Type": "image/png"}


def test_a_patch_is_kept_shares_a_token_or_is_gone():
    tokens = [1, -1, 2, 2, -2, -2, 3]
    told = ["kept", "dropped", "merged", "merged", "packaged", "packaged", "kept"]
    assert fates(tokens, words=False) == told
    assert fates(tokens, words=True) == [fate.replace("merged", "word") for fate in told]


@pytest.fixture
def alone(settings, model, free_port):
    """The API, and nobody where Triton should be."""
    nowhere = {"triton_url": f"http://127.0.0.1:{free_port()}", "token": SecretStr("sesame")}
    app = create_app(settings.model_copy(update=nowhere), [model], Metrics([model]))
    return TestClient(app, headers={"Authorization": "Bearer sesame"})


def test_a_server_that_is_not_there_is_502_naming_it(alone):
    reply = alone.post(URL, content=b"image", headers=PNG)
    assert reply.status_code == 502
    assert "http://127.0.0.1:" in reply.json()["detail"]


def test_what_need_not_be_asked_of_the_server_is_not(alone):
    assert alone.post(URL, content=b"", headers=PNG, params={"level": "9"}).status_code == 404
    assert alone.post(URL, content=b"", headers=PNG, params={"top": 0}).status_code == 422
    assert alone.post(URL, content=b"", headers={"Content-Type": "text/html"}).status_code == 415
    large = (bytes(2**20) for _ in range(MAX_BYTES // 2**20 + 1))  # no length is announced
    assert alone.post(URL, content=large, headers=PNG).status_code == 413


def test_it_needs_the_token_as_every_change_does(alone):
    reply = alone.post(URL, content=b"", headers={**PNG, "Authorization": "Bearer open"})
    assert reply.status_code == httpx.codes.UNAUTHORIZED
