"""The policy word between real processes."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.control.policy import Policy, PolicyReader, PolicyWriter, policy_path
from foveate.errors import PolicyError

POLICY = Policy(
    epoch=7,
    sequence=1,
    lease_expires_ns=123,
    slo_ns=200_000_000,
    quality_floor_level=4,
    margin=0.5,
    dearest=0,
    cheapest=4,
    queue_depth=-1,
    queue_depth_at_ns=99,
)


def test_a_reader_sees_each_publication(tmp_path: Path) -> None:
    path = policy_path(tmp_path / "run", "digits")
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        assert reader.read() is None
        for sequence in range(1, 6):
            policy = replace(POLICY, sequence=sequence, queue_depth=sequence)
            writer.publish(policy)
            assert reader.read() == policy
            assert reader.read() == policy
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_torn_word_leaves_the_last_good_policy(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        writer.publish(POLICY)
        assert reader.read() == POLICY
        writer.publish(replace(POLICY, sequence=2))
        with path.open("r+b") as file:
            file.seek(128 + 20)  # a field of slot 2 % 2
            file.write(b"\xff\xff")
        assert reader.read() == POLICY


@pytest.mark.parametrize("size", [0, 8, 200, 300])
def test_a_truncated_word_leaves_the_last_good_policy_and_heals(tmp_path: Path, size: int) -> None:
    path = policy_path(tmp_path, "digits")
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        writer.publish(POLICY)
        writer.publish(replace(POLICY, sequence=2))
        assert reader.read() == replace(POLICY, sequence=2)
        os.truncate(path, size)
        assert reader.read() == replace(POLICY, sequence=2)
        writer.publish(replace(POLICY, sequence=3))
        assert reader.read() == replace(POLICY, sequence=3)


def test_a_word_of_noise_is_no_policy_and_does_not_hold_up_a_writer(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    path.write_bytes(b"\xff" * 384)
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        assert reader.read() is None
        writer.publish(POLICY)
        assert reader.read() == POLICY


def test_a_file_that_takes_no_more_keeps_the_policy_before(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        writer.publish(POLICY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(PolicyError, match=f"{path}: cannot write the policy"):
                writer.publish(replace(POLICY, sequence=2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert reader.read() == POLICY
        writer.publish(replace(POLICY, sequence=2))
        assert reader.read() == replace(POLICY, sequence=2)


DIE = """
import os, signal, sys
from pathlib import Path
from foveate.control.policy import Policy, PolicyWriter
fields = dict.fromkeys(Policy.__dataclass_fields__, 1)
writer = PolicyWriter(Path(sys.argv[1]))
writer.publish(Policy(**fields))
write = os.pwrite
def write_and_die(*args):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)
os.pwrite = write_and_die
writer.publish(Policy(**fields | {"sequence": 2}))
"""


def test_a_writer_killed_within_an_update_leaves_the_policy_before(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    died = subprocess.run([sys.executable, "-c", DIE, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    with PolicyReader(path) as reader, PolicyWriter(path) as writer:
        assert reader.read() == Policy(**dict.fromkeys(Policy.__dataclass_fields__, 1))
        assert writer.sequence == 1
        writer.publish(replace(POLICY, sequence=2))
        assert reader.read() == replace(POLICY, sequence=2)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    with PolicyWriter(path), pytest.raises(PolicyError, match="another adapter"):
        PolicyWriter(path)
    PolicyWriter(path).close()


def test_a_new_writer_continues_the_sequence(tmp_path: Path) -> None:
    path = policy_path(tmp_path, "digits")
    with PolicyWriter(path) as writer:
        writer.publish(POLICY)
    with PolicyWriter(path) as writer, PolicyReader(path) as reader:
        assert reader.read() == POLICY
        with pytest.raises(PolicyError, match="sequence=1"):
            writer.publish(POLICY)
        writer.publish(replace(POLICY, sequence=writer.sequence + 1, epoch=8))
        assert reader.read() == replace(POLICY, sequence=2, epoch=8)


WRITE = """
import sys
from dataclasses import replace
from pathlib import Path
from foveate.control.policy import Policy, PolicyWriter
writer = PolicyWriter(Path(sys.argv[1]))
fields = [f for f in Policy.__dataclass_fields__ if f != "margin"]
for n in range(1, 20001):
    writer.publish(Policy(margin=float(n), **{f: n for f in fields}))
"""


def test_no_reader_ever_sees_half_a_policy(tmp_path: Path) -> None:
    """A writer process publishes as fast as it can; all fields of one policy are equal."""
    path = policy_path(tmp_path, "digits")
    with PolicyReader(path) as reader:
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)])
        seen: set[int] = set()
        while writer.poll() is None:
            if (policy := reader.read()) is not None:
                values = {getattr(policy, f) for f in Policy.__dataclass_fields__}
                assert len(values) == 1
                seen.add(policy.sequence)
        assert writer.returncode == 0
        last = reader.read()
        assert last is not None
        assert last.sequence == 20_000
        assert len(seen) > 10


def test_a_word_that_cannot_be_opened_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "digits.policy").mkdir()
    with pytest.raises(PolicyError, match=r"digits\.policy"):
        PolicyReader(tmp_path / "digits.policy")
