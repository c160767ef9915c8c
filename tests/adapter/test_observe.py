"""What the adapter concludes from the text of ``/metrics``."""

from __future__ import annotations

import pytest

from foveate_adapter.errors import ScrapeError
from foveate_adapter.observe import Observation, credible, observe, parse


def between(before: str, after: str) -> Observation:
    """One second passes."""
    return observe(parse(before, "digits", 10.0), parse(after, "digits", 11.0))


def test_counts_what_happened_in_the_interval(metrics_text):
    before = metrics_text(success=100, failure=5, pending=2, met=80, met_cheap=10, missed=10)
    after = metrics_text(
        success=140, failure=8, pending=12, met=95, met_cheap=30, missed=14, rejected=3, level=2
    )
    seen = between(before, after)
    assert seen.throughput == 43
    assert seen.load == 53, "finished requests and those that joined the queue"
    assert seen.queue_depth == 12
    assert seen.answers == {0: 19, 2: 20}
    assert (seen.missed, seen.rejected, seen.capped) == (4, 3, 0)
    assert seen.attainment == pytest.approx(35 / 42)
    assert seen.degraded == pytest.approx(20 / 39)
    assert seen.level == 2


def test_exact_requests_over_their_share_are_told_apart_but_are_misses(metrics_text):
    seen = between(metrics_text(), metrics_text(success=8, failure=2, met=8, capped=2))
    assert (seen.rejected, seen.capped) == (0, 2)
    assert seen.attainment == pytest.approx(0.8)


def test_the_first_scrape_says_only_what_is_instantaneous(metrics_text):
    seen = observe(None, parse(metrics_text(pending=4, success=900), "digits", 1.0))
    assert seen.queue_depth == 4
    assert seen.load is seen.answers is seen.attainment is seen.interval_s is None


def test_a_server_silent_about_the_model_is_not_idle():
    other = 'nv_inference_request_success{model="faces",version="1"} 12\n'
    seen = between(other, other)
    assert seen.queue_depth is seen.load is seen.throughput is seen.answers is None


def test_no_traffic_has_no_attainment(metrics_text):
    seen = between(metrics_text(met=7), metrics_text(met=7))
    assert seen.load == 0
    assert seen.attainment is seen.degraded is seen.age_p99_s is None


def test_power_is_that_of_all_gpus_where_it_is_measured(metrics_text):
    def scrape(first: float, second: float) -> str:
        series = 'nv_energy_consumption{{gpu_uuid="GPU-{}"}} {}\n'
        return metrics_text() + series.format("a", first) + series.format("b", second)

    assert between(scrape(1000.5, 70), scrape(1300.5, 120)).power_w == 350
    assert between(scrape(1000.5, 70), scrape(3, 70)).power_w is None, "it counts anew"
    assert between(metrics_text(), scrape(1, 2)).power_w is None
    assert between(metrics_text(), metrics_text()).power_w is None
    with pytest.raises(ScrapeError, match="nv_energy_consumption"):
        parse(scrape(1, 2).replace("} 2\n", "} two\n"), "digits", 1.0)


def test_counters_that_start_over_are_a_reset(metrics_text):
    seen = between(metrics_text(success=500), metrics_text(success=3, pending=1))
    assert seen.reset
    assert seen.load is seen.answers is None
    assert seen.queue_depth == 1


def test_a_counter_that_vanished_is_a_reset(metrics_text):
    text = metrics_text(success=500)
    assert between(text, text.replace('request_success{model="digits",', "gone{")).reset


def test_versions_are_summed():
    text = """\
nv_inference_request_success{model="digits",version="1"} 10
nv_inference_request_success{model="digits",version="2"} 30
nv_inference_pending_request_count{model="digits",version="1"} 2
nv_inference_pending_request_count{model="digits",version="2"} 3
"""
    seen = between(text, text.replace("} 30", "} 34"))
    assert seen.throughput == 4
    assert seen.queue_depth == 5


def test_not_a_number_is_missing_not_zero(metrics_text):
    text = metrics_text(pending=4).replace('"digits",version="1"} 4', '"digits",version="1"} NaN')
    assert between(text, text).queue_depth is None


def test_the_p99_age_is_interpolated_in_its_bucket(metrics_text):
    seen = between(metrics_text(ages=(10, 10, 10)), metrics_text(ages=(108, 110, 110)))
    assert seen.age_p99_s == pytest.approx(0.15), "rank 99 is half-way through the two in 0.1..0.2"


