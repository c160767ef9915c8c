"""What the images install: their pins agree, and the set of the GPU image can be installed."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / ".ci/gpu_constraints.py"))


@pytest.fixture(scope="module")
def pins(root: Path, script: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Version by normal name, for CPUs and for GPUs."""
    files = root / "constraints.txt", root / "constraints-gpu.txt"
    cpu, gpu = (
        {script["normal"](name): pin for name, pin in script["read_pins"](file.read_text()).items()}
        for file in files
    )
    return cpu, gpu


def test_gpu_and_cpu_have_the_same_pins_but_for_what_differs_on_purpose(
    pins: tuple[dict[str, str], dict[str, str]], script: dict[str, Any]
) -> None:
    cpu, gpu = pins
    assert {name for name in cpu if gpu.get(name) != cpu[name]} == script["DIFFERENT"]
    assert cpu.keys() <= gpu.keys()


def test_what_is_installed_beside_a_gpu_resolves_and_is_pinned_whole(
    root: Path, pins: tuple[dict[str, str], dict[str, str]], script: dict[str, Any]
) -> None:
    done = script["resolve"](root / "constraints-gpu.txt")
    if missing := re.search(r"ERROR: .*\(from versions: none\)", done.stderr):
        pytest.skip(f"no package index has what CUDA's torch wants: {missing[0]}")
    assert done.returncode == 0, done.stderr
    (torch,) = [
        entry["metadata"]
        for entry in json.loads(done.stdout)["install"]
        if entry["metadata"]["name"] == "torch"
    ]
    if not any(wanted.startswith("triton") for wanted in torch["requires_dist"]):
        pytest.skip(f"the package index has torch {torch['version']} as a CPU build only")
    found = {
        script["normal"](name): version for name, version in script["versions"](done.stdout).items()
    }
    assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-ml-py", "torchvision"} <= found.keys()
    assert {name: pins[1].get(name) for name in found} == found


def test_the_gpu_image_installs_what_was_resolved(root: Path, script: dict[str, Any]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    dockerfile = (root / "Dockerfile").read_text()
    (extras,) = re.findall(r"-c constraints-gpu\.txt '\.\[(\S+)\]'", dockerfile)
    (whole,) = re.findall(r"\[(.+)\]", script["REQUIREMENT"])
    resolved = {*whole.split(",")}
    for extra in whole.split(","):  # one that consists of others
        for requirement in project["optional-dependencies"][extra]:
            for inner in re.findall(r"^foveate\[(.+)\]", requirement):
                resolved.update(inner.split(","))
    assert {*extras.split(",")} <= resolved


def test_what_an_image_is_built_from_reaches_the_build(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = {package.split("/")[0] for package in packages}
    constraints = re.findall(r"-c (\S+\.txt)", (root / "Dockerfile").read_text())
    assert len(constraints) == 2
    sent = {line[1:] for line in (root / ".dockerignore").read_text().split() if line[0] == "!"}
    assert {*folders, *constraints, "model_repository", "pyproject.toml"} <= sent
