"""``foveate serve`` as an operator meets it: refusals, faults, and its end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from foveate.usable_cpus import usable_cpus
from foveate_cli.host.watchdog import find_failures

ROOT = Path(__file__).parents[2]
AGAIN = "tritonserver answers again"
ZEROS = bytes(96 * 96 * 3)


def classify(served: Any) -> int:
    """HTTP status of one inference of a blank image."""
    header = (
        b'{"inputs":[{"name":"PIXELS","datatype":"UINT8","shape":[1,96,96,3],'
        b'"parameters":{"binary_data_size":27648}}]}'
    )
    return httpx.post(
        f"http://{served.http}/v2/models/digits/infer",
        content=header + ZEROS,
        headers={"Inference-Header-Content-Length": str(len(header))},
        timeout=30,
    ).status_code


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@pytest.fixture
def broken(tmp_path: Path, repository: Path) -> Path:
    """A copy of the repository that a test may break."""
    return shutil.copytree(repository, tmp_path / "repository")


@pytest.fixture(scope="module")
def victim(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server with settings of its own, whose processes are killed."""
    variables = {
        "FOVEATE_SLO_MS": "150",
        "FOVEATE_ADMISSION": "off",
        "FOVEATE_PIN_CAP": "0.3",
        "FOVEATE_THREADS": "9999",
        "FOVEATE_EXECUTOR": "reference",
    }
    served = start_server("--no-pin-cap", "--threads=1", environment=variables)
    served.await_ready()
    yield served
    served.stop()


def test_ready_line_tells_where_everything_is(server: Any) -> None:
    line, *rest = server.out_path.read_text().splitlines()
    assert line == (
        f"ready http=http://{server.http} grpc={server.grpc} "
        f"metrics=http://{server.metrics}/metrics adapter=http://{server.adapter}"
    )
    assert not rest


def test_ready_means_everything_answers(server: Any) -> None:
    assert classify(server) == 200
    assert httpx.get(f"http://{server.adapter}/readyz").status_code == 200
    assert "nv_inference_count" in httpx.get(f"http://{server.metrics}/metrics").text


def test_what_clients_send_is_not_readable_by_others(server: Any) -> None:
    regions = server.regions()
    assert len(regions) == 2
    assert {region.stat().st_mode & 0o777 for region in regions} == {0o600}
    assert server.run_dir.stat().st_mode & 0o777 == 0o700


def test_what_changes_the_server_needs_the_admin_key(server: Any) -> None:
    url = f"http://{server.http}/v2"
    closed = {
        "repository/index": None,
        "repository/models/digits/unload": None,
        "systemsharedmemory/region/region/register": {"key": "/x", "offset": 0, "byte_size": 1},
        "logging": {"log_file": "/tmp/log"},
        "trace/setting": {"trace_level": ["TENSORS"]},
    }
    for path, body in closed.items():
        refused = httpx.post(f"{url}/{path}", json=body)
        assert refused.status_code == 403, path
        assert "foveate-admin-key" in refused.text
    with grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_model_repository_index()
        key_file = ROOT / ".state" / "admin-key"
        assert key_file.stat().st_mode & 0o777 == 0o600
        key = {"foveate-admin-key": key_file.read_text().strip()}
        assert httpx.post(f"{url}/repository/index", headers=key).is_success
        (header,) = key
        client.get_model_repository_index({f"triton-grpc-protocol-{header}": key[header]})
    unload = httpx.post(f"{url}/repository/models/digits/unload", headers=key)
    assert "not allowed" in unload.text, "models are what they were at start"


def test_more_threads_than_cpus_are_refused(refused_serve: Callable[..., str]) -> None:
    cpus = usable_cpus()
    message = refused_serve(f"--threads={cpus + 1}")
    assert f"--threads {cpus + 1}: expected at most {cpus}, " in message


