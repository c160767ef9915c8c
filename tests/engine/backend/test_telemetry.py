"""Facts reach the metrics once each, and the age histogram is a Prometheus histogram."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.backend.telemetry import AGE_EDGES_S, Telemetry


class Recorder:
    """Stands for the server's metric objects, which exist only inside the server."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def create(self, name: str, labels: Mapping[str, str]) -> Recorder.Metric:
        return Recorder.Metric(self.values, (name, tuple(sorted(labels.items()))))

    class Metric:
        def __init__(self, values: dict, key: tuple) -> None:  # type: ignore[type-arg]
            self.values, self.key = values, key

        def increment(self, value: float) -> None:
            self.values[self.key] = self.values.get(self.key, 0.0) + value

        def set(self, value: float) -> None:
            self.values[self.key] = value


def test_counts_add_up_over_many_publications() -> None:
    recorder = Recorder()
    telemetry = Telemetry(recorder.create, "digits", "digits_0_0", period_s=0.001)
    for index in range(5000):
        telemetry.count("foveate_answers_total", level=str(index % 2), slo="met")
        telemetry.gauge("foveate_level", index)
    telemetry.close()
    values = recorder.values
    for level in "01":
        labels = (("level", level), ("model", "digits"), ("slo", "met"))
        assert values["foveate_answers_total", labels] == 2500
    assert values["foveate_level", (("model", "digits"),)] == 4999


def test_age_buckets_are_cumulative() -> None:
    recorder = Recorder()
    telemetry = Telemetry(recorder.create, "digits", "digits_0_0", period_s=0.001)
    ages = [0.0005, 0.001, 0.003, 0.05, 0.05, 7.0, 1e6]
    for age in ages:
        telemetry.age(age)
    telemetry.close()
    for edge in (*AGE_EDGES_S, float("inf")):
        label = "+Inf" if edge == float("inf") else str(edge)
        key = ("foveate_age_seconds_bucket", (("le", label), ("model", "digits")))
        assert recorder.values[key] == sum(age <= edge for age in ages)
    count = recorder.values["foveate_age_seconds_count", (("model", "digits"),)]
    assert count == len(ages)
