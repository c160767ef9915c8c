"""Settings of a model process, read once from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from foveate.errors import FoveateError
from foveate.usable_cpus import default_threads, usable_cpus

__all__ = ["ModelSettings", "Precision", "default_state_dir", "state_dir"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_PREFIX, _ADAPTER = "FOVEATE_", "FOVEATE_ADAPTER_"
# Kubernetes sets these for a service named foveate.
_OTHERS = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_|$)")


def default_state_dir() -> Path:
    """Default folder for measured latencies and the server root, kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "foveate"


def state_dir() -> Path:
    """Folder that outlives a run: latency tables and the laid-out server. Created on first use."""
    return Path(os.environ.get("FOVEATE_STATE_DIR") or default_state_dir()).absolute()


class ModelSettings(BaseModel):
    """``FOVEATE_*`` variables of the process that runs a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path = Field(
        description="folder shared with the adapter: policy words, latency tables"
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="folder kept between runs: measured latencies, laid-out server, admin key",
    )
    precision: Precision = Field(
        default="auto",
        description="of products of matrices; auto: on a GPU fp16, or bf16 where fp16 answers "
        "otherwise than fp32; on a CPU bf16 where it has AMX-BF16 or AVX512-BF16; the parameter "
        "precision in a config.pbtxt goes first",
    )
    executor: Literal["auto", "compiled", "reference"] = Field(
        default="auto",
        description="what runs levels on a CPU: compiled by OpenVINO, or PyTorch as it is; auto: "
        "compiled where OpenVINO is installed",
    )
    threads: int = Field(
        default_factory=lambda: default_threads(usable_cpus()),
        ge=1,
        description="CPU threads of each model process, at most the CPUs it may use (affinity, "
        "cgroup quota); by default one of every eight of them, at least one, is left to Triton and "
        "the decoders",
    )
    admission: Literal["on", "off"] = Field(
        default="on", description="reject requests that would miss their deadline"
    )
    pin_cap: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of compute time for exact and pinned requests under pressure",
    )
    slo_ms: float = Field(
        default=200.0,
        gt=0,
        le=3_600_000,
        description="latency SLO until an adapter sets one, ms",
    )
    control_secret_file: Path | None = Field(
        default=None, description="file with the secret shared with adapters on other hosts"
    )

    @field_validator("threads")
    @classmethod
    def _usable(cls, threads: int) -> int:
        if threads > (cpus := usable_cpus()):
            text = "expected at most {cpus}, the CPUs this process may use"
            raise PydanticCustomError("too_many_threads", text, {"cpus": cpus})
        return threads

    def variables(self) -> dict[str, str]:
        """The environment that :meth:`read` would make these settings of."""
        return {f"{_PREFIX}{name.upper()}": str(value) for name, value in self if value is not None}

    @staticmethod
    def read(
        environ: Mapping[str, str] = os.environ, *, precision: str | None = None
    ) -> ModelSettings:
        """``precision`` is a model's own, which goes first.

        Raises :class:`FoveateError` naming key and value if a value is bad, and naming the key
        alone if it is unknown: its value may be a secret under a misspelt name.
        """
        ours = {
            key.removeprefix(_PREFIX).lower(): value
            for key, value in environ.items()
            if key.startswith(_PREFIX) and not key.startswith(_ADAPTER) and not _OTHERS.search(key)
        }
        if precision is not None:
            ours["precision"] = precision
        try:
            return ModelSettings.model_validate(ours)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            value, reason = f"={ours.get(name)!r}", first["msg"]
            if first["type"] == "extra_forbidden":
                known = sorted(f"{_PREFIX}{field.upper()}" for field in ModelSettings.model_fields)
                value, reason = "", f"unknown; expected one of {', '.join(known)}"
            stated = precision is not None and name == "precision"
            key = "config.pbtxt: parameter precision" if stated else f"{_PREFIX}{name.upper()}"
            raise FoveateError(f"{key}{value}: {reason}") from error
