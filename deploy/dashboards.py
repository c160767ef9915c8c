"""The Grafana dashboards, as data. ``generate.py`` writes them; edit here, not in Grafana.

Every expression selects by ``model`` and ``namespace``; without Kubernetes there is no namespace,
and ``.*`` fits what is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["DASHBOARDS", "Dashboard", "Panel"]

WIDTH, HEIGHT = 24, 8
_ONE = 'namespace=~"$namespace", model="$model"'
_BUDGET = f"on (namespace, model) (1 - model:foveate_objective:ratio{{{_ONE}}})"
_PALETTE = {"mode": "palette-classic"}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: ``lines`` are (legend, expression)."""

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = "short"  # as Grafana names units
    kind: str = "timeseries"  # or "stat", "state-timeline"
    about: str = ""
    stacked: bool = False
    max_value: float | None = None
    gpu: bool = False  # the series are there only where a GPU is


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Rows of panels, each as wide as the others of its row."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    def json(self) -> dict[str, Any]:
        """As Grafana imports it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["foveate"],
            "schemaVersion": 39,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": _VARIABLES},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[dict[str, Any]]:
        number, top = 0, 0
        for title, panels in self.rows:
            number += 1
            place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
            yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
            top += 1
            width = WIDTH // len(panels)
            for column, panel in enumerate(panels):
                number += 1
                place = {"x": column * width, "y": top, "w": width, "h": HEIGHT}
                yield {"id": number, "gridPos": place, **_panel(panel)}
            top += HEIGHT


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        custom = {"fillOpacity": 30 if panel.stacked else 0, "stacking": stacking}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}}
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    defaults: dict[str, Any] = {"unit": panel.unit, "color": _PALETTE, "custom": custom}
    if panel.kind == "timeseries":
        defaults["min"] = 0
    if panel.max_value is not None:
        defaults["max"] = panel.max_value
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "legendFormat": legend,
                "expr": expr,
            }
            for i, (legend, expr) in enumerate(panel.lines)
        ],
    }


_SOURCE = {"type": "prometheus", "uid": "${source}"}
_VARIABLES = [
    {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
    {
        "name": "namespace",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(foveate_answers_total, namespace)",
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    },
    {
        "name": "model",
        "type": "query",
        "datasource": _SOURCE,
        "query": 'label_values(foveate_answers_total{namespace=~"$namespace"}, model)',
        "refresh": 2,
    },
]


def _rate(metric: str, by: str = "", where: str = "", window: str = "$__rate_interval") -> str:
    labels = f"{_ONE}, {where}" if where else _ONE
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{window}]))"


def _burn(window: str) -> tuple[str, str]:
    return window, f"model:foveate_miss:ratio_rate{window}{{{_ONE}}} / {_BUDGET}"


def _age(quantile: float) -> tuple[str, str]:
    buckets = _rate("foveate_age_seconds_bucket", "le")
    return f"p{100 * quantile:g}", f"histogram_quantile({quantile}, {buckets})"


_SLO = (
    Panel(
        title="In time, last hour",
        kind="stat",
        unit="percentunit",
        lines=(("{{model}}", f"1 - model:foveate_miss:ratio_rate1h{{{_ONE}}}"),),
    ),
    Panel(
        title="Error budget left, 3 days",
        kind="stat",
        unit="percentunit",
        about="1: no misses. 0: as many as the objective allows. Below 0: in debt.",
        lines=(("{{model}}", f"1 - model:foveate_miss:ratio_rate3d{{{_ONE}}} / {_BUDGET}"),),
    ),
    Panel(
        title="Burn rate",
        about="1 spends the budget exactly. Pages at 14.4 (1h and 5m) and 6 (6h and 30m).",
        lines=tuple(_burn(window) for window in ("5m", "1h", "6h", "3d")),
    ),
)
_RED = (
    Panel(
        title="Requests per second",
        unit="reqps",
        stacked=True,
        lines=(
            ("in time", _rate("foveate_answers_total", where='slo="met"')),
            ("late", _rate("foveate_answers_total", where='slo="missed"')),
            ("rejected: {{reason}}", _rate("foveate_rejections_total", "reason")),
            ("internal error", _rate("foveate_failures_total")),
        ),
    ),
    Panel(
        title="Invalid requests per second",
        unit="reqps",
        about="The client's errors; they do not count towards the SLO.",
        lines=(("", _rate("foveate_errors_total")),),
    ),
    Panel(
        title="From queue to answer",
        unit="s",
        about="Estimated by the model process; the line is the SLO.",
        lines=(
            *map(_age, (0.5, 0.95, 0.99)),
            ("SLO", f"min(foveate_adapter_slo_seconds{{{_ONE}}})"),
        ),
    ),
)
_QUALITY = (
    Panel(
        title="Served quality",
        unit="percentunit",
        about="Quality by the ladder, averaged over answers.",
        lines=(
            ("served", f"model:foveate_quality:mean5m{{{_ONE}}}"),
            ("level 0", f'model_level:foveate_quality:ratio{{{_ONE}, level="0"}}'),
        ),
    ),
    Panel(
        title="Answers by level",
        unit="reqps",
        stacked=True,
        lines=(("{{level}}", f"model_level:foveate_answers:rate5m{{{_ONE}}}"),),
    ),
    Panel(
        title="Quality spent",
        unit="percentunit",
        max_value=1,
        about="0: everything at level 0. 1: everything at the cheapest level.",
        lines=(
            ("of the ladder's range", f"model:foveate_quality_spent:ratio_rate5m{{{_ONE}}}"),
            ("answers above level 0", f"model:foveate_degraded:ratio_rate5m{{{_ONE}}}"),
        ),
    ),
    Panel(
        title="Tokens per image",
        about="Tokens left in the last block.",
        lines=(
            (
                "{{model}}",
                f"{_rate('foveate_tokens_total', 'model')}"
                f" / {_rate('nv_inference_count', 'model')}",
            ),
        ),
    ),
)
_USE = (
    Panel(
        title="Busy",
        unit="percentunit",
        max_value=1,
        about="Share of the time a model process runs batches.",
        lines=(("{{instance}}", _rate("foveate_batch_seconds_total", "instance")),),
    ),
    Panel(
        title="Waiting in Triton",
        lines=(("{{instance}}", f"nv_inference_pending_request_count{{{_ONE}}}"),),
    ),
    Panel(
        title="Images per batch",
        lines=(
            (
                "{{instance}}",
                f"{_rate('nv_inference_count', 'instance')}"
                f" / {_rate('nv_inference_exec_count', 'instance')}",
            ),
        ),
    ),
    Panel(
        title="Failures Triton counts",
        unit="reqps",
        about="Includes rejections and invalid requests.",
        lines=(("{{reason}}", _rate("nv_inference_request_failure", "reason")),),
    ),
)
_GPU = (
    Panel(
        title="GPU busy",
        unit="percentunit",
        max_value=1,
        gpu=True,
        lines=(("{{gpu_uuid}}", 'nv_gpu_utilization{namespace=~"$namespace"}'),),
    ),
    Panel(
        title="GPU memory",
        unit="bytes",
        gpu=True,
        lines=(("{{gpu_uuid}}", 'nv_gpu_memory_used_bytes{namespace=~"$namespace"}'),),
    ),
    Panel(
        title="GPU power",
        unit="watt",
        gpu=True,
        lines=(("{{gpu_uuid}}", 'nv_gpu_power_usage{namespace=~"$namespace"}'),),
    ),
)
_CONTROL = (
    Panel(
        title="Level of the last batch",
        kind="state-timeline",
        lines=(("{{instance}}", f"foveate_level{{{_ONE}}}"),),
    ),
    Panel(
        title="Demand",
        unit="percentunit",
        about="Offered load over level 0's capacity. Above 1, quality must be spent.",
        lines=(("{{instance}}", f"foveate_adapter_demand_ratio{{{_ONE}}}"),),
    ),
    Panel(
        title="Margin and range",
        lines=(
            ("margin {{instance}}", f"foveate_adapter_margin_ratio{{{_ONE}}}"),
            ("dearest {{instance}}", f"foveate_adapter_dearest_level{{{_ONE}}}"),
            ("cheapest {{instance}}", f"foveate_adapter_cheapest_level{{{_ONE}}}"),
        ),
    ),
    Panel(
        title="Decisions per second",
        unit="ops",
        lines=(
            ("governor: {{reason}}", _rate("foveate_decisions_total", "reason")),
            ("adapter: {{reason}}", _rate("foveate_adapter_decisions_total", "reason")),
        ),
    ),
)
_TRUST = (
    Panel(
        title="Batch time, measured over predicted",
        lines=(("{{instance}}", f"foveate_batch_time_correction{{{_ONE}}}"),),
    ),
    Panel(
        title="Age of the heartbeat",
        unit="s",
        lines=(
            ("{{instance}} {{process}}", f"time() - foveate_heartbeat_timestamp_seconds{{{_ONE}}}"),
        ),
    ),
    Panel(
        title="Scrapes of the adapter",
        unit="s",
        lines=(
            (
                "p99",
                "histogram_quantile(0.99, sum by (le)"
                ' (rate(foveate_adapter_scrape_seconds_bucket{namespace=~"$namespace"}'
                "[$__rate_interval])))",
            ),
        ),
    ),
    Panel(
        title="Versions",
        kind="stat",
        about="Replicas by version.",
        lines=(
            (
                "{{component}} {{version}}",
                'count by (component, version) (foveate_build_info{namespace=~"$namespace"})',
            ),
        ),
    ),
)

DASHBOARDS = (
    Dashboard(
        uid="foveate-service",
        title="Foveate: service",
        rows=(("SLO", _SLO), ("Rate, errors, duration", _RED), ("Quality", _QUALITY)),
    ),
    Dashboard(
        uid="foveate-control",
        title="Foveate: control",
        rows=(
            ("Utilisation, saturation, errors", _USE),
            ("Control", _CONTROL),
            ("Health of the control", _TRUST),
            ("GPU, if any", _GPU),
        ),
    ),
)
