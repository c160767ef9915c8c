"""End a process with all that it started."""

from __future__ import annotations

import contextlib
import time

import psutil

__all__ = ["end"]

_GONE_S = 1.0


def end(pid: int, grace_s: float = 0.0) -> None:
    """Kill a process and its descendants, whatever session those are in.

    With a grace all of them are asked first, by SIGTERM: a server then leaves nothing behind. How
    the process itself ended is left for its parent to read.
    """
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    if grace_s:
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        until = time.monotonic() + grace_s
        while time.monotonic() < until and any(map(_runs, tree)):
            time.sleep(0.05)
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(tree[1:], _GONE_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
