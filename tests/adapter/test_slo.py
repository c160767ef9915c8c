"""What becomes of an SLO when the process that holds it ends."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from foveate_adapter.errors import StateError
from foveate_adapter.model import open_models
from foveate_adapter.settings import Settings
from foveate_adapter.slo import Slo
from foveate_adapter.slo_sync import adopt

SLO = Slo(latency_ms=90, objective=0.995, min_quality=0.96, goal="energy")


@pytest.fixture
def stored(settings, model):
    """The file of an adapter that was given ``SLO`` and has ended."""
    model.set_slo(SLO)
    model.close()
    return settings.run_dir / "digits" / "slo.json"


def reopened(settings):
    (model,) = open_models(settings, epoch=8)
    return model


@contextmanager
def full_disk():
    """Every write to a file fails, in this process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_slo_survives_a_restart(settings, stored):
    model = reopened(settings)
    assert (model.slo, model.floor) == (SLO, 2)
    model.step(None, 1.0)
    assert model.policy.slo_ns == 90_000_000
    assert list(stored.parent.iterdir()) == [stored], "no scratch file is left"


def test_it_is_kept_in_the_state_folder(settings, model, tmp_path):
    model.close()
    elsewhere = settings.model_copy(update={"state_dir": tmp_path / "state"})
    reopened(elsewhere).set_slo(SLO)
    assert (tmp_path / "state" / "digits" / "slo.json").exists()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: "{", "EOF"),
        (lambda data: "[]", "object"),
        (lambda data: json.dumps(data | {"schema": 2}), "schema"),
        (lambda data: json.dumps(data | {"model": "faces"}), "model='faces', expected 'digits'"),
        (lambda data: json.dumps(data | {"slo": {**data["slo"], "objective": 1}}), "slo.objective"),
        (lambda data: json.dumps(data | {"slo": {**data["slo"], "share": 1}}), "slo.share"),
        (lambda data: json.dumps(data | {"slo": {**data["slo"], "min_quality": 0.99}}), "0.9745"),
    ],
    ids=["cut off", "a list", "version", "another model's", "range", "key", "unreachable"],
)
def test_a_file_that_cannot_be_used_is_named_and_the_settings_hold(
    settings, stored, caplog, damage, named
):
    stored.write_text(damage(json.loads(stored.read_text())))
    model = reopened(settings)
    assert model.slo == settings.slo
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert str(stored) in record.message
    assert named in record.message


def test_an_unreadable_file_is_named_and_the_settings_hold(settings, stored, caplog):
    stored.unlink()
    stored.mkdir()
    assert reopened(settings).slo == settings.slo
    assert f"{stored}: Is a directory" in caplog.text


def test_on_a_full_disk_the_slo_is_what_it_was(settings, stored):
    model = reopened(settings)
    with full_disk(), pytest.raises(StateError, match=r"slo\.json: cannot store the SLO: File too"):
        model.set_slo(SLO.model_copy(update={"latency_ms": 10}))
    assert model.slo == SLO
    assert list(stored.parent.iterdir()) == [stored]
    model.close()
    assert reopened(settings).slo == SLO


def told(settings, when, **values):
    """Settings of a command line of that moment."""
    kept = {"repository": settings.repository, "run_dir": settings.run_dir}
    return Settings(**kept, **values, slo_given_at=when)


def test_a_later_command_line_wins_key_by_key_and_says_so(settings, stored, caplog):
    model = reopened(told(settings, datetime.now(UTC), slo_ms=150))
    assert model.slo == SLO.model_copy(update={"latency_ms": 150})
    assert "latency_ms=150" in caplog.text
    assert "latency_ms=90" in caplog.text
    model.close()
    assert reopened(settings).slo == SLO, "it holds for that run only"


def test_what_is_set_after_the_command_line_survives_the_adapter(settings, stored, caplog):
    model = reopened(told(settings, datetime.now(UTC) - timedelta(minutes=1), slo_ms=150))
    assert model.slo == SLO
    assert not caplog.records


def test_a_central_place_gives_slos_key_by_key(model):
    text = b'{"digits": {"latency_ms": 70, "goal": "quality"}, "faces": {"latency_ms": 5}}'
    assert list(adopt(text, [model])) == []
    assert model.slo == Slo(latency_ms=70, objective=0.99, min_quality=0, goal="quality")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"<html>", "Invalid JSON"),
        (b'{"digits": {"latency_ms": -1}}', "digits.latency_ms: Input should be greater than 0"),
        (b'{"digits": {"latency": 70}}', "digits.latency: Extra inputs"),
        (b'{"digits": {"min_quality": 0.99}}', "min_quality=0.99: level 0 of 'digits'"),
    ],
)
def test_what_a_central_place_has_wrong_is_told_and_changes_nothing(model, text, problem):
    before = model.slo
    (told,) = adopt(text, [model])
    assert problem in told
    assert model.slo == before


def test_a_read_only_adapter_leaves_the_central_place_to_the_other(model, settings):
    second = reopened(settings)
    assert list(adopt(b'{"digits": {"latency_ms": 70}}', [second])) == []
    assert second.slo == settings.slo
