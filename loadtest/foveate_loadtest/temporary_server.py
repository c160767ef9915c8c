"""A temporary server, for the demo and the benchmarks."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from foveate.errors import ServerError

__all__ = ["Addresses", "cores_apart", "free_ports", "running"]

_READY = re.compile(r"ready http=(\S+) grpc=(\S+) metrics=(\S+)(?: adapter=(\S+))?")
_STOP_S = 30.0  # the server drains for at most half of this


@dataclass(frozen=True)
class Addresses:
    """Where a running ``foveate serve`` listens: URLs, ``grpc`` is host:port."""

    http: str
    grpc: str
    metrics: str
    adapter: str | None  # None without an adapter

    def counters(self, model: str, *names: str) -> list[float]:
        """Each metric of ``model`` now, its series added up."""
        text = httpx.get(self.metrics, trust_env=False).text
        label = rf'{{(?:.*,)?model="{re.escape(model)}".*}} (\S+)'
        return [sum(map(float, re.findall(f"^{name}{label}", text, re.M))) for name in names]


def cores_apart() -> int:
    """Keep this process on its last core; returns the first, for a server of its own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    return cores[0]


@contextlib.contextmanager
def running(repository: Path, *options: str, core: int | None = None) -> Iterator[Addresses]:
    """``foveate serve`` on free ports, with a core for itself if one is given; stopped at the end.

    Models have one thread, unless the options say otherwise: figures are for a core.
    Ignores SLOs stored on this machine: uses the default one, or that of the options.
    Raises :class:`ServerError` with its log if it does not become ready.
    """
    names = ("http", "grpc", "metrics", "adapter")
    ports = [f"--{name}-port={port}" for name, port in zip(names, free_ports(4), strict=True)]
    # By its command, for imports only go down, and whatever serves is above.
    command = [sys.executable, "-m", "foveate_cli.main", "serve", f"--repository={repository}"]
    ours = os.sched_getaffinity(0)
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as state:
        if core is not None:
            os.sched_setaffinity(0, {core})  # children inherit it
        try:
            process = subprocess.Popen(
                [*command, *ports, "--threads=1", *options],
                env={**os.environ, "FOVEATE_ADAPTER_STATE_DIR": state},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is ours to handle, the server then gets SIGTERM
            )
        finally:
            os.sched_setaffinity(0, ours)
        try:
            assert process.stdout is not None
            ready = next(filter(None, map(_READY.match, process.stdout)), None)
            if ready is None:
                log.seek(0)
                raise ServerError(f"foveate serve did not start:\n{log.read()[-2000:]}")
            yield Addresses(*ready.groups())
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Different free ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
