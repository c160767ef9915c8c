"""The one configuration object of the process, read once from ``FOVEATE_ADAPTER_*``."""

from __future__ import annotations

import os
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, AwareDatetime, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foveate_adapter.control import Config
from foveate_adapter.errors import SettingsError
from foveate_adapter.slo import Slo

__all__ = ["Settings", "is_loopback"]

_PREFIX = "FOVEATE_ADAPTER_"


class Settings(BaseSettings):
    """Each field is read from the environment variable ``FOVEATE_ADAPTER_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    source: Literal["triton", "prometheus"] = "triton"
    metrics_url: str = Field(default="http://127.0.0.1:8002/metrics", pattern="^https?://")
    # A Prometheus server that scrapes Triton, the label matchers that tell which Triton is meant
    # (``instance="10.0.0.7:8002"``), and how often it is scraped: nothing is newer than that.
    prometheus_url: str | None = Field(default=None, pattern="^https?://")
    prometheus_selector: str = ""
    prometheus_scrape_s: float = Field(default=15.0, ge=0.1, le=300.0)
    repository: Path = Path("model_repository")
    # The model process is told by FOVEATE_RUN_DIR; both must name the same folder.
    run_dir: Path = Field(
        validation_alias=AliasChoices(f"{_PREFIX}RUN_DIR", "FOVEATE_RUN_DIR"),
    )
    state_dir: Path | None = None  # where SLOs outlive the process; None: run_dir
    models: Annotated[tuple[str, ...], NoDecode] = ()  # empty: every ladder in the repository
    scrape_hz: float | None = Field(default=None, ge=1.0, le=100.0)  # None: 20, Prometheus: 1
    # The SLO of a model without a stored one. What is set here also replaces what was stored
    # before ``slo_given_at``: a command line is newer than any file.
    slo_ms: float = Field(default=200.0, gt=0.0, le=3_600_000.0)
    objective: float = Field(default=0.99, gt=0.0, lt=1.0)
    min_quality: float = Field(default=0.0, ge=0.0, le=1.0)
    slo_given_at: AwareDatetime | None = None
    slo_url: str | None = Field(default=None, pattern="^https?://")  # JSON of {model: SLO}
    lease_ms: int = Field(default=2000, ge=500, le=60_000)
    # "local": the policy word in run_dir. A URL: the control models of the Triton server there,
    # which want a secret; run_dir is then ours alone.
    publish: str = Field(default="local", pattern="^(local|https?://.+)$")
    control_secret_file: Path | None = None
    token: SecretStr | None = Field(default=None, min_length=1)

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
        """A stored SLO, with what was asked for on a later command line."""
        if self.slo_given_at is None or self.slo_given_at <= stored_at:
            return slo
        fields = {"slo_ms": "latency_ms", "objective": "objective", "min_quality": "min_quality"}
        given = {fields[key]: getattr(self, key) for key in fields if key in self.model_fields_set}
        return slo.model_copy(update=given)

    @property
    def beat_hz(self) -> float:
        """How often to look, decide and renew the lease. Prometheus has no news in between."""
        if self.scrape_hz is not None:
            return self.scrape_hz
        return 20.0 if self.source == "triton" else max(1.0, 2000 / self.lease_ms)

    @property
    def blind_after_s(self) -> float:
        """How long no news is no reason for caution: with Prometheus, two scrapes may fail."""
        least = Config.blind_after_s
        return least if self.source == "triton" else max(least, 3 * self.prometheus_scrape_s)

    @staticmethod
    def from_environment() -> Settings:
        """Read ``os.environ``.

        Raises :class:`SettingsError` naming key and value, also for a ``FOVEATE_ADAPTER_`` key
        that means nothing, for a listener beyond loopback without a token, and for a
        Prometheus source without a URL.
        """
        known = {f"{_PREFIX}{field.upper()}" for field in Settings.model_fields}
        for key, value in os.environ.items():
            if key.startswith(_PREFIX) and key not in known:
                raise SettingsError(
                    f"{key}={value!r}: unknown, known are {', '.join(sorted(known))}"
                )
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
                f"{_PREFIX}PUBLISH={settings.publish!r}: set {_PREFIX}CONTROL_SECRET_FILE"
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
    return f"{key}={problem['input']!r}: {problem['msg']}"
