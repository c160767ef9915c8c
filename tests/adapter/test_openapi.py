"""The API keeps what its OpenAPI document promises, for requests nobody thought of."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from pydantic import SecretStr

from foveate_adapter.app import create_app
from foveate_adapter.own_metrics import Metrics


@pytest.fixture
def document(settings, model, free_port: Callable[[], int]) -> Iterator[str]:
    """URL of the document of a running API that wants the token ``sesame``."""
    port = free_port()
    model.step(None, time.monotonic())
    model.seen_at = math.inf  # ready, and so for as long as the test takes
    secured = settings.model_copy(update={"token": SecretStr("sesame")})
    app = create_app(secured, [model], Metrics([model]), leaving=lambda: True)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{port}/openapi.json"
    server.should_exit = True
    thread.join()


def test_no_request_finds_the_document_wrong(document: str, tmp_path: Path) -> None:
    """Schemathesis with all its checks: valid and invalid requests, alone and one after another."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", document, "--no-color"]
    options = ["--checks=all", "--max-examples=10", "--seed=0", "--wait-for-schema=10"]
    # With a server behind it: tests/serving/test_explain.py
    options.append("--exclude-path-regex=explain")
    header = "--header=Authorization: Bearer sesame"
    done = subprocess.run(
        [*command, *options, header], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
