"""Write decisions to the policy word that every governor on this host reads."""

from __future__ import annotations

from typing import Protocol

from foveate.control.policy import Policy
from foveate_adapter.control import Decision

__all__ = ["Writer", "policy_of", "publish"]


class Writer(Protocol):
    """A policy word: on this host, or on another one."""

    @property
    def sequence(self) -> int:
        """The last sequence published; the next policy must carry one more."""
        ...

    def publish(self, policy: Policy) -> None:
        """Raises :class:`PolicyError` while policies do not take effect."""
        ...

    def close(self) -> None: ...


def policy_of(
    decision: Decision, *, epoch: int, sequence: int, slo_s: float, floor: int, lease_s: float
) -> Policy:
    """``decision`` as a policy.

    The lease starts at ``decision.at``: when the adapter stops, the governor continues alone.
    """
    at_ns = round(decision.at * 1e9)
    return Policy(
        epoch=epoch,
        sequence=sequence,
        lease_expires_ns=at_ns + round(lease_s * 1e9),
        slo_ns=round(slo_s * 1e9),
        quality_floor_level=floor,
        margin=decision.margin,
        dearest=decision.dearest,
        cheapest=decision.cheapest,
        queue_depth=-1 if decision.queue_depth is None else decision.queue_depth,
        queue_depth_at_ns=at_ns,
    )


def publish(
    writer: Writer,
    decision: Decision,
    *,
    epoch: int,
    slo_s: float,
    floor: int,
    lease_s: float,
) -> Policy:
    """Write ``decision`` as the next policy and return it."""
    policy = policy_of(
        decision,
        epoch=epoch,
        sequence=writer.sequence + 1,
        slo_s=slo_s,
        floor=floor,
        lease_s=lease_s,
    )
    writer.publish(policy)
    return policy
