"""What ``foveate`` says of itself and of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def foveate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foveate.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_does_not_load_the_libraries_that_compute() -> None:
    code = "import sys, foveate.cli; print({'torch', 'numpy', 'locust'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_help_lists_the_commands() -> None:
    text = foveate("--help").stdout
    for command in ("serve", "demo", "loadtest", "calibrate", "doctor"):
        assert command in text


def test_doctor_finds_nothing_missing(repository: Path) -> None:
    done = foveate("doctor", "--json", f"--repository={repository}")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, findings
    subjects = {finding["subject"] for finding in findings}
    assert {"python", "libpython", "server", "shared memory", "repository"} <= subjects


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    done = foveate("doctor", "--json", f"--repository={tmp_path}", "--server-bin=/nowhere")
    failures = {f["subject"]: f["detail"] for f in json.loads(done.stdout) if f["verdict"] != "ok"}
    assert done.returncode == 1
    assert "/nowhere" in failures["server"]
    assert str(tmp_path) in failures["repository"]


def test_health_is_a_real_inference_of_every_model(server: Any, repository: Path) -> None:
    def health(address: str) -> subprocess.CompletedProcess[str]:
        return foveate("health", f"--repository={repository}", f"--url=http://{address}")

    assert health(server.http).returncode == 0
    sick = health(server.grpc)  # speaks another protocol
    assert sick.returncode == 1
    assert [line.split(":")[0] for line in sick.stderr.splitlines()] == ["digits", "digits_decode"]


def test_errors_are_told_in_one_line(tmp_path: Path) -> None:
    done = foveate("calibrate", f"--repository={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}")
    assert done.stderr.count("\n") == 1
