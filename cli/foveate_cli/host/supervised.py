"""One supervised process: dies with us, has its output copied, and is stopped cleanly."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Child"]

_PR_SET_PDEATHSIG = 1
_STUB = "triton_python_backend_stub"
_INSTANCE = re.compile(r"[^/]+_\d+_\d+")  # the server's name of a model process: digits_0_0
_REGION = re.compile(r"/dev/shm/triton_\w+_backend_shm_region_\S+")
_libc = ctypes.CDLL(None)  # loaded here: after the fork it is too late to take an import lock


class Child:
    """A process in its own process group, with its output copied to our stderr line by line.

    The group shields it from a terminal's Ctrl-C: only :meth:`stop` stops it. If we die first, the
    kernel sends it SIGTERM (``PR_SET_PDEATHSIG``), so that even after ``kill -9`` of the supervisor
    no server keeps its ports.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        self.name = name
        self._tail: deque[str] = deque(maxlen=400)
        self._regions: set[str] = set()
        self._models: dict[int, str] = {}  # its model processes: process id, name
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
            restore_signals=False,  # SIGPIPE stays ignored: it may end in order when we are gone
            umask=0o077,
            preexec_fn=die_with_parent,
        )
        self._copier = threading.Thread(target=self._copy_output, daemon=True)
        self._copier.start()

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for the signal that ended it, None while it runs."""
        return self._process.poll()

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def output(self) -> list[str]:
        """The last lines it wrote, complete once it has ended."""
        if self.returncode is not None:
            self._copier.join(timeout=1)
        return list(self._tail)

    def claim(self) -> None:
        """Record its Triton Python-backend processes and their shared-memory files.

        Also makes those files private: Triton creates them 0644 whatever the umask, and they hold
        what clients send.
        """
        for pid in _children(self._process.pid) - self._models.keys():
            command, *words = _read(pid, "cmdline").split("\0")
            if command.endswith(_STUB):
                self._models[pid] = next(filter(_INSTANCE.fullmatch, words), str(pid))
        with contextlib.suppress(OSError):  # it may be ending
            maps = Path(f"/proc/{self._process.pid}/maps").read_text()
            for region in set(_REGION.findall(maps)) - self._regions:
                self._regions.add(region)
                Path(region).chmod(0o600)

    def dead_models(self) -> list[str]:
        """Names of the claimed model processes that have died.

        Tritonserver neither restarts nor reaps them.
        """
        return [name for pid, name in self._models.items() if not _lives(pid)]

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, ``grace_s`` seconds later SIGKILL; then remove what it left behind."""
        if self.returncode is None:
            self.claim()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for region in self._regions:
            Path(region).unlink(missing_ok=True)

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._tail.append(line.rstrip("\n"))
            with contextlib.suppress(OSError):  # a closed terminal must not block the process
                print(f"{self.name}: {line}", end="", file=sys.stderr, flush=True)


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    with contextlib.suppress(OSError):  # it may be ending
        return {int(child) for task in tasks for child in task.read_text().split()}
    return set()


def _lives(pid: int) -> bool:
    """Whether it is neither gone nor a zombie."""
    return _read(pid, "stat").rpartition(") ")[2][:1] not in ("", "Z", "X")


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return ""