@pytest.mark.parametrize("variable", ["FOVEATE_THREADS=9999", "FOVEATE_SLO=sesame"])
def test_variable_that_cannot_be_used_is_named(
    refused_serve: Callable[..., str], variable: str
) -> None:
    name, value = variable.split("=")
    message = refused_serve(environment={name: value})
    assert name in message
    assert (value in message) is (value != "sesame"), "unknown: it may be a secret, misnamed"


def test_embedded_server_does_not_leave_loopback(refused_serve: Callable[..., str]) -> None:
    message = refused_serve("--host=0.0.0.0")
    assert "--host 0.0.0.0" in message
    assert "CVE-2025-23310" in message
    assert "--server-bin" in message


def test_taken_port_is_named(refused_serve: Callable[..., str], repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused_serve(f"--repository={repository}", f"--grpc-port={port}")
    assert f"--grpc-port {port}" in message


def test_port_given_twice_is_named(refused_serve: Callable[..., str], repository: Path) -> None:
    port = 19_999
    message = refused_serve(
        f"--repository={repository}", f"--http-port={port}", f"--metrics-port={port}"
    )
    assert f"--metrics-port {port}" in message


def test_missing_ladder_is_named(refused_serve: Callable[..., str], broken: Path) -> None:
    ladder = broken / "digits" / "1" / "ladder.json"
    ladder.unlink()
    assert str(ladder) in refused_serve(f"--repository={broken}")


def test_ladder_without_levels_is_named(refused_serve: Callable[..., str], broken: Path) -> None:
    ladder = broken / "digits" / "1" / "ladder.json"
    ladder.write_text('{"schema": 1, "model": "digits", "image_size": [96, 96], "tokens": 145}')
    message = refused_serve(f"--repository={broken}")
    assert f"{ladder}: key 'levels' is missing" in message


@pytest.mark.parametrize("kept", [0, 7, 5000], ids=["empty", "no-header", "truncated"])
def test_corrupt_weights_are_named(
    refused_serve: Callable[..., str], broken: Path, kept: int
) -> None:
    weights = broken / "digits" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert str(weights) in refused_serve(f"--repository={broken}")


def test_missing_labels_are_named(refused_serve: Callable[..., str], broken: Path) -> None:
    labels = broken / "digits" / "labels.txt"
    labels.unlink()
    assert str(labels) in refused_serve(f"--repository={broken}")


def test_folder_without_models_is_refused(
    refused_serve: Callable[..., str], tmp_path: Path
) -> None:
    assert str(tmp_path) in refused_serve(f"--repository={tmp_path}")


@pytest.mark.parametrize("images", [-8, 0])
def test_model_that_fails_to_load_is_told(
    start_server: Callable[..., Any], broken: Path, images: int
) -> None:
    config = broken / "digits" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 16", f"max_batch_size: {images}"))
    served = start_server(repository=broken)
    assert served.process.wait(120) == 1
    *_, error = served.log.split("error: tritonserver ended")
    assert "max_batch_size" in error
    assert served.out_path.read_text() == ""


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [("gpu", "expected pillow or nvjpeg"), ("nvjpeg", "expected instance_group .*KIND_GPU")],
)
def test_a_decoder_that_cannot_decode_is_told(
    start_server: Callable[..., Any], broken: Path, decoder: str, reason: str
) -> None:
    with (broken / "digits_decode" / "config.pbtxt").open("a") as config:
        stated = f'value {{ string_value: "{decoder}" }}'
        config.write(f'parameters {{ key: "decoder" {stated} }}\n')
    served = start_server(repository=broken)
    assert served.process.wait(120) == 1
    assert re.search(f"decoder='{decoder}': {reason}", served.log)


def test_sigterm_leaves_nothing(start_server: Callable[..., Any], tmp_path: Path) -> None:
    served = start_server(environment={"TMPDIR": str(tmp_path), "FOVEATE_RUN_DIR": ""})
    served.await_ready()
    assert [path.name.startswith("foveate-") for path in tmp_path.iterdir()] == [True]
    served.stop()
    assert not list(tmp_path.iterdir())
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(served.http.split(":")[1])))


