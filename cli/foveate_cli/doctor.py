"""``foveate doctor``: check what ``foveate serve`` needs from this machine, one line each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foveate.errors import FoveateError, ServerError
from foveate.repository import check_repository, classifiers, gpus_named, precision_of
from foveate.settings import ModelSettings, state_dir
from foveate.usable_cpus import usable_cpus
from foveate_adapter.settings import Settings
from foveate_cli.host.serve import ServeOptions, check_ports, model_settings
from foveate_cli.host.tritonserver import find_libpython, find_wheel

__all__ = ["Finding", "Verdict", "examine"]

_GLIBC = (2, 35)  # the wheel's manylinux tag
_SHARED_MEMORY = 64 * 2**20  # bytes; a model process starts with 1 MiB and grows with its batches


class Verdict(StrEnum):
    """Whether serving will work."""

    OK = "ok"
    WARNING = "warning"  # something that may change, such as a port in use
    FAILURE = "failure"  # it cannot


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    subject: str
    verdict: Verdict
    detail: str


def examine(options: ServeOptions) -> Iterator[Finding]:
    """Check everything that ``foveate serve`` depends on with these options."""
    supported = (3, 11) <= sys.version_info < (3, 13)
    yield _finding("python", supported, platform.python_version(), "needs 3.11 or 3.12")
    if options.server_bin is None:
        yield from _embedded()
    else:
        found = os.access(options.server_bin, os.X_OK)
        yield _finding("server", found, str(options.server_bin), "not an executable file")
    free = shutil.disk_usage("/dev/shm").free
    yield _finding(
        "shared memory",
        free >= _SHARED_MEMORY,
        f"{free // 2**20} MiB free in /dev/shm",
        f"needs {_SHARED_MEMORY // 2**20} MiB (docker run --shm-size=1g)",
    )
    for option, port in options.ports.items():
        try:
            check_ports({option: port}, options.host)
            yield Finding(option, Verdict.OK, f"{port} is free")
        except ServerError as error:
            yield Finding(option, Verdict.WARNING, str(error))
    yield _tried("state folder", lambda: _writable(state_dir()))
    yield from _environment(options)
    yield _tried("repository", lambda: ", ".join(check_repository(options.repository)))
    yield from _models(options)


def _writable(folder: Path) -> str:
    """``folder``, where latencies, the server and the admin key are kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        raise ServerError(f"FOVEATE_STATE_DIR={folder}: {error.strerror}") from error


def _environment(options: ServeOptions) -> Iterator[Finding]:
    """Our variables, as the processes will read them, and what comes of them."""
    given = sorted(key for key in os.environ if key.startswith("FOVEATE_"))
    os.environ.setdefault("FOVEATE_RUN_DIR", "/")  # it will be made
    try:
        settings = model_settings(options)
        Settings.from_environment()
    except FoveateError as error:
        yield Finding("environment", Verdict.FAILURE, str(error))
        return
    yield Finding("environment", Verdict.OK, ", ".join(given) or "no FOVEATE_ variable is set")
    shown = settings.model_dump(exclude={"run_dir", "state_dir", "threads"}, exclude_none=True)
    yield Finding("settings", Verdict.OK, ", ".join(f"{key}={shown[key]}" for key in shown))
    threads = f"{settings.threads} of {usable_cpus()} usable CPUs"
    yield Finding("threads", Verdict.OK, threads)


def _engine(repository: Path, model: str, settings: ModelSettings) -> str:
    """What runs the levels of a model on this CPU."""
    from foveate.inference.runtime import Runtime

    precision = precision_of(repository, model)
    runtime = Runtime.choose(settings.executor, precision, settings.threads)
    if runtime.compiled:
        return f"OpenVINO {version('openvino')}, {runtime.precision}"
    remedy = "pip install 'foveate[cpu]' for OpenVINO, which is quicker"
    return f"PyTorch {version('torch')}, fp32; {remedy}"


def _models(options: ServeOptions) -> Iterator[Finding]:
    """Whether this machine has what the models are to run on."""
    repository = options.repository
    try:
        settings = model_settings(options)
        models, named = classifiers(repository), gpus_named(repository)
    except FoveateError:  # environment or repository cannot be used, which is a finding of its own
        return
    for model in models:
        if model not in named:
            yield _tried(f"engine of {model}", partial(_engine, repository, model, settings))
    for model, numbers in named.items():
        subject = f"GPU of {model}"
        if len(numbers) != 1:
            detail = f"gpus={[*numbers]}: expected one number, such as gpus: [ 0 ]"
            yield Finding(subject, Verdict.FAILURE, detail)
            continue
        yield _tried(subject, partial(_gpu, numbers[0]))


def _gpu(index: int) -> str:
    from foveate.devices import missing_gpu

    if missing := missing_gpu(index):
        remedy = "see docs/gpu.md, or use instance_group [ { kind: KIND_CPU count: 1 } ]"
        raise ServerError(f"gpus=[{index}]: {missing}; {remedy}")

    import torch

    return f"{index}, {torch.cuda.get_device_name(index)}, torch {torch.__version__}"


def _embedded() -> Iterator[Finding]:
    name, libc = platform.libc_ver()
    numbers = tuple(int(part) for part in libc.split(".") if part.isdecimal())
    yield _finding(
        "C library",
        name == "glibc" and numbers >= _GLIBC,
        f"{name or 'unknown'} {libc}",
        f"the embedded server needs glibc {_GLIBC[0]}.{_GLIBC[1]} or newer",
    )
    yield _tried("server", lambda: f"nvidia-pytriton {version('nvidia-pytriton')}, {find_wheel()}")
    yield _tried("libpython", lambda: str(find_libpython()))
    try:
        numpy = version("numpy")
        yield _finding(
            "numpy",
            int(numpy.split(".")[0]) < 2,
            numpy,
            "numpy 2 corrupts tensors with servers before 24.11: pip install 'foveate[embedded]'",
        )
    except PackageNotFoundError:
        yield Finding("numpy", Verdict.FAILURE, "missing: pip install 'foveate[engine]'")


def _finding(subject: str, good: bool, detail: str, remedy: str) -> Finding:
    if good:
        return Finding(subject, Verdict.OK, detail)
    return Finding(subject, Verdict.FAILURE, f"{detail}: {remedy}")


def _tried(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, Verdict.OK, look())
    except FoveateError as error:
        return Finding(subject, Verdict.FAILURE, str(error))
    except PackageNotFoundError as error:
        return Finding(subject, Verdict.FAILURE, f"{error} is not installed")
