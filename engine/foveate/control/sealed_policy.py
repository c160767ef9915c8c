"""A policy sent over a network: JSON, sealed with a secret both ends know.

Monotonic times mean nothing on another host, so the message carries durations: the remaining lease
and the age of the queue depth. The receiver adds them to its own clock. The seal is an HMAC-SHA256
over the exact bytes of the JSON. The JSON names the model and carries the sequence number and the
time of sending, so a message cannot be replayed, delayed or redirected to another model.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foveate.control.policy import Policy
from foveate.errors import BadMessage, FoveateError

__all__ = ["PolicyMessage", "read_secret", "seal", "unseal"]

_MIN_SECRET_BYTES = 16  # bytes
_MS = 1_000_000

_Level = Annotated[int, Field(ge=0, lt=2**31)]
_Number = Annotated[int, Field(ge=1, lt=2**63)]


class PolicyMessage(BaseModel):
    """The message. Every key is required, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    sequence: _Number
    sent_at: float  # seconds since 1970 by the sender's clock
    epoch: _Number
    lease_ms: Annotated[float, Field(gt=0, le=60_000)]  # from the moment of sending
    slo_ms: Annotated[float, Field(gt=0, le=3_600_000)]
    quality_floor_level: _Level
    margin: Annotated[float, Field(gt=0, le=1)]
    dearest: _Level
    cheapest: _Level
    queue_depth: _Level | None  # None: unknown
    queue_age_ms: Annotated[float, Field(ge=0)]  # at the moment of sending

    @model_validator(mode="after")
    def _dearest_comes_first(self) -> Self:
        if self.dearest > self.cheapest:
            raise ValueError(f"dearest={self.dearest} is cheaper than cheapest={self.cheapest}")
        return self

    @staticmethod
    def of(
        policy: Policy, *, model: str, sequence: int, sent_at: float, now_ns: int
    ) -> PolicyMessage:
        """``policy`` as message number ``sequence``; ``now_ns`` is this host's monotonic time."""
        return PolicyMessage(
            model=model,
            sequence=sequence,
            sent_at=sent_at,
            epoch=policy.epoch,
            lease_ms=(policy.lease_expires_ns - now_ns) / _MS,
            slo_ms=policy.slo_ns / _MS,
            quality_floor_level=policy.quality_floor_level,
            margin=policy.margin,
            dearest=policy.dearest,
            cheapest=policy.cheapest,
            queue_depth=policy.queue_depth if policy.queue_depth >= 0 else None,
            queue_age_ms=max(0, now_ns - policy.queue_depth_at_ns) / _MS,
        )

    def policy(self, now_ns: int) -> Policy:
        """The policy on a host whose monotonic time is ``now_ns``."""
        return Policy(
            epoch=self.epoch,
            sequence=self.sequence,
            lease_expires_ns=now_ns + round(self.lease_ms * _MS),
            slo_ns=round(self.slo_ms * _MS),
            quality_floor_level=self.quality_floor_level,
            margin=self.margin,
            dearest=self.dearest,
            cheapest=self.cheapest,
            queue_depth=-1 if self.queue_depth is None else self.queue_depth,
            queue_depth_at_ns=now_ns - round(self.queue_age_ms * _MS),
        )


def seal(message: PolicyMessage, secret: bytes) -> tuple[str, str]:
    """The message as JSON, and the hexadecimal seal over exactly that text."""
    body = message.model_dump_json()
    return body, _mac(body.encode(), secret)


def unseal(body: bytes, mac: bytes, secret: bytes) -> PolicyMessage:
    """Verify the seal, then parse.

    Raises :class:`BadMessage` for a wrong seal, and for a malformed message, naming key and value.
    """
    if not hmac.compare_digest(_mac(body, secret).encode(), mac):
        raise BadMessage("MAC does not match POLICY under this server's secret")
    try:
        return PolicyMessage.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"])) or "POLICY"
        given = "" if problem["type"] == "missing" else f"={problem['input']!r}"
        raise BadMessage(f"{key}{given}: {problem['msg']}") from error


def read_secret(path: Path) -> bytes:
    """The secret in a file, without surrounding white space.

    Raises :class:`FoveateError` naming the file if it cannot be read or holds less than 16 bytes.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise FoveateError(f"{path}: cannot read the secret: {error.strerror}") from error
    if len(secret) < _MIN_SECRET_BYTES:
        raise FoveateError(
            f"{path}: the secret has {len(secret)} bytes, expected at least {_MIN_SECRET_BYTES} "
            "(openssl rand -hex 32)"
        )
    return secret


def _mac(body: bytes, secret: bytes) -> str:
    return hmac.new(secret, body, "sha256").hexdigest()
