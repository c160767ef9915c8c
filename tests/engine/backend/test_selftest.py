"""What the plugin refuses before the first request."""

from __future__ import annotations

import pytest

from foveate.backend.selftest import check_batches, check_instances
from foveate.errors import ServerError


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ([{"count": 2}], 2),
        ([{"count": 1}, {"count": 1}], 2),
        ([{"count": 1, "gpus": [0, 1]}], 2),  # what one KIND_GPU instance becomes on two GPUs
    ],
)
def test_several_instances_are_refused(groups: list[dict[str, object]], count: int) -> None:
    with pytest.raises(
        ServerError, match=f"instance_group count={count}, over all GPUs: expected 1"
    ):
        check_instances({"instance_group": groups})


@pytest.mark.parametrize(
    "group", [{"count": 1}, {"count": 1, "gpus": []}, {"count": 1, "gpus": [1]}]
)
def test_one_instance_is_fine(group: dict[str, object]) -> None:
    check_instances({"instance_group": [group]})


def test_a_model_without_batches_is_refused() -> None:
    check_batches({"max_batch_size": 1})
    with pytest.raises(ServerError, match="max_batch_size=0: expected 1 or more"):
        check_batches({"max_batch_size": 0})
