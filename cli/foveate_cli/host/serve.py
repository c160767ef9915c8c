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
from foveate.settings import ModelSettings, state_dir
from foveate.usable_cpus import usable_cpus
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

__all__ = ["ServeOptions", "check_ports", "model_settings", "serve"]

_CHECK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of ``foveate serve``. None: not given, a variable or the default says."""

    repository: Path = Path("model_repository")
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    adapter_port: int = 8080
    slo_ms: float | None = None
    adapter: bool = True
    pin_cap: float | None = None  # share of busy time for exact and pinned requests, 1 lifts it
    admission: bool | None = None
    threads: int | None = None  # CPU threads of each model process
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
    settings = model_settings(options)
    state = settings.state_dir
    if options.server_bin is None:
        server = embedded_server(state)
    else:
        server = installed_server(options.server_bin, state)
    host = check_host(server, options.host)
    key = admin_key(state)
    models = check_repository(options.repository)
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
        if settings.control_secret_file is not None:
            repositories.append(run_dir / "control_models")
            models += write_control_models(options.repository, repositories[-1])
        settings = settings.model_copy(update={"run_dir": run_dir})
        processes: list[TritonProcess | AdapterProcess] = [
            TritonProcess(
                server_command(server, repositories, host, ports, key),
                server_environment(server, settings.threads, settings.variables(), os.environ),
                http,
                metrics,
                models,
            )
        ]
        ready = f"ready http={http} grpc={local}:{options.grpc_port} metrics={metrics}"
        if options.adapter:
            ours = _adapter_settings(options, settings, host, http, metrics)
            processes.append(AdapterProcess({**os.environ, **ours}, adapter))
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


def model_settings(options: ServeOptions) -> ModelSettings:
    """Settings of the model processes: the option if given, else the variable, else the default.

    The run folder is still to be made. Raises a :class:`~foveate.errors.FoveateError` naming the
    option or the variable that cannot be used.
    """
    if options.threads is not None and options.threads > (cpus := usable_cpus()):
        raise ServerError(
            f"--threads {options.threads}: expected at most {cpus}, the CPUs this process may use"
        )
    admission = None if options.admission is None else "on" if options.admission else "off"
    given = {
        "FOVEATE_RUN_DIR": "/",
        "FOVEATE_STATE_DIR": state_dir(),
        "FOVEATE_THREADS": options.threads,
        "FOVEATE_SLO_MS": options.slo_ms,
        "FOVEATE_ADMISSION": admission,
        "FOVEATE_PIN_CAP": options.pin_cap,
        "FOVEATE_CONTROL_SECRET_FILE": options.control,
    }
    ours = {name: str(value) for name, value in given.items() if value is not None}
    settings = ModelSettings.read({**os.environ, **ours})
    if (secret := settings.control_secret_file) is None:
        return settings
    read_secret(secret)  # fails here with a clearer error than in a model process
    return settings.model_copy(update={"control_secret_file": secret.absolute()})


def _adapter_settings(
    options: ServeOptions, model: ModelSettings, host: str, http: str, metrics: str
) -> dict[str, str]:
    state = str(model.state_dir)
    settings = {
        "FOVEATE_ADAPTER_HOST": host,
        "FOVEATE_ADAPTER_PORT": str(options.adapter_port),
        "FOVEATE_ADAPTER_TRITON_URL": http,
        "FOVEATE_ADAPTER_METRICS_URL": metrics,
        "FOVEATE_ADAPTER_REPOSITORY": str(options.repository.absolute()),
        "FOVEATE_ADAPTER_RUN_DIR": str(model.run_dir),
        "FOVEATE_ADAPTER_STATE_DIR": os.environ.get("FOVEATE_ADAPTER_STATE_DIR") or state,
    }
    own = options.slo_ms is None and "FOVEATE_ADAPTER_SLO_MS" in os.environ
    if "slo_ms" in model.model_fields_set and not own:
        settings["FOVEATE_ADAPTER_SLO_MS"] = str(model.slo_ms)
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
