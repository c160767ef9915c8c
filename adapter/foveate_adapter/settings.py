"""The adapter's configuration, read once from ``FOVEATE_ADAPTER_*``."""

from __future__ import annotations

import os
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, AwareDatetime, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foveate_adapter.address import shown
from foveate_adapter.control import Config
from foveate_adapter.errors import SettingsError
from foveate_adapter.slo import Slo

__all__ = ["Settings", "is_loopback"]

_PREFIX = "FOVEATE_ADAPTER_"


class Settings(BaseSettings):
    """Each field is read from the environment variable ``FOVEATE_ADAPTER_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, populate_by_name=True)

    host: str = Field(
        default="127.0.0.1",
        description="address the API listens on; beyond loopback a token is required",
    )
    port: int = Field(default=8080, ge=0, le=65535, description="port the API listens on")
    source: Literal["triton", "prometheus"] = Field(
        default="triton", description="where to read metrics from"
    )
    triton_url: str = Field(
        default="http://127.0.0.1:8000",
        pattern="^https?://",
        description="Triton's HTTP endpoint, used to explain an image",
    )
    metrics_url: str = Field(
        default="http://127.0.0.1:8002/metrics",
        pattern="^https?://",
        description="Triton's metrics, for source triton",
    )
    prometheus_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="a Prometheus server that scrapes Triton, for source prometheus",
    )
    prometheus_selector: str = Field(
        default="",
        description='label matchers that select one Triton, e.g. instance="10.0.0.7:8002"',
    )
    prometheus_scrape_s: float = Field(
        default=15.0,
        ge=0.1,
        le=300.0,
        description="Prometheus's scrape interval for Triton, s",
    )
    repository: Path = Field(
        default=Path("model_repository"), description="model repository to read ladders from"
    )
    # The model process reads FOVEATE_RUN_DIR; both must name the same folder.
    run_dir: Path = Field(
        validation_alias=AliasChoices(f"{_PREFIX}RUN_DIR", "FOVEATE_RUN_DIR"),
        description="folder shared with the model processes; defaults to FOVEATE_RUN_DIR",
    )
    state_dir: Path | None = Field(
        default=None, description="folder that stores SLOs; defaults to run_dir"
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="models to control, separated by commas; empty: all that have a ladder",
    )
    scrape_hz: float | None = Field(
        default=None,
        ge=1.0,
        le=100.0,
        description="scrapes, decisions and lease renewals per second; defaults to 20, or 1 with "
        "Prometheus",
    )
    # With ``slo_given_at``, these three replace an SLO stored before that time: a command line is
    # newer than any file.
    slo_ms: float = Field(
        default=200.0,
        gt=0.0,
        le=3_600_000.0,
        description="latency SLO of models without a stored SLO, ms",
    )
    objective: float = Field(
        default=0.99, gt=0.0, lt=1.0, description="share of requests to answer within the SLO"
    )
    min_quality: float = Field(
        default=0.0, ge=0.0, le=1.0, description="levels below this quality are never used"
    )
    slo_given_at: AwareDatetime | None = Field(
        default=None,
        description="ISO 8601 time; the last three, where set, replace SLOs stored before it",
    )
    slo_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="URL of central SLOs, read every minute: JSON of {model: SLO}",
    )
    lease_ms: int = Field(
        default=2000,
        ge=500,
        le=60_000,
        description="how long a policy stays valid without renewal, ms",
    )
    publish: str = Field(
        default="local",
        pattern="^(local|https?://.+)$",
        description="where to publish policies: local (run_dir), or the URL of a Triton with "
        "control models",
    )
    control_secret_file: Path | None = Field(
        default=None, description="file with the secret shared with that Triton"
    )
    token: SecretStr | None = Field(
        default=None, min_length=1, description="bearer token required for writes"
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @property
    def slo(self) -> Slo:
        return Slo(latency_ms=self.slo_ms, objective=self.objective, min_quality=self.min_quality)

    def override(self, slo: Slo, stored_at: datetime) -> Slo:
        """A stored SLO, overridden by what a later command line set."""
        if self.slo_given_at is None or self.slo_given_at <= stored_at:
            return slo
        fields = {"slo_ms": "latency_ms", "objective": "objective", "min_quality": "min_quality"}
        given = {fields[key]: getattr(self, key) for key in fields if key in self.model_fields_set}
        return slo.model_copy(update=given)

    @property
    def beat_hz(self) -> float:
        """Scrapes, decisions and lease renewals per second; Prometheus has no news in between."""
        if self.scrape_hz is not None:
            return self.scrape_hz
        return 20.0 if self.source == "triton" else max(1.0, 2000 / self.lease_ms)

    @property
    def blind_after_s(self) -> float:
        """How long to go without news before turning cautious: with Prometheus, two failed scrapes
        are tolerated.
        """
        least = Config.blind_after_s
        return least if self.source == "triton" else max(least, 3 * self.prometheus_scrape_s)

    @staticmethod
    def from_environment() -> Settings:
        """Read ``os.environ``.

        Raises :class:`SettingsError` naming key and value, also for a listener beyond loopback
        without a token and for a Prometheus source without a URL. For an unknown
        ``FOVEATE_ADAPTER_`` key it leaves out the value, which may be a misnamed token.
        """
        known = {f"{_PREFIX}{field.upper()}" for field in Settings.model_fields}
        for key in os.environ:
            if key.startswith(_PREFIX) and key not in known:
                raise SettingsError(f"{key}: unknown; expected one of {', '.join(sorted(known))}")
        try:
            settings = Settings()  # type: ignore[call-arg]  # run_dir is in the environment
        except ValidationError as error:
            raise SettingsError(_first_problem(error)) from error
        if settings.token is None and not is_loopback(settings.host):
            raise SettingsError(
                f"{_PREFIX}HOST={settings.host!r}: beyond loopback anyone could change the SLO; "
                f"set {_PREFIX}TOKEN"
            )
        if settings.source == "prometheus" and settings.prometheus_url is None:
            raise SettingsError(f"{_PREFIX}SOURCE='prometheus': set {_PREFIX}PROMETHEUS_URL")
        if settings.publish != "local" and settings.control_secret_file is None:
            raise SettingsError(
                f"{_PREFIX}PUBLISH={shown(settings.publish)!r}: set {_PREFIX}CONTROL_SECRET_FILE"
            )
        return settings


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = str(problem["loc"][0]).upper()
    key = key if key.startswith("FOVEATE_") else f"{_PREFIX}{key}"
    if problem["type"] == "missing":
        return f"{key} is not set"
    value = problem["input"]
    if isinstance(value, str):
        value = shown(value)
    return f"{key}={value!r}: {problem['msg']}"
