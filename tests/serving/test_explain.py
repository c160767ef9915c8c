"""One image over the adapter's API, on the real server: classes, and where its patches went."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from foveate.images import cluttered_digits as images
from foveate.inference.engine import Engine
from foveate_adapter.explain import MAX_BYTES

PIXELS, LABELS = images.test_set(4)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def explain(served: Any, data: Any, kind: str = "image/png", **query: Any) -> httpx.Response:
    url = f"http://{served.adapter}/v1/models/digits/explain"
    return httpx.post(url, content=data, params=query, headers={"Content-Type": kind})


@pytest.fixture(scope="module")
def engine(server: Any, as_served: Callable[[Path], Engine]) -> Engine:
    return as_served(Path(server.repository) / "digits" / "1")


def test_classes_and_fates_are_those_of_the_engine(server: Any, engine: Engine) -> None:
    for index, level in enumerate(engine.ladder.levels):
        answer = explain(server, png(PIXELS[1]), level=level.name, top=3).raise_for_status().json()
        expected = engine.infer(torch.from_numpy(PIXELS[1:2]), [index], token_map=True)
        assert (answer["level"], answer["level_name"]) == (index, level.name)
        assert (answer["rows"], answer["columns"]) == (12, 12)
        assert expected.token_map is not None
        assert answer["tokens"] == expected.token_map[0].tolist()
        scores, classes = expected.scores[0].topk(3)
        assert [item["index"] for item in answer["classes"]] == classes.tolist()
        assert [item["label"] for item in answer["classes"]] == [str(k) for k in classes.tolist()]
        given = torch.tensor([item["score"] for item in answer["classes"]])
        torch.testing.assert_close(given, scores, atol=1e-2, rtol=0)
        assert answer["fates"].count("kept") == len({t for t in answer["tokens"] if t > 0})
        fates = dict(zip(answer["tokens"], answer["fates"], strict=True))
        assert fates.get(-1, "dropped") == "dropped"
        assert fates.get(-2, "packaged") == "packaged"
    assert "packaged" in answer["fates"]


def test_without_a_level_the_governor_chooses(server: Any) -> None:
    answer = explain(server, png(PIXELS[0])).raise_for_status().json()
    assert len(answer["classes"]) == 5
    assert 0 <= answer["level"] < 5


@pytest.mark.parametrize(
    ("data", "kind", "status", "reason"),
    [
        (b"", "image/png", 400, "0 bytes"),
        (b"just some text", "image/jpeg", 400, "neither JPEG nor PNG"),
        (b"just some text", "text/plain", 415, "Content-Type='text/plain'"),
        (bytes(MAX_BYTES + 1), "image/png", 413, f"more than {MAX_BYTES}"),
    ],
    ids=["empty", "text", "type", "large"],
)
def test_what_is_no_image_is_refused_with_the_reason(
    server: Any, data: bytes, kind: str, status: int, reason: str
) -> None:
    reply = explain(server, data, kind)
    assert reply.status_code == status
    assert reply.json()["detail"].startswith(("IMAGE", "Content-Type", "an image"))
    assert reason in reply.json()["detail"]


def test_an_unknown_level_is_named(server: Any) -> None:
    reply = explain(server, png(PIXELS[0]), level="dence")
    assert (reply.status_code, "level='dence'" in reply.json()["detail"]) == (404, True)


def test_who_hangs_up_within_an_image_disturbs_nobody(server: Any) -> None:
    host, port = server.adapter.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/models/digits/explain HTTP/1.1\r\nHost: here\r\n"
            b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\nsome bytes"
        )
    assert explain(server, png(PIXELS[0])).status_code == 200
    assert "Traceback" not in server.log


def test_no_request_finds_the_document_wrong(server: Any, tmp_path: Path) -> None:
    """Schemathesis with all its checks; its images are images, or every one would be refused."""
    (tmp_path / "digit.png").write_bytes(png(PIXELS[0]))
    (tmp_path / "hooks.py").write_text(
        "import schemathesis\n"
        "from hypothesis import strategies as st\n"
        f"image = st.just(open({str(tmp_path / 'digit.png')!r}, 'rb').read())\n"
        "for kind in ('image/png', 'image/jpeg', 'application/octet-stream'):\n"
        "    schemathesis.openapi.media_type(kind, image)\n"
    )
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"path.name" = "digits"\n')
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--no-color"]
    options = ["--checks=all", "--max-examples=10", "--seed=0", "--include-path-regex=explain"]
    done = subprocess.run(
        [*command, *options, f"http://{server.adapter}/openapi.json"],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
