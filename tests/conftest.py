"""A real server for tests: ``foveate serve`` on free ports, stopped and inspected afterwards."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.latency_table import LatencyTable
from foveate_adapter.control import Config

# How long an example takes says who else has the processor.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
READY_S = 300.0  # the first start on a machine measures its latency table
_REGION = re.compile(r"/dev/shm/triton_\w+_shm_region_\S+")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="take time for good screenshots of the console, and write them to DIR",
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts a server runs alone: one without a processor for seconds gives up."""
    for item in items:
        if "start_server" in getattr(item, "fixturenames", ()):
            item.add_marker("alone")


@dataclass
class Served:
    """A running ``foveate serve``. Addresses are ``127.0.0.1:port``."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    metrics: str
    adapter: str
    repository: Path
    run_dir: Path
    out_path: Path  # its stdout
    log_path: Path  # its stderr

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def capacity(self) -> float:
        """Images a second of level 0 of the demo, by the times of this machine."""
        table = LatencyTable.load(self.run_dir / "digits.latency.json")
        return table.batches[-1] / table.seconds[0][-1]

    def children(self, pattern: str, of: int | None = None) -> list[int]:
        """Process ids of its children (or those of ``of``) whose command line matches."""
        parent = self.process.pid if of is None else of
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        ids = [int(pid) for task in tasks for pid in task.read_text().split()]
        return [pid for pid in ids if re.search(pattern, _command_line(pid))]

    def regions(self) -> set[Path]:
        """Shared memory files between its server and its model processes."""
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in self.children("tritonserver")]
        return {Path(path) for text in maps for path in _REGION.findall(text)}

    def await_log(self, text: str, seconds: float = 60) -> None:
        """Wait until it has logged ``text``; fails with the log if it ends before."""
        self._await(self.log_path, text, seconds)

    def await_ready(self) -> None:
        self._await(self.out_path, "\n", READY_S)

    def stop(self) -> None:
        """SIGTERM; it must end with 0 and leave nothing in /dev/shm."""
        regions = self.regions()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log[-4000:]
        assert not [path for path in regions if path.exists()]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _await(self, path: Path, text: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while text not in path.read_text(errors="replace"):
            if self.process.poll() is not None:
                pytest.fail(f"foveate serve ended with {self.process.returncode}:\n{self.log}")
            if time.monotonic() > deadline:
                pytest.fail(f"foveate serve did not write {text!r}:\n{self.log[-4000:]}")
            time.sleep(0.05)


@pytest.fixture
def ladder() -> Ladder:
    names = ("dense", "prune-50", "vwt-80", "vwt-85")
    tops = (0.9745, 0.972, 0.9645, 0.953)
    return Ladder(
        model="digits",
        image_size=(96, 96),
        tokens=145,
        levels=tuple(
            Level(
                name=name,
                reducers=({"kind": name},) if index else (),
                weights="model.safetensors",
                vocabulary=None,
                tokens=(145 - 30 * index,) * 6,
                macs=200_000_000 // (index + 1),
                quality=Quality(top1=top, agreement=top, n=2000),
            )
            for index, (name, top) in enumerate(zip(names, tops, strict=True))
        ),
    )


@pytest.fixture
def table(ladder: Ladder) -> LatencyTable:
    """Capacities 166, 309, 552 and 656 requests a second, as the demo model has on one core."""
    seconds = ((0.0077, 0.0482), (0.0057, 0.0259), (0.0044, 0.0145), (0.0041, 0.0122))
    return LatencyTable(device="cpu", ladder=ladder.digest, batches=(1, 8), seconds=seconds)


@pytest.fixture
def config(table: LatencyTable) -> Config:
    return Config(slo_s=0.2, objective=0.99, table=table, floor=3)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The model repository of the project. Copy it before changing anything."""
    return ROOT / "model_repository"


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[Callable[..., Served]]:
    """``start_server(*options, repository=..., environment=...)``: not waited for, not stopped.

    What is still running at the end of the session is killed.
    """
    started: list[Served] = []

    def start(
        *options: str, repository: Path = repository, environment: dict[str, str] | None = None
    ) -> Served:
        folder = tmp_path_factory.mktemp("serve")
        run_dir = folder / "run"
        http, grpc, metrics, adapter = ports = free_ports(4)
        names = ("http", "grpc", "metrics", "adapter")
        environment = {
            "FOVEATE_RUN_DIR": str(run_dir),
            "FOVEATE_ADAPTER_STATE_DIR": str(folder / "state"),  # no SLO of another test
            **(environment or {}),
        }
        flags = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
        out_path, log_path = folder / "out", folder / "log"
        with out_path.open("wb") as out, log_path.open("wb") as log:
            process = subprocess.Popen(
                serve_command(f"--repository={repository}", "--threads=1", *flags, *options),
                env=serve_environment() | environment,
                stdout=out,
                stderr=log,
            )
        served = Served(
            process=process,
            http=f"127.0.0.1:{http}",
            grpc=f"127.0.0.1:{grpc}",
            metrics=f"127.0.0.1:{metrics}",
            adapter=f"127.0.0.1:{adapter}",
            repository=repository,
            run_dir=Path(environment["FOVEATE_RUN_DIR"] or run_dir),
            out_path=out_path,
            log_path=log_path,
        )
        started.append(served)
        return served

    yield start
    for served in started:
        served.kill()


