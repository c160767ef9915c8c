"""Rules and alerts, by promtool's own tests; what is derived from them is in step."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml


def alerts(root: Path) -> dict[str, Any]:
    groups = yaml.safe_load((root / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def expectations(root: Path) -> Iterator[tuple[str, bool]]:
    """Alert and whether it must fire, of every expectation in the rule tests."""
    for path in (root / "deploy/prometheus/tests").glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                yield check["alertname"], bool(check.get("exp_alerts"))


def test_promtool_accepts_the_rules_and_their_tests(root: Path, tool: Callable[..., str]) -> None:
    folder = root / "deploy/prometheus"
    tool("promtool", "check", "config", folder / "prometheus.yaml", package="prometheus")
    tool("promtool", "test", "rules", *folder.glob("tests/*.yaml"), package="prometheus")


def test_the_fleet_is_scaled_by_its_load_also_without_some_adapters(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    """Four servers at 1.5 of what each carries; from one to the next moment fewer adapters tell."""
    manifest = root / "deploy/kubernetes/components/keda/scaledobject.yaml"
    (trigger,) = yaml.safe_load(manifest.read_text())["spec"]["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"  # nothing is known: nothing is done
    series = {}
    adapters = {"a": "1.5 1.5 1.5 _", "b": "1.5 1.5 0 _", "c": "1.5 _ _ _", "d": "1.5 _ _ _"}
    for pod, demand in adapters.items():
        labels = f'{{namespace="foveate",pod="{pod}",model="digits"}}'
        series[f"foveate_adapter_demand_ratio{labels}"] = demand.replace("_", "stale")
        control = re.sub(r"1\.5", "1", demand)  # who has no signal sees no demand
        series[f"foveate_adapter_in_control{labels}"] = control.replace("_", "stale")
        series[f'up{{job="foveate-triton",namespace="foveate",pod="{pod}"}}'] = "1 1 1 1"
    series['up{job="foveate-triton",namespace="foveate",pod="starts"}'] = "0 0 0 0"
    loads = [6.0, 6.0, 6.0, None]
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": trigger["metadata"]["query"],
                "eval_time": f"{15 * index}s",
                "exp_samples": [] if load is None else [{"labels": "{}", "value": load}],
            }
            for index, load in enumerate(loads)
        ],
    }
    path = tmp_path / "keda.yaml"
    rules = {"rule_files": [], "evaluation_interval": "15s", "tests": [test]}
    path.write_text(yaml.safe_dump(rules))
    tool("promtool", "test", "rules", path, package="prometheus")


@pytest.mark.parametrize("fires", [True, False])
def test_every_alert_fires_in_one_rule_test_and_is_silent_in_another(
    root: Path, fires: bool
) -> None:
    assert {name for name, expected in expectations(root) if expected is fires} == set(alerts(root))


def test_every_alert_has_a_section_in_the_runbook(root: Path) -> None:
    sections = (root / "docs/runbook.md").read_text().split("\n## ")[1:]
    described = {title: body for title, _, body in (text.partition("\n") for text in sections)}
    for name, rule in alerts(root).items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        for part in ("**Meaning.**", "**Check.**", "**Action.**"):
            assert part in described[name], (name, part)


def test_derived_files_are_in_step(root: Path) -> None:
    for path, text in runpy.run_path(str(root / "deploy/generate.py"))["files"]().items():
        assert path.read_text() == text, f"{path}: run python deploy/generate.py"
