"""The console's files as the adapter serves them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from foveate_adapter.app import create_app
from foveate_adapter.own_metrics import Metrics

ADAPTER = Path(__file__).parents[2] / "adapter"
SOURCE = ADAPTER / "console"
STATIC = ADAPTER / "foveate_adapter" / "console" / "static"


@pytest.fixture
def client(settings, model):
    return TestClient(create_app(settings, [model], Metrics([model])))


def test_the_page_and_its_parts_come_under_a_policy_that_lets_nothing_else_in(client):
    for path in ("/", "/console/main.js", "/console/style.css", "/console/vendor/uPlot.esm.js"):
        reply = client.get(path)
        assert reply.status_code == 200
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/").headers["Content-Type"].startswith("text/html")
    assert "javascript" in client.get("/console/main.js").headers["Content-Type"]
    assert client.get("/console/../__init__.py").status_code == 404
    assert client.get("/console/nothing.js").status_code == 404


def test_every_part_is_there_and_none_is_from_elsewhere(client):
    names = [path for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css", ".svg")]
    assert len(names) > 10
    for path in names:
        text = path.read_text()
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        for part in re.findall(r'(?:from "\./|(?:src|href)="console/)([\w./-]+)"', text):
            assert client.get(f"/console/{part}").status_code == 200, part


def test_the_vendored_files_are_those_the_build_took_from_npm():
    lines = (SOURCE / "vendor.sha256").read_text().splitlines()
    recorded = {Path(name).name: digest for digest, name in (line.split() for line in lines)}
    files = {path.name: path for path in (STATIC / "vendor").iterdir()}
    assert files.keys() == recorded.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded[name], name


def test_the_build_gives_the_same_files_again(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    build = tmp_path / "console"
    vendor = tmp_path / "foveate_adapter" / "console" / "static" / "vendor"
    vendor.mkdir(parents=True)
    shutil.copytree(SOURCE, build, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=0"]
    done = subprocess.run(install, cwd=build, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the npm registry does not answer: {done.stderr[-200:]}")
    subprocess.run(["npm", "run", "build", "--silent"], cwd=build, check=True)
    for path in (STATIC / "vendor").iterdir():
        assert (vendor / path.name).read_bytes() == path.read_bytes()
    assert (build / "vendor.sha256").read_text() == (SOURCE / "vendor.sha256").read_text()
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
