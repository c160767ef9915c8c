"""The Triton server Foveate runs: where it is, how it is laid out, and its command line.

The *embedded* server is tritonserver 2.51 from the PyPI wheel ``nvidia-pytriton``. Its binaries
find their libraries by a path relative to themselves and need a shared libpython beside them, so
:func:`embedded_server` lays out a folder of links that satisfies both without ``LD_LIBRARY_PATH``.
An *installed* server is any other, usually ``/opt/tritonserver/bin/tritonserver`` of a container.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from foveate import backend
from foveate.errors import ServerError
from foveate_cli.host.admin_key import ADMIN_HEADER, RESTRICTED

__all__ = [
    "PLUGIN",
    "Ports",
    "Server",
    "check_host",
    "embedded_server",
    "find_libpython",
    "find_wheel",
    "installed_server",
    "server_command",
    "server_environment",
]

PLUGIN = Path(backend.__file__).parent / "model.py"
ELSEWHERE = "use the Triton container (Dockerfile) or --server-bin PATH"

# What the embedded server may see of the caller's environment: enough for a home, a language and
# the choice of GPUs. LD_LIBRARY_PATH, PYTHONPATH and the like would change what its processes load.
_PASSED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tritonserver, and the backend folder that holds the ``foveate`` backend for it."""

    binary: Path
    backends: Path
    embedded: bool


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the server listens."""

    http: int
    grpc: int
    metrics: int


def find_wheel() -> Path:
    """Folder ``pytriton/tritonserver`` of the wheel, found without importing it.

    Raises :class:`ServerError` where the wheel does not exist or is not installed.
    """
    libc, _ = platform.libc_ver()
    if (sys.platform, platform.machine(), libc) != ("linux", "x86_64", "glibc"):
        raise ServerError(
            f"the embedded server exists for linux x86_64 with glibc, this is {sys.platform} "
            f"{platform.machine()} with {libc or 'another C library'}: {ELSEWHERE}"
        )
    spec = find_spec("pytriton")
    for location in (spec and spec.submodule_search_locations) or ():
        if (Path(location) / "tritonserver" / "bin" / "tritonserver").is_file():
            return Path(location) / "tritonserver"
    raise ServerError(
        f"the embedded server is not installed: pip install 'foveate[embedded]', or {ELSEWHERE}"
    )


def find_libpython(folders: Sequence[Path] | None = None) -> Path:
    """The shared libpython of this interpreter, which Triton's Python backend loads.

    Looks in ``folders``, by default where interpreters keep it: a statically linked one (Debian's,
    uv's) still has it there if it is installed. Raises :class:`ServerError` naming the package.
    """
    if folders is None:
        libraries = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
        multiarch = sysconfig.get_config_var("MULTIARCH") or ""
        folders = (Path(sys.base_prefix) / "lib", libraries, libraries / multiarch)
    name = f"libpython{_PYTHON}.so.1.0"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(map(str, folders)) or "no folder"
    raise ServerError(
        f"{name} not found (looked in {searched}); Triton's Python backend needs it: "
        f"apt install libpython{_PYTHON}, or build Python with --enable-shared"
    )


def embedded_server(state_dir: Path) -> Server:
    """Lay out the wheel's server under ``state_dir``, once per wheel, Python and installation.

    Raises :class:`ServerError` if a part is missing or the folder cannot be written.
    """
    wheel, libpython = find_wheel(), find_libpython()
    root = state_dir / "server" / _key(f"triton-{version('nvidia-pytriton')}", wheel, libpython)
    _publish(root, lambda scratch: _lay_out(scratch, wheel, libpython))
    home = root / "pytriton" / "tritonserver"
    return Server(binary=home / "bin" / "tritonserver", backends=home / "backends", embedded=True)


def installed_server(binary: Path, state_dir: Path) -> Server:
    """Use another installation without writing to it: a new folder links its backends and ours.

    Raises :class:`ServerError` if ``binary`` or its Python backend is missing.
    """
    theirs = binary.resolve().parent.parent / "backends"
    if not os.access(binary, os.X_OK) or not binary.is_file():
        raise ServerError(f"--server-bin {binary}: not an executable file")
    if not (theirs / "python").is_dir():
        raise ServerError(f"--server-bin {binary}: no Python backend in {theirs}")

    def link(scratch: Path) -> None:
        for folder in theirs.iterdir():
            if folder.name != "foveate":
                (scratch / folder.name).symlink_to(folder)
        _link_plugin(scratch)

    backends = state_dir / "server" / _key("backends", theirs)
    _publish(backends, link)
    return Server(binary=binary.resolve(), backends=backends, embedded=False)


def check_host(server: Server, host: str) -> str:
    """The address to bind for ``host``. The embedded server must stay on loopback."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.IPv4Address(address).is_loopback
    except ValueError as error:
        raise ServerError(f"--host {host}: expected an IPv4 address") from error
    if server.embedded and not loopback:
        raise ServerError(
            f"--host {host}: the embedded Triton 2.51 only listens on loopback, because anyone who "
            "reaches it can run code (CVE-2025-23310, -23311, -23319, -23320, -23334, fixed in "
            f"25.07): {ELSEWHERE} of 25.07 or newer"
        )
    return address


def server_command(
    server: Server, repositories: Sequence[Path], host: str, ports: Ports, admin_key: str
) -> list[str]:
    """Command line of the server. Models cannot be loaded or unloaded later.

    Everything but inference and reading metadata needs ``admin_key`` as a header.
    """
    restricted = f"{','.join(RESTRICTED)}:{ADMIN_HEADER}={admin_key}"
    return [
        str(server.binary),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={server.backends}",
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        "--model-control-mode=none",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        # Auto-completion imports each model a second time, in another process.
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
        "--log-verbose=0",
    ]


def server_environment(
    server: Server, threads: int, settings: Mapping[str, str], caller: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the server and its model processes, which use ``threads`` CPU threads each.

    ``settings`` are all the ``FOVEATE_*`` variables they get; ``caller`` is our own environment. An
    installed server inherits it (a container's paths are in it), the embedded one starts clean.
    """
    kept = {
        key: value
        for key, value in caller.items()
        if (key in _PASSED if server.embedded else not key.startswith("FOVEATE_"))
    }
    # The first python3 on PATH decides whose site-packages the model processes see.
    path = f"{Path(sys.executable).parent}:{'/usr/bin:/bin' if server.embedded else caller['PATH']}"
    count = str(threads)
    return {**kept, "PATH": path, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **settings}


def _key(name: str, *paths: Path) -> str:
    """Folder name that changes whenever a link in it would lead elsewhere."""
    text = "\0".join(map(str, (*paths, PLUGIN)))
    return f"{name}-python{_PYTHON}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _publish(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create ``folder`` atomically; a second process uses the first one's."""
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            fill(scratch)
            scratch.rename(folder)
        except OSError:
            shutil.rmtree(scratch)
            if not folder.is_dir():
                raise
    except OSError as error:
        raise ServerError(f"{folder}: cannot lay out the server: {error}") from error


def _lay_out(root: Path, wheel: Path, libpython: Path) -> None:
    home = root / "pytriton" / "tritonserver"
    python = home / "backends" / "python"
    libraries = root / "nvidia_pytriton.libs"
    for folder in (home / "bin", python, libraries):
        folder.mkdir(parents=True)
    _place(wheel / "bin" / "tritonserver", home / "bin")
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        _place(wheel / "backends" / "python" / name, python)
    _place(wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub", python)
    for library in (wheel.parent.parent / "nvidia_pytriton.libs").iterdir():
        (libraries / library.name).symlink_to(library)
    (libraries / libpython.name).symlink_to(libpython)
    _link_plugin(home / "backends")


def _link_plugin(backends: Path) -> None:
    folder = backends / "foveate"
    folder.mkdir()
    (folder / "model.py").symlink_to(PLUGIN)


def _place(source: Path, folder: Path) -> None:
    """Hard link, never a symlink: relative library paths start at a program's real location."""
    target = folder / source.name
    try:
        os.link(source, target)
    except OSError:  # another file system, or a file of another user
        shutil.copy2(source, target)
