"""Run one load test: send from one or several Locust processes, and report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.choices import DIGITS, Protocol, Target
from foveate_loadtest.environment import environment
from foveate_loadtest.errors import SenderError
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report, summarise
from foveate_loadtest.rows import Rows
from foveate_loadtest.temporary_server import free_ports

__all__ = ["LoadtestConfig", "run"]

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_CONNECT_S = 60  # for the workers to come
_LOG_TAIL = 6000  # characters of the sender's log that an error carries


@dataclass(frozen=True, kw_only=True)
class LoadtestConfig:
    """One run against one server."""

    server: str  # host:port of the protocol
    schedule: Schedule
    slo_ms: float
    protocol: Protocol = Protocol.GRPC
    model: str = "digits"
    target: Target = Target.PIXELS
    level: str | None = None  # pin every request, by request parameter
    workers: int = 1  # processes that share the sending
    limiter: bool = False  # the client keeps to an adaptive limit of requests in flight
    ladder: LadderFacts | None = None
    wishes: tuple[str, ...] = ()  # NAME=VALUE:SHARE of the requests
    image_set: str = DIGITS  # or an .npz file, or a folder
    images: int = 500  # different images, sent in turn
    timeout: float = 30.0  # seconds
    max_send_lag_ms: float = 5.0
    rows: Path | None = None  # where to keep one row a request (.parquet, .csv or .npz)
    page: Path | None = None  # where to keep the report with its plots (.html)


def run(
    config: LoadtestConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> Report:
    """Send the schedule and report; ``on_progress`` is called twice a second while it runs.

    A run whose client was late, or whose server died, has ``report.problem`` set. After a
    KeyboardInterrupt the report is of what was sent, and says so. Raises :class:`SenderError` when
    there is nothing to report.
    """
    for path in (config.rows, config.page):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if config.page is not None:  # before the run: nothing may be missing after it
        from foveate_loadtest.report_page import write_page  # matplotlib takes its time

    with tempfile.TemporaryDirectory(prefix="foveate-loadtest-") as scratch:
        folder = Path(scratch)
        rows_path = folder / "rows.npz"
        log_path = folder / "locust.log"
        config.schedule.save(folder / "arrivals.json")
        reader, writer = os.pipe()
        sender, workers = _commands(config, folder / "arrivals.json", rows_path)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(log_path.open("wb"))
            live = stack.enter_context(os.fdopen(reader))
            process = stack.enter_context(
                _locust([*sender, f"--live-fd={writer}"], folder, log, pass_fds=(writer,))
            )
            os.close(writer)
            for worker in workers:
                stack.enter_context(_locust(worker, folder, log))
            interrupted = _follow(process, live, on_progress)
        if not rows_path.exists():
            if interrupted:  # before anything was sent
                raise KeyboardInterrupt
            tail = log_path.read_text(errors="replace")[-_LOG_TAIL:]
            raise SenderError(f"Locust exited with {process.returncode}:\n{tail}")
        rows = Rows.load(rows_path)
    if config.rows is not None:
        rows.save(config.rows)
    report = summarise(
        rows,
        config.schedule,
        config.slo_ms,
        config.ladder,
        config.max_send_lag_ms,
        {**environment(), **_asked(config)},
    )
    if config.page is not None:
        write_page(report, rows, config.page)
    return report


def _asked(config: LoadtestConfig) -> dict[str, str]:
    """What else it takes to do the same again."""
    return {
        "client_processes": str(config.workers),
        "server": config.server,
        "protocol": config.protocol,
        "model": config.target.model(config.model),
        "images": f"{config.images} of {config.image_set}",
        "wishes": ", ".join([f"level={config.level}"] if config.level else config.wishes),
        "limiter": "yes" if config.limiter else "no",
    }


@contextlib.contextmanager
def _locust(
    options: list[str], folder: Path, log: BinaryIO, pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A Locust process, until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "locust", f"--locustfile={_LOCUSTFILE}", *options],
        cwd=folder,  # Locust reads its configuration from the working directory
        stdout=subprocess.DEVNULL,  # Locust's own tables
        stderr=log,
        stdin=subprocess.DEVNULL,
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _follow(
    process: subprocess.Popen[bytes], live: TextIO, on_progress: Callable[[Progress], None]
) -> bool:
    """Until the sender has ended. The first Ctrl-C asks it to end early: was there one?"""
    interrupted = False
    try:
        _tell(live, on_progress)
    except KeyboardInterrupt:
        interrupted = True
        process.send_signal(signal.SIGINT)
        _tell(live, on_progress)
    process.wait()
    return interrupted


def _tell(live: TextIO, on_progress: Callable[[Progress], None]) -> None:
    for line in live:
        on_progress(Progress(**json.loads(line)))


def _commands(
    config: LoadtestConfig, arrivals: Path, rows: Path
) -> tuple[list[str], list[list[str]]]:
    """Options of the process to follow, and of its workers, who get most of theirs from it."""
    alone = _options(config, arrivals, rows)
    if config.workers == 1:
        return alone, []
    [port] = free_ports(1)
    master = [
        "--master",
        "--master-bind-host=127.0.0.1",
        f"--master-bind-port={port}",
        f"--expect-workers={config.workers}",
        f"--expect-workers-max-wait={_CONNECT_S}",
    ]
    worker = ["--worker", "--loglevel=WARNING", "--master-host=127.0.0.1", f"--master-port={port}"]
    return alone + master, [worker] * config.workers


def _options(config: LoadtestConfig, arrivals: Path, rows: Path) -> list[str]:
    options = {
        "host": config.server,
        "protocol": config.protocol,
        "target": config.target,
        "model": config.model,
        "image-set": config.image_set,
        "images": config.images,
        "timeout": config.timeout,
        "slo-ms": config.slo_ms,
        "max-send-lag-ms": config.max_send_lag_ms,
        "arrivals": arrivals,
        "rows": rows,
        **({"level": config.level} if config.level else {}),
    }
    flags = ["--headless", "--only-summary", "--loglevel=WARNING"]
    flags += ["--limiter"] if config.limiter else []
    flags += [f"--wish={wish}" for wish in config.wishes]
    flags += [f"--wish-seed={config.schedule.seed}"]
    return flags + [f"--{name}={value}" for name, value in options.items()]
