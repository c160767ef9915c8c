"""The policy word: how an adapter tells every governor on its host what to aim at.

One small memory-mapped file per model, ``$FOVEATE_RUN_DIR/NAME.policy``, mode 0600. The writer
fills the slot nobody reads, then publishes it with one aligned 8-byte store of its sequence
number; a reader checks that sequence and a checksum, retries a few times, and otherwise keeps the
last good policy. Standard library only. All times are ``time.monotonic_ns()``, which every process
of a host shares.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from foveate.errors import PolicyError

__all__ = ["Policy", "PolicyReader", "PolicyWriter", "policy_path"]

_MAGIC = b"FOVEATE1"
_SLOT = struct.Struct("<QQqqidiiiq")  # the fields of Policy, in order
_CHECK = struct.Struct("<I")
_SLOT_SIZE = 128
_SIZE = _SLOT_SIZE * 3  # header (magic, sequence), two slots
_RETRIES = 8


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a governor obeys. SLO and floor outlive the lease, everything else expires with it."""

    epoch: int  # which writer; a new adapter starts a new one
    sequence: int  # grows by one with every publication
    lease_expires_ns: int
    slo_ns: int
    quality_floor_level: int  # no level above this index, ever: quality would be under min_quality
    margin: float  # share of the SLO the governor may plan for, 0..1
    dearest: int  # allowed level range; a pin sets both ends to one level
    cheapest: int
    queue_depth: int  # requests waiting in Triton's queue, -1 unknown
    queue_depth_at_ns: int


def policy_path(run_dir: Path, model: str) -> Path:
    return run_dir / f"{model}.policy"


class _Word:
    """The mapped file, created if absent; shared by reader and writer."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._fd).st_size < _SIZE:
                os.ftruncate(self._fd, _SIZE)
            self._map = mmap.mmap(self._fd, _SIZE)
        except OSError as error:
            raise PolicyError(f"{path}: cannot map the policy word: {error}") from error
        self.path = path
        self._sequence = memoryview(self._map)[8:16].cast("Q")

    def close(self) -> None:
        self._sequence.release()
        self._map.close()
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


class PolicyReader(_Word):
    """Reads the word once per batch, in about two microseconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._last: Policy | None = None

    def read(self) -> Policy | None:
        """The newest intact policy; None until one was ever published."""
        for _ in range(_RETRIES):
            sequence = self._sequence[0]
            if self._map[:8] != _MAGIC:
                break
            if self._last is not None and sequence == self._last.sequence:
                break
            start = _SLOT_SIZE * (1 + sequence % 2)
            raw = self._map[start : start + _SLOT.size + _CHECK.size]
            fields, check = raw[: _SLOT.size], raw[_SLOT.size :]
            if _CHECK.unpack(check)[0] == zlib.crc32(fields):
                policy = Policy(
                    **dict(zip(Policy.__dataclass_fields__, _SLOT.unpack(fields), strict=True))
                )
                if policy.sequence == sequence:
                    self._last = policy
                    break
        return self._last


class PolicyWriter(_Word):
    """Publishes policies. One per word and host: a second writer raises :class:`PolicyError`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise PolicyError(f"{path}: another adapter publishes this policy") from error
        if self._map[:8] != _MAGIC:
            self._map[:8] = _MAGIC

    @property
    def sequence(self) -> int:
        """The last sequence published by any writer; the next policy must carry one more."""
        return int(self._sequence[0])

    def publish(self, policy: Policy) -> None:
        """Make ``policy`` the current one. Its sequence must be ``self.sequence + 1``."""
        if policy.sequence != self.sequence + 1:
            raise PolicyError(
                f"{self.path}: sequence={policy.sequence}, expected {self.sequence + 1}"
            )
        fields = _SLOT.pack(*(getattr(policy, name) for name in Policy.__dataclass_fields__))
        start = _SLOT_SIZE * (1 + policy.sequence % 2)
        self._map[start : start + _SLOT.size] = fields
        self._map[start + _SLOT.size : start + _SLOT.size + _CHECK.size] = _CHECK.pack(
            zlib.crc32(fields)
        )
        self._sequence[0] = policy.sequence  # one aligned store publishes the slot
