"""What faults of the control path cost: no request, and control for as long as they last.

The adapter reads the metrics of a real server through a relay that a test can bend. Requests are in
flight during every fault; each must be answered.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc

from foveate.control.policy import Policy, PolicyReader, policy_path
from foveate.images import cluttered_digits as images
from foveate.levels.ladder import Ladder

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
SLO = {"latency_ms": 200, "objective": 0.99, "min_quality": 0}


class Relay:
    """Between the adapter and ``/metrics``: passes on what ``bend`` makes of the text."""

    def __init__(self, target: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"
        self.delay_s = 0.0
        self.bend: Callable[[str], str] = str
        self._target, self._port = target, port
        self._client = httpx.Client()
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def text(self) -> str:
        return self._client.get(self._target).raise_for_status().text

    def start(self) -> None:
        relay = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # The server may be down; nobody may wait for a slow answer.
                with contextlib.suppress(httpx.HTTPError, OSError):
                    body = relay.bend(relay.text()).encode()
                    time.sleep(relay.delay_s)
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Page)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def mend(self) -> None:
        self.delay_s, self.bend = 0.0, str
        if self._server is None:
            self.start()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of 256 KiB; None where we may not mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def served(start_server: Callable[..., Any], small_disk: Path | None) -> Iterator[Any]:
    """A server that refuses nothing, so that whatever is missing was lost."""
    run_dir = {} if small_disk is None else {"FOVEATE_RUN_DIR": str(small_disk)}
    served = start_server("--no-adapter", "--no-admission", environment=run_dir)
    served.await_ready()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def relay(served: Any, free_port: Callable[[], int]) -> Iterator[Relay]:
    relay = Relay(f"http://{served.metrics}/metrics", free_port())
    yield relay
    relay.stop()


@pytest.fixture(scope="module")
def adapters(served: Any, relay: Relay, start_adapter: Callable[..., Any]) -> list[Any]:
    """The adapter in use is the last one."""
    return [start_adapter(served, metrics_url=relay.url)]


@pytest.fixture
def adapter(
    served: Any,
    relay: Relay,
    adapters: list[Any],
    start_adapter: Callable[..., Any],
    eventually: Callable[..., None],
) -> Iterator[Any]:
    """An adapter that controls the model, and is in control again when the fault is over."""
    adapter = adapters[-1]
    if adapter.process.poll() is not None:
        adapter = start_adapter(served, metrics_url=relay.url)
        adapters.append(adapter)
    adapter.set_slo(**SLO)
    eventually(lambda: in_control(adapter), "control before")
    yield adapter
    relay.mend()
    if adapter.process.poll() is None:
        eventually(lambda: in_control(adapter), "control after")


@pytest.fixture
def word(served: Any) -> Iterator[PolicyReader]:
    with PolicyReader(policy_path(served.run_dir, "digits")) as reader:
        yield reader


@pytest.fixture
def ladder(repository: Path) -> Ladder:
    return Ladder.load(repository / "digits" / "1" / "ladder.json")


def in_control(adapter: Any) -> bool:
    view = adapter.view
    return (
        view["problem"] is None
        and view["decision"]["reason"] not in ("starting", "no-signal", "rebaselined")
        and view["decision"]["queue_depth"] is not None
    )


def policy(word: PolicyReader) -> Policy:
    policy = word.read()
    assert policy is not None
    return policy


def missed(relay: Relay) -> float:
    """Answers after the SLO, as the server counts them."""
    found = re.findall(r'^foveate_answers_total\{.*slo="missed".*\} (\S+)$', relay.text(), re.M)
    return sum(map(float, found))


def live(word: PolicyReader) -> bool:
    return policy(word).live(time.monotonic_ns())


def model_process(served: Any) -> int:
    (triton,) = served.children("tritonserver")
    (model,) = served.children(r"python_backend_stub.* digits_0_0 ", of=triton)
    return int(model)


def noise(text: str) -> str:
    return "\x00\xff{}{}{} 1 2 3\n" * 50


def half(text: str) -> str:
    return text[: len(text) // 2]


def not_numbers(text: str) -> str:
    return re.sub(r"} \S+$", "} NaN", text, flags=re.MULTILINE)


def another_software(text: str) -> str:
    return f'{text}foveate_answers_total{{level="cheap",model="digits",slo="met"}} 3\n'


@pytest.mark.parametrize(
    "fault",
    ["down", "slow", "kept", noise, half, not_numbers, another_software],
    ids=lambda fault: fault if isinstance(fault, str) else fault.__name__,
)
def test_metrics_that_say_nothing_of_now(
    served: Any,
    relay: Relay,
    adapter: Any,
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
    fault: str | Callable[[str], str],
) -> None:
    """Blind, the adapter keeps its aim for two seconds and then becomes cautious; it says so."""
    with load(served) as requests:
        eventually(lambda: policy(word).margin > 0.25, "calm")
        before = missed(relay)
        if fault == "down":
            relay.stop()
        elif fault == "slow":
            relay.delay_s = 2.0
        elif fault == "kept":
            text = relay.text()
            relay.bend = lambda _: text
        else:
            assert callable(fault)
            relay.bend = fault
        eventually(lambda: policy(word).queue_depth == -1, "rather no depth than a wrong one")
        assert policy(word).margin > 0.25
        eventually(lambda: adapter.reason == "no-signal", "it notices")
        assert not adapter.ready
        requests.more(10)
        assert live(word)
        assert (policy(word).margin, policy(word).dearest, policy(word).cheapest) == (0.25, 0, 4)

        relay.mend()
        eventually(lambda: in_control(adapter), "control")
        assert adapter.ready
        eventually(lambda: policy(word).margin > 0.25, "its aim returns")
        told = adapter.reasons[: adapter.reasons.index("no-signal")]
        assert ("slo-missed" in told) <= (missed(relay) > before), "only what has happened"
        requests.more(10)


def test_a_kept_calm_does_not_hide_pressure(
    served: Any,
    relay: Relay,
    adapter: Any,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    text = relay.text()
    relay.bend = lambda _: text
    with load(served, in_flight=48) as requests:
        eventually(lambda: min(requests.more(48)) > 0, "cheaper levels")
    relay.mend()
    with load(served) as requests:
        eventually(lambda: set(requests.more(5)) == {0}, "level 0 in calm")


def test_versions_are_added_up_and_labels_we_do_not_know_ignored(
    served: Any,
    relay: Relay,
    adapter: Any,
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    def bend(text: str) -> str:
        more = 'nv_inference_pending_request_count{model="digits",version="2"} 7\n'
        return text.replace("{model=", '{shard="a",model=') + more

    relay.bend = bend
    with load(served) as requests:
        eventually(lambda: policy(word).queue_depth >= 7, "the sum")
        requests.more(10)
        assert adapter.ready


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_an_adapter_that_is_gone_leaves_slo_and_floor(
    served: Any,
    adapter: Any,
    ladder: Ladder,
    word: PolicyReader,
    load: Callable[..., Any],
    start_adapter: Callable[..., Any],
    relay: Relay,
    adapters: list[Any],
    eventually: Callable[..., None],
    fault: signal.Signals,
) -> None:
    """5 ms cannot be held, so the governor serves the floor; 200 ms, its default, would be 0."""
    adapter.set_slo(latency_ms=5, objective=0.99, min_quality=ladder.quality(1))
    with load(served, in_flight=8) as requests:
        eventually(lambda: set(requests.more(20)) == {1}, "the floor")
        adapter.signal(fault)
        requests.more(20)
        eventually(lambda: not live(word), "the lease runs out")
        requests.more(8)
        assert set(requests.more(20)) == {1}
        before = policy(word).sequence
        if fault == signal.SIGSTOP:
            adapter.signal(signal.SIGCONT)
        else:
            adapter.process.wait()
            adapter = start_adapter(served, metrics_url=relay.url)
            adapters.append(adapter)
        eventually(lambda: live(word), "a new lease")
        assert policy(word).sequence > before
        assert policy(word).slo_ns == 5_000_000
        adapter.set_slo(**SLO)
        eventually(lambda: policy(word).slo_ns == 200_000_000, "the SLO can be changed again")
    with load(served) as requests:
        eventually(lambda: set(requests.more(5)) == {0}, "level 0 in calm")


def test_a_damaged_policy_word_leaves_the_last_good_one(
    served: Any,
    adapter: Any,
    ladder: Ladder,
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    adapter.set_slo(latency_ms=5, objective=0.99, min_quality=ladder.quality(1))
    process = model_process(served)
    with load(served) as requests:
        eventually(lambda: set(requests.more(10)) == {1}, "the floor")
        for damage in (
            lambda file: file.write(os.urandom(384)),
            lambda file: file.write(bytes(384)),
            lambda file: file.truncate(200),
            lambda file: file.truncate(0),
        ):
            adapter.signal(signal.SIGSTOP)  # or it would mend the word at once
            with word.path.open("r+b") as file:
                damage(file)
            requests.more(2)
            assert set(requests.more(10)) == {1}
            adapter.signal(signal.SIGCONT)
            eventually(lambda: fresh(word.path) is not None, "the word is mended")
        assert set(requests.more(10)) == {1}
        assert model_process(served) == process


def fresh(path: Path) -> Policy | None:
    """What somebody reads who has not read before."""
    with PolicyReader(path) as reader:
        return reader.read()


DIE_WRITING = """
import os, signal, sys
from pathlib import Path
from foveate.control.policy import Policy, PolicyWriter
writer = PolicyWriter(Path(sys.argv[1]))
def publish(slo_ns, floor):
    writer.publish(Policy(
        epoch=1, sequence=writer.sequence + 1, lease_expires_ns=1, slo_ns=slo_ns, margin=0.5,
        quality_floor_level=floor, dearest=0, cheapest=4, queue_depth=-1, queue_depth_at_ns=1))
