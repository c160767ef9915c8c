"""The policy word: the file through which an adapter steers every governor on its host.

One small file per model, ``$FOVEATE_RUN_DIR/NAME.policy``, mode 0600. The writer fills the slot
nobody reads, then publishes it by writing its sequence number into the header. A reader checks the
sequence number and a checksum, retries a few times, and otherwise keeps the last good policy.
Standard library only. All times are ``time.monotonic_ns()``, which all processes of a host share.

The file is read and written, not memory-mapped: touching a mapped page of a truncated file, or with
a full disk, kills the process (SIGBUS), and the model must survive both.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from foveate.errors import PolicyError, PolicyTaken

__all__ = ["Policy", "PolicyReader", "PolicyWriter", "policy_path"]

_MAGIC = b"FOVEATE1"
_SLOT = struct.Struct("<QQqqidiiiq")  # the fields of Policy, in order
_CHECK = struct.Struct("<I")
_HEADER = struct.Struct("<8sQ")  # magic, sequence
_SLOT_SIZE = 128
_SIZE = _SLOT_SIZE * 3  # header, two slots
_RETRIES = 8
_MAX_LEASE_NS = 60_000_000_000  # a longer one was written before the last boot


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a governor obeys. SLO and quality floor outlive the lease; the rest expires with it."""

    epoch: int  # identifies the writer; a new adapter starts a new one
    sequence: int  # increases by one with every publication
    lease_expires_ns: int
    slo_ns: int
    quality_floor_level: int  # last level index that reaches min_quality; never use a cheaper one
    margin: float  # share of the SLO the governor may plan for, 0..1
    dearest: int  # allowed level range; a pin sets both ends to one level
    cheapest: int
    queue_depth: int  # requests waiting in Triton's queue, -1 unknown
    queue_depth_at_ns: int

    def live(self, now_ns: int) -> bool:
        """Whether the lease is still valid."""
        return 0 < self.lease_expires_ns - now_ns <= _MAX_LEASE_NS


def policy_path(run_dir: Path, model: str) -> Path:
    return run_dir / f"{model}.policy"


class _Word:
    """The file, created if absent; shared by reader and writer."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PolicyError(f"{path}: cannot open the policy word: {error}") from error
        self.path = path

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self) -> bytes:
        return os.pread(self._fd, _SIZE, 0)


class PolicyReader(_Word):
    """Reads the word once per batch, in about two microseconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._header = b""  # of the last good policy
        self._last: Policy | None = None

    def read(self) -> Policy | None:
        """The newest intact policy; None until one was ever published."""
        for _ in range(_RETRIES):
            try:
                raw = self._load()
            except OSError:
                break
            if raw[: _HEADER.size] == self._header:
                break
            if (policy := _intact(raw)) is not None:
                self._header, self._last = raw[: _HEADER.size], policy
                break
        return self._last


class PolicyWriter(_Word):
    """Publishes policies. One per word and host: a second writer raises :class:`PolicyTaken`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise PolicyTaken(f"{path}: another adapter publishes this policy") from error
        policy = _intact(self._load())
        self._sequence = 0 if policy is None else policy.sequence

    @property
    def sequence(self) -> int:
        """The last sequence published by any writer; the next policy must carry one more."""
        return self._sequence

    def publish(self, policy: Policy) -> None:
        """Make ``policy`` the current one. Its sequence must be ``self.sequence + 1``.

        Raises :class:`PolicyError` if it is not, or if there is no room for it; the policy before
        is then still in force.
        """
        if policy.sequence != self.sequence + 1:
            raise PolicyError(
                f"{self.path}: sequence={policy.sequence}, expected {self.sequence + 1}"
            )
        fields = _SLOT.pack(*(getattr(policy, name) for name in Policy.__dataclass_fields__))
        slot = fields + _CHECK.pack(zlib.crc32(fields))
        header = _HEADER.pack(_MAGIC, policy.sequence)
        try:
            os.pwrite(self._fd, slot, _slot_start(policy.sequence))
            os.pwrite(self._fd, header, 0)  # publishes the slot
        except OSError as error:
            raise PolicyError(f"{self.path}: cannot write the policy: {error}") from error
        self._sequence = policy.sequence


def _slot_start(sequence: int) -> int:
    return _SLOT_SIZE * (1 + sequence % 2)


def _intact(raw: bytes) -> Policy | None:
    """The policy a word holds; None unless every byte of it is as it was written."""
    if len(raw) < _HEADER.size:
        return None
    magic, sequence = _HEADER.unpack_from(raw)
    start = _slot_start(sequence)
    fields = raw[start : start + _SLOT.size]
    check = raw[start + _SLOT.size : start + _SLOT.size + _CHECK.size]
    if magic != _MAGIC or check != _CHECK.pack(zlib.crc32(fields)) or len(fields) < _SLOT.size:
        return None
    values = _SLOT.unpack(fields)
    policy = Policy(**dict(zip(Policy.__dataclass_fields__, values, strict=True)))
    return policy if policy.sequence == sequence else None