@pytest.fixture
def serve(start_server: Callable[..., Served]) -> Iterator[Callable[..., Served]]:
    """``serve(*options, repository=...)``: a server of this test's own, ready."""
    started: list[Served] = []

    def start(*options: str, **kwargs: Path) -> Served:
        served = start_server(*options, **kwargs)
        started.append(served)
        served.await_ready()
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Served]) -> Iterator[Served]:
    """One server, with default options, for all tests that leave it as it was."""
    served = start_server()
    served.await_ready()
    yield served
    served.stop()


@pytest.fixture(scope="session")
def refused_serve() -> Callable[..., str]:
    """``refused_serve(*options, environment=...)``: its error message; it must end with 1 before it
    starts.
    """

    def run(*options: str, environment: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            serve_command(*options),
            env=serve_environment() | (environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "triton:" not in done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """``free_port()``: one nobody listens on."""
    return lambda: free_ports(1)[0]


@pytest.fixture(scope="session")
def build_engine() -> Callable[..., Any]:
    """``build_engine(reducers, config)``: an engine of random weights with these levels."""
    import torch  # not before it is asked for: most tests need none

    from foveate.inference.prepared import PreparedLadder, PreparedLevel
    from foveate.inference.reference import ReferenceEngine
    from foveate.levels.schedule import Schedule
    from foveate.model.vit import ViT, ViTConfig

    def build(
        reducers: Sequence[Sequence[dict[str, Any]]],
        config: ViTConfig | None = None,
        selectors: Mapping[int, Any] | None = None,
        seed: int = 0,
        std: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> ReferenceEngine:
        config = config or ViTConfig()
        torch.manual_seed(seed)
        vit = ViT(config).eval().requires_grad_(False)
        for parameter in vit.parameters():
            parameter.normal_(std=std)
        vit.to(dtype)
        words = torch.nn.functional.normalize(torch.randn(100, 3 * config.patch**2), dim=1)
        levels, prepared = [], []
        for index, items in enumerate(reducers):
            schedule = Schedule.parse(items, vit.config)
            levels.append(
                Level(
                    name=f"level{index}",
                    reducers=schedule.dump(),
                    weights="model.safetensors",
                    vocabulary=None,
                    tokens=tuple(schedule.tokens(vit.config)[1]),
                    macs=schedule.macs(vit.config, 100),
                    quality=Quality(top1=None, agreement=1 - index / 100, n=100),
                )
            )
            prepared.append(PreparedLevel(schedule, vit, words.to(dtype), selectors or {}))
        ladder = Ladder(
            model="toy",
            image_size=(config.height, config.width),
            tokens=1 + config.patches,
            levels=tuple(levels),
        )
        return ReferenceEngine(PreparedLadder(ladder, tuple(prepared)))

    return build


@pytest.fixture(scope="session")
def as_served() -> Callable[[Path], Any]:
    """``as_served(folder)``: the engine a server runs for a model's version folder, by itself."""
    from foveate.inference.engine import batch_sizes
    from foveate.inference.prepared import PreparedLadder
    from foveate.inference.runtime import Runtime

    return lambda folder: Runtime.choose().engine(PreparedLadder.load(folder), batch_sizes(16))


def serve_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "foveate_cli.main", "serve", *options]


def serve_environment() -> dict[str, str]:
    """Ours; what takes long to make is kept between sessions."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FOVEATE_")}
    return kept | {"FOVEATE_STATE_DIR": str(ROOT / ".state")}


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those the kernel hands out to clients."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it ended meanwhile
        return ""
