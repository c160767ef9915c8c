"""An adapter on another host: what it publishes through the control model of a real server."""

from __future__ import annotations

import hmac
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from foveate.control.policy import Policy, PolicyReader, policy_path
from foveate.control.sealed_policy import PolicyMessage, seal
from foveate.levels.ladder import Ladder

SECRET = secrets.token_hex(32)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "secret"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture(scope="module")
def served(start_server: Callable[..., Any], secret: Path) -> Iterator[Any]:
    served = start_server("--no-adapter", "--no-admission", f"--control={secret}")
    served.await_ready()
    yield served
    assert SECRET not in served.log
    served.stop()


@pytest.fixture
def word(served: Any) -> PolicyReader:
    return PolicyReader(policy_path(served.run_dir, "digits"))


@pytest.fixture
def start_remote(
    start_adapter: Callable[..., Any], served: Any, secret: Path, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """``start_remote(**settings)``: an adapter that shares nothing with the server but a secret."""
    started: list[Any] = []

    def start(**settings: Any) -> Any:
        ours = {
            "publish": f"http://{served.http}",
            "control_secret_file": secret,
            "run_dir": tmp_path / f"remote-{len(started)}",
        }
        started.append(start_adapter(served, **(ours | settings)))
        return started[-1]

    yield start
    for adapter in started:
        adapter.kill()
        assert SECRET not in adapter.log


@pytest.fixture
def publish(served: Any) -> Iterator[Callable[..., int]]:
    """``publish(body, mac)``: as any client could; the number of the last message."""
    client = tritonclient.http.InferenceServerClient(served.http)

    def call(body: str = "", mac: str = "") -> int:
        tensors = []
        for name, text in (("POLICY", body), ("MAC", mac)):
            tensor = tritonclient.http.InferInput(name, [1], "BYTES")
            tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
            tensors.append(tensor)
        return int(client.infer("digits_control", tensors).as_numpy("SEQUENCE")[0])

    yield call
    client.close()


def message(sequence: int, **changes: Any) -> PolicyMessage:
    """A policy of another epoch than any adapter's, with a lease too short to be in the way."""
    now = time.monotonic_ns()
    policy = Policy(
        epoch=1,
        sequence=sequence,
        lease_expires_ns=now + 1_000_000,
        slo_ns=77_000_000,
        quality_floor_level=3,
        margin=0.4,
        dearest=0,
        cheapest=3,
        queue_depth=-1,
        queue_depth_at_ns=now,
    )
    facts = {"model": "digits", "sequence": sequence, "sent_at": time.time(), "now_ns": now}
    return PolicyMessage.of(policy, **(facts | changes))


def test_a_remote_adapter_steers_as_a_local_one_does(
    served: Any,
    start_remote: Callable[..., Any],
    word: PolicyReader,
    load: Callable[..., Any],
    eventually: Callable[..., None],
    repository: Path,
) -> None:
    adapter = start_remote()
    # Measured over there: without it there is no control.
    assert all(level["batch_ms"] for level in adapter.view["levels"])
    eventually(lambda: word.read() is not None, "a policy")
    first = word.read()
    assert first is not None
    eventually(lambda: word.read().queue_depth_at_ns > first.queue_depth_at_ns, "a newer one")
    policy = word.read()
    assert policy is not None
    now = time.monotonic_ns()
    assert now - 60_000_000_000 < policy.queue_depth_at_ns <= now
    assert policy.lease_expires_ns <= now + 2_000_000_000

    adapter.set_slo(latency_ms=150)
    eventually(lambda: word.read().slo_ns == 150_000_000, "the SLO over there")
    levels = Ladder.load(repository / "digits" / "1" / "ladder.json").levels
    with load(served) as requests:
        for index in (len(levels) - 1, 2):
            adapter.pin(levels[index].name)
            eventually(lambda index=index: word.read().dearest == index, "the pin over there")
            requests.more(2)  # on their way when it came
            assert set(requests.more(20)) == {index}
        adapter.unpin()
        eventually(lambda: set(requests.more(5)) == {0}, "level 0 without the pin")


def test_what_is_not_genuine_fresh_or_next_in_turn_is_refused(
    publish: Callable[..., int], word: PolicyReader, eventually: Callable[..., None]
) -> None:
    def settled() -> bool:  # the lease of an adapter before has run out
        before = word.read()
        return before is None or not before.live(time.monotonic_ns())

    eventually(settled, "nobody publishes")
    last = publish()
    genuine = seal(message(last + 1), SECRET.encode())
    assert publish(*genuine) == last + 1
    in_force = word.read()
    assert in_force is not None
    assert in_force.slo_ns == 77_000_000

    later = message(last + 2)
    body, _ = seal(later, SECRET.encode())
    forged = hmac.new(b"guess", body.encode(), "sha256").hexdigest()
    for sealed, reason in (
        ((body, forged), "MAC does not match POLICY"),
        ((body, ""), "MAC does not match POLICY"),
        ((body.replace("0.4", "0.9"), seal(later, SECRET.encode())[1]), "MAC does not match"),
        (genuine, rf"sequence={last + 1}: expected {last + 2}"),
        (seal(message(last + 9), SECRET.encode()), rf"sequence={last + 9}: expected {last + 2}"),
        (seal(message(last + 2, sent_at=time.time() - 6), SECRET.encode()), r"\+6\.\d s from the"),
        (seal(message(last + 2, sent_at=time.time() + 6), SECRET.encode()), r"-[56]\.\d s from"),
        (seal(message(last + 2, model="faces"), SECRET.encode()), "model='faces'"),
    ):
        with pytest.raises(InferenceServerException, match=reason) as refusal:
            publish(*sealed)
        assert refusal.value.status() == "400"
    assert word.read() == in_force
    assert publish(*seal(message(last + 2), SECRET.encode())) == last + 2


def test_of_two_remote_adapters_one_publishes_and_the_other_takes_over(
    start_remote: Callable[..., Any], word: PolicyReader, eventually: Callable[..., None]
) -> None:
    first = start_remote(slo_ms=120)
    eventually(lambda: word.read().slo_ns == 120_000_000, "the SLO of the first")
    second = start_remote(slo_ms=130, ready=False)
    eventually(lambda: "another adapter" in (second.view["problem"] or ""), "it says so")
    assert not second.ready
    assert word.read().slo_ns == 120_000_000  # type: ignore[union-attr]
    first.signal(signal.SIGKILL)
    eventually(lambda: second.ready, "the second takes over")
    eventually(lambda: word.read().slo_ns == 130_000_000, "with its SLO")


def test_a_local_adapter_beside_the_control_model_is_read_only(
    served: Any, start_adapter: Callable[..., Any]
) -> None:
    local = start_adapter(served)
    assert local.view["read_only"]
    refused = local.api.put("/v1/models/digits/slo", json={"latency_ms": 50})
    assert refused.status_code == 409
    assert "another adapter" in refused.text
    local.kill()


def test_an_adapter_with_another_secret_says_what_is_wrong(
    start_remote: Callable[..., Any], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("x" * 64)
    adapter = start_remote(control_secret_file=wrong, ready=False)
    eventually(lambda: "MAC does not match POLICY" in (adapter.view["problem"] or ""), "it says so")
    assert not adapter.ready


def test_a_secret_that_cannot_be_read_is_named(
    refused_serve: Callable[..., str], tmp_path: Path
) -> None:
    assert str(tmp_path / "none") in refused_serve(f"--control={tmp_path / 'none'}")
