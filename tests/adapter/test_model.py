"""One model under control: files read, policies written."""

from __future__ import annotations

import time

import pytest

from foveate.errors import BadWish, PolicyError
from foveate.policy import PolicyReader, policy_path
from foveate_adapter.control import Reason
from foveate_adapter.errors import Conflict, SettingsError
from foveate_adapter.model import Slo, open_models
from foveate_adapter.observe import parse
from foveate_adapter.settings import Settings


def test_what_is_decided_is_what_a_governor_reads(model, settings, metrics_text):
    at = time.monotonic()
    decision = model.step(parse(metrics_text(pending=11), "digits", at), at)
    policy = PolicyReader(policy_path(settings.run_dir, "digits")).read()
    assert policy == model.policy
    assert (policy.epoch, policy.sequence) == (7, 1)
    assert (policy.slo_ns, policy.quality_floor_level) == (200_000_000, 3)
    assert (policy.margin, policy.dearest, policy.cheapest) == (decision.margin, 0, 3)
    assert (policy.queue_depth, policy.queue_depth_at_ns) == (11, round(at * 1e9))
    assert policy.lease_expires_ns - policy.queue_depth_at_ns == 2_000_000_000


def test_sequences_go_on_after_a_restart(model, settings):
    model.step(None, 1.0)
    model.close()
    (restarted,) = open_models(settings, epoch=8)
    restarted.step(None, 2.0)
    assert (restarted.policy.epoch, restarted.policy.sequence) == (8, 2)


def test_a_failed_scrape_publishes_an_unknown_depth(model):
    model.step(None, 1.0)
    assert model.policy.queue_depth == -1


def test_a_second_adapter_is_refused(model, settings):
    with pytest.raises(PolicyError, match="another adapter"):
        open_models(settings, epoch=8)


def test_before_the_latency_table_only_the_slo_is_controlled(settings, table, metrics_text):
    (model,) = open_models(settings, epoch=1)
    sample = parse(metrics_text(pending=80), "digits", 1.0)
    assert model.step(sample, 1.0).reason == Reason.STARTING
    assert (model.policy.slo_ns, model.policy.dearest, model.policy.cheapest) == (200_000_000, 0, 3)
    assert "waiting for" in model.problem(1.0)
    table.save(settings.run_dir / "digits.latency.json")
    assert model.step(sample, 1.05).reason == Reason.QUEUE_GROWING
    assert model.problem(1.05) is None


@pytest.mark.parametrize("content", ["{", None], ids=["broken", "another ladder's"])
def test_a_latency_table_that_does_not_belong_is_not_used(settings, table, content):
    (model,) = open_models(settings, epoch=1)
    table.save(model.table_path)
    text = model.table_path.read_text()
    model.table_path.write_text(content or text.replace(table.ladder, "0123456789abcdef"))
    assert model.step(None, 1.0).reason == Reason.STARTING


def test_a_quality_floor_limits_the_range(model):
    model.set_slo(Slo(latency_s=0.1, objective=0.99, min_quality=0.96))
    model.step(None, 1.0)
    assert (model.policy.quality_floor_level, model.policy.cheapest) == (2, 2)


def test_a_floor_nobody_reaches_changes_nothing(model):
    with pytest.raises(BadWish, match=r"0\.99"):
        model.set_slo(Slo(latency_s=0.1, objective=0.99, min_quality=0.99))
    assert model.slo.latency_s == 0.2


def test_pin_and_floor_may_not_contradict(model):
    model.set_pin("vwt-85")
    with pytest.raises(Conflict, match="vwt-85"):
        model.set_slo(Slo(latency_s=0.1, objective=0.99, min_quality=0.97))
    model.set_pin(None)
    model.set_slo(Slo(latency_s=0.1, objective=0.99, min_quality=0.97))
    with pytest.raises(Conflict, match="vwt-85"):
        model.set_pin(3)


def test_changes_are_remembered_not_repetitions(model, metrics_text):
    for i in range(5):
        model.step(parse(metrics_text(), "digits", i / 20), i / 20)
    model.step(parse(metrics_text(missed=3), "digits", 0.3), 0.3)
    assert [decision.reason for decision in model.changes] == [Reason.HOLD, Reason.SLO_MISSED]
    assert model.counts == {Reason.HOLD: 5, Reason.SLO_MISSED: 1}


def test_unknown_models_and_empty_repositories_are_refused(settings, tmp_path):
    with pytest.raises(SettingsError, match=r"'cats'.*digits"):
        open_models(settings.model_copy(update={"models": ("cats",)}), epoch=1)
    with pytest.raises(SettingsError, match="repository="):
        open_models(Settings(repository=tmp_path / "none", run_dir=tmp_path), epoch=1)