def test_sigterm_while_starting_leaves_nothing(start_server: Callable[..., Any]) -> None:
    served = start_server()
    served.await_log("ModelInstanceInitialize")
    served.stop()
    assert served.out_path.read_text() == ""


def test_variables_and_over_them_options_reach_the_processes(victim: Any) -> None:
    model = httpx.get(f"http://{victim.adapter}/v1/models/digits").json()
    assert model["slo"]["latency_ms"] == 150
    (triton,) = victim.children("tritonserver")
    environment = Path(f"/proc/{triton}/environ").read_text().split("\0")
    assert {
        "FOVEATE_SLO_MS=150.0",
        "FOVEATE_ADMISSION=off",
        "FOVEATE_PIN_CAP=1.0",
        "FOVEATE_THREADS=1",
        f"FOVEATE_RUN_DIR={victim.run_dir}",
    } <= set(environment)


def test_pytorch_serves_where_it_is_told_to(victim: Any) -> None:
    metrics = httpx.get(f"http://{victim.metrics}/metrics").text
    assert re.search(r'foveate_build_info{.*executor="PyTorch .*precision="fp32"', metrics)


def test_killed_adapter_returns_and_serving_goes_on(victim: Any) -> None:
    (adapter,) = victim.children("foveate_adapter")
    os.kill(adapter, signal.SIGKILL)
    assert classify(victim) == 200
    victim.await_log("the adapter died (SIGKILL)")
    until(lambda: httpx.get(f"http://{victim.adapter}/readyz").is_success, "adapter ready")


def test_killed_server_returns(victim: Any) -> None:
    (triton,) = victim.children("tritonserver")
    left = victim.regions()
    os.kill(triton, signal.SIGKILL)
    victim.await_log("restarting tritonserver: it died (SIGKILL)")
    victim.await_log(AGAIN)
    assert classify(victim) == 200
    assert not [region for region in left if region.exists()]


def fault(served: Any, model: str, number: signal.Signals) -> None:
    """Send a signal to a model process."""
    (triton,) = served.children("tritonserver")
    (process,) = served.children(rf"python_backend_stub.* {model}_0_0 ", of=triton)
    os.kill(process, number)


def test_stuck_model_process_returns(victim: Any) -> None:
    """Triton itself would call the model ready and answer no request for ever."""
    restarts = victim.log.count(AGAIN)
    fault(victim, "digits", signal.SIGSTOP)
    assert find_failures(f"http://{victim.http}", ["digits"]), "a probe notices, too"
    victim.await_log("restarting tritonserver: digits: no heartbeat of digits_0_0 for ")
    until(lambda: victim.log.count(AGAIN) > restarts, AGAIN)
    assert classify(victim) == 200


def test_dead_model_process_returns_unless_it_keeps_dying(start_server: Callable[..., Any]) -> None:
    """Triton itself would call the model ready and fail every request for ever."""
    served = start_server("--no-adapter")
    served.await_ready()
    for restarts, model in enumerate(("digits_decode", "digits", "digits")):
        fault(served, model, signal.SIGKILL)
        assert find_failures(f"http://{served.http}", [model]), "a probe notices, too"
        served.await_log(f"restarting tritonserver: model process {model}_0_0 died")
        while served.log.count(AGAIN) == restarts:
            assert served.process.poll() is None, served.log
            time.sleep(0.1)
        assert classify(served) == 200
    fault(served, "digits", signal.SIGKILL)
    assert served.process.wait(60) == 1
    assert "failed again after 3 restarts, none of which lasted 60 s: model" in served.log


def test_nothing_survives_a_killed_supervisor(start_server: Callable[..., Any]) -> None:
    served = start_server()
    served.await_ready()
    pids, regions = served.children(""), served.regions()
    assert len(pids) == len(regions) == 2
    served.kill()
    left = [Path(f"/proc/{pid}") for pid in pids] + list(regions)
    until(lambda: not any(path.exists() for path in left), "the end of both")
