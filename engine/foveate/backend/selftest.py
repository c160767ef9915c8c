"""Checks at start-up that refuse set-ups which cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from foveate.errors import ServerError

__all__ = ["check_batches", "check_instances", "check_tensors"]


def check_instances(config: Mapping[str, Any]) -> None:
    """Require one instance per model and server: a second one would take requests from the queue
    whose ages this one estimates.

    Raises :class:`ServerError` naming the count.
    """
    groups = config["instance_group"]
    # Without ``gpus`` the server makes as many instances as it sees GPUs, and says so here.
    count = sum(int(group["count"]) * max(1, len(group.get("gpus", []))) for group in groups)
    if count != 1:
        raise ServerError(
            f"instance_group count={count}, over all GPUs: expected 1; name one GPU in gpus, "
            "and run more servers to scale"
        )


def check_batches(config: Mapping[str, Any]) -> None:
    """Require batches: without them tensors come without the dimension that counts images.

    Raises :class:`ServerError` naming the size.
    """
    if (images := int(config["max_batch_size"])) < 1:
        raise ServerError(f"config.pbtxt: max_batch_size={images}: expected 1 or more")


def check_tensors(pb_utils: Any) -> None:
    """Send known tensors through the server's own types and compare.

    BYTES tensors can only cross through numpy, and servers before 24.11 corrupt them under numpy 2.
    Raises :class:`ServerError` naming the versions.
    """
    numbers = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    there = pb_utils.Tensor.from_dlpack("numbers", numbers)
    texts = np.array([b"foveate", b"", b"\x00\xff"], dtype=np.object_)
    try:
        same = torch.equal(from_dlpack(there.to_dlpack()), numbers)
        same = same and list(pb_utils.Tensor("texts", texts).as_numpy()) == list(texts)
    except Exception as error:
        raise ServerError(
            f"numpy {np.__version__} does not work with this server: {error}"
        ) from error
    if not same:
        raise ServerError(
            f"numpy {np.__version__} and this server corrupt tensors; install numpy<2, "
            "or use a server of 24.11 or later"
        )
