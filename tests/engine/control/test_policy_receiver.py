"""What the control model takes from the network, and what it refuses."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveate.control.policy import Policy, PolicyReader, PolicyWriter, policy_path
from foveate.control.policy_receiver import Control
from foveate.control.sealed_policy import PolicyMessage, seal
from foveate.errors import BadMessage, FoveateError, PolicyTaken
from foveate.settings import ModelSettings

SECRET = b"0123456789abcdef"
MS = 1_000_000
THERE, HERE = 5_000_000 * MS, 90 * MS  # monotonic clocks of two hosts
WALL = 1_800_000_000.0
POLICY = Policy(
    epoch=7,
    sequence=41,
    lease_expires_ns=THERE + 2000 * MS,
    slo_ns=200 * MS,
    quality_floor_level=4,
    margin=0.45,
    dearest=1,
    cheapest=4,
    queue_depth=12,
    queue_depth_at_ns=THERE - 3 * MS,
)


@pytest.fixture
def settings(tmp_path: Path) -> ModelSettings:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    return ModelSettings(run_dir=tmp_path / "run", control_secret_file=secret)


@pytest.fixture
def control(settings: ModelSettings) -> Control:
    return Control("digits", settings)


@pytest.fixture
def word(settings: ModelSettings) -> PolicyReader:
    return PolicyReader(policy_path(settings.run_dir, "digits"))


def message(policy: Policy = POLICY, **changes: Any) -> PolicyMessage:
    facts = {"model": "digits", "sequence": 1, "sent_at": WALL, "now_ns": THERE} | changes
    return PolicyMessage.of(policy, **facts)


def publish(control: Control, message: PolicyMessage, now_ns: int = HERE) -> int:
    body, mac = seal(message, SECRET)
    return control.publish(body.encode(), mac.encode(), wall_s=WALL, now_ns=now_ns)


def test_a_policy_keeps_its_durations_on_the_clock_of_another_host(
    control: Control, word: PolicyReader
) -> None:
    assert control.sequence() == 0
    assert publish(control, message()) == control.sequence() == 1
    assert word.read() == replace(
        POLICY,
        sequence=1,
        lease_expires_ns=HERE + 2000 * MS,
        queue_depth_at_ns=HERE - 3 * MS,
    )


def test_an_unknown_queue_stays_unknown(control: Control, word: PolicyReader) -> None:
    publish(control, message(replace(POLICY, queue_depth=-1)))
    policy = word.read()
    assert policy is not None
    assert policy.queue_depth == -1


@pytest.mark.parametrize("forgery", ["another body", "another secret", "no seal", "not text"])
def test_a_forged_message_is_refused_before_it_is_read(
    control: Control, word: PolicyReader, forgery: str
) -> None:
    body, mac = (text.encode() for text in seal(message(), SECRET))
    body, mac = {
        "another body": (body.replace(b"0.45", b"0.99"), mac),
        "another secret": (body, seal(message(), b"another secret!!")[1].encode()),
        "no seal": (body, b""),
        "not text": (b"\xff\x00", b"\xff"),
    }[forgery]
    with pytest.raises(BadMessage, match="MAC does not match POLICY"):
        control.publish(body, mac, wall_s=WALL, now_ns=HERE)
    assert word.read() is None


@pytest.mark.parametrize("sequence", [1, 2, 4, 1000], ids=["first", "last", "gap", "far"])
def test_a_message_out_of_turn_is_refused(
    control: Control, settings: ModelSettings, word: PolicyReader, sequence: int
) -> None:
    publish(control, message())
    publish(control, message(sequence=2))
    before = word.read()
    with pytest.raises(BadMessage, match=f"sequence={sequence}: expected 3"):
        publish(control, message(sequence=sequence))
    control.close()
    restarted = Control("digits", settings)  # the word remembers
    with pytest.raises(BadMessage, match=f"sequence={sequence}: expected 3"):
        publish(restarted, message(sequence=sequence))
    assert word.read() == before
    assert publish(restarted, message(sequence=3)) == 3


@pytest.mark.parametrize("late_s", [5.5, -5.5, 3600])
def test_a_message_of_another_time_is_refused(control: Control, late_s: float) -> None:
    with pytest.raises(BadMessage, match=r"sent_at=.*[+-]\d+\.\d s from the clock"):
        publish(control, message(sent_at=WALL - late_s))
    assert publish(control, message(sent_at=WALL - 4.5)) == 1


def test_a_message_to_another_model_is_refused(control: Control) -> None:
    with pytest.raises(BadMessage, match="model='faces': expected 'digits'"):
        publish(control, message(model="faces"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"margin": 1.5}, "margin=1.5"),
        ({"margin": "0.5"}, "margin='0.5'"),
        ({"dearest": 5}, "dearest=5 is cheaper than cheapest=4"),
        ({"dearest": -1}, "dearest=-1"),
        ({"cheapest": 2**31}, "cheapest=2147483648"),
        ({"lease_ms": 0}, "lease_ms=0"),
        ({"lease_ms": 90_000}, "lease_ms=90000"),
        ({"slo_ms": -1}, "slo_ms=-1"),
        ({"queue_age_ms": -1}, "queue_age_ms=-1"),
        ({"sequence": 1.5}, "sequence=1.5"),
        ({"sent_at": float("nan")}, "sent_at"),
        ({"note": "hello"}, "note='hello'"),
        ({"epoch": None}, "epoch"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_malformed_policy_is_refused_naming_key_and_value(
    control: Control, word: PolicyReader, change: dict[str, Any], reason: str
) -> None:
    body = json.dumps(message().model_dump() | change)
    _refused(control, body, reason)
    assert word.read() is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [("{", "Invalid JSON"), ("[]", "POLICY"), ("{}", "model: Field required")],
)
def test_a_body_that_is_no_policy_is_refused(control: Control, body: str, reason: str) -> None:
    _refused(control, body, reason)


def test_a_long_body_is_refused(control: Control) -> None:
    _refused(control, " " * 5000, "5000 bytes")


def _refused(control: Control, body: str, reason: str) -> None:
    mac = hmac.new(SECRET, body.encode(), "sha256").hexdigest()
    with pytest.raises(BadMessage, match=reason):
        control.publish(body.encode(), mac.encode(), wall_s=WALL, now_ns=HERE)


def test_a_second_remote_adapter_waits_for_the_lease_of_the_first(control: Control) -> None:
    publish(control, message())
    other = message(replace(POLICY, epoch=8), sequence=2)
    with pytest.raises(PolicyTaken, match=r"epoch=8: another adapter \(epoch 7\)"):
        publish(control, other, HERE + 1500 * MS)
    assert publish(control, other, HERE + 2001 * MS) == 2


def test_a_local_adapter_and_the_control_model_exclude_each_other(settings: ModelSettings) -> None:
    path = policy_path(settings.run_dir, "digits")
    local = PolicyWriter(path)
    control = Control("digits", settings)
    with pytest.raises(PolicyTaken, match="another adapter"):
        publish(control, message())
    local.close()
    assert publish(control, message()) == 1
    with pytest.raises(PolicyTaken, match="another adapter"):
        PolicyWriter(path)
    control.close()
    PolicyWriter(path).close()


@pytest.mark.parametrize("content", [None, b"", b"short"], ids=["absent", "empty", "short"])
def test_an_unusable_secret_names_its_file(
    settings: ModelSettings, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "other"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FoveateError, match=str(file)):
        Control("digits", settings.model_copy(update={"control_secret_file": file}))


def test_a_control_model_without_a_secret_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="FOVEATE_CONTROL_SECRET_FILE"):
        Control("digits", ModelSettings(run_dir=tmp_path))


def test_the_latency_table_is_told_as_soon_as_there_is_one(
    control: Control, settings: ModelSettings
) -> None:
    assert control.latency() == ""
    (settings.run_dir / "digits.latency.json").write_text("{}")
    assert control.latency() == "{}"
