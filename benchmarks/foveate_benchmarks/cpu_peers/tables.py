"""The tables of ``cpu_peers.json``: in README.md and docs/cpu.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

from foveate_benchmarks.markdown import Column, Columns, table, told

__all__ = ["TABLES", "served_levels"]

Data = Mapping[str, Any]
Table = Callable[[Data], str]

WHO = {
    "openvino": "OpenVINO, bare request",
    "openvino call": "OpenVINO, `compiled([pixels])`",
    "onnxruntime": "ONNX Runtime",
    "eager": "PyTorch",
    "compile": "`torch.compile`",
    "foveate, bare request": "level 0, bare request",
    "foveate": "**level 0**",
}
PRECISIONS = ("bf16", "fp32")


def ladder(data: Data) -> str:
    """The demo's levels with one thread, in the precision that is served."""
    rows = served_levels(data["levels"], "demo", threads=1, batch=8)
    first = rows[0]
    columns: Columns = [
        ("level", lambda row: f"{row['level']} `{row['name']}`"),
        ("MMACs per image", lambda row: f"{row['mmacs']:.1f}"),
        ("batch of 8, ms", lambda row: f"{row['best_ms']:.1f}"),
        ("speed-up", lambda row: f"{first['best_ms'] / row['best_ms']:.2f}×"),
        ("top-1", lambda row: f"{100 * row['quality']:.2f} %"),
    ]
    return told(
        table(rows, columns), f"{first['precision']}, {_where(data, threads=1)}", "cpu_peers"
    )


def short(data: Data) -> str:
    """Who is how quick with one thread: each in the precision in which it is quickest."""
    columns: list[tuple[str, Column]] = [("ms, one thread", lambda item: item[0])]
    for model, batch in product(_models(data), (1, 8)):

        def cell(item: Any, model: str = model, batch: int = batch) -> str:
            rows = [
                row
                for row in data["rows"]
                if (row["model"], row["threads"], row["batch"]) == (model, 1, batch)
                and "best_ms" in row
                and item[1](row)
            ]
            if not rows:
                return "–"
            best = min(rows, key=lambda row: row["best_ms"])
            return f"{best['best_ms']:.1f} {best['precision']}"

        columns.append((f"{model}, batch {batch}", cell))
    cheapest = {
        model: max(row["level"] for row in data["levels"] if row["model"] == model)
        for model in _models(data)
    }

    def is_peer(name: str) -> Callable[[Any], bool]:
        return lambda row: bool(row["who"] == name)

    def is_level(level: Callable[[Any], int]) -> Callable[[Any], bool]:
        return lambda row: bool(row["who"] == "foveate" and row["level"] == level(row))

    peers = ("eager", "compile", "onnxruntime", "openvino")
    who = [(WHO[name], is_peer(name)) for name in peers]
    who += [
        (WHO["foveate"], is_level(lambda row: 0)),
        ("**cheapest level**", is_level(lambda row: cheapest[row["model"]])),
    ]
    return told(table(who, columns), _where(data, threads=1), "cpu_peers")


def dense(model: str) -> Table:
    """Milliseconds of everyone at level 0, and their share of OpenVINO's in the same precision."""

    def made(data: Data) -> str:
        rows = {
            (row["threads"], row["batch"], row["precision"], row["who"]): row
            for row in data["rows"]
            if row["model"] == model and not row.get("level")
        }

        def column(threads: int, batch: int) -> Column:
            def cell(item: tuple[str, str]) -> str:
                row = rows.get((threads, batch, *item), {})
                base = rows.get((threads, batch, item[0], "openvino"), {})
                if "best_ms" not in row:
                    return "–"
                return f"{row['best_ms']:.2f} ({row['best_ms'] / base['best_ms']:.2f})"

            return cell

        columns: list[tuple[str, Column]] = [
            (f"{model}, ms", lambda item: f"{WHO[item[1]]}, {item[0]}")
        ]
        for threads, batch in _places(data, model):
            columns.append((f"{_threads(threads)}, batch {batch}", column(threads, batch)))
        # One who is nowhere has no row; why stands below.
        shown = [
            item
            for item in product(PRECISIONS, WHO)
            if any("best_ms" in row for key, row in rows.items() if key[2:] == item)
        ]
        absent = {
            f"{row['precision']} of {WHO.get(row['who'], row['who'])}: {row['missing']}"
            for row in rows.values()
            if "missing" in row
        }
        about = "In brackets: share of OpenVINO's bare request in the same precision. "
        about += "".join(f"Without {text}. " for text in sorted(absent))
        missed = _missed(data, model, level_0=True)
        return told(table(shown, columns), about + _where(data), "cpu_peers") + missed

    return made


