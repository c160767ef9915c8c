"""What a GPU machine without a network lacks: packed here, laid out there.

    python3 benchmarks/foveate_benchmarks/gpu/carried.py FOLDER ENVIRONMENT

Such a machine has Python 3.12, PyTorch, Triton (the language) and timm. The pack is one archive of
a ``site-packages`` folder: the embedded server without what serves other Pythons, numpy 1.26, which
that server needs, and what else this project imports. There the command above makes it a virtual
environment that also sees the packages of the interpreter it is called with, and this checkout:
Triton drops PYTHONPATH, and takes the first ``python3`` on PATH for its model processes. Standard
library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

__all__ = ["LIMIT_S", "PYTHON", "lay_out", "pack"]

ROOT = Path(__file__).parents[3]
PYTHON = "3.12"
SOURCES = ("kernels", "engine", "adapter", "loadtest", "cli", "benchmarks")
TARGET = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
EXTRAS = ("adapter", "embedded", "engine", "loadtest")
TOOLS = ("hypothesis", "pytest")  # of tests and benchmarks
OF_GPUS = "nvidia-ml-py"  # not installed where there is none
# With PyTorch and timm, or imported by nothing that runs there.
LEFT_OUT = {
    *("aiohttp", "matplotlib", "pillow", "pyarrow"),
    *("scikit-learn", "scipy", "torch", "triton"),
}
# What pip may take wheels for; it wants each name exactly.
PLATFORMS = (
    "manylinux1",
    "manylinux2010",
    "manylinux2014",
    *(f"manylinux_2_{n}" for n in range(5, 36)),
)
# Of the server's wheel and of numpy: other Pythons' stubs and library, and tests.
UNUSED = (
    "pytriton/tritonserver/python_backend_stubs/3.[!1]*",
    "pytriton/tritonserver/python_backend_stubs/3.1[!2]*",
    "nvidia_pytriton.libs/libpython3*",
    "numpy/**/tests",
    "locust/webui",
    "bin",
)
WITH_SYMBOLS = ("ml_dtypes/*.so", "rapidjson.*.so", "_brotli.*.so")  # for debuggers, most of them
LIMIT_S = 35  # to lay it out
ARCHIVE, LIBPYTHON = "site.tar.xz", f"libpython{PYTHON}.so.1.0"
DRIVER = ("/usr/local/nvidia/lib64", "/usr/lib/wsl/lib")  # where a driver may be mounted


def pack(out: Path, libpython: Path | None = None) -> None:
    """Write the archive to ``out``; with ``libpython`` in it, for machines without their own.

    Needs this project installed with its extras, pip, and a package index.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "site"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-compile"),
                *("--only-binary=:all:", f"--python-version={PYTHON}", f"--target={packages}"),
                *(f"--platform={name}_x86_64" for name in PLATFORMS),
                *(*_pinned(), OF_GPUS),
            ],
            check=True,
        )
        for pattern in UNUSED:
            for path in packages.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for pattern in WITH_SYMBOLS:
            for library in packages.glob(pattern):
                subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)
        if libpython is not None:
            subprocess.run(["strip", "-o", str(packages / LIBPYTHON), str(libpython)], check=True)
        with tarfile.open(out / ARCHIVE, "w:xz") as archive:
            archive.add(packages, ".")


def lay_out(folder: Path, environment: Path) -> Path:
    """Make the virtual environment from what :func:`pack` wrote to ``folder``; its interpreter.

    Raises SystemExit naming what is missing.
    """
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if own != PYTHON:
        raise SystemExit(f"{sys.executable}: Python {own}; the pack is for {PYTHON}")
    if not (folder / ARCHIVE).is_file():
        raise SystemExit(f"{folder}: no {ARCHIVE}; write it with the action pack")
    venv.create(environment, clear=True, symlinks=True)
    packages = environment / "lib" / f"python{PYTHON}" / "site-packages"
    with tarfile.open(folder / ARCHIVE) as archive:
        archive.extractall(packages, filter="tar")
    theirs = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    lines = [*(str(ROOT / source) for source in SOURCES), *theirs]
    (packages / "carried.pth").write_text("".join(f"{line}\n" for line in lines))
    _bring_libpython(packages)
    _find_driver()
    return environment / "bin" / "python3"


def _pinned() -> list[str]:
    """``name==version`` of all that this project needs and :data:`LEFT_OUT` does not name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [
        ("foveate", EXTRAS),
        *((name, ()) for name in TOOLS),
    ]
    while waiting:
        name, extras = waiting.pop()
        own = distribution(name)
        if name != "foveate":
            found[name] = own.version
        if name == "nvidia-pytriton":  # of it only the server is used, and that needs no package
            continue
        for text in own.requires or ():
            need = Requirement(text)
            wanted = any(
                need.marker is None or need.marker.evaluate({"extra": extra, **TARGET})
                for extra in ("", *extras)
            )
            needed = canonicalize_name(need.name)
            if wanted and needed not in LEFT_OUT and needed not in found:
                waiting.append((needed, tuple(need.extras)))
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _bring_libpython(packages: Path) -> None:
    """Put the carried libpython where interpreters keep theirs, if this one has none."""
    libraries = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places = (Path(sys.base_prefix) / "lib", libraries, libraries / multiarch)
    if any((place / LIBPYTHON).is_file() for place in places):
        return
    if not (packages / LIBPYTHON).is_file():
        raise SystemExit(f"no {LIBPYTHON} in {places}; pack one with --libpython")
    shutil.copy2(packages / LIBPYTHON, places[0])
    print(f"brought {places[0] / LIBPYTHON}")


def _find_driver() -> None:
    """Let the loader find libcuda by itself: the server drops LD_LIBRARY_PATH."""
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    if "libcuda.so.1" in known:
        return
    folders = (*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *DRIVER)
    for folder in filter(None, folders):
        if (Path(folder) / "libcuda.so.1").exists():
            Path("/etc/ld.so.conf.d/foveate-driver.conf").write_text(f"{folder}\n")
            subprocess.run(["ldconfig"], check=True)
            print(f"told the loader of {folder}")
            return
    print("no libcuda.so.1 found: only --rehearse can work here")


if __name__ == "__main__":
    signal.alarm(LIMIT_S)  # ends the process
    lay_out(Path(sys.argv[1]), Path(sys.argv[2]))
