"""A calibration as one self-contained HTML file, with its figure as PNG next to it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from foveate.calibration.figures import quality_figure, token_figure
from foveate.calibration.max_batch import batch_ms
from foveate.calibration.quality import Outcome, difference
from foveate.calibration.result import Calibration

__all__ = ["write_report"]


_ENERGY = "Energy is of the GPU alone, while it answers batches of {} one after another."


def write_report(found: Calibration, path: Path) -> None:
    """Write ``path`` (HTML) and the same name with the suffix ``.png``."""
    figure = quality_figure(found)
    labelled = found.ladder.uses_labels
    page = Template(Path(__file__).with_suffix(".html").read_text()).substitute(
        model=escape(found.ladder.model),
        device=escape(found.latency.device),
        choose=found.trials[0].outcome.n,
        report=found.outcomes[0].n,
        contest=found.contests[0].outcome.n if found.contests else 0,
        scale="Quality is top-1" if labelled else "Quality is agreement with level 0",
        levels=_levels(found),
        energy="" if found.joules is None else f"<p>{_ENERGY.format(found.settings.batch)}</p>",
        max_batch=f"{found.max_batch.images}: {escape(found.max_batch.reason)}",
        batches=_batches(found),
        quality_png=b64encode(figure).decode(),
        contests=_contests(found),
        rivals=_rivals(found),
        tokens_png=b64encode(token_figure(found)).decode(),
        trials=_trials(found),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    path.with_suffix(".png").write_bytes(figure)


def _levels(found: Calibration) -> str:
    batch = found.settings.batch
    dense = found.latency.batch_seconds(0, batch)
    rows = []
    for index, (level, outcome) in enumerate(zip(found.ladder.levels, found.outcomes, strict=True)):
        seconds = found.latency.batch_seconds(index, batch)
        rows.append(
            [
                f"{index} {level.name}",
                f"{level.macs / 1e6:.1f}",
                _ms(found.latency.batch_seconds(index, 1)),
                _ms(seconds),
                f"{dense / seconds:.2f}×",
                _score(outcome),
                f"{outcome.agreeing / outcome.n:.2%}",
                f"{outcome.kl:.4f}",
            ]
        )
    header = ["level", "MMACs", "batch 1, ms", f"batch {batch}, ms", "speed-up"]
    header += ["quality (interval)", "agreement", "mean KL, nats"]
    if found.joules is not None:
        header.append("mJ per image")
        for row, joules in zip(rows, found.joules, strict=True):
            row.append(f"{1e3 * joules:.1f}")
    return _table(header, rows)


def _batches(found: Calibration) -> str:
    times = [(size, batch_ms(found.latency, size)) for size in found.latency.batches]
    rows = [[str(size), f"{ms:.2f}", f"{ms / size:.2f}"] for size, ms in times]
    return _table(("images", "ms", "ms per image"), rows)


def _contests(found: Calibration) -> str:
    rows = []
    for contest in found.contests:
        rival = contest.best_rival
        row = [
            _ms(contest.budget),
            found.ladder.levels[contest.level].name,
            _ms(contest.seconds),
            f"{contest.outcome.score:.2%}",
        ]
        if rival is not None:
            value, low, high = (100 * x for x in difference(contest.outcome, rival.outcome))
            row += [
                f"{rival.point.family}: {rival.point.name}",
                _ms(rival.seconds),
                f"{rival.outcome.score:.2%}",
                f"{value:+.2f} ({low:+.2f} to {high:+.2f})",
            ]
        rows.append(row)
    header = "budget, ms", "level", "ms", "quality"
    return _table((*header, "best uniform schedule", "ms", "quality", "difference"), rows)


def _rivals(found: Calibration) -> str:
    families = dict.fromkeys(name for contest in found.contests for name in contest.rivals)
    rows = [
        ["ladder", *(f"{contest.outcome.score:.2%}" for contest in found.contests)],
        *(
            [
                family,
                *(
                    f"{contest.rivals[family].outcome.score:.2%}"
                    if family in contest.rivals
                    else "too slow"
                    for contest in found.contests
                ),
            ]
            for family in families
        ),
    ]
    return _table(
        ("uniform schedules", *(f"{_ms(contest.budget)} ms" for contest in found.contests)), rows
    )


def _trials(found: Calibration) -> str:
    rows = [
        [
            trial.point.name,
            trial.point.family,
            _ms(trial.seconds),
            _score(trial.outcome),
            f"{trial.outcome.kl:.4f}",
            "front" if trial.on_front else "dominated",
            "" if trial.level is None else str(trial.level),
        ]
        for trial in sorted(found.trials, key=lambda trial: -trial.seconds)
    ]
    header = "schedule", "method", f"batch {found.settings.batch}, ms", "quality (interval)"
    return _table((*header, "mean KL, nats", "", "level"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(header, "th"), *(line(row, "td") for row in rows)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _score(outcome: Outcome) -> str:
    low, high = outcome.interval
    return f"{outcome.score:.2%} ({low:.2%} to {high:.2%})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
