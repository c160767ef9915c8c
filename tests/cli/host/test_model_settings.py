"""An option of ``foveate serve`` wins over a variable, and a variable over the default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import FoveateError
from foveate.settings import ModelSettings
from foveate.usable_cpus import default_threads, usable_cpus
from foveate_cli.host.serve import ServeOptions, model_settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without variables of ours."""
    for name in list(os.environ):
        if name.startswith("FOVEATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FOVEATE_STATE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "variable", "value"),
    [
        ({"slo_ms": 120.0}, "FOVEATE_SLO_MS=150", 150.0),
        ({"pin_cap": 1.0}, "FOVEATE_PIN_CAP=0.3", 0.3),
        ({"admission": True}, "FOVEATE_ADMISSION=off", "off"),
        ({"threads": 1}, f"FOVEATE_THREADS={usable_cpus()}", usable_cpus()),
    ],
)
def test_options_then_variables_then_defaults(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], variable: str, value: object
) -> None:
    ((field, option),) = given.items()
    default = default_threads(usable_cpus())
    if field != "threads":
        default = ModelSettings.model_fields[field].default
    assert getattr(model_settings(ServeOptions()), field) == default
    monkeypatch.setenv(*variable.split("="))
    assert getattr(model_settings(ServeOptions()), field) == value
    set_by_option = getattr(model_settings(ServeOptions(**given)), field)
    assert set_by_option == ("on" if option is True else option)


def test_an_option_wins_over_a_variable_that_could_not_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEATE_THREADS", "9999")
    assert model_settings(ServeOptions(threads=1)).threads == 1


def test_folders_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOVEATE_RUN_DIR", "")
    assert model_settings(ServeOptions()).state_dir == tmp_path


def test_the_secret_of_a_variable_is_read_and_its_path_made_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOVEATE_CONTROL_SECRET_FILE", "secret")
    with pytest.raises(FoveateError, match="secret"):
        model_settings(ServeOptions())
    Path("secret").write_text("x" * 64)
    assert model_settings(ServeOptions()).control_secret_file == tmp_path / "secret"
