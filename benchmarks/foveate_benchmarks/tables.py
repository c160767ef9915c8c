"""Write tables of README.md and of ``docs/``, and a picture, from ``benchmarks/results/*.json``.

    python -m foveate_benchmarks.tables

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from foveate_loadtest.bench.figures import fronts_figure
from foveate_loadtest.bench.findings import ADAPTIVE, Contender, findings, points

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "images" / "evidence.svg"
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def render(text: str, results: Path = RESULTS) -> str:
    """``text`` with its tables made anew."""
    for name, (file, table) in _TABLES.items():
        path = results / f"{file}.json"
        if f"<!-- {name} -->" not in text or not path.exists():  # not measured yet
            continue
        data = json.loads(path.read_text())
        block = f"<!-- {name} -->\n{table(data)}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
    return text


def picture() -> str:
    """Of the comparison of policies, as SVG."""
    return fronts_figure(findings(json.loads((RESULTS / "serve.json").read_text())))


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
    return (
        f"{_markdown(head, rows)}\n\n{_where(data)}; `python -m foveate_benchmarks.ladders.levels`."
    )


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
        f"`python -m foveate_benchmarks.control.burst`."
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
        f"{data['slo_ms']:g} ms. Always cheapest has the same arrivals. The bound is what a "
        f"controller could recover that knew all arrivals. {_where(data)}, server on one core, "
        f"client on the other; `python -m foveate_benchmarks.control`."
    )


def serve(part: str) -> Callable[[Mapping[str, Any]], str]:
    """A trace a row, a policy a column; ``part`` is what of each."""

    def cell(one: Contender | None) -> str:
        if one is None:
            return "–"
        if part == "ahead":
            return points(one.ahead)
        share = getattr(one, part)
        return "–" if share is None else f"{100 * share:.2f} %"

    def table(data: Mapping[str, Any]) -> str:
        titles = (
            "fixed exact",
            "fixed cheapest",
            "best fixed in hindsight",
            "p99 threshold",
            "concurrency limiter",
        )
        rows = []
        for found in findings(data):
            noise = "–" if found.noise is None else f"{100 * found.noise:.2f}"
            ours = [] if part == "ahead" else [cell(found.get(ADAPTIVE))]
            theirs = [cell(found.rivals.get(title)) for title in titles]
            if found.best_fixed:
                theirs[2] += f" (level {found.best_fixed.split()[1]})"
            rows.append([found.name, *ours, *theirs, *([noise] if part == "ahead" else [])])
        adaptive, noisy = ([], ["noise"]) if part == "ahead" else (["adaptive"], [])
        return _markdown(("trace", *adaptive, *titles, *noisy), rows)

    return table


def serve_all(data: Mapping[str, Any]) -> str:
    """Every policy on every trace, fixed levels that are not the best included."""
    rows = (
        (
            found.name,
            one.who,
            f"{100 * one.attainment:.2f} %",
            *("–" if x is None else f"{100 * x:.2f} %" for x in (one.quality, one.measured)),
            f"{100 * one.right:.2f} %",
            "–" if one.p99_ms is None else f"{one.p99_ms:.0f} ms",
            f"{100 * one.rejected:.2f} %",
            str(one.errors),
            str(one.runs),
        )
        for found in findings(data)
        for one in found.contenders
    )
    head = (
        "trace",
        "policy",
        "in time",
        "quality",
        "measured",
        "right",
        "p99",
        "rejected",
        "errors",
        "runs",
    )
    return _markdown(head, rows)


def serve_traces(data: Mapping[str, Any]) -> str:
    """What the traces are, and which run by which commit when."""
    rows = []
    for found in findings(data):
        runs = [facts for facts in data["runs"].values() if facts["trace"] == found.name]
        commits = ", ".join(dict.fromkeys(_short(facts["commit"]) for facts in runs))
        first = min(runs, key=lambda facts: facts["seed"])
        rows.append(
            (
                found.name,
                found.title,
                f"{found.requests / first['seconds']:.0f}",
                str(found.requests),
                str(found.seeds),
                first["arrivals_sha256"][:12],
                first["started"][:10],
                commits,
            )
        )
    head = ("trace", "load", "1/s", "requests", "seeds", "arrivals, SHA-256", "on", "commit")
    e = data["environment"]
    exact, cheapest = (data["levels"][end]["capacity"] for end in (0, -1))
    return (
        f"{_markdown(head, rows)}\n\n"
        f"Loads are multiples of the cheapest level's capacity ({cheapest:.0f}/s; level 0: "
        f"{exact:.0f}/s), measured again before each trace. {data['seconds']:g} s a run, SLO "
        f"{data['slo_ms']:g} ms. {e['processor']} ({e['cores']} cores, shared), server on one "
        f"core, client on the other; torch {e['torch']}, nvidia-pytriton {e['nvidia-pytriton']}, "
        f"locust {e['locust']}; `python -m foveate_benchmarks.control.serve "
        f"--seconds {data['seconds']:g}`."
    )


def promises(data: Mapping[str, Any]) -> str:
    """Every bar that a benchmark judges, met or missed."""
    rows = ((text, "met" if met else "**missed**") for text, met in data["bars"].items())
    met = f"{sum(data['bars'].values())} of {len(data['bars'])} met"
    commit = _short(str(data["environment"]["commit"]))
    return f"{met}; begun at commit {commit}.\n\n{_markdown(('bar', ''), rows)}"


def crosscheck(data: Mapping[str, Any]) -> str:
    rows = (
        (
            row["generator"],
            f"{row['rate']:.1f}",
            str(row["requests"]),
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
        )
        for row in data["rows"]
    )
    head = ("generator", "sent, 1/s", "requests", "p50, ms", "p99, ms")
    return (
        f"{_markdown(head, rows)}\n\n{data['what']} {_where(data)}; commit "
        f"{data['environment']['commit']}; `python -m foveate_benchmarks.serving.crosscheck`."
    )


def console(data: Mapping[str, Any]) -> str:
    paint, grown = data["first_paint_ms"], data["heap_growth"]
    heaps = [reading["heap_mb"] for reading in data["memory"]]
    rows = [
        ("first paint", f"{paint['median']:.0f} ms (at most {paint['most']:.0f} ms)"),
        ("updates", f"{data['updates_hz']:.1f}/s"),
        (f"JavaScript heap, {data['minutes']} minutes", f"at most {max(heaps):.1f} MB"),
        ("its growth once the history is full", "–" if grown is None else f"{100 * grown:.1f} %"),
    ]
    return (
        f"{_markdown(('what', 'measured'), rows)}\n\n"
        f"{paint['of']} first paints; Chromium {data['chromium']} beside the server. "
        f"{_where(data)}; "
        f"`python -m foveate_benchmarks.serving.console --minutes {data['minutes']}`."
    )


def methods(data: Mapping[str, Any]) -> str:
    dense = data["rows"][0]
    order = {row["family"]: i for i, row in reversed([*enumerate(data["rows"])])}
    rows = []
    for row in sorted(data["rows"], key=lambda row: (order[row["family"]], -row["macs"])):
        # Papers report a family once, at counts of their own.
        paper = next((t for f, t in data["published"].items() if row["family"].startswith(f)), "")
        first = not rows or rows[-1][0] != _method(row)
        rows.append(
            (
                _method(row),
                f"{row['macs'] / 1e6:.1f} ({row['macs'] / dense['macs']:.0%})",
                f"{row['batch1_ms']:.2f}",
                f"{row['batch8_ms']:.1f} ({row['batch8_ms'] / dense['batch8_ms']:.0%})",
                "{:.2f} ({:.1f}–{:.1f})".format(
                    *(100 * x for x in (row["top1"], *row["interval"]))
                ),
                f"{100 * row['agreement']:.2f}",
                paper if first else "",
            )
        )
    head = (
        "method",
        "MMACs",
        "batch 1, ms",
        "batch 8, ms",
        "top-1, %",
        "agreement, %",
        "published",
    )
    missing = "".join(f"\n* missing: {name}: {why}" for name, why in data["missing"].items())
    return (
        f"{_markdown(head, rows)}\n{missing}\n\n"
        f"{data['images']} held-out images, 95 % intervals; medians of {data['rounds']} rounds. "
        f"{_where(data)}; `python -m foveate_benchmarks.methods`."
    )


def _method(row: Mapping[str, Any]) -> str:
    """The family, and which member where counts do not tell."""
    member = f"{row['side']} × {row['side']}" if row["side"] else row["level"]
    return f"{row['family']} {member}" if member else str(row["family"])


def hierarchical(data: Mapping[str, Any]) -> str:
    rows = []
    for model in data["models"]:
        paper = data["published"][model["model"]]
        published = (
            f"{paper['gmacs']} → {paper['reduced_gmacs']} G, "
            f"{paper['top1']} → {paper['reduced_top1']} %"
        )
        for i, row in enumerate(model["rows"]):
            rows.append(
                (
                    f"`{model['model']}`" if i == 0 else "",
                    row["variant"],
                    f"{row['gmacs']:.2f} ({row['macs_share']:.0%})",
                    f"{row['batch1_ms']:.0f} ({row['batch1_share']:.0%})",
                    f"{row['batch8_ms']:.0f} ({row['batch8_share']:.0%})",
                    published if i == 0 else "",
                )
            )
    head = ("model", "what passes", "GMACs", "batch 1, ms", "batch 8, ms", "published")
    return (
        f"{_markdown(head, rows)}\n\n"
        f"Random weights; medians of {data['rounds']} rounds. {_where(data)}; "
        "`python -m foveate_benchmarks.hierarchical`."
    )


def scaling_capacity(data: Mapping[str, Any]) -> str:
    loads = (1_000, 10_000, 100_000, 1_000_000)
    rows = (
        (
            f"`{level['level']}`",
            f"{100 * level['quality']:.2f} %",
            f"{level['capacity']:.0f}",
            *(f"{math.ceil(load / (0.8 * level['capacity'])):,}" for load in loads),
        )
        for level in data["levels"]
    )
    head = ("level", "quality", "images/s of a replica", *(f"for {load:,}/s" for load in loads))
    return f"{_markdown(head, rows)}\n\n{_simulated(data)}"


def scaling_sizes(data: Mapping[str, Any]) -> str:
    rows = (
        (f"{row['replicas']:,}", f"{row['requests_per_s']:,.0f}", *_verdict(row))
        for row in data["sizes"]
    )
    head = ("replicas", "requests/s", *_VERDICT)
    return (
        f"{_markdown(head, rows)}\n\nLoad {data['load']:g} of the cheapest level's capacity, "
        f"routed to the shorter of two. {_simulated(data)}"
    )


def scaling_routings(data: Mapping[str, Any]) -> str:
    rows = (
        (
            row["fleet"],
            row["routing"] + (f", {1000 * row['view_s']:g} ms old" if row["view_s"] else ""),
            *_verdict(row),
        )
        for row in data["routings"]
    )
    head = ("replicas", "routing", *_VERDICT)
    return f"{_markdown(head, rows)}\n\n{_simulated(data)}"


def scaling_phases(part: str) -> Callable[[Mapping[str, Any]], str]:
    def table(data: Mapping[str, Any]) -> str:
        rows = ((row["policy"], row["phase"], *_verdict(row)) for row in data[part])
        return f"{_markdown(('', '', *_VERDICT), rows)}\n\n{_simulated(data)}"

    return table


_VERDICT = ("in time", "p99", "lost or rejected", "recovered")


def _verdict(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{100 * row['attainment']:.2f} %",
        "–" if row["p99_ms"] is None else f"{row['p99_ms']:.0f} ms",
        f"{100 * row['rejected']:.2f} %",
        "–" if row["recovered"] is None else f"{round(row['recovered'], 2) + 0.0:.2f}",
    )


def _simulated(data: Mapping[str, Any]) -> str:
    return (
        f"Simulated, SLO {data['slo_ms']:g} ms, batch times of `results/levels.json`; "
        "`python -m foveate_benchmarks.control.scaling`."
    )


def parity(data: Mapping[str, Any]) -> str:
    rows = (
        (
            row["model"],
            row["dims"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['max_difference']:.1e}",
            f"{row['logit_std']:.2g}",
            "same" if row["same_top5"] else "NOT the same",
        )
        for row in data["rows"]
    )
    dims, difference = "width x blocks, heads, size/patch", "largest difference of logits"
    head = ("model", dims, "parameters", difference, "their deviation", "top 5")
    e = data["environment"]
    missing = "".join(f"\n* {name}: {why}" for name, why in data["missing"].items())
    rest = f"Not run:\n{missing}\n\n" if missing else ""
    return (
        f"{_markdown(head, rows)}\n\n{rest}{e['cpu']}, torch {e['torch']}, transformers "
        f"{e['transformers']}, timm {e['timm']}; `python -m foveate_benchmarks.parity`."
    )


def import_memory(data: Mapping[str, Any]) -> str:
    size, most, before = (data[key] / 2**30 for key in ("checkpoint", "most", "before"))
    return (
        f"Importing a {data['model']} of {size:.2f} GiB takes {most:.2f} GiB at most,\n"
        f"{before:.2f} GiB of libraries and the mapped checkpoint included: "
        f"{most / size:.2f} times the\ncheckpoint "
        "(`python -m foveate_benchmarks.ladders.import_memory`)."
    )


def calibration(data: Mapping[str, Any]) -> str:
    times = [level["ms_batch_8"] for level in data["levels"]]
    rows = (
        (
            f"`{level['name']}`",
            f"{ms:.1f}",
            f"{times[0] / ms:.2f}×",
            f"{100 * level['quality']:.2f} ({100 * level['low']:.1f}–{100 * level['high']:.1f})",
            f"{100 * level['agreement']:.2f}",
            f"{level['kl']:.4f}",
        )
        for level, ms in zip(data["levels"], times, strict=True)
    )
    head = ("level", "batch of 8, ms", "speed-up", "top-1, %", "agreement, %", "KL")
    contests = []
    for contest in data["contests"]:
        best = max(contest["uniform"].items(), key=lambda item: item[1]["quality"])
        value, low, high = (100 * x for x in best[1]["ladder_is_better_by"])
        contests.append(
            (
                f"{contest['budget_ms']:.1f}",
                f"`{data['levels'][contest['level']]['name']}`",
                f"{100 * contest['quality']:.1f}",
                f"{best[0]} ({len(contest['uniform'])} fit)",
                f"{100 * best[1]['quality']:.1f}",
                f"{value:+.1f} ({low:+.1f} to {high:+.1f})",
            )
        )
    contest_head = ("budget, ms", "level", "top-1, %", "best uniform", "top-1, %", "difference")
    n = data["contests"][0]["n"] if data["contests"] else 0
    return (
        f"{_markdown(head, rows)}\n\n"
        f"At each budget against the best of all uniform schedules that fit, on {n} images:\n\n"
        f"{_markdown(contest_head, contests)}\n\n"
        f"{_where(data)}; `python -m foveate_benchmarks.ladders.calibrate`."
    )


def compress(data: Mapping[str, Any]) -> str:
    base = data["rows"]["dense"]["top1"]
    rows = (
        (
            variant,
            f"{100 * row['macs_ratio']:.1f} %",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['time_ratio_batch_1']:.2f}",
            f"{row['time_ratio_batch_8']:.2f}",
            f"{100 * row['top1']:.2f} ({100 * (row['top1'] - base):+.2f})",
            f"{100 * row['agreement']:.2f}",
        )
        for variant, row in data["rows"].items()
    )
    head = (
        "weights",
        "MACs",
        "parameters",
        "time, batch 1",
        "time, batch 8",
        "top-1, %",
        "agreement, %",
    )
    return (
        f"{_markdown(head, rows)}\n\n"
        f"Times are shares of the dense model's. {_where(data)}; "
        "`python -m foveate_benchmarks.ladders.compress`."
    )


def selector(data: Mapping[str, Any]) -> str:
    ratios = list(data["counts"])
    rows = [
        (
            "CLS attention × value norm" if name == "cls-value" else name,
            str(method.get("parameters", 0)),
            *(f"{100 * method['top1'][ratio]['top1']:.2f}" for ratio in ratios),
        )
        for name, method in data["methods"].items()
    ]
    head = (
        "tokens chosen by",
        "parameters",
        *("top-1 at " + "-".join(str(n) for n in data["counts"][r].values()) for r in ratios),
    )
    return (
        f"{_markdown(head, rows)}\n\n"
        f"{data['images']} held-out images; the dense model: {100 * data['dense']['top1']:.2f} %. "
        f"{_where(data)}; `python -m foveate_benchmarks.ladders.selector`."
    )


def ablation(data: Mapping[str, Any]) -> str:
    def shares(values: Iterable[float]) -> str:
        return ", ".join(f"{value:.2f}" for value in values)

    rows = (
        (
            row["case"],
            f"{row['gradients']['answers'] / row['gradients']['ratio']:.2g}",
            shares(row["aim"]),
            shares(row["drawn"]),
            shares(row["threshold"]),
            shares(row["log_odds_std"]),
            f"{100 * row['top1_top_k']['top1']:.1f} %",
        )
        for row in data["ablation"]
    )
    head = (
        "gradient through attention",
        "of answers / of ratio loss",
        "aim",
        "left, drawn",
        "left, threshold",
        "spread of log-odds",
        "top-1, top-k",
    )
    return _markdown(head, rows)


def gpu_model(data: Mapping[str, Any]) -> str:
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
    batches = sorted({int(key.split()[0][1:]) for key in data["rows"]})

    def best(batch: int, name: str) -> Mapping[str, Any] | None:
        rows = (r for k, r in data["rows"].items() if k.startswith(f"b{batch} {name}"))
        return min((r for r in rows if "ms" in r), key=lambda r: r["ms"], default=None)

    def cells(name: str) -> Iterable[str]:
        for batch in batches:
            row = best(batch, name)
            energy = data["rows"].get(f"b{batch} {name.removesuffix(' foveate')} energy", {})
            joules = energy.get("joules_per_image") if name.endswith(" foveate") else None
            yield "–" if row is None else f"{row['ms']:.3f}"
            yield "–" if row is None else f"{row['images_per_s']:.0f}"
            yield "–" if joules is None else f"{1e3 * joules:.0f}"

    head = ["DeiT-B, fp16"]
    for batch in batches:
        head += [f"batch {batch}, ms", "images/s", "mJ/image"]
    rows = ((title, *cells(name)) for name, title in titles.items())
    return (
        f"{_markdown(head, rows)}\n\n{_gpu(data)}; `python -m foveate_benchmarks.gpu model deit-b`."
    )


def gpu_attention(data: Mapping[str, Any]) -> str:
    others = ("attention", "sdpa", "flash-attention 2")
    rows = (
        (
            key.removeprefix("attention "),
            f"{1e3 * row['attention with bias']['ms']:.1f}",
            *(f"{1e3 * row[other]['ms']:.1f}" for other in others),
        )
        for key, row in data["rows"].items()
        if key.startswith("attention ")
    )
    head = ("µs", "ours, a bias for each key", "ours, none", "SDPA", "packed FlashAttention-2")
    return f"{_markdown(head, rows)}\n\n{_gpu(data)}; `python -m foveate_benchmarks.gpu peers`."


def gpu_selection(data: Mapping[str, Any]) -> str:
    rows = (
        (
            key.removeprefix("selection "),
            f"{1e3 * row['selection']['ms']:.1f}",
            f"{1e3 * row['torch']['ms']:.1f}",
        )
        for key, row in data["rows"].items()
        if key.startswith("selection ")
    )
    head = ("µs", "`select_tokens`, `compact_tokens`", "the same in PyTorch's operators")
    return f"{_markdown(head, rows)}\n\n{_gpu(data)}; `python -m foveate_benchmarks.gpu peers`."


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

    def errors(rows: list[Mapping[str, Any]]) -> list[float]:
        return [float(error) for row in rows for error in row.get("errors", {}).values()]

    rows = (
        (
            f"`{name}`",
            f"{sum(not row.get('wrong') and 'error' not in row for row in rows)} of {len(rows)}",
            f"{max(errors(rows), default=0.0):.1e}",
        )
        for name, rows in found.items()
    )
    head = ("operator", "cases right, to the bit in 20 runs", "largest error")
    return f"{_markdown(head, rows)}\n\n{_gpu(data)}; `python -m foveate_benchmarks.gpu parity`."


def _gpu(data: Mapping[str, Any]) -> str:
    facts, commit = data["identity"], data["hardware"]["environment"]["commit"]
    versions = ", ".join(f"{key} {facts[key]}" for key in ("driver", "torch", "triton"))
    return f"{facts['name']}, {versions}, commit {commit}"


def _where(data: Mapping[str, Any]) -> str:
    e = data["environment"]
    return f"{e['cpu']} ({e['cores']} cores, shared), one thread, torch {e['torch']}"


def _short(commit: str) -> str:
    """Of what ``git describe`` says; whether files had been changed is kept."""
    number, *dirty = commit.split("-")
    return "-".join([number[:7], *dirty])


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    "ladder": ("levels", ladder),
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
    "gpu-model": ("gpu-model-deit-b", gpu_model),
    "gpu-attention": ("gpu-peers", gpu_attention),
    "gpu-selection": ("gpu-peers", gpu_selection),
    "gpu-parity": ("gpu-parity", gpu_parity),
}

if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(render(path.read_text()))
    if (RESULTS / "serve.json").exists():
        PICTURE.write_text(picture())
