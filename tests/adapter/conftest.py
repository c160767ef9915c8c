"""A model that is served, and Triton's ``/metrics`` as it really reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_adapter.model import Model, open_models
from foveate_adapter.settings import Settings

MetricsText = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path, ladder: Ladder) -> Settings:
    """A repository with one model, ``digits``, whose process has not published a table yet."""
    folder = tmp_path / "repository" / "digits" / "1"
    folder.mkdir(parents=True)
    ladder.save(folder / "ladder.json")
    return Settings(repository=tmp_path / "repository", run_dir=tmp_path / "run")


@pytest.fixture
def model(settings: Settings, table: LatencyTable) -> Model:
    """``digits``, its table published."""
    table.save(settings.run_dir / "digits.latency.json")
    (model,) = open_models(settings, epoch=7)
    return model


@pytest.fixture
def metrics_text() -> MetricsText:
    return _metrics_text


def _metrics_text(
    *,
    success: int = 0,
    failure: int = 0,
    pending: int = 0,
    met: int = 0,
    met_cheap: int = 0,
    missed: int = 0,
    rejected: int = 0,
    capped: int = 0,
    level: int = 0,
    correction: float = 1.0,
    ages: tuple[int, int, int] = (0, 0, 0),
) -> str:
    """Keyword: the value of ``digits``; other models have values of their own."""
    return f"""\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="digits",version="1"}} {success}
nv_inference_request_success{{model="digits_decode",version="1"}} 900
nv_inference_request_success{{model="digits_classify",version="1"}} 900
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{{model="digits",reason="BACKEND",version="1"}} {failure}
nv_inference_request_failure{{model="digits",reason="CANCELED",version="1"}} 0
nv_inference_request_failure{{model="digits",reason="OTHER",version="1"}} 0
nv_inference_request_failure{{model="digits_classify",reason="OTHER",version="1"}} 31
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{{model="digits",version="1"}} {success}
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{model="digits",version="1"}} 912044
# HELP nv_inference_pending_request_count Instantaneous number of pending requests per-model
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{{model="digits",version="1"}} {pending}
nv_inference_pending_request_count{{model="digits_decode",version="1"}} 3
# HELP nv_pinned_memory_pool_total_bytes Pinned memory pool total memory size, in bytes
# TYPE nv_pinned_memory_pool_total_bytes gauge
nv_pinned_memory_pool_total_bytes 0
# HELP foveate_answers_total Answers given, in or out of the SLO
# TYPE foveate_answers_total counter
foveate_answers_total{{level="0",model="digits",slo="met"}} {met}
foveate_answers_total{{level="0",model="digits",slo="missed"}} {missed}
foveate_answers_total{{level="2",model="digits",slo="met"}} {met_cheap}
foveate_answers_total{{level="0",model="faces",slo="missed"}} 5000
# HELP foveate_rejections_total Requests refused
# TYPE foveate_rejections_total counter
foveate_rejections_total{{model="digits",reason="deadline"}} {rejected}
foveate_rejections_total{{model="digits",reason="pin-cap"}} {capped}
# HELP foveate_age_seconds_bucket Estimated age at answer
# TYPE foveate_age_seconds_bucket counter
foveate_age_seconds_bucket{{le="0.1",model="digits"}} {ages[0]}
foveate_age_seconds_bucket{{le="0.2",model="digits"}} {ages[1]}
foveate_age_seconds_bucket{{le="+Inf",model="digits"}} {ages[2]}
# HELP foveate_level Level of the latest batch
# TYPE foveate_level gauge
foveate_level{{model="digits"}} {level}
# HELP foveate_batch_time_correction Measured over predicted batch time
# TYPE foveate_batch_time_correction gauge
foveate_batch_time_correction{{model="digits"}} {correction}
"""
