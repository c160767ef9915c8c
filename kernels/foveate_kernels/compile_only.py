"""Compile kernels for GPUs that are not here.

Inside :func:`compile_only` a kernel launch compiles for the named target and runs nothing. The
launchers are the real ones, called with tensors on the ``meta`` device, so what is compiled is
what a launch on that GPU would compile: same tiles, same specialisation.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from foveate_kernels.library import launching

__all__ = [
    "SHARED_LIMIT",
    "TARGETS",
    "Usage",
    "compile_only",
    "distinct",
    "has_fp8",
    "overwritten",
    "usage",
]

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes of shared memory a program may have; more compiles, and fails at launch.
SHARED_LIMIT = {
    "sm_80": 166_912,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_120": 101_376,
    "gfx942": 65_536,
}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TENSOR_CORE = re.compile(r"\b(wgmma|tcgen05|v_mfma|mma)[._]")


def has_fp8(arch: str) -> bool:
    """Whether it rounds to e4m3: compute capability 8.9 and up. gfx942 has another such format."""
    target = TARGETS[arch]
    return target.backend == "cuda" and int(target.arch) >= 89


@dataclass(frozen=True)
class Usage:
    """Resources of one compiled kernel; registers and spills are known on NVIDIA only."""

    kernel: str
    shared: int  # bytes a program
    registers: int | None  # a thread
    spills: int | None  # bytes of local memory a thread
    tensor_core: str | None  # its matrix instruction: wgmma, tcgen05, mma, v_mfma
    arrivals: (
        int  # of warp groups, with wgmma: more of them means that products wait for each other
    )
    overwritten: bool  # see :func:`overwritten`


class _NoDevice:
    """The least a driver must say for the compiler to run."""

    def __init__(self, target: GPUTarget, name: str) -> None:
        self._target, self._name = target, name

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return self._name  # kernels are cached by it

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def _device(target: GPUTarget, name: str) -> Iterator[None]:
    before = driver._active
    driver.set_active(_NoDevice(target, name))
    try:
        yield
    finally:
        driver._active = before


@contextmanager
def distinct(arch: str) -> Iterator[set[tuple[str, str]]]:
    """Which kernels operators would compile for ``arch``: yields the set they are added to, by name
    and by what they are specialised on. Operators take tensors on ``meta``; nothing is compiled."""
    found: set[tuple[str, str]] = set()

    def note(*, key: str, fn: Any, **_: Any) -> bool:
        found.add((fn.name.rpartition(".")[2], key))
        return True  # do not compile it

    with (
        _device(TARGETS[arch], f"{arch}, to count"),
        launching("Meta"),
        knobs.runtime.scope(),
    ):
        knobs.runtime.jit_cache_hook = note
        yield found


@contextmanager
def compile_only(arch: str) -> Iterator[list[Any]]:
    """Compile launches for ``arch``, one of :data:`TARGETS`; yields the list they are added to."""
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_(
        self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any
    ) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        compiled.append(kernel)
        return kernel

    JITFunction.run = compile_
    try:
        with _device(TARGETS[arch], arch):
            yield compiled
    finally:
        JITFunction.run = run


def usage(kernel: Any) -> Usage:
    """What a compiled kernel takes, read from its code."""
    match = _TENSOR_CORE.search(kernel.asm.get("ptx") or kernel.asm["amdgcn"])
    tensor_core = match[1] if match else None
    registers = spills = None
    arrivals = 0
    if "cubin" in kernel.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            resources = _run("cuobjdump", "-res-usage", file.name)
            if tensor_core == "wgmma":  # only the machine code tells, and takes half a second
                arrivals = _run("cuobjdump", "-sass", file.name).count("WARPGROUP.ARRIVE")
        (found,) = re.findall(r"REG:(\d+) STACK:(\d+)", resources)
        registers, spills = int(found[0]), int(found[1])
    return Usage(
        kernel=kernel.metadata.name,
        shared=kernel.metadata.shared,
        registers=registers,
        spills=spills,
        tensor_core=tensor_core,
        arrivals=arrivals,
        overwritten="ttgir" in kernel.asm and overwritten(kernel.asm["ttgir"]),
    )


def overwritten(ttgir: str) -> bool:
    """Whether a copy may write a tile that a product still reads, on Hopper: a race.

    A pipelined loop leaves ``pendings`` products under way while it fetches tiles some steps ahead,
    and needs a buffer for each of either. Triton 3.6 counts one too few for a tile that the loop
    also uses otherwise, squares it for example: answers then differ from run to run.
    """
    buffers = [
        int(n) for n in re.findall(r"local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x", ttgir)
    ]
    pending = max(map(int, re.findall(r"pendings = (\d+)", ttgir)), default=0)
    if not buffers or not pending:
        return False
    copies = len(re.findall(r"async(?:_tma)?_copy_global_to_local", ttgir))
    ahead = copies // len(buffers) - 1  # and one in the loop
    return min(buffers) < ahead + pending


def _run(tool: str, *args: str) -> str:
    return subprocess.run([_TOOLS / tool, *args], capture_output=True, text=True, check=True).stdout
