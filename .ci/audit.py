"""Known vulnerabilities of the pinned dependencies, from the advisories of PyPI.

Exit 1 for a vulnerability without an exception, and for an exception that has run out. Where the
advisories cannot be reached nothing is audited, which is said and is no failure: a check must also
work without a network.

Exceptions stand in pyproject.toml:

    [[tool.audit.exceptions]]
    id = "PYSEC-2026-1"
    until = 2026-12-31
    reason = "only in a part that is not used"
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ("constraints.txt", "constraints-gpu.txt")

# What pip-audit says when PyPI does not answer, or answers 5xx.
UNREACHABLE = ("ConnectionError", "Failed to connect", "HTTPError: 5")


def audit(constraints: Path) -> dict[str, Any] | None:
    """What pip-audit says of every pin; None if it cannot ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints)]
    options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if any(sign in done.stderr for sign in UNREACHABLE):
            return None
        raise SystemExit(f"audit: pip-audit failed:\n{done.stderr[-2000:]}") from None
    return None if all("skip_reason" in one for one in report["dependencies"]) else report


def main() -> int:
    today = datetime.now(UTC).date()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    exceptions = {one["id"]: one for one in project["tool"].get("audit", {}).get("exceptions", [])}
    stale = [one for one in exceptions.values() if one["until"] < today]
    for one in stale:
        print(f"audit: the exception for {one['id']} ran out on {one['until']}: {one['reason']}")
    reports = [audit(ROOT / name) for name in CONSTRAINTS]
    if None in reports:
        print("audit: the advisories of PyPI cannot be reached: NOTHING WAS AUDITED")
        return 1 if stale else 0
    # Most pins stand in both files, and count once.
    pins = {
        (one["name"], one.get("version")): one
        for report in reports
        if report is not None
        for one in report["dependencies"]
    }
    skipped, open_ = [], []
    for one in pins.values():
        if "skip_reason" in one:
            skipped.append(one["name"])
        for found in one.get("vulns", []):
            if not {found["id"], *found["aliases"]} & exceptions.keys():
                fixed = ", ".join(found["fix_versions"]) or "nothing yet"
                open_.append(f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed}")
    print(f"audit: {len(pins) - len(skipped)} dependencies, {len(open_)} open")
    if skipped:
        print(f"audit: no advisories for {', '.join(skipped)}")
    print(*(f"audit: {line}" for line in open_), sep="\n")
    return 1 if open_ or stale else 0


if __name__ == "__main__":
    sys.exit(main())
