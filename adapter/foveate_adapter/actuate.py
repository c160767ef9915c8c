"""From a decision to the policy word every governor on this host reads."""

from __future__ import annotations

from foveate.policy import Policy, PolicyWriter
from foveate_adapter.control import Decision

__all__ = ["publish"]


def publish(
    writer: PolicyWriter,
    decision: Decision,
    *,
    epoch: int,
    slo_s: float,
    floor: int,
    lease_s: float,
) -> Policy:
    """Write ``decision`` as the next policy and return it.

    The lease starts at ``decision.at``: when the adapter stops, the governor goes on alone.
    """
    at_ns = round(decision.at * 1e9)
    policy = Policy(
        epoch=epoch,
        sequence=writer.sequence + 1,
        lease_expires_ns=at_ns + round(lease_s * 1e9),
        slo_ns=round(slo_s * 1e9),
        quality_floor_level=floor,
        margin=decision.margin,
        dearest=decision.dearest,
        cheapest=decision.cheapest,
        queue_depth=-1 if decision.queue_depth is None else decision.queue_depth,
        queue_depth_at_ns=at_ns,
    )
    writer.publish(policy)
    return policy
