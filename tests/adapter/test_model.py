"""One model under control: files read, policies written."""

from __future__ import annotations

import time

import pytest

from foveate.control.policy import PolicyReader, policy_path
from foveate_adapter.control import Reason
from foveate_adapter.errors import Conflict, SettingsError
from foveate_adapter.model import open_models
from foveate_adapter.observe import parse
from foveate_adapter.settings import Settings
from foveate_adapter.slo import Slo


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


def test_a_second_adapter_is_read_only_until_the_first_is_gone(model, settings, metrics_text):
    model.step(None, 1.0)
    (second,) = open_models(settings, epoch=8)
    second.step(parse(metrics_text(pending=2), "digits", 1.0), 1.0)
    assert (second.policy.epoch, second.policy.sequence) == (7, 1), "the word as it is"
    assert "epoch 7" in second.holder
    assert second.problem(1.0) is None, "the model is under control"
    for refused in (lambda: second.set_slo(second.slo), lambda: second.set_pin(0), second.unpin):
        with pytest.raises(Conflict, match=r"digits: read-only, .*epoch 7.*digits\.policy"):
            refused()

    model.set_slo(Slo(latency_ms=90, objective=0.99, min_quality=0))
    model.close()
    second.step(None, 1.5)
    assert second.holder is not None, "it looks once a second"
    second.step(None, 2.1)
    assert second.holder is None
    assert (second.policy.epoch, second.policy.sequence) == (8, 2)
    assert second.policy.slo_ns == 90_000_000, "the SLO given to the first"
    second.set_pin(0)


def test_a_pin_ends_by_the_clock_of_the_loop(model):
    model.set_pin("prune-50", until=10.0)
    model.step(None, 9.9)
    assert (model.policy.dearest, model.policy.cheapest) == (1, 1)
    model.step(None, 10.0)
    assert (model.policy.dearest, model.policy.cheapest) == (0, 3)
    assert model.pin is None


def test_without_news_the_last_decision_stands_and_the_lease_is_renewed(model, metrics_text):
    model.step(parse(metrics_text(pending=1), "digits", 1.0), 1.0)
    model.step(parse(metrics_text(missed=3, pending=1), "digits", 1.1), 1.1)
    cut = model.policy
    model.step(None, 2.0)
    assert (model.policy.margin, model.policy.queue_depth) == (cut.margin, -1)
    assert model.policy.lease_expires_ns == 4_000_000_000
    assert sum(model.counts.values()) == 2, "nothing was decided"
    model.set_pin(2)
    model.step(None, 2.05)
    assert (model.policy.dearest, model.policy.cheapest) == (2, 2), "a wish is news"
    model.unpin()
    assert model.step(None, 3.2).reason == Reason.NO_SIGNAL


def test_news_from_the_past_is_decided_on_now(model, metrics_text):
    """A Prometheus server tells seconds later what it saw."""
    model.step(parse(metrics_text(success=0, pending=0), "digits", 1.0), 5.0)
    decision = model.step(parse(metrics_text(success=100, pending=4), "digits", 2.0), 6.0)
    assert (decision.at, decision.load) == (6.0, 104.0)
    assert model.policy.lease_expires_ns == 8_000_000_000
    assert (model.policy.queue_depth, model.policy.queue_depth_at_ns) == (4, 2_000_000_000)


def test_the_margin_recovers_as_fast_when_news_is_rare(settings, model, metrics_text):
    model.close()
    rare = {"source": "prometheus", "prometheus_url": "http://prometheus:9090"}
    (model,) = open_models(settings.model_copy(update=rare), epoch=8)
    for at, missed, margin in ((0, 0, 0.5), (15, 3, 0.25), (30, 3, 0.7)):
        model.step(parse(metrics_text(missed=missed), "digits", at), at)
        for beat in range(1, 15):
            assert model.step(None, at + beat).reason != Reason.NO_SIGNAL
            assert model.policy.margin == margin


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
    model.set_slo(Slo(latency_ms=100, objective=0.99, min_quality=0.96))
    model.step(None, 1.0)
    assert (model.policy.quality_floor_level, model.policy.cheapest) == (2, 2)


def test_a_floor_nobody_reaches_changes_nothing(model):
    with pytest.raises(Conflict, match=r"0\.99"):
        model.set_slo(Slo(latency_ms=100, objective=0.99, min_quality=0.99))
    assert model.slo.latency_s == 0.2


def test_pin_and_floor_may_not_contradict(model):
    model.set_pin("vwt-85")
    with pytest.raises(Conflict, match="vwt-85"):
        model.set_slo(Slo(latency_ms=100, objective=0.99, min_quality=0.97))
    model.unpin()
    model.set_slo(Slo(latency_ms=100, objective=0.99, min_quality=0.97))
    with pytest.raises(Conflict, match="vwt-85"):
        model.set_pin(3)


def test_changes_are_remembered_not_repetitions(model, metrics_text):
    for i in range(5):
        model.step(parse(metrics_text(), "digits", i / 20), i / 20)
    model.step(parse(metrics_text(missed=3), "digits", 0.3), 0.3)
    reasons = [Reason.HOLD, Reason.RECOVERING, Reason.SLO_MISSED]
    assert [item.decision.reason for item in model.changes] == reasons
    assert model.counts == {Reason.HOLD: 1, Reason.RECOVERING: 4, Reason.SLO_MISSED: 1}


def test_unknown_models_and_empty_repositories_are_refused(settings, tmp_path):
    with pytest.raises(SettingsError, match=r"'cats'.*digits"):
        open_models(settings.model_copy(update={"models": ("cats",)}), epoch=1)
    with pytest.raises(SettingsError, match="repository="):
        open_models(Settings(repository=tmp_path / "none", run_dir=tmp_path), epoch=1)
