"""The SLO of a model, and the file that stores it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from foveate.atomic_file import replacing
from foveate_adapter.control import Goal
from foveate_adapter.errors import StateError

__all__ = ["Slo", "SloFile", "SloWish"]

_LatencyMs = Annotated[float, Field(gt=0, le=3_600_000, description="milliseconds")]
_Objective = Annotated[
    float, Field(gt=0, lt=1, description="share of requests to answer within latency_ms")
]
_MinQuality = Annotated[
    float, Field(ge=0, le=1, description="on the ladder's scale; no level below it is served")
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Slo(_Strict):
    """The objective for one model, and the goal to pursue within it."""

    latency_ms: _LatencyMs
    objective: _Objective
    min_quality: _MinQuality
    goal: Goal = "latency"

    @property
    def latency_s(self) -> float:
        return self.latency_ms / 1000


class SloWish(_Strict):
    """Changes to an SLO; missing keys keep their value."""

    latency_ms: _LatencyMs | None = None
    objective: _Objective | None = None
    min_quality: _MinQuality | None = None
    goal: Goal | None = None

    def applied_to(self, slo: Slo) -> Slo:
        return slo.model_copy(update=self.model_dump(exclude_none=True))


class _Stored(_Strict):
    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: str
    stored_at: AwareDatetime
    slo: Slo


class SloFile:
    """``STATE_DIR/NAME/slo.json``: the last SLO set for a model."""

    def __init__(self, state_dir: Path, model: str) -> None:
        self.path = state_dir / model / "slo.json"
        self._model = model

    def load(self) -> tuple[Slo, datetime] | None:
        """The SLO and when it was stored; None if none is stored.

        Raises :class:`StateError` naming the file if it is damaged or belongs to another model.
        """
        try:
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(map(str, problem["loc"]))
            raise StateError(f"{self.path}: {f'{key}: ' if key else ''}{problem['msg']}") from error
        if stored.model != self._model:
            raise StateError(f"{self.path}: model={stored.model!r}, expected {self._model!r}")
        return stored.slo, stored.stored_at

    def save(self, slo: Slo) -> None:
        """Write atomically: after a crash the file holds the old SLO or the new one.

        Raises :class:`StateError` naming the file, which then still holds the old SLO.
        """
        stored = _Stored(model=self._model, stored_at=datetime.now(UTC), slo=slo)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as scratch:
                scratch.write_text(stored.model_dump_json(indent=1, by_alias=True) + "\n")
            _sync_folder(self.path.parent)
        except OSError as error:
            raise StateError(f"{self.path}: cannot store the SLO: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
