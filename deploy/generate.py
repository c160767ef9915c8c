"""Write the derived files: dashboards as JSON, Prometheus rules as a Kubernetes object.

python deploy/generate.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from dashboards import DASHBOARDS

DEPLOY = Path(__file__).parent


def files() -> dict[Path, str]:
    """Text of every derived file."""
    out = {
        DEPLOY / "grafana" / "dashboards" / f"{board.uid}.json": json.dumps(board.json(), indent=1)
        + "\n"
        for board in DASHBOARDS
    }
    out[DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"] = _rule()
    return out


def _rule() -> str:
    groups = [
        group
        for name in ("rules", "alerts")
        for group in yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yaml").read_text())["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "foveate"},
        "spec": {"groups": groups},
    }
    return "# Written by deploy/generate.py from deploy/prometheus.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=1000
    )


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
