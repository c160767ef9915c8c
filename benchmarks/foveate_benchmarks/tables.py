"""Write tables of README.md and of ``docs/``, and a picture, from ``benchmarks/results/*.json``.

    python -m foveate_benchmarks.tables

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate_benchmarks.cpu_peers import tables as cpu
from foveate_benchmarks.markdown import Column, Columns
from foveate_benchmarks.markdown import table as _table
from foveate_benchmarks.markdown import told as _told
from foveate_loadtest.bench.figures import fronts_figure
from foveate_loadtest.bench.findings import ADAPTIVE, Contender, Finding, findings, points
from foveate_loadtest.html import number

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "images" / "evidence.svg"
DOCUMENTS = (
    "README.md",
    "kernels/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


def render(text: str, results: Path = RESULTS) -> str:
    """``text`` with its tables made anew."""
    for name, (file, table) in _TABLES.items():
        paths = sorted(results.glob(f"{file}.json"))  # of several devices, perhaps
        if f"<!-- {name} -->" not in text or not paths:  # not measured yet
            continue
        made = "\n\n".join(table(json.loads(path.read_text())) for path in paths)
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}\n{made}\n{end}{after}"
    return text


def picture() -> str:
    """Of the comparison of policies, as SVG."""
    return fronts_figure(findings(json.loads((RESULTS / "serve.json").read_text())))


def burst(data: Mapping[str, Any]) -> str:
    titles = {
        "adaptive": "adaptive",
        "always-exact": "always exact",
        "always-exact-no-admission": "always exact, no admission",
        "always-cheapest": "always cheapest",
    }

    def span(key: str, scale: float, unit: str, digits: int) -> Column:
        def cell(policy: str) -> str:
            values = sorted(scale * run[key] for run in data["runs"][policy])
            exact = (0.0 if abs(value) < 1e-9 else value for value in (values[0], values[-1]))
            low, high = (f"{value:.{digits}f}" for value in exact)
            return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"

        return cell

    columns: Columns = [
        ("policy", titles.__getitem__),
        ("in time", span("attainment", 100, " %", 1)),
        ("p99", span("p99_ms", 1, " ms", 0)),
        ("rejected", span("rejected", 1, "", 0)),
        ("quality", span("ladder_quality", 100, " %", 2)),
        ("recovered", span("recovered", 1, "", 2)),
    ]
    seeds = len(data["runs"]["adaptive"])
    about = (
        f"{seeds} seeds, range over seeds; SLO {data['slo_ms']:g} ms, 0.4 of level 0's capacity "
        f"({data['capacity_exact']:.0f}/s), 1.5 of it for 10 s, 0.4 again. Quality is the "
        f"ladder's, averaged over answers in time; recovered puts it between always cheapest (0) "
        f"and always exact (1). {_where(data)}, server on one core, client on the other"
    )
    return _told(_table(titles, columns), about, "control.burst")


def control(data: Mapping[str, Any]) -> str:
    columns: Columns = [
        ("load", lambda row: row["trace"]),
        ("in time", lambda row: _percent(row["adaptive"])),
        ("always cheapest", lambda row: _percent(row["cheapest"])),
        ("recovered", lambda row: f"{row['recovered']:.2f}"),
        ("bound", lambda row: number(row["bound"], ".2f")),
        ("p99", lambda row: _ms(row["p99_ms"])),
    ]
    seeds = max((row["seeds"] for row in data["rows"]), default=1)
    exact, cheapest = _ends(data)
    about = (
        f"Load in multiples of the cheapest level's capacity ({cheapest}; level 0: "
        f"{exact}), {data['seconds']:g} s each, at CV² 8 the mean of {seeds} seeds; SLO "
        f"{data['slo_ms']:g} ms. Always cheapest has the same arrivals. The bound is what a "
        f"controller could recover that knew all arrivals. {_where(data)}, server on one core, "
        f"client on the other"
    )
    return _told(_table(data["rows"], columns), about, "control")


_RIVALS = (
    "fixed exact",
    "fixed cheapest",
    "best fixed in hindsight",
    "p99 threshold",
    "concurrency limiter",
)


def serve(part: str) -> Callable[[Mapping[str, Any]], str]:
    """A trace a row, a policy a column; ``part`` is what of each."""

    def cell(one: Contender | None) -> str:
        if one is None:
            return "–"
        return points(one.ahead) if part == "ahead" else _percent(getattr(one, part))

    def rival(title: str) -> Column:
        return lambda found: cell(found.rivals.get(title))

    def hindsight(found: Finding) -> str:
        which = f" (level {found.best_fixed.split()[1]})" if found.best_fixed else ""
        return cell(found.rivals.get(_RIVALS[2])) + which

    def noise(found: Finding) -> str:
        return "–" if found.noise is None else f"{100 * found.noise:.2f}"

    trace: Columns = [("trace", lambda found: found.name)]
    adaptive: Columns = [("adaptive", lambda found: cell(found.get(ADAPTIVE)))]
    rivals = [(title, rival(title)) for title in _RIVALS]
    rivals[2] = (_RIVALS[2], hindsight)
    columns = (
        [*trace, *rivals, ("noise", noise)] if part == "ahead" else [*trace, *adaptive, *rivals]
    )
    return lambda data: _table(findings(data), columns)


def serve_all(data: Mapping[str, Any]) -> str:
    """Every policy on every trace, fixed levels that are not the best included."""
    columns: Columns = [
        ("trace", lambda row: row[0].name),
        ("policy", lambda row: row[1].who),
        ("in time", lambda row: _percent(row[1].attainment)),
        ("quality", lambda row: _percent(row[1].quality)),
        ("measured", lambda row: _percent(row[1].measured)),
        ("right", lambda row: _percent(row[1].right)),
        ("p99", lambda row: _ms(row[1].p99_ms)),
        ("rejected", lambda row: _percent(row[1].rejected)),
        ("errors", lambda row: str(row[1].errors)),
        ("runs", lambda row: str(row[1].runs)),
    ]
    return _table(((found, one) for found in findings(data) for one in found.contenders), columns)


def serve_traces(data: Mapping[str, Any]) -> str:
    """What the traces are, and which run by which commit when."""
    rows = []
    for found in findings(data):
        runs = [facts for facts in data["runs"].values() if facts["trace"] == found.name]
        commits = ", ".join(dict.fromkeys(_short(facts["commit"]) for facts in runs))
        rows.append((found, min(runs, key=lambda facts: facts["seed"]), commits))
    columns: Columns = [
        ("trace", lambda row: row[0].name),
        ("load", lambda row: row[0].title),
        ("1/s", lambda row: f"{row[0].requests / row[1]['seconds']:.0f}"),
        ("requests", lambda row: str(row[0].requests)),
        ("seeds", lambda row: str(row[0].seeds)),
        ("arrivals, SHA-256", lambda row: row[1]["arrivals_sha256"][:12]),
        ("on", lambda row: row[1]["started"][:10]),
        ("commit", lambda row: row[2]),
    ]
    e = data["environment"]
    exact, cheapest = _ends(data)
    about = (
        f"Loads are multiples of the cheapest level's capacity ({cheapest}; level 0: "
        f"{exact}), measured again before each trace. {data['seconds']:g} s a run, SLO "
        f"{data['slo_ms']:g} ms. {_machine(data)}, server on one "
        f"core, client on the other; torch {e['torch']}, nvidia-pytriton {e['nvidia-pytriton']}, "
        f"locust {e['locust']}"
    )
    return _told(_table(rows, columns), about, f"control.serve --seconds {data['seconds']:g}")


def promises(data: Mapping[str, Any]) -> str:
    """Every bar that a benchmark judges, met or missed."""
    columns: Columns = [
        ("bar", lambda bar: bar[0]),
        ("", lambda bar: "met" if bar[1] else "**missed**"),
    ]
    met = f"{sum(data['bars'].values())} of {len(data['bars'])} met"
    commit = _short(data["environment"]["commit"])
    return f"{met}; begun at commit {commit}.\n\n{_table(data['bars'].items(), columns)}"


def crosscheck(data: Mapping[str, Any]) -> str:
    columns: Columns = [
        ("generator", lambda row: row["generator"]),
        ("sent, 1/s", lambda row: f"{row['rate']:.1f}"),
        ("requests", lambda row: str(row["requests"])),
        ("p50, ms", lambda row: f"{row['p50_ms']:.2f}"),
        ("p99, ms", lambda row: f"{row['p99_ms']:.2f}"),
    ]
    commit = _short(data["environment"]["commit"])
    about = f"{data['what']} {_where(data)}; commit {commit}"
    return _told(_table(data["rows"], columns), about, "serving.crosscheck")


def console(data: Mapping[str, Any]) -> str:
    paint, grown = data["first_paint_ms"], data["heap_growth"]
    heaps = [reading["heap_mb"] for reading in data["memory"]]
    rows = {
        "first paint": f"{paint['median']:.0f} ms (at most {paint['most']:.0f} ms)",
        "updates": f"{data['updates_hz']:.1f}/s",
        f"JavaScript heap, {data['minutes']} minutes": f"at most {max(heaps):.1f} MB",
        "its growth once the history is full": _percent(grown, 1),
    }
    columns: Columns = [
        ("what", lambda row: row[0]),
        ("measured", lambda row: row[1]),
    ]
    about = (
        f"{paint['of']} first paints; Chromium {data['chromium']} beside the server. {_where(data)}"
    )
    script = f"serving.console --minutes {data['minutes']}"
    return _told(_table(rows.items(), columns), about, script)


def methods(data: Mapping[str, Any]) -> str:
    dense = data["rows"][0]
    order = {row["family"]: i for i, row in reversed([*enumerate(data["rows"])])}
    rows = sorted(data["rows"], key=lambda row: (order[row["family"]], -row["macs"]))

    def published(row: Mapping[str, Any]) -> str:
        """Papers report a family once, at counts of their own."""
        first = next(other for other in rows if _method(other) == _method(row))
        papers = (t for f, t in data["published"].items() if row["family"].startswith(f))
        return next(papers, "") if row is first else ""

    columns: Columns = [
        ("method", _method),
        ("MMACs", lambda row: f"{row['macs'] / 1e6:.1f} ({row['macs'] / dense['macs']:.0%})"),
        ("batch 1, ms", lambda row: f"{row['batch1_ms']:.2f}"),
        (
            "batch 8, ms",
            lambda row: f"{row['batch8_ms']:.1f} ({row['batch8_ms'] / dense['batch8_ms']:.0%})",
        ),
        ("top-1, %", lambda row: _interval(row["top1"], *row["interval"])),
        ("agreement, %", lambda row: f"{100 * row['agreement']:.2f}"),
        ("published", published),
    ]
    about = (
        f"{data['images']} held-out images, 95 % intervals; medians of {data['rounds']} rounds. "
        f"{_where(data)}"
    )
    return _told(f"{_table(rows, columns)}\n{_missing(data)}", about, "methods")


def _method(row: Mapping[str, Any]) -> str:
    """The family, and which member where counts do not tell."""
    member = f"{row['side']} × {row['side']}" if row["side"] else row["level"]
    return f"{row['family']} {member}" if member else str(row["family"])


def hierarchical(data: Mapping[str, Any]) -> str:
    def first(cell: Callable[[str], str]) -> Column:
        """In the first row of a model."""
        return lambda row: "" if row[0] else cell(row[1])

    def published(model: str) -> str:
        paper = data["published"][model]
        return (
            f"{paper['gmacs']} → {paper['reduced_gmacs']} G, "
            f"{paper['top1']} → {paper['reduced_top1']} %"
        )

    columns: Columns = [
        ("model", first(lambda model: f"`{model}`")),
        ("what passes", lambda row: row[2]["variant"]),
        ("GMACs", lambda row: f"{row[2]['gmacs']:.2f} ({row[2]['macs_share']:.0%})"),
        ("batch 1, ms", lambda row: f"{row[2]['batch1_ms']:.0f} ({row[2]['batch1_share']:.0%})"),
        ("batch 8, ms", lambda row: f"{row[2]['batch8_ms']:.0f} ({row[2]['batch8_share']:.0%})"),
        ("published", first(published)),
    ]
    rows = ((i, m["model"], row) for m in data["models"] for i, row in enumerate(m["rows"]))
    about = f"Random weights; medians of {data['rounds']} rounds. {_where(data)}"
    return _told(_table(rows, columns), about, "hierarchical")


_VERDICT: Columns = [
    ("in time", lambda row: _percent(row["attainment"])),
    ("p99", lambda row: _ms(row["p99_ms"])),
    ("lost or rejected", lambda row: _percent(row["rejected"])),
    (
        "recovered",
        lambda row: "–" if row["recovered"] is None else f"{round(row['recovered'], 2) + 0.0:.2f}",
    ),
]


def scaling_capacity(data: Mapping[str, Any]) -> str:
    def replicas(load: int) -> Column:
        return lambda level: f"{math.ceil(load / (0.8 * level['capacity'])):,}"

    columns: Columns = [
        ("level", lambda level: f"`{level['level']}`"),
        ("quality", lambda level: _percent(level["quality"])),
        ("images/s of a replica", lambda level: f"{level['capacity']:.0f}"),
        *((f"for {load:,}/s", replicas(load)) for load in (1_000, 10_000, 100_000, 1_000_000)),
    ]
    return _simulated(data, data["levels"], columns)


def scaling_sizes(data: Mapping[str, Any]) -> str:
    columns: Columns = [
        ("replicas", lambda row: f"{row['replicas']:,}"),
        ("requests/s", lambda row: f"{row['requests_per_s']:,.0f}"),
        *_VERDICT,
    ]
    about = (
        f"Load {data['load']:g} of the cheapest level's capacity, routed to the shorter of two. "
    )
    return _simulated(data, data["sizes"], columns, about)


def scaling_routings(data: Mapping[str, Any]) -> str:
    columns: Columns = [
        ("replicas", lambda row: row["fleet"]),
        (
            "routing",
            lambda row: (
                row["routing"] + (f", {1000 * row['view_s']:g} ms old" if row["view_s"] else "")
            ),
        ),
        *_VERDICT,
    ]
    return _simulated(data, data["routings"], columns)


def scaling_phases(part: str) -> Callable[[Mapping[str, Any]], str]:
    columns: Columns = [
        ("", lambda row: row["policy"]),
        ("", lambda row: row["phase"]),
        *_VERDICT,
    ]
    return lambda data: _simulated(data, data[part], columns)


def _simulated(
    data: Mapping[str, Any], rows: Iterable[Any], columns: Columns, about: str = ""
) -> str:
    about += f"Simulated, SLO {data['slo_ms']:g} ms, batch times of the demo's levels"
    return _told(_table(rows, columns), about, "control.scaling")


def parity(data: Mapping[str, Any]) -> str:
    columns: Columns = [
        ("model", lambda row: row["model"]),
        ("width x blocks, heads, size/patch", lambda row: row["dims"]),
        ("parameters", lambda row: f"{row['parameters'] / 1e6:.1f} M"),
        ("largest difference of logits", lambda row: f"{row['max_difference']:.1e}"),
        ("their deviation", lambda row: f"{row['logit_std']:.2g}"),
        ("top 5", lambda row: "same" if row["same_top5"] else "NOT the same"),
    ]
    e = data["environment"]
    missing = _missing(data)
    rest = f"Not run:\n{missing}\n\n" if missing else ""
    about = (
        f"{rest}{_processor(e)}, torch {e['torch']}, transformers {e['transformers']}, "
        f"timm {e['timm']}"
    )
    return _told(_table(data["rows"], columns), about, "parity")


def import_memory(data: Mapping[str, Any]) -> str:
    size, most, before = (data[key] / 2**30 for key in ("checkpoint", "most", "before"))
    return (
        f"Importing a {data['model']} of {size:.2f} GiB takes {most:.2f} GiB at most,\n"
        f"{before:.2f} GiB of libraries and the mapped checkpoint included: "
        f"{most / size:.2f} times the\ncheckpoint "
        "(`python -m foveate_benchmarks.ladders.import_memory`)."
    )


def calibration(data: Mapping[str, Any]) -> str:
    dense = data["levels"][0]["ms_batch_8"]
    columns: Columns = [
        ("level", lambda level: f"`{level['name']}`"),
        ("batch of 8, ms", lambda level: f"{level['ms_batch_8']:.1f}"),
        ("speed-up", lambda level: f"{dense / level['ms_batch_8']:.2f}×"),
        ("top-1, %", lambda level: _interval(level["quality"], level["low"], level["high"])),
        ("agreement, %", lambda level: f"{100 * level['agreement']:.2f}"),
        ("KL", lambda level: f"{level['kl']:.4f}"),
    ]

    def best(contest: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        rivals: Mapping[str, Mapping[str, Any]] = contest["uniform"]
        return max(rivals.items(), key=lambda rival: float(rival[1]["quality"]))

    def difference(contest: Mapping[str, Any]) -> str:
        value, low, high = (100 * x for x in best(contest)[1]["ladder_is_better_by"])
        return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"

    contests: Columns = [
        ("budget, ms", lambda contest: f"{contest['budget_ms']:.1f}"),
        ("level", lambda contest: f"`{data['levels'][contest['level']]['name']}`"),
        ("top-1, %", lambda contest: f"{100 * contest['quality']:.1f}"),
        ("best uniform", lambda contest: f"{best(contest)[0]} ({len(contest['uniform'])} fit)"),
        ("top-1, %", lambda contest: f"{100 * best(contest)[1]['quality']:.1f}"),
        ("difference", difference),
    ]
    n = data["contests"][0]["n"] if data["contests"] else 0
    return _told(
        f"{_table(data['levels'], columns)}\n\n"
        f"At each budget against the best of all uniform schedules that fit, on {n} images:\n\n"
        f"{_table(data['contests'], contests)}",
        _where(data),
        "ladders.calibrate",
    )


def compress(data: Mapping[str, Any]) -> str:
    base = data["rows"]["dense"]["top1"]
    columns: Columns = [
        ("weights", lambda row: row[0]),
        ("MACs", lambda row: _percent(row[1]["macs_ratio"], 1)),
        ("parameters", lambda row: f"{row[1]['parameters'] / 1e6:.2f} M"),
        ("time, batch 1", lambda row: f"{row[1]['time_ratio_batch_1']:.2f}"),
        ("time, batch 8", lambda row: f"{row[1]['time_ratio_batch_8']:.2f}"),
        (
            "top-1, %",
            lambda row: f"{100 * row[1]['top1']:.2f} ({100 * (row[1]['top1'] - base):+.2f})",
        ),
        ("agreement, %", lambda row: f"{100 * row[1]['agreement']:.2f}"),
    ]
    about = f"Times are shares of the dense model's. {_where(data)}"
    return _told(_table(data["rows"].items(), columns), about, "ladders.compress")


def selector(data: Mapping[str, Any]) -> str:
    def top1(ratio: str) -> Column:
        return lambda row: f"{100 * row[1]['top1'][ratio]['top1']:.2f}"

    columns: Columns = [
        (
            "tokens chosen by",
            lambda row: "CLS attention × value norm" if row[0] == "cls-value" else row[0],
        ),
        ("parameters", lambda row: str(row[1].get("parameters", 0))),
        *(
            (f"top-1 at {'-'.join(map(str, counts.values()))}", top1(ratio))
            for ratio, counts in data["counts"].items()
        ),
    ]
    about = (
        f"{data['images']} held-out images; the dense model: {_percent(data['dense']['top1'])}. "
        f"{_where(data)}"
    )
    return _told(_table(data["methods"].items(), columns), about, "ladders.selector")


def ablation(data: Mapping[str, Any]) -> str:
    def shares(key: str) -> Column:
        return lambda row: ", ".join(f"{value:.2f}" for value in row[key])

    columns: Columns = [
        ("gradient through attention", lambda row: row["case"]),
        (
            "of answers / of ratio loss",
            lambda row: f"{row['gradients']['answers'] / row['gradients']['ratio']:.2g}",
        ),
        ("aim", shares("aim")),
        ("left, drawn", shares("drawn")),
        ("left, threshold", shares("threshold")),
        ("spread of log-odds", shares("log_odds_std")),
        ("top-1, top-k", lambda row: _percent(row["top1_top_k"]["top1"], 1)),
    ]
    return _table(data["ablation"], columns)


def gpu_model(title: str, model: str) -> Callable[[Mapping[str, Any]], str]:
    """Milliseconds, images a second and energy of every level and peer that was measured."""
    titles = {
        "dense eager": "timm, call by call",
        "dense graph": "timm, CUDA graph",
        "dense compiled": "timm, `max-autotune`, CUDA graph",
        "dense flash": "level 0, PyTorch's FlashAttention",
        "dense foveate": "**level 0**",
        "keep 0.7 foveate": "**keep 0.7**",
        "keep 0.5 foveate": "**keep 0.5**",
        "vwt-intra foveate": "**vwt-intra, half the patches**",
        "tome": "ToMe, our kernels",
    }

    def table(data: Mapping[str, Any]) -> str:
        def timed(name: str, batch: int) -> list[Mapping[str, Any]]:
            rows = (row for key, row in data["rows"].items() if key.startswith(f"b{batch} {name}"))
            return [row for row in rows if "ms" in row]

        def best(batch: int, key: str, form: str) -> Column:
            def cell(name: str) -> str:
                rows = timed(name, batch)
                return format(min(rows, key=lambda row: row["ms"])[key], form) if rows else "–"

            return cell

        def millijoules(batch: int) -> Column:
            def cell(name: str) -> str:
                row = data["rows"].get(f"b{batch} {name.removesuffix(' foveate')} energy", {})
                joules = row.get("joules_per_image") if name.endswith(" foveate") else None
                return "–" if joules is None else f"{1e3 * joules:.0f}"

            return cell

        batches = sorted({int(key.split()[0][1:]) for key in data["rows"]})
        columns: list[tuple[str, Column]] = [(f"{title}, fp16", titles.__getitem__)]
        for batch in batches:
            columns += [
                (f"batch {batch}, ms", best(batch, "ms", ".3f")),
                ("images/s", best(batch, "images_per_s", ".0f")),
            ]
            if any(
                key.startswith(f"b{batch} ") and key.endswith(" energy") for key in data["rows"]
            ):
                columns.append(("mJ/image", millijoules(batch)))
        measured = [name for name in titles if any(timed(name, batch) for batch in batches)]
        return _told(_table(measured, columns), _gpu(data), f"gpu model {model}")

    return table


def gpu_served(data: Mapping[str, Any]) -> str:
    rows = [(key, row) for key, row in data["rows"].items() if "images_per_s" in row]

    def number(name: str, form: str) -> Column:
        return lambda item: "–" if item[1].get(name) is None else format(item[1][name], form)

    columns: Columns = [
        ("images a request, level", lambda item: item[0].removeprefix("b")),
        ("images/s", number("images_per_s", ".0f")),
        ("p50, ms", number("p50_ms", ".1f")),
        ("p99, ms", number("p99_ms", ".1f")),
        ("in flight", number("requests_in_flight", "d")),
        ("mean batch", number("mean_batch", ".1f")),
        ("model process busy", number("model_process_busy", ".2f")),
        ("GPU busy", number("gpu_busy", ".2f")),
    ]
    burst = data["rows"].get("burst", {})
    told = _gpu(data)
    if "attainment" in burst:
        phases = ", ".join(f"{rate:.0f}/s for {seconds:g} s" for seconds, rate in burst["phases"])
        told += (
            f". Burst, adaptive: {phases}; {100 * burst['attainment']:.1f} % within "
            f"{burst['slo_ms']:g} ms, {burst['rejected']} of {burst['requests']} rejected"
        )
        told += f"; the run is invalid: {burst['problem']}" if burst["problem"] else ""
    return _told(_table(rows, columns), told, "gpu served")


def gpu_scores(data: Mapping[str, Any]) -> str:
    start = "scores "
    rows = [
        item for item in data["rows"].items() if item[0].startswith(start) and "most_off" in item[1]
    ]
    columns: Columns = [
        ("scores beside float32 on the CPU", lambda item: item[0].removeprefix(start)),
        ("logits off, median", lambda item: f"{item[1]['median_off']:.1e}"),
        ("most", lambda item: f"{item[1]['most_off']:.1e}"),
        ("same class", lambda item: _percent(item[1]["same_class"], 0)),
    ]
    return _told(_table(rows, columns), _gpu(data), "gpu served")


def gpu_products(data: Mapping[str, Any]) -> str:
    rows = [
        (key, who, timed)
        for key, row in data["rows"].items()
        for who, timed in row.items()
        if isinstance(timed, dict) and "ms" in timed
    ]
    columns: Columns = [
        ("rows × inner × outer", lambda item: item[0].replace("x", "×")),
        ("by", lambda item: item[1]),
        ("µs", lambda item: f"{1e3 * item[2]['ms']:.1f}"),
        ("off", lambda item: f"{item[2]['off']:.1e}"),
    ]
    return _told(_table(rows, columns), _gpu(data), "gpu products")


def gpu_peers(part: str, contenders: Mapping[str, str]) -> Callable[[Mapping[str, Any]], str]:
    """Microseconds of each of the contenders, by their titles."""

    def microseconds(who: str) -> Column:
        return lambda row: f"{1e3 * row[1][who]['ms']:.1f}" if "ms" in row[1].get(who, {}) else "–"

    columns: Columns = [
        ("µs", lambda row: row[0].removeprefix(f"{part} ")),
        *((title, microseconds(who)) for title, who in contenders.items()),
    ]

    def table(data: Mapping[str, Any]) -> str:
        rows = [item for item in data["rows"].items() if item[0].startswith(f"{part} ")]
        missing = [
            f"{title}: not measured yet. "
            for title, who in contenders.items()
            if not any(who in row for _, row in rows)
        ]
        return _told(_table(rows, columns), "".join(missing) + _gpu(data), "gpu peers")

    return table


gpu_attention = gpu_peers(
    "attention",
    {
        "ours, a bias for each key": "attention with bias",
        "ours, none": "attention",
        "SDPA": "sdpa",
        "packed FlashAttention-2": "flash-attention 2",
        "packed FlexAttention, a bias": "flex-attention with bias",
    },
)
gpu_selection = gpu_peers(
    "selection",
    {
        "`select_tokens`, `compact_tokens`": "selection",
        "the same in PyTorch's operators": "torch",
    },
)


def gpu_parity(data: Mapping[str, Any]) -> str:
    removed = (
        "attention_colsum",
        "group_words",
        "linear_gelu",
    )  # operators that were measured and are gone
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key, row in data["rows"].items():
        if (name := key.split(":")[0]) not in removed:
            found.setdefault(name, []).append(row)

    def right(item: tuple[str, list[Mapping[str, Any]]]) -> str:
        rows = item[1]
        return f"{sum(not row.get('wrong') and 'error' not in row for row in rows)} of {len(rows)}"

    def largest(item: tuple[str, list[Mapping[str, Any]]]) -> str:
        errors = [float(x) for row in item[1] for x in row.get("errors", {}).values()]
        return f"{max(errors, default=0.0):.1e}"

    columns: Columns = [
        ("operator", lambda item: f"`{item[0]}`"),
        ("cases right, to the bit in 20 runs", right),
        ("largest error", largest),
    ]
    return _told(_table(found.items(), columns), _gpu(data), "gpu parity")


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _interval(share: float, low: float, high: float) -> str:
    return f"{100 * share:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _ends(data: Mapping[str, Any]) -> tuple[str, str]:
    """Capacities of level 0 and of the cheapest."""
    exact, cheapest = (f"{data['levels'][end]['capacity']:.0f}/s" for end in (0, -1))
    return exact, cheapest


def _missing(data: Mapping[str, Any]) -> str:
    return "".join(f"\n* {name}: {why}" for name, why in data["missing"].items())


def _gpu(data: Mapping[str, Any]) -> str:
    facts, commit = data["identity"], data["hardware"]["environment"]["commit"]
    versions = ", ".join(f"{key} {facts[key]}" for key in ("driver", "torch", "triton"))
    # A copy of a checkout has no commit; its sources have a fingerprint.
    code = f"source {facts['source']}" if commit == "unknown" else f"commit {_short(commit)}"
    return f"{facts['name']}, {versions}, {code}"


def _where(data: Mapping[str, Any]) -> str:
    return f"{_machine(data)}, one thread, torch {data['environment']['torch']}"


def _machine(data: Mapping[str, Any]) -> str:
    e = data["environment"]
    return f"{_processor(e)} ({e['cores']} cores, shared)"


def _processor(environment: Mapping[str, str]) -> str:
    return environment.get("processor") or environment["cpu"]  # its name in older results


def _short(commit: str) -> str:
    """Of what ``git describe`` says; whether files had been changed is kept."""
    number, *dirty = commit.split("-")
    return "-".join([number[:7], *dirty])


def precision(data: Mapping[str, Any]) -> str:
    def count(precision: str, what: str) -> Column:
        return lambda row: str(row[precision][what]) if precision in row else "–"

    columns: Columns = (
        ("level", lambda row: f"`{row['level']}`"),
        ("same map, fp32", count("fp32", "maps")),
        ("same class, fp32", count("fp32", "classes")),
        ("same map, bf16", count("bf16", "maps")),
        ("same class, bf16", count("bf16", "classes")),
    )
    missed = ", ".join(name for name, met in data["bars"].items() if not met) or "none"
    return (
        f"{_table(data['levels'], columns)}\n\nOf {data['images']} images, beside PyTorch in fp32. "
        f"Bars missed: {missed}. {data['processor']}; "
        "`python -m foveate_benchmarks.ladders.precision`."
    )


def fp8(data: Mapping[str, Any]) -> str:
    columns: Columns = (
        ("level", lambda row: f"`{row['level']}`"),
        ("same class as in fp32", lambda row: _percent(row["agreement"])),
        ("top-1, fp32", lambda row: _percent(row["top1_fp32"])),
        ("top-1, fp8", lambda row: _percent(row["top1_fp8"])),
    )
    missed = ", ".join(name for name, met in data["bars"].items() if not met) or "none"
    about = (
        f"{data['images']} images, emulated on a CPU. Bars missed: {missed}. {data['processor']}"
    )
    return _told(_table(data["levels"], columns), about, "ladders.fp8")


def gpu_host_path(data: Mapping[str, Any]) -> str:
    batches: Columns = (
        ("a batch of one-image requests", lambda row: re.sub("^1 images", "1 image", row[0])),
        ("host, ms", lambda row: f"{row[1]:.3f}"),
    )
    served: Columns = (
        ("requests under way", lambda row: row[0]),
        ("images/s, one batch at a time", lambda row: f"{row[1]['images_per_s']:.0f}"),
        ("images/s, two under way", lambda row: f"{row[2]['images_per_s']:.0f}"),
        ("the same, ratio by turn", lambda row: _range(row[3], 2)),
        (
            "model process, µs an image",
            lambda row: " / ".join(
                f"{each['model_process_us_per_image']:.0f}" for each in row[1:3]
            ),
        ),
    )
    rows = []
    for load in data["loads"]:
        one, two = (f"{who}, {load}" for who in ("one batch at a time", "two batches under way"))
        turns = zip(data["turns"][one], data["turns"][two], strict=True)
        ratios = [b["images_per_s"] / a["images_per_s"] for a, b in turns]
        rows.append((load, data["served"][one], data["served"][two], ratios))
    bars = ", ".join(name for name, met in data["bars"].items() if not met) or "none"
    return (
        f"{_table([*data['host_ms'].items()], batches)}\n\n{_table(rows, served)}\n\n"
        f"Bars missed: {bars}. {data['processor']}, {data['cpus']} CPUs for server, model "
        "and client; `python -m foveate_benchmarks.serving.gpu_host_path`."
    )


def start_up(data: Mapping[str, Any]) -> str:
    columns: Columns = (
        ("start", lambda row: row[0]),
        ("seconds until every model has answered", lambda row: _range(row[1])),
    )
    return (
        f"{_table([*data['seconds'].items()], columns)}\n\nThe demo, {data['cpus']} CPUs, "
        f"{len(data['seconds']['cold'])} starts of each kind in turns; kept on disk: "
        f"{data['exported_mib']:.0f} MiB, memory of the model process: "
        f"{data['memory_mib']:.0f} MiB. "
        f"{data['processor']}; `python -m foveate_benchmarks.serving.start_up`."
    )


def _range(values: Sequence[float], digits: int = 1) -> str:
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


_TABLES = {
    "serve-traces": ("serve", serve_traces),
    "serve-right": ("serve", serve("right")),
    "serve-ahead": ("serve", serve("ahead")),
    "serve-in-time": ("serve", serve("attainment")),
    "serve-quality": ("serve", serve("quality")),
    "serve-all": ("serve", serve_all),
    "serve-bars": ("serve", promises),
    "control-bars": ("control", promises),
    "burst-bars": ("burst", promises),
    "crosscheck": ("crosscheck", crosscheck),
    "crosscheck-bars": ("crosscheck", promises),
    **{name: ("cpu_peers", table) for name, table in cpu.TABLES.items()},
    "precision": ("precision", precision),
    "fp8": ("fp8", fp8),
    "gpu-host-path": ("gpu_host_path", gpu_host_path),
    "start-up": ("start_up", start_up),
    "burst": ("burst", burst),
    "control": ("control", control),
    "methods": ("methods", methods),
    "hierarchical": ("hierarchical", hierarchical),
    "scaling-capacity": ("scaling", scaling_capacity),
    "scaling-sizes": ("scaling", scaling_sizes),
    "scaling-routings": ("scaling", scaling_routings),
    "scaling-awaited": ("scaling", scaling_phases("capacity_awaited")),
    "scaling-zone": ("scaling", scaling_phases("zone_lost")),
    "parity": ("parity", parity),
    "import-memory": ("import_memory", import_memory),
    "calibration": ("calibration", calibration),
    "compress": ("compress", compress),
    "selector": ("selector", selector),
    "ablation": ("selector", ablation),
    "console": ("console", console),
    "gpu-model": ("gpu/*/model-deit-b", gpu_model("DeiT-B", "deit-b")),
    "gpu-model-large": ("gpu/*/model-vit-l-384", gpu_model("ViT-L/384", "vit-l-384")),
    "gpu-attention": ("gpu/*/peers", gpu_attention),
    "gpu-selection": ("gpu/*/peers", gpu_selection),
    "gpu-parity": ("gpu/*/parity", gpu_parity),
    "gpu-served": ("gpu/*/served", gpu_served),
    "gpu-scores": ("gpu/*/served", gpu_scores),
    "gpu-products": ("gpu/*/products", gpu_products),
}

if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(render(path.read_text()))
    if (RESULTS / "serve.json").exists():
        PICTURE.write_text(picture())