def levels(model: str) -> Table:
    """Time and MACs of every level, as shares of the dense model's."""

    def made(data: Data) -> str:
        found = {
            (row["precision"], row["level"], row["threads"], row["batch"]): row
            for row in data["levels"]
            if row["model"] == model
        }

        def column(threads: int, batch: int) -> Column:
            def cell(item: tuple[str, int]) -> str:
                row = found[*item, threads, batch]
                return f"{100 * row['time_share']:.0f} % ({row['realised']:.2f})"

            return cell

        places = _places(data, model)

        def one(item: tuple[str, int]) -> Any:
            return found[*item, *places[0]]

        columns: list[tuple[str, Column]] = [
            (model, lambda item: f"{one(item)['name']}, {item[0]}"),
            ("MACs", lambda item: f"{100 * one(item)['macs_share']:.1f} %"),
        ]
        for threads, batch in places:
            columns.append((f"{_threads(threads)}, batch {batch}", column(threads, batch)))
        items = sorted(
            {key[:2] for key in found}, key=lambda item: (PRECISIONS.index(item[0]), item[1])
        )
        about = (
            "Share of the time of the dense OpenVINO, by its bare request in the same precision; "
            "in brackets, what that realises of the ratio of MACs. "
        )
        missed = _missed(data, model, level_0=False)
        return told(table(items, columns), about + _where(data), "cpu_peers") + missed

    return made


def bars(data: Data) -> str:
    """Each kind of bar: how often it is met, and where it is nearest to a miss or farthest off."""
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for bar in data["judged"]:
        kinds.setdefault((bar["kind"], bar["precision"]), []).append(bar)

    def worst(item: Any) -> str:
        bar = max(item[1], key=lambda bar: (bar["value"] - bar["limit"]) * (-1) ** bar["least"])
        return f"{_value(bar)} ({bar['where']})"

    columns: Columns = [
        ("bar", lambda item: f"{item[0][0]}, {item[0][1]}"),
        ("met", lambda item: f"{sum(bar['met'] for bar in item[1])} of {len(item[1])}"),
        ("worst", worst),
    ]
    return told(table(kinds.items(), columns), _where(data), "cpu_peers")


def _missed(data: Data, model: str, level_0: bool) -> str:
    """Every bar that the model misses, of level 0 or of the others."""
    places = [
        f"\n* **missed**: {bar['kind']}: {bar['where']}, {bar['precision']}: {_value(bar)}"
        for bar in data["judged"]
        if bar["where"].startswith(model)
        and bar["kind"].startswith("level 0") == level_0
        and not bar["met"]
    ]
    return f"\n{''.join(places)}" if places else ""


def _value(bar: Mapping[str, Any]) -> str:
    if bar["least"]:
        return f"{bar['value']:.3f}, at least {bar['limit']:.3f}"
    return f"{bar['value']:.3f}, at most {bar['limit']:.3f}"


def served(data: Data) -> str:
    columns: Columns = [
        ("served over gRPC", lambda row: row["who"]),
        ("requests/s", lambda row: f"{row['capacity']:.0f}"),
        (
            "in two turns",
            lambda row: "–".join(f"{x:.0f}" for x in _range(row["turns"], "capacity")),
        ),
        ("alone, median ms", lambda row: f"{row['p50_ms']:.2f}"),
        ("p99, ms", lambda row: f"{row['p99_ms']:.2f}"),
    ]
    about = f"{_where(data, threads=1)}, server on one core, client on the other"
    return told(table(data["served"] or (), columns), about, "cpu_peers --served")


def _range(turns: Iterable[Mapping[str, float]], key: str) -> tuple[float, float]:
    values = [turn[key] for turn in turns]
    return min(values), max(values)


def served_levels(
    levels: Iterable[Mapping[str, Any]], model: str, threads: int, batch: int
) -> list[Mapping[str, Any]]:
    """In the precision that is served: bf16 where that was measured."""
    at = [
        row
        for row in levels
        if (row["model"], row["threads"], row["batch"]) == (model, threads, batch)
    ]
    return [row for row in at if row["precision"] == at[-1]["precision"]]


def _models(data: Data) -> list[str]:
    return [*dict.fromkeys(row["model"] for row in data["rows"])]


def _places(data: Data, model: str) -> list[tuple[int, int]]:
    """Threads and batches that were measured."""
    rows = (row for row in data["rows"] if row["model"] == model)
    return [*dict.fromkeys((row["threads"], row["batch"]) for row in rows)]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _where(data: Data, threads: int | None = None) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = f"{machine['usable_cpus']} cores, {', '.join(machine['flags'])}"
    own = "" if threads is None else f", {'one thread' if threads == 1 else _threads(threads)}"
    return f"{machine['processor']} ({cores}){own}, {versions}"


TABLES: dict[str, Table] = {
    "ladder": ladder,
    "cpu-short": short,
    **{f"cpu-dense-{model}": dense(model) for model in ("demo", "deit-t", "deit-s")},
    **{f"cpu-levels-{model}": levels(model) for model in ("demo", "deit-t", "deit-s")},
    "cpu-bars": bars,
    "cpu-served": served,
}
