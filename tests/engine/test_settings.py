"""A model process starts with settings it understands, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.settings import ModelSettings
from foveate.usable_cpus import default_threads, usable_cpus


def test_settings_come_from_the_environment() -> None:
    settings = ModelSettings.read(
        {"FOVEATE_RUN_DIR": "/run/x", "FOVEATE_PIN_CAP": "1", "FOVEATE_ADAPTER_PORT": "1"}
    )
    assert (settings.run_dir, settings.pin_cap, settings.admission) == (Path("/run/x"), 1.0, "on")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"FOVEATE_SLO": "sesame"}, r"^FOVEATE_SLO: (?!.*sesame)"),  # may be a secret, misnamed
        ({"FOVEATE_THREADS": "0"}, "FOVEATE_THREADS='0'"),
        ({"FOVEATE_ADMISSION": "maybe"}, "FOVEATE_ADMISSION='maybe'"),
        ({"FOVEATE_PIN_CAP": "2"}, "FOVEATE_PIN_CAP='2'"),
        ({"FOVEATE_SLO_MS": "-1"}, "FOVEATE_SLO_MS='-1'"),
        ({"FOVEATE_SLO_MS": "inf"}, "FOVEATE_SLO_MS='inf'"),
    ],
)
def test_unknown_keys_and_bad_values_are_named(extra: dict[str, str], reason: str) -> None:
    with pytest.raises(FoveateError, match=reason):
        ModelSettings.read({"FOVEATE_RUN_DIR": "/run/x", **extra})


def test_threads_go_by_the_cpus_that_may_be_used() -> None:
    run = {"FOVEATE_RUN_DIR": "/run/x"}
    cpus = usable_cpus()
    assert ModelSettings.read(run).threads == default_threads(cpus)
    assert ModelSettings.read({**run, "FOVEATE_THREADS": str(cpus)}).threads == cpus
    with pytest.raises(FoveateError, match=f"^FOVEATE_THREADS='{cpus + 1}': .*at most {cpus}, "):
        ModelSettings.read({**run, "FOVEATE_THREADS": str(cpus + 1)})


def test_settings_are_what_their_variables_say() -> None:
    secret = {"FOVEATE_CONTROL_SECRET_FILE": "/run/secret", "FOVEATE_SLO_MS": "0.1"}
    for given in ({}, secret):
        settings = ModelSettings.read({"FOVEATE_RUN_DIR": "/run/x", **given})
        assert ModelSettings.read(settings.variables()) == settings


def test_the_run_dir_is_required() -> None:
    with pytest.raises(FoveateError, match="FOVEATE_RUN_DIR"):
        ModelSettings.read({})


def test_a_models_own_precision_goes_first() -> None:
    run = {"FOVEATE_RUN_DIR": "/run/x", "FOVEATE_PRECISION": "bf16"}
    assert ModelSettings.read(run).precision == "bf16"
    assert ModelSettings.read(run, precision="fp32").precision == "fp32"
    with pytest.raises(FoveateError, match=r"config.pbtxt: parameter precision='fp8'"):
        ModelSettings.read(run, precision="fp8")
    with pytest.raises(FoveateError, match="FOVEATE_PRECISION='fp8'"):
        ModelSettings.read({**run, "FOVEATE_PRECISION": "fp8"})
