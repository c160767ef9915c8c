"""Which device computes: this CPU, or one of the GPUs that PyTorch sees."""

from __future__ import annotations

import re

import torch

from foveate.errors import InputError

__all__ = ["choose_device", "missing_gpu"]


def choose_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` (the first GPU) or ``cuda:N``.

    Raises :class:`InputError` naming the device, if it is none of these or not there.
    """
    if name == "cpu":
        return torch.device("cpu")
    if (match := re.fullmatch(r"cuda(?::(\d{1,3}))?", name)) is None:
        raise InputError(f"device={name!r}: expected cpu, cuda or cuda:N")
    index = int(match[1] or 0)
    if missing := missing_gpu(index):
        raise InputError(f"device={name!r}: {missing}")
    return torch.device("cuda", index)


def missing_gpu(index: int) -> str:
    """Why the GPU of that number cannot be used; empty if it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for CPUs"
    if not torch.cuda.is_available():
        return "torch sees no GPU; nvidia-smi tells whether the driver does"
    if index >= (count := torch.cuda.device_count()):
        return f"torch sees {count} GPU{'s'[: count > 1]}, numbered from 0"
    return ""