def write_and_die(*args):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)
publish(5_000_000, 1)
write, os.pwrite = os.pwrite, write_and_die
publish(200_000_000, 4)
"""


def test_a_writer_killed_within_an_update_stalls_nobody(
    served: Any,
    adapter: Any,
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    adapter.kill()
    with load(served) as requests:
        command = [sys.executable, "-c", DIE_WRITING, str(word.path)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        requests.more(2)
        assert set(requests.more(10)) == {1}
        assert policy(word).slo_ns == 5_000_000


def test_of_two_adapters_one_publishes_and_the_other_takes_over(
    served: Any,
    adapter: Any,
    relay: Relay,
    adapters: list[Any],
    word: PolicyReader,
    load: Callable[..., Any],
    start_adapter: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    with load(served) as requests:
        epoch = policy(word).epoch
        second = start_adapter(served, metrics_url=relay.url)
        adapters.append(second)
        assert second.view["read_only"]
        sequence = policy(word).sequence
        eventually(lambda: policy(word).sequence > sequence + 20, "the first goes on")
        assert policy(word).epoch == epoch
        adapter.kill()
        eventually(lambda: not second.view["read_only"], "the second takes over")
        eventually(lambda: policy(word).epoch > epoch, "and publishes")
        requests.more(10)


def test_a_clock_that_jumps_is_not_noticed(
    served: Any,
    adapter: Any,
    relay: Relay,
    adapters: list[Any],
    word: PolicyReader,
    load: Callable[..., Any],
    start_adapter: Callable[..., Any],
    eventually: Callable[..., None],
    tmp_path: Path,
) -> None:
    if not FAKETIME.exists():
        pytest.skip(f"{FAKETIME} is missing: apt-get install faketime")
    adapter.kill()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    dreamer = start_adapter(
        served,
        metrics_url=relay.url,
        environment={
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
    )
    adapters.append(dreamer)
    with load(served) as requests:
        for jump in ("+3600", "-3600"):
            clock.write_text(jump)
            sequence = policy(word).sequence
            eventually(lambda n=sequence: policy(word).sequence > n + 20, "policies")
            assert live(word)
            requests.more(10)
            eventually(lambda: in_control(dreamer), dreamer.log)
    dreamer.kill()


def test_a_full_disk_stops_nothing_but_storing(
    served: Any,
    adapter: Any,
    relay: Relay,
    adapters: list[Any],
    word: PolicyReader,
    load: Callable[..., Any],
    start_adapter: Callable[..., Any],
    small_disk: Path | None,
    eventually: Callable[..., None],
) -> None:
    if small_disk is None:
        pytest.skip("a small file system cannot be mounted: needs root")
    ballast = small_disk / "ballast"
    with load(served) as requests:
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(2**20))
        sequence = policy(word).sequence
        eventually(lambda: policy(word).sequence > sequence + 20, "policies")
        refused = adapter.api.put("/v1/models/digits/slo", json={"latency_ms": 100})
        assert refused.status_code == 507
        assert str(small_disk) in refused.text
        assert adapter.view["slo"]["latency_ms"] == 200
        adapter.kill()
        second = start_adapter(served, metrics_url=relay.url)
        adapters.append(second)
        requests.more(10)
        ballast.unlink()
        second.set_slo(latency_ms=100)
        eventually(lambda: policy(word).slo_ns == 100_000_000, "it can be stored again")
        second.set_slo(**SLO)


def test_slower_hardware_is_measured_and_forgotten(
    served: Any,
    adapter: Any,
    relay: Relay,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    process = model_process(served)
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.005)
            os.kill(process, signal.SIGCONT)
            time.sleep(0.0005)  # less than any batch takes, so that all are slowed down

    def correction() -> float:
        found = re.search(r"^foveate_batch_time_correction\{.*\} (\S+)", relay.text(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    with load(served, in_flight=4) as requests:
        eventually(lambda: correction() < 2.5, "as it is")
        throttler = threading.Thread(target=throttle)
        throttler.start()
        try:
            eventually(lambda: correction() > 2.5, "the governor notices")
            requests.more(10)
        finally:
            over.set()
            throttler.join()
        eventually(lambda: correction() < 2.5, "and forgets")


def test_no_traffic_is_calm(
    served: Any,
    adapter: Any,
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    def idle() -> bool:
        decision = adapter.view["decision"]
        return decision["load_per_s"] < 1 and decision["margin"] > 0.5 and decision["dearest"] == 0

    eventually(idle, "the load is forgotten")
    assert adapter.ready
    with load(served) as requests:
        eventually(lambda: set(requests.more(5)) == {0}, "level 0")


def test_clients_that_cancel_disturb_nobody(
    served: Any,
    adapter: Any,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    pixels, _ = images.test_set(1)
    tensor = tritonclient.grpc.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
    tensor.set_data_from_numpy(pixels)
    with (
        load(served) as requests,
        tritonclient.grpc.InferenceServerClient(served.grpc) as fickle,
    ):
        calls = [
            fickle.async_infer("digits", [tensor], callback=lambda result, error: None)
            for _ in range(300)
        ]
        for call in calls:
            call.cancel()
        requests.more(10)
        eventually(lambda: adapter.view["decision"]["queue_depth"] == 0, "nothing waits")
        eventually(lambda: adapter.view["decision"]["dearest"] == 0, "the burst is forgotten")
        eventually(lambda: set(requests.more(5)) == {0}, "level 0")


def test_a_restarted_server_is_a_new_beginning_not_a_catastrophe(
    served: Any,
    adapter: Any,
    relay: Relay,
    load: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    with load(served) as requests:
        requests.more(20)
    os.kill(model_process(served), signal.SIGSTOP)
    eventually(lambda: adapter.reason == "no-signal", "a dead process is not an idle one")
    assert "nv_inference_request_success" in relay.text()
    (triton,) = served.children("tritonserver")
    os.kill(triton, signal.SIGKILL)
    served.await_log("tritonserver answers again")
    eventually(lambda: in_control(adapter), "control")
    told = adapter.reasons[: adapter.reasons.index("no-signal")]
    assert "rebaselined" in told
    assert ("slo-missed" in told) <= (missed(relay) > 0), "only what has happened"
    with load(served) as requests:
        eventually(lambda: set(requests.more(5)) == {0}, "level 0")
