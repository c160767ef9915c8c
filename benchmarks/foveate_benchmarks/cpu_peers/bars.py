"""What must hold: level 0 keeps up with a dense model compiled by hand, and levels pay in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate_benchmarks.cpu_peers.groups import OURS, Row
from foveate_benchmarks.cpu_peers.models import PRUNE, SELECTOR, VWT, Model

__all__ = ["Bar", "bars", "level_facts"]

JUDGED = ("demo", "deit-t", "deit-s")
LEVEL_0 = 1.03  # of OpenVINO's time
REALISED = {1: 0.65, 8: 0.85}  # of the ratio of MACs, by batch
DOWN_TO = 0.245  # share of MACs; levels are said to cost 25 %, and do nearly
TIME = {PRUNE: 0.72, SELECTOR: 0.65}  # of the dense time, at batch 1
POINTS = 0.03  # over the share of MACs


@dataclass(frozen=True)
class Bar:
    """``value`` must not be over ``limit``, or not under it if ``least``."""

    kind: str
    where: str
    precision: str
    value: float
    limit: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    @property
    def text(self) -> str:
        return f"{self.kind}: {self.where}, {self.precision}"

    def facts(self) -> dict[str, Any]:
        return {**vars(self), "met": self.met}


def level_facts(models: Sequence[Model], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every level in every group, beside the dense OpenVINO of its precision and our level 0."""
    found = []
    for model in models:
        ladder = model.prepared.ladder
        mine = [row for row in rows if row.model == model.name]
        best = {(r.threads, r.batch, r.precision, r.who, r.level): r.best_ms for r in mine}
        for row in mine:
            if row.who != OURS or row.level is None or row.best_ms is None:
                continue
            where = (row.threads, row.batch, row.precision)
            dense, own = best[*where, "openvino", None], best[*where, OURS, 0]
            assert dense is not None
            assert own is not None
            level, share = ladder.levels[row.level], model.share(row.level)
            found.append(
                {
                    "model": model.name,
                    "threads": row.threads,
                    "batch": row.batch,
                    "precision": row.precision,
                    "level": row.level,
                    "name": level.name,
                    "mmacs": level.macs / 1e6,
                    "macs_share": share,
                    "best_ms": row.best_ms,
                    "time_share": row.best_ms / dense,
                    "time_share_of_level_0": row.best_ms / own,
                    "realised": dense / row.best_ms * share,
                    "realised_of_level_0": own / row.best_ms * share,
                    "quality": ladder.quality(row.level),
                }
            )
    return found


def bars(levels: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Judged by the least times: neighbours on the machine only ever add to them."""
    return list(_bars(levels))


def _bars(levels: Sequence[Mapping[str, Any]]) -> Iterator[Bar]:
    for row in levels:
        name, batch, share, precision = (
            row[key] for key in ("model", "batch", "macs_share", "precision")
        )
        threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
        place = f"{name}, batch {batch}, {threads}"
        own = f"{name} {row['name']}, batch {batch}, {threads}"
        time = row["time_share"]
        if name not in JUDGED:
            continue
        if row["level"] == 0:
            kind = f"level 0 takes at most {LEVEL_0:g} of the time of OpenVINO"
            yield Bar(kind, place, precision, time, LEVEL_0)
            continue
        if name in ("demo", "deit-s") and batch in REALISED and share >= DOWN_TO:
            least = REALISED[batch]
            kind = f"levels realise {100 * least:g} % of their MAC ratio at batch {batch}"
            yield Bar(kind, own, precision, row["realised"], least, least=True)
        if row["name"] in TIME and batch == 1:
            limit = TIME[row["name"]]
            kind = f"{row['name']}: at most {100 * limit:g} % of the dense time at batch 1"
            yield Bar(kind, place, precision, time, limit)
        if row["name"] == VWT and batch in REALISED:
            kind = f"{VWT}: at most its share of MACs and {100 * POINTS:g} points"
            yield Bar(kind, place, precision, time, share + POINTS)
