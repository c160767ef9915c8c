"""The name of the GPU, asked of its driver: without PyTorch, and without a context on it."""

from __future__ import annotations

import ctypes
import re

__all__ = ["device_name", "folder_name"]


def device_name() -> str:
    """As PyTorch calls the first visible GPU. Raises OSError if there is none."""
    driver = ctypes.CDLL("libcuda.so.1")
    number, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    codes = [
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(number), 0),
        driver.cuDeviceGetName(name, len(name), number),
    ]
    if any(codes):
        raise OSError(f"the driver of the GPU answers {codes}")
    return name.value.decode()


def folder_name(device: str) -> str:
    """A GPU's folder among the results: "NVIDIA H100 80GB HBM3" has nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
