"""Write the tables of README.md from ``benchmarks/results/*.json``.

    python benchmarks/tables.py

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def render(text: str, results: Path = ROOT / "benchmarks" / "results") -> str:
    """``text`` with its tables made anew."""
    for name, table in (("ladder", ladder), ("burst", burst), ("control", control)):
        path = results / f"{_FILES[name]}.json"
        if not path.exists():  # not measured yet
            continue
        data = json.loads(path.read_text())
        block = f"<!-- {name} -->\n{table(data)}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
    return text


_FILES = {"ladder": "levels", "burst": "burst", "control": "control"}


def ladder(data: Mapping[str, Any]) -> str:
    rows = (
        (
            f"{index} `{level['level']}`",
            f"{level['mmacs']:.1f}",
            f"{level['batch8_ms']:.1f}",
            f"{level['speedup']:.2f}×",
            f"{100 * level['quality']:.2f} %",
        )
        for index, level in enumerate(data["levels"])
    )
    head = ("level", "MMACs per image", "batch of 8, ms", "speed-up", "top-1")
    return f"{_markdown(head, rows)}\n\n{_where(data)}; `python benchmarks/levels.py`."


def burst(data: Mapping[str, Any]) -> str:
    titles = {
        "adaptive": "adaptive",
        "always-exact": "always exact",
        "always-exact-no-admission": "always exact, no admission",
        "always-cheapest": "always cheapest",
    }

    def span(runs: list[Mapping[str, Any]], key: str, scale: float, unit: str, digits: int) -> str:
        values = sorted(scale * run[key] for run in runs)
        exact = (0.0 if abs(value) < 1e-9 else value for value in (values[0], values[-1]))
        low, high = (f"{value:.{digits}f}" for value in exact)
        return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"

    rows = (
        (
            title,
            span(runs := data["runs"][policy], "attainment", 100, " %", 1),
            span(runs, "p99_ms", 1, " ms", 0),
            span(runs, "rejected", 1, "", 0),
            span(runs, "ladder_quality", 100, " %", 2),
            span(runs, "recovered", 1, "", 2),
        )
        for policy, title in titles.items()
    )
    head = ("policy", "in time", "p99", "rejected", "quality", "recovered")
    seeds = len(data["runs"]["adaptive"])
    return (
        f"{_markdown(head, rows)}\n\n"
        f"{seeds} seeds, range over seeds; SLO {data['slo_ms']:g} ms, 0.4 of level 0's capacity "
        f"({data['capacity_exact']:.0f}/s), 1.5 of it for 10 s, 0.4 again. Quality is the "
        f"ladder's, averaged over answers in time; recovered puts it between always cheapest (0) "
        f"and always exact (1). {_where(data)}, server on one core, client on the other; "
        f"`python benchmarks/burst.py`."
    )


def control(data: Mapping[str, Any]) -> str:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f} %"

    rows = (
        (
            row["trace"],
            share(row["adaptive"]),
            share(row["cheapest"]),
            f"{row['recovered']:.2f}",
            "–" if row["bound"] is None else f"{row['bound']:.2f}",
            f"{row['p99_ms']:.0f} ms",
        )
        for row in data["rows"]
    )
    head = ("load", "in time", "always cheapest", "recovered", "bound", "p99")
    exact, cheapest = (data["levels"][end]["capacity"] for end in (0, -1))
    seeds = max((row["seeds"] for row in data["rows"]), default=1)
    return (
        f"{_markdown(head, rows)}\n\n"
        f"Load in multiples of the cheapest level's capacity ({cheapest:.0f}/s; level 0: "
        f"{exact:.0f}/s), {data['seconds']:g} s each, at CV² 8 the mean of {seeds} seeds; SLO "
        f"{data['slo_ms']:g} ms. Always cheapest has the same arrivals. The bound is what could "
        f"have been recovered by who knew all arrivals. {_where(data)}, server on one core, client "
        f"on the other; `python benchmarks/control.py`."
    )


def _where(data: Mapping[str, Any]) -> str:
    e = data["environment"]
    return f"{e['cpu']} ({e['cores']} cores, shared), one thread, torch {e['torch']}"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))
