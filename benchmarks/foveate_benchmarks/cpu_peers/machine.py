"""The processor, what it can do that matters here, and the versions of all that is compared."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.inference.latency import processor
from foveate.usable_cpus import usable_cpus

__all__ = ["machine"]

FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": processor(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "usable_cpus": usable_cpus(),
        "versions": {name: _version(name) for name in ("openvino", "onnxruntime", "torch")},
    }


def _version(name: str) -> str:
    try:
        return version(name).split("-")[0]
    except PackageNotFoundError:
        return "not installed"
