"""Container, Compose and Kubernetes files, by the tools that know their formats."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from foveate_cli.host.processes import TritonProcess
from foveate_cli.host.watchdog import PATIENCE_S

KUBERNETES = "1.32"
NO_SCHEMA = {"PodMonitor", "PrometheusRule", "ScaledObject"}  # of operators


def test_the_dockerfile_is_clean(tool: Callable[..., str]) -> None:
    tool("hadolint", "Dockerfile")


def test_yaml_is_clean(tool: Callable[..., str]) -> None:
    tool("yamllint", "compose.yaml", "compose.gpu.yaml", "deploy")


def has_plugin() -> bool:
    """Whether docker is installed, and Compose as its plugin."""
    if shutil.which("docker") is None:
        return False
    command = ["docker", "compose", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_compose_accepts_its_files(tool: Callable[..., str], root: Path) -> None:
    compose = ["docker", "compose"] if has_plugin() else ["docker-compose"]
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        options = [option for file in files for option in ("-f", file)]
        tool(*compose, *options, "config", "--quiet", package="docker-compose")


def test_compose_gives_the_gpu_to_the_server_alone(tool: Callable[..., str]) -> None:
    compose = ["docker", "compose"] if has_plugin() else ["docker-compose"]
    options = ["-f", "compose.yaml", "-f", "compose.gpu.yaml"]
    services = yaml.safe_load(tool(*compose, *options, "config", package="docker-compose"))[
        "services"
    ]
    for name in ("server", "adapter"):
        assert services[name]["image"] == "foveate:triton"
        assert services[name]["build"]["target"] == "triton"
        assert services[name]["read_only"] is True
    (gpu,) = services["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])
    assert "--server-bin=/opt/tritonserver/bin/tritonserver" in services["server"]["command"]
    assert not [name for name, one in services.items() if name != "server" and "deploy" in one]


def test_compose_mounts_what_exists(root: Path) -> None:
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"].values()
    mounts = [mount for service in services for mount in service["volumes"]]
    ours = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(ours) == 3
    assert all((root / path).is_dir() for path in ours)


def test_every_manifest_fits_its_schema(tool: Callable[..., str], root: Path) -> None:
    folder = root / "deploy/kubernetes"
    paths = [*folder.glob("base/*.yaml"), *folder.glob("components/*/*.yaml")]
    manifests = [path for path in paths if path.name != "kustomization.yaml"]
    assert len(manifests) > 6
    tool("kubernetes-validate", "-k", KUBERNETES, "--strict", "--no-warn", *manifests)


def test_liveness_leaves_busy_decoders_and_restarts_to_the_supervisor(root: Path) -> None:
    deployment = yaml.safe_load((root / "deploy/kubernetes/base/deployment.yaml").read_text())
    containers = deployment["spec"]["template"]["spec"]["containers"]
    (triton,) = [one for one in containers if one["name"] == "triton"]
    probe = triton["livenessProbe"]
    (patience,) = re.findall(r"--patience=(\d+)", " ".join(probe["exec"]["command"]))
    assert PATIENCE_S <= int(patience) < probe["timeoutSeconds"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > TritonProcess.START_S


@pytest.fixture(scope="session", params=["cpu", "gpu"])
def overlay(
    request: pytest.FixtureRequest, tool: Callable[..., str], tmp_path_factory: Any
) -> tuple[Path, list[dict[str, Any]]]:
    """What ``kubectl apply -k`` would send: file and objects."""
    folder = f"deploy/kubernetes/overlays/{request.param}"
    if shutil.which("kustomize"):
        text = tool("kustomize", "build", folder)
    elif shutil.which("kubectl"):
        text = tool("kubectl", "kustomize", folder)
    else:
        pytest.skip(
            "neither kustomize nor kubectl is installed (no package of Debian 12 will do: its "
            "kubectl 1.20 knows no components)"
        )
    path = tmp_path_factory.mktemp("kubernetes") / f"{request.param}.yaml"
    path.write_text(text)
    return path, list(yaml.safe_load_all(text))


def test_an_overlay_fits_the_schemas(
    overlay: tuple[Path, list[dict[str, Any]]], tool: Callable[..., str]
) -> None:
    said = tool("kubernetes-validate", "-k", KUBERNETES, "--strict", overlay[0])
    kinds = {item["kind"] for item in overlay[1]}
    assert {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap"} <= kinds
    assert kinds & {"HorizontalPodAutoscaler", "ScaledObject"}
    unknown = [line for line in said.splitlines() if "Couldn't find schema" in line]
    assert {line.split("kind ")[1].split()[0] for line in unknown} == kinds & NO_SCHEMA
    assert {item["metadata"].get("namespace") for item in overlay[1]} == {None, "foveate"}


def test_the_gpu_of_a_pod_is_its_servers(
    overlay: tuple[Path, list[dict[str, Any]]],
) -> None:
    (deployment,) = [item for item in overlay[1] if item["kind"] == "Deployment"]
    with_gpu = {
        container["name"]
        for container in deployment["spec"]["template"]["spec"]["containers"]
        if container["resources"]["limits"].get("nvidia.com/gpu") == "1"
    }
    assert with_gpu == ({"triton"} if overlay[0].stem == "gpu" else set())


def test_pods_are_confined_and_share_what_they_must(
    overlay: tuple[Path, list[dict[str, Any]]],
) -> None:
    (deployment,) = [item for item in overlay[1] if item["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/run/foveate"] == "run"
        assert container["image"].startswith("registry.example/foveate")
        if container["name"] == "triton":
            assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
            for probe in ("startupProbe", "livenessProbe"):
                assert container[probe]["exec"]["command"][:2] == ["foveate", "health"]