def test_a_p99_age_beyond_the_last_edge_is_that_edge(metrics_text):
    assert between(metrics_text(), metrics_text(ages=(0, 1, 9))).age_p99_s == pytest.approx(0.2)


def response_times(within_100: int, within_200: int, total: int, version: int = 1) -> str:
    """Triton's histogram of first responses, ms."""
    name = "nv_inference_first_response_histogram_ms"
    labels = f'model="digits",version="{version}"'
    return f"""\
# HELP {name} Duration from request to first response in milliseconds
# TYPE {name} histogram
{name}_count{{{labels}}} {total}
{name}_sum{{{labels}}} {90 * total}
{name}_bucket{{{labels},le="100"}} {within_100}
{name}_bucket{{{labels},le="200"}} {within_200}
{name}_bucket{{{labels},le="+Inf"}} {total}
"""


@pytest.mark.parametrize(
    ("slo_s", "missed"),
    [(0.1, 30), (0.2, 12), (0.15, 4), (None, 4)],
)
def test_misses_are_measured_where_the_histogram_has_an_edge_at_the_slo(
    metrics_text, slo_s, missed
):
    before = metrics_text(met=80, missed=10) + response_times(70, 80, 90)
    after = metrics_text(met=136, missed=14) + response_times(100, 128, 150)
    seen = observe(parse(before, "digits", 10.0), parse(after, "digits", 11.0), slo_s)
    assert seen.missed == missed
    assert seen.attainment == pytest.approx((60 - missed) / 60)


def test_response_times_are_summed_over_versions(metrics_text):
    before = metrics_text() + response_times(0, 0, 0) + response_times(5, 5, 5, version=2)
    after = metrics_text(met=9) + response_times(1, 2, 3) + response_times(5, 6, 11, version=2)
    seen = observe(parse(before, "digits", 10.0), parse(after, "digits", 11.0), 0.2)
    assert seen.missed == 6


def test_malformed_lines_are_an_error_naming_the_model():
    with pytest.raises(ScrapeError, match="digits"):
        parse('foveate_level{model="digits"} seven\n', "digits", 0.0)


def beating(text: str, beats: int) -> str:
    """``text`` of a model process that has counted so many heartbeats."""
    return f'{text}foveate_heartbeats_total{{model="digits"}} {beats}\n'


def test_no_part_of_a_scrape_is_taken_for_all_of_it(metrics_text):
    text = beating(metrics_text(success=1234, met=1000, met_cheap=200, missed=34, pending=15), 90)
    before = parse(text, "digits", 10.0)
    ours = text.rindex("foveate_batch_time_correction{") - 1  # what follows is a gauge or a beat
    for cut in range(ours):
        try:
            part = parse(text[:cut], "digits", 10.05)
        except ScrapeError:
            continue
        assert not credible([before], part), text[:cut][-60:]
    assert credible([before], parse(text, "digits", 10.05))


def test_what_stays_away_for_long_is_gone(metrics_text):
    text = metrics_text(success=1234, missed=3)
    part = text.replace('foveate_answers_total{level="2",model="digits"', 'gone{model="other"')
    before = parse(text, "digits", 10.0)
    assert not credible([before], parse(part, "digits", 11.9))
    assert credible([before], parse(part, "digits", 12.0))


def test_counters_that_started_over_are_believed_though_some_are_not_there_yet(metrics_text):
    before = parse(metrics_text(success=1234, missed=3), "digits", 10.0)
    young = [line for line in metrics_text(success=3).splitlines() if "foveate_" not in line]
    assert credible([before], parse("\n".join(young) + "\n", "digits", 10.05))


def test_a_text_without_a_new_heartbeat_for_a_second_is_old(metrics_text):
    text = metrics_text(success=1234, pending=7)
    history = [parse(beating(text, 90), "digits", 10 + i / 20) for i in range(3)]
    assert credible(history, parse(beating(text, 90), "digits", 10.95))
    assert not credible(history, parse(beating(text, 90), "digits", 11.1))
    assert credible(history, parse(beating(text, 91), "digits", 11.1))
    assert credible(history, parse(text, "digits", 13.0)), "a server that counts none"


@pytest.mark.parametrize(
    "line",
    [
        'foveate_answers_total{level="cheap",model="digits",slo="met"} 3',
        'foveate_answers_total{model="digits",slo="met"} 3',
        'foveate_age_seconds_bucket{le="soon",model="digits"} 3',
    ],
)
def test_a_label_that_should_be_a_number_is_named(metrics_text, line):
    with pytest.raises(ScrapeError, match="digits"):
        parse(f"{metrics_text()}{line}\n", "digits", 1.0)
