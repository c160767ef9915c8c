"""``foveate serve``: one Triton server and one adapter, checked, started, watched and stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from foveate.control.sealed_policy import read_secret
from foveate.errors import ServerError
from foveate.repository import check_repository, write_control_models
from foveate.settings import state_dir
from foveate_cli.host.admin_key import admin_key
from foveate_cli.host.processes import AdapterProcess, TritonProcess
from foveate_cli.host.tritonserver import (
    Ports,
    check_host,
    embedded_server,
    installed_server,
    server_command,
    server_environment,
)

__all__ = ["ServeOptions", "check_ports", "serve"]

_CHECK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of ``foveate serve``."""

    repository: Path = Path("model_repository")
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    adapter_port: int = 8080
    slo_ms: float | None = None  # None: the default of whoever reads it
    adapter: bool = True
    pin_cap: float = 0.1  # share of busy time for exact and pinned requests, 1 lifts the cap
    admission: bool = True
    threads: int = 1  # CPU threads of each model process
    server_bin: Path | None = None  # tritonserver to use instead of the embedded one
    control: Path | None = None  # file with the secret that remote adapters seal policies with

    @property
    def ports(self) -> dict[str, int]:
        """The ports to listen on, by the option that sets them."""
        ports = {
            "--http-port": self.http_port,
            "--grpc-port": self.grpc_port,
            "--metrics-port": self.metrics_port,
        }
        return {**ports, "--adapter-port": self.adapter_port} if self.adapter else ports


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; then drain, clean up and return 0.

    Prints one line ``ready http=... grpc=... metrics=... adapter=...`` to stdout once every model
    has answered a real inference; everything else goes to stderr. Raises a
    :class:`~foveate.errors.FoveateError` if the server cannot start or stay up.
    """
    state = state_dir()
    if options.server_bin is None:
        server = embedded_server(state)
    else:
        server = installed_server(options.server_bin, state)
    host = check_host(server, options.host)
    key = admin_key(state)
    models = check_repository(options.repository)
    if options.control is not None:
        read_secret(options.control)  # fails here with a clearer error than in a model process
    check_ports(options.ports, host)

    local = "127.0.0.1" if host == "0.0.0.0" else host
    http = f"http://{local}:{options.http_port}"
    metrics = f"http://{local}:{options.metrics_port}/metrics"
    adapter = f"http://{local}:{options.adapter_port}"
    ports = Ports(http=options.http_port, grpc=options.grpc_port, metrics=options.metrics_port)

    # SIGTERM interrupts whatever we wait for, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), _run_dir() as run_dir:
        repositories = [options.repository.absolute()]
        if options.control is not None:
            repositories.append(run_dir / "control_models")
            models += write_control_models(options.repository, repositories[-1])
        settings = _model_settings(options, run_dir, state)
        processes: list[TritonProcess | AdapterProcess] = [
            TritonProcess(
                server_command(server, repositories, host, ports, key),
                server_environment(server, options.threads, settings, os.environ),
                http,
                metrics,
                models,
            )
        ]
        ready = f"ready http={http} grpc={local}:{options.grpc_port} metrics={metrics}"
        if options.adapter:
            settings = _adapter_settings(options, host, http, metrics, run_dir, state)
            processes.append(AdapterProcess({**os.environ, **settings}, adapter))
            ready = f"{ready} adapter={adapter}"
        try:
            for process in processes:
                process.start()
            print(ready, flush=True)
            while True:
                time.sleep(_CHECK_EVERY_S)
                for process in processes:
                    process.keep()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for process in reversed(processes):
                process.stop()
    return 0


def check_ports(ports: dict[str, int], host: str) -> None:
    """Raise :class:`ServerError` naming a port that is in use, or given twice."""
    with contextlib.ExitStack() as stack:
        for option, port in ports.items():
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
                listener.listen()
            except (OSError, OverflowError) as error:
                raise ServerError(f"{option} {port} on {host}: {error}") from error


def _model_settings(options: ServeOptions, run_dir: Path, state: Path) -> dict[str, str]:
    settings = {
        "FOVEATE_RUN_DIR": str(run_dir),
        "FOVEATE_STATE_DIR": str(state),
        "FOVEATE_THREADS": str(options.threads),
        "FOVEATE_ADMISSION": "on" if options.admission else "off",
        "FOVEATE_PIN_CAP": f"{options.pin_cap:g}",
    }
    if options.slo_ms is not None:
        settings["FOVEATE_SLO_MS"] = f"{options.slo_ms:g}"
    if options.control is not None:
        settings["FOVEATE_CONTROL_SECRET_FILE"] = str(options.control.absolute())
    return settings


def _adapter_settings(
    options: ServeOptions, host: str, http: str, metrics: str, run_dir: Path, state: Path
) -> dict[str, str]:
    settings = {
        "FOVEATE_ADAPTER_HOST": host,
        "FOVEATE_ADAPTER_PORT": str(options.adapter_port),
        "FOVEATE_ADAPTER_TRITON_URL": http,
        "FOVEATE_ADAPTER_METRICS_URL": metrics,
        "FOVEATE_ADAPTER_REPOSITORY": str(options.repository.absolute()),
        "FOVEATE_ADAPTER_RUN_DIR": str(run_dir),
        "FOVEATE_ADAPTER_STATE_DIR": os.environ.get("FOVEATE_ADAPTER_STATE_DIR") or str(state),
    }
    if options.slo_ms is not None:
        settings["FOVEATE_ADAPTER_SLO_MS"] = f"{options.slo_ms:g}"
        # Newer than any SLO stored so far, and older than any that is set from now on.
        settings["FOVEATE_ADAPTER_SLO_GIVEN_AT"] = datetime.now(UTC).isoformat()
    return settings


@contextlib.contextmanager
def _run_dir() -> Iterator[Path]:
    """The folder the processes share: the given one, or one that is removed after this run."""
    if given := os.environ.get("FOVEATE_RUN_DIR"):
        folder = Path(given).absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="foveate-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
