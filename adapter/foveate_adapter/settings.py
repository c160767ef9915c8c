"""The one configuration object of the process, read once from ``FOVEATE_ADAPTER_*``."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foveate_adapter.errors import SettingsError

__all__ = ["Settings"]

_PREFIX = "FOVEATE_ADAPTER_"


class Settings(BaseSettings):
    """Each field is read from the environment variable ``FOVEATE_ADAPTER_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    metrics_url: str = Field(default="http://127.0.0.1:8002/metrics", pattern="^https?://")
    repository: Path = Path("model_repository")
    # The model process is told by FOVEATE_RUN_DIR; both must name the same folder.
    run_dir: Path = Field(
        validation_alias=AliasChoices(f"{_PREFIX}RUN_DIR", "FOVEATE_RUN_DIR"),
    )
    models: Annotated[tuple[str, ...], NoDecode] = ()  # empty: every ladder in the repository
    scrape_hz: float = Field(default=20.0, ge=1.0, le=100.0)
    slo_ms: float = Field(default=200.0, gt=0.0)
    objective: float = Field(default=0.99, gt=0.0, lt=1.0)
    min_quality: float = Field(default=0.0, ge=0.0, le=1.0)
    lease_ms: int = Field(default=2000, ge=500)
    token: SecretStr | None = Field(default=None, min_length=1)

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @staticmethod
    def from_environment() -> Settings:
        """Read ``os.environ``.

        Raises :class:`SettingsError` naming key and value, also for a ``FOVEATE_ADAPTER_`` key
        that means nothing, and for a listener beyond loopback without a token.
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
        if settings.token is None and not _is_loopback(settings.host):
            raise SettingsError(
                f"{_PREFIX}HOST={settings.host!r}: beyond loopback anyone could change the SLO; "
                f"set {_PREFIX}TOKEN"
            )
        return settings


def _is_loopback(host: str) -> bool:
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
