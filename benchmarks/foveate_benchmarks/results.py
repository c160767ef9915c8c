"""What every benchmark says about itself, and where it writes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from foveate_loadtest.environment import environment

__all__ = ["RESULTS", "SLO_MS", "bars", "conclude", "save", "saved"]

RESULTS = Path(__file__).parents[1] / "results"
SLO_MS = 200.0  # of every benchmark that serves under one


def save(name: str, /, **facts: Any) -> None:
    """Write ``facts`` as ``NAME.json``, and where they were measured, if they do not say so."""
    RESULTS.mkdir(exist_ok=True)
    data = {"environment": environment(), **facts}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def saved(name: str) -> dict[str, Any]:
    """What ``NAME.json`` holds; nothing if it was not measured yet."""
    path = RESULTS / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def bars(checks: dict[str, bool]) -> None:
    """Print each bar as met or missed; exit 1 if any is missed."""
    for name, met in checks.items():
        print("met   " if met else "MISSED", name)
    if not all(checks.values()):
        sys.exit(1)


def conclude(name: str, checks: dict[str, bool], keep: bool = True, /, **facts: Any) -> None:
    """Save the facts with their bars, unless they are not to be kept, then print the bars."""
    if keep:
        save(name, **facts, bars=checks)
    bars(checks)
