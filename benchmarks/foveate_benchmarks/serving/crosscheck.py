"""Our load generator and NVIDIA's perf_analyzer replay the same intervals: do they see the same?

    python -m foveate_benchmarks.serving.crosscheck [--seconds 15] [--rounds 9] [--load 0.5]

gRPC, the cheapest level, half of what it carries, Poisson; in turns, A B B A. perf_analyzer is the
binary within the wheel of tritonclient 2.51.0, the newest that runs on Debian 12, fetched from PyPI
into ``.perf_analyzer``; two libraries it needs come with nvidia-pytriton.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer

from foveate_benchmarks.results import SLO_MS, conclude
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.choices import Shape
from foveate_loadtest.image_sets import labelled_images
from foveate_loadtest.rows import Outcome
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.stage import Stage
from foveate_loadtest.temporary_server import cores_apart, running

WHEEL = "tritonclient==2.51.0"
FOLDER = Path(".perf_analyzer")
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
IMAGES = 32
OURS, THEIRS = "foveate loadtest", "perf_analyzer"
APART = {"rate": 0.01, "requests": 0.01, "p50_ms": 0.03, "p99_ms": 0.05}


def perf_analyzer() -> Path:
    """The binary, fetched if it is not there."""
    FOLDER.mkdir(exist_ok=True)
    bundled = Path(sysconfig.get_path("platlib")) / "nvidia_pytriton.libs"
    for name, pattern in LIBRARIES.items():
        (found,) = bundled.glob(pattern)
        (FOLDER / name).unlink(missing_ok=True)
        (FOLDER / name).symlink_to(found)
    binary = FOLDER / "perf_analyzer"
    if binary.exists():
        return binary.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        subprocess.run([*pip, WHEEL], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/bin/perf_analyzer"))
            binary.write_bytes(archive.read(name))
    binary.chmod(0o755)
    return binary.absolute()


def theirs(binary: Path, stage: Stage, schedule: Schedule) -> dict[str, float]:
    """What perf_analyzer says of every request it sent."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        gaps = np.diff(schedule.times, prepend=0.0) * 1e6
        (folder / "intervals").write_text("\n".join(str(max(1, round(g))) for g in gaps) + "\n")
        (folder / "images.json").write_text(json.dumps({"data": _images()}))
        done = subprocess.run(
            [
                binary,
                *("-m", stage.model, "-u", stage.server.grpc, "-i", "grpc", "--async"),
                f"--request-intervals={folder / 'intervals'}",
                f"--input-data={folder / 'images.json'}",
                f"--measurement-interval={1000 * schedule.seconds:.0f}",
                *("--max-trials=1", "--stability-percentage=999"),
                f"--profile-export-file={folder / 'profile.json'}",
            ],
            env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER.absolute())},
            capture_output=True,
            text=True,
        )
        if not (folder / "profile.json").exists():
            said = (done.stdout + done.stderr)[-3000:]
            raise SystemExit(f"perf_analyzer ended with {done.returncode}:\n{said}")
        profile = json.loads((folder / "profile.json").read_text())
    requests = profile["experiments"][0]["requests"]
    # It goes on with the first interval after the last: only the schedule is compared.
    requests = sorted(requests, key=lambda request: request["timestamp"])[: len(schedule.times)]
    sent = np.array([request["timestamp"] for request in requests])
    answered = np.array([request["response_timestamps"][-1] for request in requests])
    return _row(sent * 1e-9, (answered - sent) * 1e-6)


def ours(
    stage: Stage, schedule: Schedule, problems: list[str], seen: list[dict[str, float]]
) -> dict[str, float]:
    """What our report says; ``seen`` gets the same from the actual send, as the other counts."""
    report, rows = stage.play(schedule, None, images=IMAGES)
    problems += [report.problem] if report.problem else []
    ok = rows.outcome == Outcome.OK
    seen.append(_row(rows.sent[ok], 1e3 * (rows.done - rows.sent)[ok]))
    return _row(rows.sent[ok], 1e3 * rows.latency[ok])


def _row(sent: Any, latency_ms: Any) -> dict[str, float]:
    p50, p99 = np.quantile(latency_ms, (0.5, 0.99), method="higher")
    rate = (len(sent) - 1) / float(sent.max() - sent.min())
    return {"rate": rate, "requests": len(sent), "p50_ms": float(p50), "p99_ms": float(p99)}


def _images() -> list[dict[str, Any]]:
    pixels, _ = labelled_images(IMAGES)
    return [{"PIXELS": {"b64": base64.b64encode(image.tobytes()).decode()}} for image in pixels]


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    seconds: float = 15.0,
    rounds: int = 9,
    load: float = 0.5,
) -> None:
    binary = perf_analyzer()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("one core: client and server would disturb each other")
    problems: list[str] = []
    seen: dict[str, list[dict[str, float]]] = {
        name: [] for name in (OURS, THEIRS, f"{OURS}, from the actual send")
    }
    *_, from_sent = seen.values()
    with running(repository, "--no-pin-cap", f"--slo-ms={SLO_MS:g}", core=cores_apart()) as server:
        stage = Stage(server, name)
        capacity = stage.capacities().cheapest
        schedule = shape_schedule(Shape.STEADY, load * capacity, seconds, seed=1)
        stage.adapter.pin(stage.ladder.names[stage.ladder.cheapest])
        for number in range(rounds):
            for who in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
                seen[who].append(
                    ours(stage, schedule, problems, from_sent)
                    if who == OURS
                    else theirs(binary, stage, schedule)
                )
                print(who, seen[who][-1], flush=True)
    rows = [
        {"generator": who, **{key: median(run[key] for run in runs) for key in runs[0]}}
        for who, runs in seen.items()
    ]
    checks = {"client on time" if not problems else problems[0]: not problems}
    for key, allowed in APART.items():
        pairs = zip(seen[OURS], seen[THEIRS], strict=True)
        apart = [ours[key] / theirs[key] - 1 for ours, theirs in pairs]
        text = f"{key.removesuffix('_ms')}: {median(apart):+.1%} apart, median of pairs"
        text += f" ({min(apart):+.1%} to {max(apart):+.1%}), at most {allowed:.0%}"
        checks[text] = abs(median(apart)) <= allowed
    what = (
        f"Medians of {rounds} runs of {seconds:g} s each, in turns; {load:g} of what the cheapest "
        f"level carries ({capacity:.0f}/s), Poisson, gRPC."
    )
    conclude("crosscheck", checks, what=what, rows=rows, runs=seen)


if __name__ == "__main__":
    typer.run(main)
